"""Shared maths of the penalties that see a tensor as a matrix, by products alone: they compile on every backend."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

_STEEP = (3.4445, -4.7750, 2.0315)
_EXACT = (15 / 8, -10 / 8, 3 / 8)
_POLYNOMIALS = 11 * [_STEEP] + 4 * [_EXACT]


def wide(matrix: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The matrix or its transpose, with no more rows than columns, and the function that turns one like it back."""
    if matrix.shape[0] > matrix.shape[1]:
        return ops.transpose(matrix), ops.transpose
    return matrix, lambda same: same


def identity_like(square: Any) -> Any:
    """I, of the shape and dtype of this matrix."""
    return ops.eye(square.shape[0], dtype=square.dtype)


def polar_factor(matrix: Any) -> Any:
    """U·Vᵀ of the singular value decomposition U·diag(σ)·Vᵀ, zero where the matrix is zero.

    Odd polynomials act on the singular values alone. The steep one, Jordan's of Muon, multiplies small ones by 3.4; 11
    times, it brings all above 1e-6 of the Frobenius norm to between 0.7 and 1.2. The other, p, brings those to 1 within
    rounding: p(1) = 1, p′(1) = p″(1) = 0. A smaller singular value ends between 0 and 1.
    """
    x, back = wide(matrix)  # the small side's products are cheaper
    x = unit(x)
    for a, b, c in _POLYNOMIALS:
        gram = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return back(x)


def top_pair(there: Callable[[Any], Any], back: Callable[[Any], Any], like: Any, num_iterations: int) -> Any:
    """Unit vectors (u, v) near the pair for which ⟨u, A v⟩ is the largest, by power iteration; zero where A is.

    It starts at normal numbers that are always the same, to which no kernel but a contrived one is orthogonal.

    Args:
        there: v ↦ A v.
        back: u ↦ Aᵀ u.
        like: a matrix with as many rows as A.
        num_iterations: how often v ← Aᵀu/‖Aᵀu‖, u ← Av/‖Av‖; at least once.
    """
    start = np.random.default_rng(0).normal(size=int(like.shape[0])).astype("float32")
    u = v = ops.convert_to_tensor(start, like.dtype)
    for _ in range(num_iterations):
        v = unit(back(u))
        u = unit(there(v))
    return u, v


def unit(x: Any) -> Any:
    """x/‖x‖, by the root of the sum of squares; 0 where x is 0."""
    size = ops.sqrt(ops.sum(ops.square(x)))
    return x / ops.where(size == 0, 1.0, size)
