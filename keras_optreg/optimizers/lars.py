"""LARS: momentum with a rate for each layer. You, Gitman & Ginsburg 2017, Algorithm 1, arXiv:1708.03888."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE, POSITIVE
from keras_optreg.optimizers.moments import norm
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def lars(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    wd: Tensor,
    momentum: float,
    trust_coefficient: float,
    epsilon: float,
) -> Step:
    """Algorithm 1 of You, Gitman & Ginsburg 2017."""
    w_norm, g_norm = norm(w), norm(g)
    has_both = ops.logical_and(w_norm > 0, g_norm > 0)
    local = ops.where(has_both, trust_coefficient * w_norm / (g_norm + wd * w_norm + epsilon), 1.0)
    v = momentum * state["v"] + lr * local * (g + wd * w)
    return Step(-v, {"v": v})


@keras.saving.register_keras_serializable("keras_optreg")
class LARS(RuleOptimizer):
    """SGD with momentum whose rate is, layer by layer, in proportion to the weights over the gradient.

    When to use it: image networks at batches of thousands. For transformers see `LAMB`.

    Equations (for each weight tensor; η `trust_coefficient`, μ `momentum`, λ `weight_decay`):

        α_layer = η·‖w‖ / (‖g‖ + λ·‖w‖ + ε)          1 where a norm is 0
        v ← μ·v + α·α_layer·(g + λ·w)
        w ← w − v

    Args:
        learning_rate: number >= 0, schedule or callable. A rate of 1 moves a weight tensor by η/(1 − μ) of its norm,
            1 % by default; the paper takes it up to 25 for the largest batches.
        momentum: μ in [0, 1). 0.9 as in the paper.
        trust_coefficient: η > 0. 0.001 as in the paper.
        epsilon: ε >= 0 in the denominator. 1e-9; the paper has none.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([3.0, -4.0])
        >>> LARS(100.0).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [2.7, -3.6]

    Differs: the rate of 1 where a norm is 0, so that biases that start at zero move; the paper leaves it open. Many
    implementations spare biases and norms: `learning_rate_multipliers=` and `weight_decay_on=` say so here.
    """

    slots = {"v": ZEROS}
    bounds = {"momentum": FRACTION, "trust_coefficient": POSITIVE, "epsilon": NON_NEGATIVE}
    rule = staticmethod(lars)
    takes_decay = True
    elementwise = False

    def __init__(
        self,
        learning_rate: Any = 1.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        epsilon: float = 1e-9,
        **options: Unpack[BaseOptions],
    ):
        own = {"momentum": momentum, "trust_coefficient": trust_coefficient, "epsilon": epsilon}
        super().__init__(learning_rate, own=own, **options)
