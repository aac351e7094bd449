"""Adagrad: a rate for each weight that falls with the squares it has seen. Duchi, Hazan & Singer 2011, JMLR 12."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE
from keras_optreg.optimizers.rule_optimizer import RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def adagrad(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    initial_accumulator_value: float,
    epsilon: float,
) -> Step:
    """Duchi et al. 2011, equation 1 of section 1.1, diagonal form."""
    s = state["s"] + ops.square(g)
    c = lr / ops.sqrt(s + epsilon)
    return Step(-c * g, {"s": s}, metric=c)


@keras.saving.register_keras_serializable("keras_optreg")
class Adagrad(RuleOptimizer):
    """A learning rate of its own for every weight, falling with the squares of the gradients it has seen.

    When to use it: sparse features, where rare ones should still move far; convex problems.

    Equations (α learning rate; s starts at `initial_accumulator_value`):

        s ← s + g²
        w ← w − α·g / √(s + ε)

    Args:
        learning_rate: number >= 0, schedule or callable. A rate of 1 moves each weight by about 1 at first.
        initial_accumulator_value: >= 0. Larger values damp the first steps.
        epsilon: ε >= 0, inside the root.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> Adagrad(0.5).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.5061, -1.5016]

    Differs: ε stands inside the root and s starts at 0.1, as in Keras; PyTorch adds ε outside and starts at 0.
    """

    bounds = {"initial_accumulator_value": NON_NEGATIVE, "epsilon": NON_NEGATIVE}
    constants = ("initial_accumulator_value",)
    rule = staticmethod(adagrad)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **options: Unpack[BaseOptions],
    ):
        own = {"initial_accumulator_value": initial_accumulator_value, "epsilon": epsilon}
        super().__init__(learning_rate, own=own, **options)

    @property
    def slots(self) -> dict[str, float]:
        """The sum of squares s."""
        return {"s": self.initial_accumulator_value}
