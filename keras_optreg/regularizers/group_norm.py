"""The sum of the norms of groups: its value, its gradient and its proximal map in any diagonal metric."""

from typing import Any

from keras import ops

from keras_optreg.regularizers.views import View

NEWTON_STEPS = 14
"""At most; enough for float32 with metrics that span twelve orders of magnitude in a group. Usual: two to four."""

DONE = 2e-4
"""A relative step after which Newton's error is below float32's rounding: a step of δ·r leaves at most 1.5·δ²·r."""


def norms(x: Any, view: View) -> Any:
    """‖x_g‖ of each group, in a shape that goes with `x`; its derivative at a zero group is 0 and not NaN."""
    squares = view.reduce(ops.sum, ops.square(x))
    is_zero = squares == 0
    return ops.where(is_zero, 0.0, ops.sqrt(ops.where(is_zero, 1.0, squares)))


def units(x: Any, view: View) -> Any:
    """x_g/‖x_g‖ for each group, 0 for a zero group."""
    return x / _or_one(norms(x, view))


def shrunk(w: Any, step: Any, view: View) -> Any:
    """argmin_z Σ_g ½ Σ_i (z_i − w_i)²/s_i + ‖z_g‖, groups by themselves; `step` s is a scalar or shaped like `w`.

    With one step for all, z_g = w_g·max(1 − s/‖w_g‖, 0).

    With a step for each element, z_g is 0 where Σ (w_i/s_i)² <= 1, and otherwise z_i = w_i·r/(r + s_i), where r = ‖z_g‖
    solves Σ w_i²/(r + s_i)² = 1. Where s_i = 0 this is z_i = w_i. In q(r) = (Σ w_i²/(r + s_i)²)^−½, which rises and is
    concave, the equation is q(r) = 1. So Newton's steps from a point on the left of the root never pass it, and need no
    other safeguard; as −r·q″ <= 3·q′, the error of one is at most 1.5 times the square of the step over r. Points on
    the left are 0, max_i |w_i| − s_i, for no term of the sum is above 1 at the root, and, by Jensen's inequality,
    ‖w‖ − Σ w_i²·s_i/‖w‖².
    """
    size = norms(w, view)
    if len(getattr(step, "shape", ())) == 0:
        return w * ops.maximum(1 - step / _or_one(size), 0)
    u, s = ops.abs(w) / _or_one(size), step / _or_one(size)  # so that ‖w_g‖ = 1: squares neither over- nor underflow
    lowest = ops.maximum(view.reduce(ops.max, u - s), 0)
    is_zero = ops.logical_and(lowest == 0, view.reduce(ops.sum, ops.square(u / _or_one(s))) <= 1)
    lowest = ops.maximum(lowest, 1 - view.reduce(ops.sum, ops.square(u) * s))

    def newton(_: Any, r: Any) -> tuple[Any, Any]:
        h = _or_one(r + s)  # where it is 0, so is u
        c = ops.square(u / h)
        total, slope = view.reduce(ops.sum, c), view.reduce(ops.sum, c / h)
        return r, ops.maximum(r + total * (ops.sqrt(total) - 1) / _or_one(slope), lowest)

    def moved(before: Any, r: Any) -> Any:
        return ops.any(ops.logical_and(ops.logical_not(is_zero), r - before > DONE * r))

    r = ops.while_loop(moved, newton, newton(None, lowest), maximum_iterations=NEWTON_STEPS - 1)[1]
    r = ops.where(is_zero, 0.0, r)
    return w * (r / _or_one(r + s))


def _or_one(x: Any) -> Any:
    """A divisor: x, and 1 in place of 0."""
    return ops.where(x == 0, 1.0, x)
