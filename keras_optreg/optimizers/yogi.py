"""Yogi: Adam whose mean square changes by steps of bounded size. Zaheer et al. 2018, Algorithm 2, NeurIPS."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def yogi(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    initial_accumulator_value: float,
) -> Step:
    """Algorithm 2 of Zaheer et al. 2018, which corrects no bias."""
    m = moving_average(state["m"], g, beta_1)
    squared = ops.square(g)
    v = state["v"] - (1 - beta_2) * ops.sign(state["v"] - squared) * squared
    c = lr / (ops.sqrt(v) + epsilon)
    return Step(-c * m, {"m": m, "v": v}, metric=c, reach=lr)


@keras.saving.register_keras_serializable("keras_optreg")
class Yogi(RuleOptimizer):
    """Adam whose mean square forgets no faster than it learns, so the step cannot grow quickly.

    When to use it: sparse or heavy-tailed gradients, where Adam's average decays between the rare large ones.

    Equations:

        m ← β₁·m + (1 − β₁)·g
        v ← v − (1 − β₂)·sign(v − g²)·g²
        w ← w − α·m / (√v + ε)

    Args:
        learning_rate: number >= 0, schedule or callable. 0.01 as in the paper's experiments.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.999 as in the paper.
        epsilon: ε >= 0. 1e-3 as in the paper.
        initial_accumulator_value: where v starts, >= 0. 1e-6.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> Yogi(0.01).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.9689, -1.9686]

    Differs: TensorFlow Addons and optax correct the bias of both averages; optax starts m, too, at the initial value.
    """

    bounds = {
        "beta_1": FRACTION,
        "beta_2": FRACTION,
        "epsilon": NON_NEGATIVE,
        "initial_accumulator_value": NON_NEGATIVE,
    }
    constants = ("initial_accumulator_value",)
    rule = staticmethod(yogi)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-3,
        initial_accumulator_value: float = 1e-6,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
        own["initial_accumulator_value"] = initial_accumulator_value
        super().__init__(learning_rate, own=own, **options)

    @property
    def slots(self) -> dict[str, float]:
        """Momentum m, and the mean square v, which starts at `initial_accumulator_value`."""
        return {"m": ZEROS, "v": self.initial_accumulator_value}
