"""Shapes: how a schedule goes from one value to the next, as functions of the fraction of the way that is over.

A shape is 1 at fraction 0 and 0 at fraction 1. Schedules take one as `shape=`. One's own is a function written with
`keras.ops` and registered, so that it can be saved:

```python
@keras.saving.register_keras_serializable("my_package")
def square(fraction):
    return 1.0 - fraction * fraction
```
"""

from collections.abc import Callable
from math import pi
from types import FunctionType
from typing import Any

import keras
from keras import ops

__all__ = ["cosine", "exponential", "linear", "one_minus_sqrt"]

Shape = Callable[[Any], Any]
_serializable = keras.saving.register_keras_serializable("keras_optreg.shapes")


@_serializable
def linear(fraction: Any) -> Any:
    """A straight line."""
    return 1.0 - fraction


@_serializable
def cosine(fraction: Any) -> Any:
    """Half a cosine: slowly, then fast, then slowly."""
    return 0.5 * (1.0 + ops.cos(pi * fraction))


@_serializable
def one_minus_sqrt(fraction: Any) -> Any:
    """1 − √fraction: fast first, then slower and slower.

    The best of the cooldowns that Hägele et al. tried.

    Reference:
        Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations", 2024,
        arXiv:2405.18392.
    """
    return 1.0 - ops.sqrt(fraction)


@_serializable
def exponential(fraction: Any) -> Any:
    """An exponential that would fall to a tenth, stretched so that it falls to 0: (0.1^fraction − 0.1) / 0.9.

    Towards an end that is a tenth of the start it is the plain exponential, start · 0.1^fraction.
    """
    return 1.0 - (1.0 - ops.power(0.1, fraction)) / 0.9


def check_shape(owner: str, shape: Any) -> None:
    """Raise a `TypeError` unless the shape is a function that Keras can save by its name."""
    if (
        isinstance(shape, FunctionType)
        and keras.saving.get_registered_object(keras.saving.get_registered_name(shape)) is shape
    ):
        return
    raise TypeError(
        f"The `shape` of {owner} must be one of keras_optreg.schedules.shapes ({', '.join(__all__)}), or a function of "
        f"the fraction that is registered with keras.saving.register_keras_serializable. Received: shape={shape!r}"
    )


def between(start: Any, end: Any, fraction: Any, shape: Shape) -> Any:
    """From `start` to `end` by the shape, both exact where the shape is; the fraction is clipped to [0, 1]."""
    left = shape(ops.clip(fraction, 0.0, 1.0))
    return start * left + end * (1.0 - left)
