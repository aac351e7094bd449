"""NovoGrad: one mean square a weight tensor. Ginsburg et al. 2019, Algorithm 1, arXiv:1905.11286."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Scalar, Step
from keras_optreg.typing import BaseOptions, Tensor


def novograd(
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
    """Algorithm 1 of Ginsburg et al. 2019: v starts as the first ‖g‖², the decay is inside the momentum."""
    squares = ops.sum(ops.square(g))
    v = ops.where(state["v"] > 0, moving_average(state["v"], squares, beta_2), squares)
    scale = 1 / (ops.sqrt(v) + epsilon)
    m = beta_1 * state["m"] + scale * g + wd * w
    reach = lr / (1 - beta_1)
    return Step(-lr * m, {"m": m, "v": v}, metric=reach * scale, reach=reach)


@keras.saving.register_keras_serializable("keras_optreg")
class NovoGrad(RuleOptimizer):
    """Momentum of gradients that are divided, layer by layer, by their running norm.

    When to use it: speech and image models at large batches; half the memory of Adam, and robust to the rate.

    Equations (for each weight tensor, v one number; v₁ = ‖g₁‖²; λ `weight_decay`):

        v ← β₂·v + (1 − β₂)·‖g‖²
        m ← β₁·m + g/(√v + ε) + λ·w
        w ← w − α·m

    Args:
        learning_rate: number >= 0, schedule or callable. A constant gradient moves a whole weight tensor by
            α/(1 − β₁) a step, whatever its size. 0.01 as in the paper.
        beta_1: β₁ in [0, 1). 0.95 as in the paper.
        beta_2: β₂ in [0, 1). 0.98 as in the paper.
        epsilon: ε >= 0. 1e-8 as in the authors' code.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([3.0, -4.0])
        >>> NovoGrad(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [2.94, -3.92]

    Differs: TensorFlow Addons has beta_1=0.9 and beta_2=0.999, and optionally (1 − β₁) before the new term.
    """

    slots = {"m": ZEROS, "v": Scalar()}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(novograd)
    has_metric = True
    takes_decay = True
    elementwise = False

    def __init__(
        self,
        learning_rate: Any = 0.01,
        beta_1: float = 0.95,
        beta_2: float = 0.98,
        epsilon: float = 1e-8,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}, **options)
