"""RMSprop: the gradient over the root of its mean square. Tieleman & Hinton 2012, Coursera lecture 6.5."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import CLOSED_FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def rmsprop(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    rho: float,
    momentum: float,
    epsilon: float,
    centered: bool,
) -> Step:
    """Slide 29 of lecture 6; centered as in Graves 2013, equations 38 to 45."""
    v = rho * state["v"] + (1 - rho) * ops.square(g)
    new = {"v": v}
    if centered:
        new["m"] = rho * state["m"] + (1 - rho) * g
        v = ops.maximum(v - ops.square(new["m"]), 0)  # rounding takes it below 0 where gradients hardly change
    c = lr / ops.sqrt(v + epsilon)
    reach = None if centered else lr  # a constant gradient has no variance: centered, it goes as far as ε lets it
    if "u" not in state:  # no momentum
        return Step(-c * g, new, metric=c, reach=reach)
    new["u"] = momentum * state["u"] + c * g
    return Step(-new["u"], new, *(None if step is None else step / (1 - momentum) for step in (c, reach)))


@keras.saving.register_keras_serializable("keras_optreg")
class RMSprop(RuleOptimizer):
    """The gradient divided by the root of its running mean square.

    When to use it: recurrent networks and reinforcement learning, where many recipes are written for it.

    Equations (ρ `rho`, μ `momentum`, α learning rate; m only with `centered`, u only with `momentum`):

        v ← ρ·v + (1 − ρ)·g²
        m ← ρ·m + (1 − ρ)·g
        u ← μ·u + α·g / √(v − m² + ε)
        w ← w − u

    Args:
        learning_rate: number >= 0, schedule or callable. A rate of 1 moves each weight by about 1 a step.
        rho: in [0, 1]. Horizon of the mean square, 1/(1 − ρ) steps.
        momentum: μ, in [0, 1].
        epsilon: ε >= 0, inside the root.
        centered: divide by the standard deviation, not by the root mean square (Graves 2013, arXiv:1308.0850).
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> RMSprop(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.6838, -1.6838]

    Differs: ε stands inside the root, as in Keras; PyTorch adds it outside. No correction of v's start at zero, as in
    the lecture, so the first steps are up to 1/√(1 − ρ) times larger.
    """

    bounds = {"rho": CLOSED_FRACTION, "momentum": CLOSED_FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(rmsprop)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **options: Unpack[BaseOptions],
    ):
        own = {"rho": rho, "momentum": momentum, "epsilon": epsilon, "centered": centered}
        super().__init__(learning_rate, own=own, **options)

    @property
    def slots(self) -> dict[str, float]:
        """The mean square v; with momentum u; centered also the mean m."""
        return {"v": ZEROS} | ({"u": ZEROS} if self.momentum else {}) | ({"m": ZEROS} if self.centered else {})

    @property
    def has_metric(self) -> bool:
        """α/√(v + ε)/(1 − μ); without momentum's decay (μ = 1) there is none."""
        return self.momentum < 1
