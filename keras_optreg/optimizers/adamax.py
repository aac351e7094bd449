"""Adamax: Adam under the infinity norm. Kingma & Ba 2015, Algorithm 2, arXiv:1412.6980."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def adamax(
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
    """Algorithm 2 of Kingma & Ba 2015."""
    m = moving_average(state["m"], g, beta_1)
    u = ops.maximum(beta_2 * state["u"], ops.abs(g))
    c = lr / (u + epsilon)
    return Step(-c * m / (1 - ops.power(beta_1, t)), {"m": m, "u": u}, metric=c, reach=lr)


@keras.saving.register_keras_serializable("keras_optreg")
class Adamax(RuleOptimizer):
    """Momentum divided by a decaying maximum of the gradient's size.

    When to use it: embeddings and other sparse gradients, where the maximum is steadier than the mean square.

    Equations:

        m ← β₁·m + (1 − β₁)·g
        u ← max(β₂·u, |g|)
        w ← w − α/(1 − β₁ᵗ) · m / (u + ε)

    Args:
        learning_rate: number >= 0, schedule or callable. 0.001 as in Keras; the paper has 0.002.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε >= 0; the paper has none, and divides zero by zero where no gradient ever came.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> Adamax(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.9, -1.9]

    Differs: equal to Keras; PyTorch adds ε to |g| inside the maximum.
    """

    slots = {"m": ZEROS, "u": ZEROS}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(adamax)
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
