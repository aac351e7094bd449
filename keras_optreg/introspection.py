"""What one may ask of any optimizer or penalty, ours or Keras's own, which do not say it themselves."""

from typing import Any

import keras


def inner_optimizer(model: Any) -> Any:
    """The optimizer that updates the weights of a model: under loss scaling the inner one; None when not compiled."""
    optimizer = getattr(model, "optimizer", None)
    return getattr(optimizer, "inner_optimizer", optimizer)


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
