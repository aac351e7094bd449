"""Half a cosine: once, after a flat stretch, or with restarts."""

from math import log
from typing import ClassVar

import keras
from keras import ops

from keras_optreg.bounds import CLOSED_FRACTION, FRACTION, NON_NEGATIVE, POSITIVE, Interval, check
from keras_optreg.schedules.function_schedule import FunctionSchedule, whole
from keras_optreg.schedules.shapes import between, cosine

_serializable = keras.saving.register_keras_serializable("keras_optreg")


@_serializable
class CosineDecay(FunctionSchedule):
    """Let the rate fall along half a cosine: slowly, then fast, then slowly to its end.

    The usual choice when the number of steps is known: no rate to tune but the first.

        rate(t) = initial_learning_rate · (alpha + (1 − alpha) · ½(1 + cos(π · min(t, T)/T)))

    with T = `decay_steps`. With `warmup_target` the rate first climbs in a straight line from the initial rate to the
    target in `warmup_steps` steps, and the cosine starts there, from the target. Equal to
    `keras.optimizers.schedules.CosineDecay`.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The steps of the cosine, > 0, those of the warm-up not counted.
        alpha: The last rate as a fraction of the first (of the target, with warm-up), in [0, 1].
        name: Kept in the config.
        warmup_target: The rate after the warm-up, >= 0; `None` for no warm-up.
        warmup_steps: The steps of the warm-up, >= 0.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = CosineDecay(0.8, decay_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 25, 50, 75, 100)]
        [0.8, 0.6828, 0.4, 0.1172, 0.0]

    Reference:
        Loshchilov and Hutter, "SGDR: Stochastic gradient descent with warm restarts", 2017, equation 5 with one cycle.
    """

    bounds: ClassVar = {
        "initial_learning_rate": NON_NEGATIVE,
        "decay_steps": POSITIVE,
        "alpha": CLOSED_FRACTION,
        "warmup_steps": NON_NEGATIVE,
    }

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        name: str | None = None,
        warmup_target: float | None = None,
        warmup_steps: float = 0,
    ):
        super().__init__(
            name,
            initial_learning_rate=initial_learning_rate,
            decay_steps=decay_steps,
            alpha=alpha,
            warmup_target=warmup_target,
            warmup_steps=warmup_steps,
        )
        if warmup_target is not None:
            check("CosineDecay", {"warmup_target": warmup_target}, {"warmup_target": NON_NEGATIVE})
        elif warmup_steps:
            raise ValueError(
                "CosineDecay warms up only towards a `warmup_target`. "
                f"Received: warmup_steps={warmup_steps!r} without a warmup_target. "
                "Pass warmup_target=<rate after the warm-up>, or use schedules.warmup(CosineDecay(...), steps)."
            )

    def at(self, step):
        if self.warmup_target is None:
            return self._decay(step, self.initial_learning_rate)
        climb = self.warmup_target - self.initial_learning_rate
        ramp = self.initial_learning_rate + climb * step / max(self.warmup_steps, 1)
        decay = self._decay(ops.maximum(step - self.warmup_steps, 0.0), self.warmup_target)
        return ops.where(step < self.warmup_steps, ramp, decay)

    def _decay(self, step, rate):
        fraction = ops.minimum(step / self.decay_steps, 1.0)
        return rate * (self.alpha + (1.0 - self.alpha) * cosine(fraction))


