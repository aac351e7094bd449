"""The learning rate of an optimizer, whether it is a number or follows a schedule."""

from typing import Any

import keras
from keras import ops

from keras_optreg.introspection import updating_optimizers


def rate_of(optimizer: Any) -> float:
    """The rate of the next update."""
    return float(ops.convert_to_numpy(optimizer.learning_rate))


def has_number(optimizer: Any) -> bool:
    """Whether the rate is a number that can be set."""
    return isinstance(optimizer.learning_rate, keras.Variable)


def multiply_rate(optimizer: Any, factor: float) -> None:
    """Multiply the number, or the scale of the schedule. On JAX, within `fit`, look at `callback.model` before."""
    if has_number(optimizer):
        optimizer.learning_rate = rate_of(optimizer) * factor
    else:
        optimizer.scale_rate(optimizer.rate_scale() * factor)


def check_settable(owner: str, model: Any) -> None:
    """Whether the rates of all optimizers of a model can be multiplied.

    Raises:
        TypeError: for Keras's own with a schedule.
    """
    for optimizer in updating_optimizers(model):
        if not has_number(optimizer) and not hasattr(optimizer, "scale_rate"):
            kind = type(optimizer)
            raise TypeError(
                f"{owner} cannot set the learning rate of {kind.__module__}.{kind.__name__}, which follows a schedule "
                "of its own. Give the optimizer a number, or use the optimizer of the same name in "
                "keras_optreg.optimizers, where the schedule is scaled."
            )
