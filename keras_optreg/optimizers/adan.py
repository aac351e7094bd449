"""Adan: Adam with a Nesterov momentum of gradient differences. Xie et al. 2022, Algorithm 1, arXiv:2208.06677."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import GRADIENT, ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def adan(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    beta_1: float,
    beta_2: float,
    beta_3: float,
    epsilon: float,
) -> Step:
    """Algorithm 1 of Xie et al. 2022, with the bias corrections of the authors' code."""
    d = g - state["g"]
    m = moving_average(state["m"], g, beta_1)
    v = moving_average(state["v"], d, beta_2)
    n = moving_average(state["n"], ops.square(g + beta_2 * d), beta_3)
    m_hat, v_hat, n_hat = (slot / (1 - ops.power(beta, t)) for slot, beta in ((m, beta_1), (v, beta_2), (n, beta_3)))
    c = lr / (ops.sqrt(n_hat) + epsilon)
    return Step(-c * (m_hat + beta_2 * v_hat), {"m": m, "v": v, "n": n, "g": g}, metric=c, reach=lr)


@keras.saving.register_keras_serializable("keras_optreg")
class Adan(RuleOptimizer):
    """Adam that also follows how the gradient changes, which is Nesterov's look ahead without a second gradient.

    When to use it: transformers and convolutional networks at large rates; it takes four slots a weight, Adam two.

    Equations (d = g − the gradient before, 0 at first):

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·d
        n ← β₃·n + (1 − β₃)·(g + β₂·d)²
        w ← w − α·(m̂ + β₂·v̂) / (√n̂ + ε)            m̂ = m/(1 − β₁ᵗ), and v̂, n̂ likewise

    Args:
        learning_rate: number >= 0, schedule or callable.
        beta_1: β₁ in [0, 1). 0.98 as in the paper, whose β are 1 minus these.
        beta_2: β₂ in [0, 1). 0.92 as in the paper.
        beta_3: β₃ in [0, 1). 0.99 as in the paper.
        epsilon: ε >= 0. 1e-8 as in the paper.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> Adan(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.9, -1.9]

    Differs: the decay of `weight_decay=` is w ← w − α·λ·w before the step, as for all optimizers here; the paper
    divides by 1 + α·λ after it.
    """

    slots = {"m": ZEROS, "v": ZEROS, "n": ZEROS, "g": GRADIENT}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "beta_3": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(adan)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.98,
        beta_2: float = 0.92,
        beta_3: float = 0.99,
        epsilon: float = 1e-8,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "beta_3": beta_3, "epsilon": epsilon}
        super().__init__(learning_rate, own=own, **options)
