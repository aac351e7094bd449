"""COCOB: no learning rate, but bets on coins. Orabona & Tommasi 2017, Algorithm 2, arXiv:1705.07795."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import POSITIVE, Interval
from keras_optreg.optimizers.rule_optimizer import WEIGHT, ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def cocob(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    wd: Tensor,
    alpha: float,
    epsilon: float,
) -> Step:
    """Algorithm 2 of Orabona & Tommasi 2017, with g for −g and L from ε."""
    g = g + wd * w
    L = ops.maximum(state["L"], ops.abs(g))
    G = state["G"] + ops.abs(g)
    reward = ops.maximum(state["reward"] - g * (w - state["w1"]), 0)
    theta = state["theta"] - g
    bet = theta / (L * ops.maximum(G + L, alpha * L)) * (L + reward)
    new = {"L": L, "G": G, "reward": reward, "theta": theta, "w1": state["w1"]}
    return Step(state["w1"] + lr * bet - w, new)


@keras.saving.register_keras_serializable("keras_optreg")
class COCOB(RuleOptimizer):
    """Bets what it has won on each coordinate's next gradient: no learning rate to choose.

    When to use it: where there is no time to tune a rate. Bets grow exponentially while gradients agree, so that a
    constant gradient leads off at once.

    Equations (for each weight; w₁ where it started, L from ε):

        L ← max(L, |g|),   G ← G + |g|,   θ ← θ − g
        R ← max(R − g·(w − w₁), 0)
        w ← w₁ + θ/(L·max(G + L, α·L)) · (L + R)

    Args:
        learning_rate: a factor on the distance from w₁, >= 0. The method has none: leave it at 1.
        alpha: α >= 1: the first step is 1/α long. 100 as in the paper.
        epsilon: where L starts, > 0. 1e-8.
        **options: what all optimizers take, see `SGD`. `weight_decay` λ adds λ·w to the gradient: w is rebuilt from w₁,
            so shrinking it would be undone. No proximal penalties and no constraints, for the same reason.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> COCOB().apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.99, -1.99]

    Differs: equal to TensorFlow Addons, but for ε, without which a gradient of 0 at the start gives NaN.
    """

    bounds = {"alpha": Interval(1, float("inf")), "epsilon": POSITIVE}
    constants = ("epsilon",)
    rule = staticmethod(cocob)
    owns_iterate = True

    def __init__(
        self,
        learning_rate: Any = 1.0,
        alpha: float = 100.0,
        epsilon: float = 1e-8,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"alpha": alpha, "epsilon": epsilon}, **options)

    @property
    def slots(self) -> dict[str, Any]:
        """L, from ε; G, reward R and θ, from zero; w₁, the first weights."""
        return {"L": self.epsilon, "G": ZEROS, "reward": ZEROS, "theta": ZEROS, "w1": WEIGHT}
