"""MARS: Adam on gradients with less variance. Yuan et al. 2024, Algorithm 2 (MARS-AdamW), arXiv:2411.10438."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average, norm
from keras_optreg.optimizers.rule_optimizer import GRADIENT, ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def mars(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    beta_1: float,
    beta_2: float,
    gamma: float,
    epsilon: float,
) -> Step:
    """Algorithm 2 of Yuan et al. 2024 in its approximate form: the last gradient is the one of the last batch."""
    corrected = g + gamma * beta_1 / (1 - beta_1) * (g - state["g"])
    scale = 1 / ops.maximum(norm(corrected), 1)
    m = moving_average(state["m"], scale * corrected, beta_1)
    v = moving_average(state["v"], ops.square(scale * corrected), beta_2)
    c = lr / (ops.sqrt(v / (1 - ops.power(beta_2, t))) + epsilon)
    return Step(-c * m / (1 - ops.power(beta_1, t)), {"m": m, "v": v, "g": g}, metric=c * scale, reach=lr)


@keras.saving.register_keras_serializable("keras_optreg")
class MARS(RuleOptimizer):
    """Adam fed with gradients corrected by their change since the last step, which takes out some of their noise.

    When to use it: language models; with `weight_decay=` it is MARS-AdamW.

    Equations (g′ the gradient before, g at first):

        c = g + γ·β₁/(1 − β₁)·(g − g′)
        c ← c / max(‖c‖, 1)                          over the whole weight
        m ← β₁·m + (1 − β₁)·c,   v ← β₂·v + (1 − β₂)·c²
        w ← w − α·m̂ / (√v̂ + ε)                       m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ)

    Args:
        learning_rate: number >= 0, schedule or callable. 0.003, from the authors' code; the paper has up to 0.006.
        beta_1: β₁ in [0, 1). 0.95 as in the paper.
        beta_2: β₂ in [0, 1). 0.99 as in the paper.
        gamma: γ >= 0, the strength of the correction; 0 is Adam on clipped gradients. 0.025 as in the paper.
        epsilon: ε >= 0. 1e-8 as in the paper.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([0.3, -0.4])
        >>> MARS(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.2, -0.3]

    Differs: the authors' code counts the gradient before the first as zero, which makes the first c longer by
    1 + γ·β₁/(1 − β₁); the paper starts both at the same point, so that the difference is zero, as here.
    """

    slots = {"m": ZEROS, "v": ZEROS, "g": GRADIENT}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "gamma": NON_NEGATIVE, "epsilon": NON_NEGATIVE}
    rule = staticmethod(mars)
    has_metric = True
    elementwise = False

    def __init__(
        self,
        learning_rate: Any = 0.003,
        beta_1: float = 0.95,
        beta_2: float = 0.99,
        gamma: float = 0.025,
        epsilon: float = 1e-8,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "gamma": gamma, "epsilon": epsilon}
        super().__init__(learning_rate, own=own, **options)
