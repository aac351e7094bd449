"""Proximal maps of penalties that are made of pieces, element by element."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops


def least(candidates: Sequence[Any], w: Any, step: Any, penalty: Callable[[Any], Any]) -> Any:
    """Of some candidates z the one with the least ½(z − w)² + step·Ω(z), in each element; the first among equals."""

    def objective(z: Any) -> Any:
        return ops.square(z - w) / 2 + step * penalty(z)

    best, value = candidates[0], objective(candidates[0])
    for z in candidates[1:]:
        other = objective(z)
        best, value = ops.where(other < value, z, best), ops.minimum(other, value)
    return best
