"""What one may ask of any optimizer or penalty, ours or Keras's own, which do not say it themselves."""

from typing import Any

import keras


def inner_optimizer(model: Any) -> Any:
    """The optimizer that updates the weights of a model: under loss scaling or `Lookahead` the innermost one.

    None when the model is not compiled.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def averaging_optimizers(model: Any) -> list[Any]:
    """The optimizers of a model that have an average to evaluate, wherever they stand in others."""
    found: list[Any] = []
    waiting: list[Any] = [getattr(model, "optimizer", None)]
    for optimizer in waiting:
        if hasattr(optimizer, "to_average"):
            found.append(optimizer)
        elif hasattr(optimizer, "inner_optimizer"):
            waiting.append(optimizer.inner_optimizer)
        else:
            waiting.extend(getattr(optimizer, "optimizers", ()))
    return found


def is_quadratic(penalty: Any) -> bool:
    """Whether a penalty shrinks weights in proportion to their size, as weight decay does."""
    if isinstance(penalty, keras.regularizers.L2 | keras.regularizers.L1L2):
        return bool(penalty.l2)
    return bool(getattr(penalty, "is_quadratic", False))


def shown(penalty: Any) -> str:
    """The penalty as text that tells its strengths: its `repr`, where it has one of its own."""
    if type(penalty).__repr__ is not object.__repr__:
        return repr(penalty)
    arguments = ", ".join(f"{value:.4g}" for value in penalty.get_config().values() if isinstance(value, float))
    return f"keras {type(penalty).__name__}({arguments})"  # Keras's own have no repr
