"""Filters that are the same in all directions."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optreg.constraints.constraint import Constraint


@keras.saving.register_keras_serializable("keras_optreg")
class RadialConstraint(Constraint):
    r"""Makes the square rings of a convolution kernel constant, with the numbers of Keras 2's class of this name.

    When to use it: filters that shall not know directions. For a new model take `RadialConstraint(nearest_point=True)`,
    which is a projection; the default is for scripts that move from Keras 2, whose formula Keras 3 has not.

    A kernel of n rows and n columns has ⌈n/2⌉ rings, r = 0 at the centre, one number or a square of four. With
    h = ⌊n/2⌋, all numbers of a ring become the number w[d, d] of the diagonal, where

        Keras 2, n even:    d = h − 1 for r = 0,    d = h + r       for r > 0
        Keras 2, n odd:     d = h − 1 for r = 0,    d = h + r − 1   for r > 0

    and with `nearest_point` they become the mean of the ring, which is the nearest kernel with constant rings.

    **Keras 2's formula is no Euclidean projection.** For even n each ring takes one of its own numbers, and a second
    call changes nothing. For odd n, so in every 3×3 filter, each ring takes a number of the ring inside it, and the
    centre one of the ring around it: the centre and the first ring change places at every update, and the formula is
    not idempotent. Its documentation promised the even case turned inside out. Both are kept as they were.

    Args:
        nearest_point: Take the mean of each ring in place of Keras 2's number.

    Raises:
        TypeError: When `nearest_point` is no bool.
        ValueError: In training, for a weight that is not of shape (rows, columns, in, out) with as many rows as
            columns. Keras 2 failed there, too; a 1×1 kernel, at which it also failed, is left as it is.

    Example:
        >>> w = keras.ops.reshape(keras.ops.arange(9, dtype="float32"), (3, 3, 1, 1))
        >>> keras.ops.convert_to_numpy(RadialConstraint()(w))[..., 0, 0].tolist()
        [[4.0, 4.0, 4.0], [4.0, 0.0, 4.0], [4.0, 4.0, 4.0]]
        >>> w = keras.ops.array([[3.0, 1.0, 3.0], [1.0, 7.0, 1.0], [3.0, 1.0, 3.0]])[:, :, None, None]
        >>> keras.ops.convert_to_numpy(RadialConstraint(nearest_point=True)(w))[..., 0, 0].tolist()
        [[2.0, 2.0, 2.0], [2.0, 7.0, 2.0], [2.0, 2.0, 2.0]]
    """

    def __init__(self, nearest_point: bool = False):
        if not isinstance(nearest_point, bool):
            raise TypeError(
                f"The `nearest_point` of RadialConstraint must be True or False. Received: {nearest_point!r}"
            )
        self.nearest_point = nearest_point

    def nearest(self, w: Any) -> Any:
        if len(w.shape) != 4 or w.shape[0] != w.shape[1]:
            raise ValueError(
                "RadialConstraint is for the kernels of 2D convolutions, of shape (rows, columns, in, out) with as "
                f"many rows as columns. Received a weight of shape {tuple(w.shape)}"
            )
        n = w.shape[0]
        cells = ops.reshape(w, (n * n, *w.shape[2:]))
        rings = _rings(n)
        if self.nearest_point:
            counts = np.bincount(rings).reshape(-1, 1, 1)
            values = ops.segment_sum(cells, rings, len(counts)) / ops.cast(counts, w.dtype)
        else:
            values = ops.take(cells, _diagonal(n) * (n + 1), axis=0)
        return ops.reshape(ops.take(values, rings, axis=0), w.shape)

    def get_config(self) -> dict[str, Any]:
        return {"nearest_point": self.nearest_point}


def _rings(n: int) -> np.ndarray:
    """The ring of every cell of an n×n kernel, row by row, from 0 at the centre."""
    inwards = np.minimum(np.arange(n), np.arange(n)[::-1])
    return ((n - 1) // 2 - np.minimum.outer(inwards, inwards)).ravel().astype("int32")


def _diagonal(n: int) -> np.ndarray:
    """Where on the diagonal Keras 2 found the number of each ring."""
    h = n // 2
    around = np.arange(1, (n + 1) // 2)
    return np.array([max(h - 1, 0), *(h + around - n % 2)], "int32")
