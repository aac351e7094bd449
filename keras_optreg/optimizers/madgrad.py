"""MADGRAD: momentumized dual averaging. Defazio & Jelassi 2021, Algorithm 1, arXiv:2101.11075."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.rule_optimizer import WEIGHT, ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def madgrad(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    wd: Tensor,
    momentum: float,
    epsilon: float,
) -> Step:
    """Algorithm 1 of Defazio & Jelassi 2021, the decay added to the gradient as in the authors' code."""
    g, weight = g + wd * w, lr * ops.sqrt(t)
    s = state["s"] + weight * g
    nu = state["nu"] + weight * ops.square(g)
    z = state["w0"] - s / (ops.power(nu, 1 / 3) + epsilon)
    return Step((1 - momentum) * (z - w), {"s": s, "nu": nu, "w0": state["w0"]})


@keras.saving.register_keras_serializable("keras_optreg")
class MADGRAD(RuleOptimizer):
    """All gradients so far summed, divided by the cube root of their squares, from where training started.

    When to use it: image models and sparse problems, as accurate as SGD and as quick to set up as Adam. It wants
    another rate than Adam, and less decay.

    Equations (w₀ the first weights, μ `momentum`, t = 1, 2, …):

        s ← s + α√t·g
        ν ← ν + α√t·g²
        z = w₀ − s/(∛ν + ε)
        w ← μ·w + (1 − μ)·z

    Args:
        learning_rate: number >= 0, schedule or callable. 0.01 as in the authors' code. At the first step a rate of 1
            moves a weight by about (1 − μ)·∛|g|.
        momentum: μ in [0, 1). 0.9 as in the paper.
        epsilon: ε >= 0. 1e-6 as in the paper.
        **options: what all optimizers take, see `SGD`. `weight_decay` λ adds λ·w to the gradient: w is rebuilt from w₀,
            so shrinking it would be undone. No proximal penalties and no constraints, for the same reason.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> MADGRAD(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.9729, -1.9658]

    Differs: equal to the authors' code without its option of a decoupled decay.
    """

    slots = {"s": ZEROS, "nu": ZEROS, "w0": WEIGHT}
    bounds = {"momentum": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(madgrad)
    owns_iterate = True

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        epsilon: float = 1e-6,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"momentum": momentum, "epsilon": epsilon}, **options)
