"""The machine of all constraints: the precision in which they compute, and what they say of themselves."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class Constraint(keras.constraints.Constraint):
    """Takes a weight to a set. A subclass writes `nearest` and `get_config`.

    16-bit weights are computed in float32 and rounded back, so that they are in the set as nearly as 16 bits tell.
    """

    def nearest(self, w: Any) -> Any:
        """The point for `w`, a float32 or float64 tensor."""
        raise NotImplementedError(f"{type(self).__name__} must implement `nearest(w)`.")

    def __call__(self, w: Any) -> Any:
        w = ops.convert_to_tensor(w)
        is_short = keras.backend.standardize_dtype(w.dtype) in ("float16", "bfloat16")
        return ops.cast(self.nearest(ops.cast(w, "float32")), w.dtype) if is_short else self.nearest(w)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def checked_axis(owner: str, axis: Any) -> int | list[int] | None:
    """The axes of one set of numbers as Keras's constraints take them: an integer, a list of integers or None.

    Raises:
        ValueError: For anything else, an empty list, or the same axis twice.
    """

    def is_integer(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    if axis is None or is_integer(axis):
        return axis
    if isinstance(axis, Sequence) and axis and all(map(is_integer, axis)) and len(set(axis)) == len(axis):
        return list(axis)
    raise ValueError(
        f"The `axis` of {owner} must be an integer, a list of different integers, or None for the whole weight. "
        f"Received: axis={axis!r}"
    )


def check_rank(owner: str, axis: int | list[int] | None, w: Any) -> None:
    """Raise a `ValueError` when the weight has not all of these axes."""
    rank = len(w.shape)
    axes = [axis] if isinstance(axis, int) else axis or []
    if not all(-rank <= one < rank for one in axes) or len({one % rank for one in axes}) < len(axes):
        raise ValueError(
            f"{owner}: a weight of shape {tuple(w.shape)} has the axes {-rank} to {rank - 1}, and each may be named "
            f"once. Received: axis={axis!r}"
        )
