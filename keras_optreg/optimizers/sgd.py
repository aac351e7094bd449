"""Stochastic gradient descent, with momentum. Polyak 1964; Sutskever et al. 2013 (Nesterov's form)."""

from typing import Any, Unpack

import keras

from keras_optreg.bounds import CLOSED_FRACTION, FRACTION
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def sgd(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    momentum: float,
    nesterov: bool,
    dampening: float,
) -> Step:
    """Equations 1 to 4 of Sutskever et al. 2013."""
    step = lr * (1 - dampening) * g
    if not state:  # no momentum
        return Step(-step, {}, metric=lr * (1 - dampening))
    v = momentum * state["v"] - step
    delta = momentum * v - step if nesterov else v
    metric = lr * (1 - dampening) / (1 - momentum)
    return Step(delta, {"v": v}, metric)


@keras.saving.register_keras_serializable("keras_optreg")
class SGD(RuleOptimizer):
    """Gradient descent, with momentum, Nesterov's momentum and dampening.

    When to use it: with momentum 0.9 and a decaying rate it is the standard of image models; without momentum it is
    the textbook's method.

    Equations (g gradient, μ `momentum`, d `dampening`, α learning rate):

        v ← μ·v − (1 − d)·α·g
        w ← w + v                              w ← w + μ·v − (1 − d)·α·g     with `nesterov`

    Momentum as an average, v ← β·v + (1 − β)·g and w ← w − α·v, is `SGD(α, momentum=β, dampening=β)`.

    Args:
        learning_rate: number >= 0, schedule or callable. A rate of 1 moves by the gradient itself.
        momentum: μ, in [0, 1]. 0.9 carries a step over about ten others, so a rate ten times smaller goes as far.
        nesterov: look ahead along the momentum. Needs `dampening=0`.
        dampening: d, in [0, 1).
        **options: what all optimizers take: `weight_decay`, `weight_decay_on`, `learning_rate_multipliers`,
            `penalties`, `gradient_transforms`, `sparse`, `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`,
            `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor`, `gradient_accumulation_steps`, `name`.
            Multipliers that overlap multiply, and can be set while training when some were given. With
            `sparse="touched_rows"` the rows of embeddings that a batch did not look up keep their values and their
            state, without decay; by default all rows move, as momentum tells them to.

    Raises:
        ValueError: for a number outside its range, an unknown argument, or `nesterov` with `dampening`.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = SGD(0.1, momentum=0.9)
        >>> for _ in range(2):
        ...     optimizer.apply([2 * w], [w])      # the gradient of w²
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.46, -0.92]

    Differs: α is inside v, as in Keras and in Sutskever et al.; PyTorch has it outside, which is the same at a constant
    rate. Dampening acts from the first step; PyTorch leaves the first step undamped.
    """

    bounds = {"momentum": CLOSED_FRACTION, "dampening": FRACTION}
    rule = staticmethod(sgd)

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,  # Keras's class has its own next positional argument
        dampening: float = 0.0,
        **options: Unpack[BaseOptions],
    ):
        if nesterov and dampening:
            raise ValueError(
                f"SGD cannot combine nesterov=True with dampening={dampening}: Nesterov's step is defined for the "
                "undamped gradient. Set dampening=0."
            )
        own = {"momentum": momentum, "nesterov": nesterov, "dampening": dampening}
        super().__init__(learning_rate, own=own, **options)

    @property
    def slots(self) -> dict[str, float]:
        """The velocity v, only with momentum."""
        return {"v": ZEROS} if self.momentum else {}

    has_scalar_metric = True

    @property
    def has_metric(self) -> bool:
        """α(1 − d)/(1 − μ); without momentum's decay (μ = 1) there is none."""
        return self.momentum < 1
