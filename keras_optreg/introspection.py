"""What one may ask of any optimizer or penalty, ours or Keras's own, which do not say it themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_optreg.live_numbers import LiveNumbers


def inner_optimizer(model: Any) -> Any:
    """The optimizer that updates the weights of a model: under loss scaling or `Lookahead` the innermost one.

    None when the model is not compiled.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def num_batches(optimizer: Any) -> int:
    """How many gradients an optimizer received; with gradient accumulation `iterations` counts only the updates."""
    return int(keras.ops.convert_to_numpy(optimizer._iterations))


def averaging_optimizers(model: Any) -> list[Any]:
    """The optimizers of a model that have an average to evaluate, wherever they stand in others."""
    found = optimizers_of(model)
    inner = {id(getattr(o, "inner_optimizer", None)) for o in found if hasattr(o, "to_average")}
    return [optimizer for optimizer in found if hasattr(optimizer, "to_average") and id(optimizer) not in inner]


def updating_optimizers(model: Any) -> list[Any]:
    """The optimizers that update weights: the innermost ones, of which `Partition` has several."""
    found = {id(optimizer): optimizer for optimizer in optimizers_of(model)}
    return [o for o in found.values() if not hasattr(o, "inner_optimizer") and not hasattr(o, "optimizers")]


def learning_rates(model: Any) -> dict[str, Any]:
    """As `learning_rate`, the one of the next update; for a `MultiOptimizer`, `learning_rate_<name>` for each."""
    optimizer = inner_optimizer(model)
    if hasattr(optimizer, "optimizers"):
        return {f"learning_rate_{each.name}": each.learning_rate for each in optimizer.optimizers}
    return {"learning_rate": optimizer.learning_rate}


def optimizers_of(model: Any) -> list[Any]:
    """The optimizer of a model and all that stand inside it."""
    found: list[Any] = [model.optimizer] if getattr(model, "optimizer", None) is not None else []
    for optimizer in found:
        inner = [optimizer.inner_optimizer] if hasattr(optimizer, "inner_optimizer") else []
        found += [*inner, *getattr(optimizer, "optimizers", ())]
    return found


def penalties_of(model: Any) -> list[tuple[Any, Any]]:
    """All penalties of this package that act in a model, each with its weight: None for those on activities.

    Those in the loss and those in the update, the parts of sums one by one.
    """
    found: list[tuple[Any, Any]] = [(variable.regularizer, variable) for variable in model.trainable_variables]
    found += [(layer.activity_regularizer, None) for layer in model._flatten_layers()]
    for optimizer in optimizers_of(model):
        if hasattr(optimizer, "plan_for") and optimizer.built:
            variables = optimizer._trainable_variables
            plan = optimizer.plan_for(variables)
            found += [(penalty, v) for i, v in enumerate(variables) for penalty in plan.penalties_of(i)]
        else:
            for selector, penalty in getattr(optimizer, "penalties", ()):
                found += [(penalty, variable) for variable in selector.of(model.trainable_variables)]
    parts = ((part, variable) for p, variable in found if isinstance(p, LiveNumbers) for part in p.live_parts())
    return list(parts)


def hand_on(model: Any) -> None:
    """Has the model hand strengths to compiled functions, of penalties in its loss that no layer has as attribute."""
    handed_on = {id(variable) for variable in model.variables}
    for variable in model.trainable_variables:
        if isinstance(variable.regularizer, LiveNumbers) and id(variable.regularizer.state) not in handed_on:
            with open_to_state(model) as tracker:
                tracker.track(variable.regularizer)


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


@contextmanager
def open_to_state(layer: keras.Layer) -> Iterator[Any]:
    """Keras lets a layer take no new state once it is built; live numbers are state, but neither weights nor saved.

    Keras itself unlocks `_tracker` to quantize a layer; there is no public way.
    """
    tracker: Any = layer._tracker
    was_locked = tracker.locked
    tracker.unlock()
    try:
        yield tracker
    finally:
        if was_locked:
            tracker.lock()
