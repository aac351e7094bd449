"""AdEMAMix: Adam with a second, very slow momentum. Pagliardini et al. 2024, Algorithm 1, arXiv:2409.03137."""

from math import log
from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import COUNT, FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def warmed_up(t: Tensor, beta_1: float, beta_3: float, alpha: float, steps: float) -> tuple[Tensor, Tensor]:
    """Section 3 of the paper: β₃ from β₁ and α from 0, both at their value after `steps`."""
    if steps == 0:
        return beta_3, alpha
    part = ops.minimum(t / steps, 1.0)
    slow, fast = log(max(beta_3, 1e-8)), log(max(beta_1, 1e-8))
    return ops.minimum(ops.exp(slow * fast / ((1 - part) * slow + part * fast)), beta_3), part * alpha


def ademamix(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    beta_1: float,
    beta_2: float,
    beta_3: float,
    alpha: float,
    epsilon: float,
    warmup_steps: float,
) -> Step:
    """Algorithm 1 of Pagliardini et al. 2024; the slow average has no bias correction."""
    beta_3, alpha = warmed_up(t, beta_1, beta_3, alpha, warmup_steps)
    m1 = moving_average(state["m1"], g, beta_1)
    m2 = moving_average(state["m2"], g, beta_3)
    v = moving_average(state["v"], ops.square(g), beta_2)
    c = lr / (ops.sqrt(v / (1 - ops.power(beta_2, t))) + epsilon)
    delta = -c * (m1 / (1 - ops.power(beta_1, t)) + alpha * m2)
    return Step(delta, {"m1": m1, "m2": m2, "v": v})


@keras.saving.register_keras_serializable("keras_optreg")
class AdEMAMix(RuleOptimizer):
    """Adam that also remembers gradients of ten thousand steps ago.

    When to use it: long runs, language models above all, where it needs fewer tokens than AdamW. In short runs the slow
    momentum has not filled yet.

    Equations (v, v̂ as in `Adam`):

        m₁ ← β₁·m₁ + (1 − β₁)·g
        m₂ ← β₃·m₂ + (1 − β₃)·g
        w ← w − α_lr·(m₁/(1 − β₁ᵗ) + α·m₂) / (√v̂ + ε)

    With `warmup_steps` = T, α grows from 0 in a straight line, and β₃ from β₁ so that the half-life of m₂ does:
    β₃(t) = exp( ln β₁·ln β₃ / ((1 − t/T)·ln β₃ + (t/T)·ln β₁) ).

    Args:
        learning_rate: number >= 0, schedule or callable. The step is up to 1 + α times as long as Adam's.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.999 as in the paper.
        beta_3: β₃ in [0, 1). 0.9999 as in the paper.
        alpha: α >= 0. 5, as in the paper's main experiments; 4 to 10 work.
        epsilon: ε >= 0.
        warmup_steps: T >= 0 steps; 0 for none. The paper takes the whole length of training.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> AdEMAMix(0.1, beta_3=0.99).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.895, -1.895]

    Differs: equal to the paper; with alpha=0 it is Adam. No proximal penalties: how much of m₂ a constant gradient has
    filled depends on the steps before.
    """

    slots = {"m1": ZEROS, "m2": ZEROS, "v": ZEROS}
    bounds = {
        "beta_1": FRACTION,
        "beta_2": FRACTION,
        "beta_3": FRACTION,
        "alpha": NON_NEGATIVE,
        "epsilon": NON_NEGATIVE,
        "warmup_steps": COUNT,
    }
    constants = ("beta_1", "beta_3")
    rule = staticmethod(ademamix)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        beta_3: float = 0.9999,
        alpha: float = 5.0,
        epsilon: float = 1e-8,
        warmup_steps: float = 0,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "beta_3": beta_3, "alpha": alpha, "epsilon": epsilon}
        super().__init__(learning_rate, own={**own, "warmup_steps": warmup_steps}, **options)
