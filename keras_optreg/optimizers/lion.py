"""Lion: the sign of a momentum. Chen et al. 2023, Algorithm 2, arXiv:2302.06675."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def lion(
    g: Tensor, w: Tensor, state: dict[str, Tensor], *, lr: Tensor, t: Tensor, beta_1: float, beta_2: float
) -> Step:
    """Algorithm 2 of Chen et al. 2023."""
    u = ops.sign(moving_average(state["m"], g, beta_1))
    return Step(-lr * u, {"m": moving_average(state["m"], g, beta_2)})


@keras.saving.register_keras_serializable("keras_optreg")
class Lion(RuleOptimizer):
    """Every weight moves by the learning rate, up or down: the sign of a momentum, with one slot only.

    When to use it: large batches and large models; half the memory of Adam. It was found by a search over programs.

    Equations:

        w ← w − α·sign(β₁·m + (1 − β₁)·g)
        m ← β₂·m + (1 − β₂)·g

    Args:
        learning_rate: number >= 0, schedule or callable. A rate of 1 moves each weight by 1 a step. The paper takes a
            third to a tenth of Adam's rate, and 3 to 10 times its decay; 0.001 is Keras's default, high for most tasks.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.99 as in the paper.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> Lion(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.9, -1.9]

    Differs: equal to Keras.
    """

    slots = {"m": ZEROS}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION}
    rule = staticmethod(lion)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"beta_1": beta_1, "beta_2": beta_2}, **options)
