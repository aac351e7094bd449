"""AdaBelief: the step by the belief in the gradient. Zhuang et al. 2020, Algorithm 2, arXiv:2010.07468."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def adabelief(
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
    """Algorithm 2 of Zhuang et al. 2020, where ε is added to s and to its root."""
    m = moving_average(state["m"], g, beta_1)
    s = moving_average(state["s"], ops.square(g - m), beta_2) + epsilon
    c = lr / (ops.sqrt(s / (1 - ops.power(beta_2, t))) + epsilon)
    return Step(-c * m / (1 - ops.power(beta_1, t)), {"m": m, "s": s}, metric=c)


@keras.saving.register_keras_serializable("keras_optreg")
class AdaBelief(RuleOptimizer):
    """Adam divided by how far gradients stray from their mean: long steps where they agree, short where they do not.

    When to use it: where SGD generalises better than Adam but is hard to tune, and for GANs.

    Equations:

        m ← β₁·m + (1 − β₁)·g
        s ← β₂·s + (1 − β₂)·(g − m)² + ε
        w ← w − α · m/(1 − β₁ᵗ) / (√(s/(1 − β₂ᵗ)) + ε)

    Args:
        learning_rate: number >= 0, schedule or callable.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.999 as in the paper.
        epsilon: ε >= 0. 1e-16 as in the authors' code; it acts under a root and is summed up, so that 1e-8 there is
            like 1e-3 in Adam. The paper tunes it for each task.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> AdaBelief(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.8889, -1.8889]

    Differs: TensorFlow Addons rectifies it as `RAdam` by default; the paper's Algorithm 2 does not.
    """

    slots = {"m": ZEROS, "s": ZEROS}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(adabelief)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-16,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}, **options)
