"""ADOPT: Adam that converges with any β₂. Taniguchi et al. 2024, Algorithm 2 with clipping, arXiv:2411.02853."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, POSITIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor

UNSEEN = -1.0
"""A mean square that no gradient has set."""


def adopt(
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
    """Algorithm 2 of Taniguchi et al. 2024 as in the authors' code: the first gradient only sets v."""
    squared, is_first = ops.square(g), state["v"] < 0
    root = ops.maximum(ops.sqrt(ops.maximum(state["v"], 0)), epsilon)
    bound = ops.power(ops.maximum(t - 1, 1), 0.25)
    m = moving_average(state["m"], ops.clip(g / root, -bound, bound), beta_1)
    m = ops.where(is_first, state["m"], m)
    v = ops.where(is_first, squared, moving_average(state["v"], squared, beta_2))
    return Step(-lr * m, {"m": m, "v": v}, metric=lr / ops.maximum(ops.sqrt(v), epsilon), reach=lr)


@keras.saving.register_keras_serializable("keras_optreg")
class ADOPT(RuleOptimizer):
    """Adam in another order: the gradient is divided by the mean square of those before it, then averaged.

    When to use it: where Adam diverges or depends on β₂; it converges at the best rate with any, though with a small β₂
    the clipping slows rare large gradients down for long.

    Equations (v₀ = g₀², which moves no weight; then t = 1, 2, …):

        m ← β₁·m + (1 − β₁)·clip(g / max(√v, ε), ±t^¼)
        w ← w − α·m
        v ← β₂·v + (1 − β₂)·g²

    Args:
        learning_rate: number >= 0, schedule or callable.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.9999 as in the paper.
        epsilon: ε > 0. 1e-6 as in the paper.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = ADOPT(0.1)
        >>> for _ in range(2):
        ...     optimizer.apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.99, -1.99]

    Differs: a weight whose first gradient comes later sets its v then.
    """

    slots = {"m": ZEROS, "v": UNSEEN}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": POSITIVE}
    rule = staticmethod(adopt)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.9999,
        epsilon: float = 1e-6,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}, **options)
