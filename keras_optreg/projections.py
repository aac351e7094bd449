"""Euclidean projections on the simplex and the l1 ball, as pure functions of tensors.

Both subtract a threshold θ and cut off at zero, and θ is the root of

    f(θ) = Σ max(w − θ, 0) − total,

which falls, is convex and made of straight pieces, with slope −c where c numbers of w lie above θ (Duchi et al. 2008).
Their algorithm finds the root's piece by sorting w and adding it up. In float32 the running sum of a million sorted
numbers is off by more than many of them, and XLA sorts slowly; so here Newton's method goes up to the root from the
left, which is Michelot's algorithm of 1986. It needs sums along the axes only, and few passes: by convexity f/f' + c/c'
of one pass and the one before is at most 1, so every pass divides the product of f and c by 4 or more.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

PASSES = 50
"""Newton steps at most: 4⁻⁵⁰ is enough for any number of weights. Random ones take about ten."""
POLISHINGS = 3
"""Newton steps at the end, on w − θ itself, which is exact where it is small, as θ is not."""
ROUNDING = 1e-6
"""What is this near to the set, as a fraction of its size, is on it: so a projected point stays as it is."""

Axis = int | Sequence[int] | None


def project_onto_simplex(w: Any, total: Any, axis: Axis = None) -> Any:
    r"""The nearest point to `w` in {x >= 0, Σ x = total}.

        x = max(w − θ, 0)    with θ such that Σ x = total

    A `w` that is in the set, to 1e-6 of `total`, is returned bit for bit.

    Args:
        w: A tensor of floats, finite, float32 or float64.
        total: The sum, a number or tensor >= 0, which must broadcast against sums of `w` that keep their axes.
        axis: The axes summed over, each other index being a point of its own; None for the whole of `w`.

    Returns:
        A tensor like `w`.

    Example:
        >>> from keras import ops
        >>> ops.convert_to_numpy(project_onto_simplex(ops.array([1.0, 0.5, -2.0]), 1.0)).round(4).tolist()
        [0.75, 0.25, 0.0]

    Reference:
        Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball for learning in high
        dimensions", ICML 2008, section 3; Michelot, "A finite algorithm for finding the projection of a point onto the
        canonical simplex of Rⁿ", JOTA 50, 1986.
    """
    axis = tuple(axis) if isinstance(axis, Sequence) else axis
    total = ops.convert_to_tensor(total, w.dtype)
    is_inside = ops.logical_and(
        ops.all(w >= 0, axis=axis, keepdims=True),
        ops.abs(_sum(w, axis) - total) <= ROUNDING * total,
    )
    return ops.where(is_inside, w, _above_threshold(w, total, axis))


def project_onto_l1_ball(w: Any, radius: Any, axis: Axis = None) -> Any:
    r"""The nearest point to `w` in {x: Σ |x| <= radius}.

        x = sign(w) max(|w| − θ, 0)    with θ = 0 inside the ball, else such that Σ |x| = radius

    A `w` that is in the ball, to 1e-6 of `radius`, is returned bit for bit.

    Args:
        w: A tensor of floats, finite, float32 or float64.
        radius: A number or tensor >= 0, which must broadcast against sums of `w` that keep their axes.
        axis: The axes summed over, each other index being a point of its own; None for the whole of `w`.

    Returns:
        A tensor like `w`.

    Example:
        >>> from keras import ops
        >>> ops.convert_to_numpy(project_onto_l1_ball(ops.array([1.0, -0.5, 0.125]), 1.0)).round(4).tolist()
        [0.75, -0.25, 0.0]

    Reference:
        Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball for learning in high
        dimensions", ICML 2008, section 4.
    """
    axis = tuple(axis) if isinstance(axis, Sequence) else axis
    radius, size = ops.convert_to_tensor(radius, w.dtype), ops.abs(w)
    is_inside = _sum(size, axis) <= (1 + ROUNDING) * radius
    return ops.where(is_inside, w, ops.sign(w) * _above_threshold(size, radius, axis))


def _above_threshold(w: Any, total: Any, axis: int | tuple[int, ...] | None) -> Any:
    """max(w − θ, 0), θ being the root of f."""

    def excess(v: Any) -> Any:  # f(θ) for v = w − θ
        return _sum(ops.relu(v), axis) - total

    def step(v: Any) -> Any:  # from θ to where the tangent of f is zero; beyond all of w there is none, and f = −total
        above = _sum(ops.cast(v >= 0, w.dtype), axis)
        return excess(v) / ops.maximum(above, ops.ones_like(above))

    smallest, largest = ops.min(w, axis=axis, keepdims=True), ops.max(w, axis=axis, keepdims=True)
    start = ops.maximum(smallest + step(w - smallest), largest + step(w - largest))  # tangents lie below f
    (theta,) = ops.while_loop(
        lambda theta: ops.any(excess(w - theta) > ROUNDING * total),
        lambda theta: (theta + step(w - theta),),
        (start,),
        maximum_iterations=PASSES,
    )
    v = w - theta
    for _ in range(POLISHINGS):
        v = v - step(v)
    return ops.relu(v)


def _sum(values: Any, axis: int | tuple[int, ...] | None) -> Any:
    # On CPUs TensorFlow's XLA adds one number after the other: the sum of a million equal ones in float32 is off by
    # 6e-4 of itself. Its other kernels, JAX and torch add up in pairs.
    wide = ops.cast(values, "float64") if keras.backend.backend() == "tensorflow" else values
    return ops.cast(ops.sum(wide, axis=axis, keepdims=True), values.dtype)
