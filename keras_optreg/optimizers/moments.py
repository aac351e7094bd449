"""Shared maths of the moment methods: Adam's step, with the paper's letters.

m, v: exponential moving averages of the gradient and of its square; v̂_max: the largest v so far (AMSGrad).
"""

from typing import Any

from keras import ops

from keras_optreg.optimizers.rule_optimizer import Step
from keras_optreg.typing import Tensor


def moving_average(old: Tensor, new: Tensor, beta: Any) -> Tensor:
    """β·old + (1 − β)·new; for the usual β, in the form that rounds least when old ≈ new.

    With β = 0 that form would lose a new value that is small beside the old one.
    """
    if isinstance(beta, int | float) and beta < 0.5:
        return beta * old + (1 - beta) * new
    return old + (new - old) * (1 - beta)


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over the whole tensor."""
    return ops.sqrt(ops.sum(ops.square(x)))


def ratio_of_norms(w: Tensor, r: Tensor) -> Tensor:
    """‖w‖/‖r‖ over whole tensors, 1 where one of them is 0: the trust ratio of layer-wise methods."""
    w_norm, r_norm = norm(w), norm(r)
    has_both = ops.logical_and(w_norm > 0, r_norm > 0)
    return ops.where(has_both, w_norm / ops.where(has_both, r_norm, 1.0), 1.0)


def adam(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    amsgrad: bool = False,
) -> Step:
    """Adam's update in the order of the end of section 2 of Kingma & Ba (2015): α_t = α·√(1 − β₂ᵗ) / (1 − β₁ᵗ)."""
    m = moving_average(state["m"], g, beta_1)
    v = moving_average(state["v"], ops.square(g), beta_2)
    new = {"m": m, "v": v}
    if amsgrad:
        v = new["v_max"] = ops.maximum(state["v_max"], v)
    bias_1 = 1 - ops.power(beta_1, t)
    alpha = lr * ops.sqrt(1 - ops.power(beta_2, t)) / bias_1
    c = alpha / (ops.sqrt(v) + epsilon)
    return Step(-c * m, new, metric=c * bias_1, reach=lr)
