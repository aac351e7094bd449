"""RAdam: Adam that waits until its mean square is reliable. Liu et al. 2020, Algorithm 2, arXiv:1908.03265."""

from math import log
from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def approximated_length(t: Tensor, beta_2: float) -> Tensor:
    """ρ_t = ρ_∞ − 2t·β₂ᵗ/(1 − β₂ᵗ), about t at first, in a form whose large terms do not cancel in float32."""
    a = -log(beta_2)
    x = ops.minimum(a * t, 50.0)
    series = x / 2 - x**2 / 12 + x**4 / 720 - x**6 / 30240 + x**8 / 1209600
    return 2 / a * ops.where(x < 1, series, 1 - x / ops.expm1(x)) + (2 / (1 - beta_2) - 1 - 2 / a)


def radam(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> Step:
    """Algorithm 2; rectified from ρ_t > 5 on, as in the authors' code and PyTorch, where the paper has 4."""
    m = moving_average(state["m"], g, beta_1)
    v = moving_average(state["v"], ops.square(g), beta_2)
    m_hat = m / (1 - ops.power(beta_1, t))
    longest = 2 / (1 - beta_2) - 1
    if longest <= 5:
        return Step(-lr * m_hat, {"m": m, "v": v}, metric=lr)
    rho = approximated_length(t, beta_2)
    is_rectified = rho > 5
    rho = ops.maximum(rho, 5.0)
    r = ops.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
    c = ops.where(is_rectified, lr * r * ops.sqrt(1 - ops.power(beta_2, t)) / (ops.sqrt(v) + epsilon), lr)
    return Step(-c * m_hat, {"m": m, "v": v}, metric=c, reach=ops.where(is_rectified, lr, float("inf")))


@keras.saving.register_keras_serializable("keras_optreg")
class RAdam(RuleOptimizer):
    """Adam with a warm-up of its own: the first steps do not trust the mean square of a few gradients.

    When to use it: in place of Adam with a warm-up whose length you would have to choose.

    Equations (m, v as in `Adam`; ρ_∞ = 2/(1 − β₂) − 1):

        ρ ← ρ_∞ − 2t·β₂ᵗ/(1 − β₂ᵗ)
        r = √( (ρ − 4)(ρ − 2)ρ_∞ / ((ρ_∞ − 4)(ρ_∞ − 2)ρ) )
        w ← w − α·r·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε)   if ρ > 5
        w ← w − α·m/(1 − β₁ᵗ)                            otherwise: with β₂ = 0.999, in the first 5 steps

    Args:
        learning_rate: number >= 0, schedule or callable. The steps that are not rectified are gradient descent with
            momentum at this rate: where gradients are large, begin with a small one.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.999 as in the paper. At 2/3 and below ρ never reaches 5.
        epsilon: ε >= 0.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> RAdam(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.8, -1.6]

    Differs: equal to PyTorch. The paper's text rectifies from ρ > 4 on, its authors' code and TensorFlow Addons from
    ρ >= 5; Addons adds ε to the corrected root.
    """

    slots = {"m": ZEROS, "v": ZEROS}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE}
    constants = ("beta_2",)
    rule = staticmethod(radam)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}, **options)