@_serializable
class FlatCosine(FunctionSchedule):
    """Keep the rate for most of the training, then let it fall along half a cosine.

    For optimizers that want no warm-up and profit from a high rate for long, such as RAdam and `Lookahead(RAdam())`.

        rate(t) = initial_learning_rate                                            while t < F
        rate(t) = initial_learning_rate · (alpha + (1 − alpha) · ½(1 + cos(π · (t − F)/(T − F))))   from F to T

    with T = `total_steps` and F = `flat_fraction` · T; then the last rate. Equal to fastai's `fit_flat_cos`, whose
    default is `alpha=1e-5`. With warm-up, or another shape of the fall: `WarmupStableDecay`.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        total_steps: The steps of the whole schedule, > 0.
        flat_fraction: The part of them at the first rate, in [0, 1).
        alpha: The last rate as a fraction of the first, in [0, 1].
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = FlatCosine(0.8, total_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 75, 80, 90, 100)]
        [0.8, 0.8, 0.7236, 0.2764, 0.0]

    Reference:
        Without a paper: M. Grankin and the fast.ai forum, 2019, on Imagenette; fastai's `fit_flat_cos`.
    """

    bounds: ClassVar = {
        "initial_learning_rate": NON_NEGATIVE,
        "total_steps": POSITIVE,
        "flat_fraction": FRACTION,
        "alpha": CLOSED_FRACTION,
    }

    def __init__(
        self,
        initial_learning_rate: float,
        total_steps: float,
        flat_fraction: float = 0.75,
        alpha: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(
            name,
            initial_learning_rate=initial_learning_rate,
            total_steps=total_steps,
            flat_fraction=flat_fraction,
            alpha=alpha,
        )

    def at(self, step):
        flat = self.flat_fraction * self.total_steps
        first, last = self.initial_learning_rate, self.alpha * self.initial_learning_rate
        return between(first, last, (step - flat) / (self.total_steps - flat), cosine)


@_serializable
class CosineRestarts(FunctionSchedule):
    """Repeat the half cosine, each cycle `t_mul` times as long and `m_mul` times as high as the one before.

    Use it to take a snapshot of the model at each low, or when the length of the training is open. With warm-up:
    `warmup(CosineRestarts(...), steps)`.

        rate(t) = initial_learning_rate · (alpha + (1 − alpha) · m_mul^i · ½(1 + cos(π · τ)))

    where i is the number of the cycle and τ in [0, 1) the fraction of it that is over. Equal to
    `keras.optimizers.schedules.CosineDecayRestarts`, but for the very step of a restart: there the rate is back at the
    top, where Keras, which finds the cycle by a rounded logarithm, can still be at the bottom.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        first_decay_steps: The length of the first cycle, > 0.
        t_mul: How many times longer each cycle is, >= 1.
        m_mul: How many times higher each cycle starts, >= 0.
        alpha: The lowest rate as a fraction of the first, in [0, 1].
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = CosineRestarts(0.8, first_decay_steps=10, t_mul=2.0, m_mul=0.5)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 20, 30)]
        [0.8, 0.4, 0.4, 0.2, 0.2]

    Reference:
        Loshchilov and Hutter, "SGDR: Stochastic gradient descent with warm restarts", 2017, equation 5.
    """

    bounds: ClassVar = {
        "initial_learning_rate": NON_NEGATIVE,
        "first_decay_steps": POSITIVE,
        "t_mul": Interval(1, float("inf")),
        "m_mul": NON_NEGATIVE,
        "alpha": CLOSED_FRACTION,
    }

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(
            name,
            initial_learning_rate=initial_learning_rate,
            first_decay_steps=first_decay_steps,
            t_mul=t_mul,
            m_mul=m_mul,
            alpha=alpha,
        )

    def at(self, step):
        t_mul, first = float(self.t_mul), self.first_decay_steps
        growth = log(t_mul)

        def start(cycle):  # in steps: first · (1 + t_mul + … + t_mul^(cycle−1))
            return first * (cycle if t_mul == 1 else ops.expm1(cycle * growth) / (t_mul - 1.0))

        if t_mul == 1:
            cycle = whole(step, first)
        else:
            # A rounded logarithm can be one off beside a restart; two comparisons put it right. The slack of 1e-6 is
            # the rounding of `start` itself, less than a step for as long as steps are exact.
            cycle = ops.floor(ops.log1p(step / first * (t_mul - 1.0)) / growth)
            cycle = ops.where(step < start(cycle) * (1.0 - 1e-6), cycle - 1.0, cycle)
            cycle = ops.where(step >= start(cycle + 1.0) * (1.0 - 1e-6), cycle + 1.0, cycle)
        fraction = ops.clip((step - start(cycle)) / (first * ops.power(t_mul, cycle)), 0.0, 1.0)
        height = ops.power(float(self.m_mul), cycle)
        return self.initial_learning_rate * (self.alpha + (1.0 - self.alpha) * height * cosine(fraction))
