"""LAMB: Adam whose step is as long as the weights say. You et al. 2020, Algorithm 2, arXiv:1904.00962."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average, ratio_of_norms
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def lamb(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    wd: Tensor,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> Step:
    """Algorithm 2 of You et al. 2020, φ the identity."""
    m = moving_average(state["m"], g, beta_1)
    v = moving_average(state["v"], ops.square(g), beta_2)
    m_hat, v_hat = m / (1 - ops.power(beta_1, t)), v / (1 - ops.power(beta_2, t))
    r = m_hat / (ops.sqrt(v_hat) + epsilon) + wd * w
    return Step(-lr * ratio_of_norms(w, r) * r, {"m": m, "v": v})


@keras.saving.register_keras_serializable("keras_optreg")
class LAMB(RuleOptimizer):
    """Adam's direction, layer by layer as long as the layer's weights: made for very large batches.

    When to use it: batches of thousands, where Adam's steps are too long for some layers and too short for others.

    Equations (for each weight tensor; m̂, v̂ as in `Adam`; λ `weight_decay`):

        r = m̂ / (√v̂ + ε) + λ·w
        w ← w − α·(‖w‖/‖r‖)·r                        the ratio is 1 where a norm is 0

    Args:
        learning_rate: number >= 0, schedule or callable. A rate of 1 moves a weight tensor by its own norm.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.999 as in the paper.
        epsilon: ε >= 0. 1e-6 as in the paper.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument. The usual
            exceptions of biases and norms from the decay are `weight_decay_on=select.kernels()`.

    Example:
        >>> import keras
        >>> w = keras.Variable([3.0, -4.0])
        >>> LAMB(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [2.6464, -3.6464]

    Differs: equal to `keras.optimizers.Lamb` but for its epsilon of 1e-7 and its decay, which is outside the ratio.
    """

    slots = {"m": ZEROS, "v": ZEROS}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(lamb)
    takes_decay = True
    elementwise = False

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}, **options)
