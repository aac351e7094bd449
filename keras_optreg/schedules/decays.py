"""Schedules with one smooth formula: exponential, inverse-time, polynomial, inverse-square-root decay and REX."""

from typing import ClassVar

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE, POSITIVE
from keras_optreg.schedules.function_schedule import FunctionSchedule, whole

_serializable = keras.saving.register_keras_serializable("keras_optreg")


class _DecayByPeriods(FunctionSchedule):
    """Abstract: a decay that counts time in periods of `decay_steps`, in jumps when `staircase`."""

    bounds: ClassVar = {"initial_learning_rate": NON_NEGATIVE, "decay_steps": POSITIVE, "decay_rate": NON_NEGATIVE}

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str | None = None,
    ):
        super().__init__(
            name,
            initial_learning_rate=initial_learning_rate,
            decay_steps=decay_steps,
            decay_rate=decay_rate,
            staircase=staircase,
        )

    def _periods(self, step):
        return whole(step, self.decay_steps) if self.staircase else step / self.decay_steps


@_serializable
class ExponentialDecay(_DecayByPeriods):
    """Multiply the rate by `decay_rate` over every `decay_steps` steps.

    Use it for long runs without a known end, or with `decay_rate > 1` to raise the rate (a learning-rate range test).

        rate(t) = initial_learning_rate · decay_rate^(t / decay_steps)

    with ⌊t / decay_steps⌋ in the exponent when `staircase`. Equal to `keras.optimizers.schedules.ExponentialDecay`.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: Steps (or epochs, under a callback) in which the rate falls by one factor, > 0.
        decay_rate: The factor, >= 0.
        staircase: Fall in jumps, every `decay_steps`.
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = ExponentialDecay(0.8, decay_steps=10, decay_rate=0.5)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 20)]
        [0.8, 0.5657, 0.4, 0.2]
    """

    def at(self, step):
        return self.initial_learning_rate * ops.power(float(self.decay_rate), self._periods(step))


@_serializable
class InverseTimeDecay(_DecayByPeriods):
    """Let the rate fall like 1/t, the classical condition for stochastic gradient descent to converge.

        rate(t) = initial_learning_rate / (1 + decay_rate · t / decay_steps)

    with ⌊t / decay_steps⌋ in place of the quotient when `staircase`. Equal to
    `keras.optimizers.schedules.InverseTimeDecay`.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The unit in which time is counted, > 0.
        decay_rate: How fast it falls, >= 0; after `decay_steps / decay_rate` steps the rate is halved.
        staircase: Fall in jumps, every `decay_steps`.
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = InverseTimeDecay(0.8, decay_steps=10, decay_rate=1.0)
        >>> [round(float(schedule(t)), 4) for t in (0, 10, 30, 70)]
        [0.8, 0.4, 0.2, 0.1]

    Reference:
        Robbins and Monro, "A stochastic approximation method", 1951.
    """

    def at(self, step):
        return self.initial_learning_rate / (1.0 + self.decay_rate * self._periods(step))


@_serializable
class PolynomialDecay(FunctionSchedule):
    """Go from one rate to another along a power of the remaining time; a straight line with `power=1`.

        rate(t) = (initial_learning_rate − end_learning_rate) · (1 − min(t, T)/T)^power + end_learning_rate

    with T = `decay_steps`. With `cycle`, T is the first multiple of `decay_steps` that is at least t, so the rate
    jumps up again after each. Equal to `keras.optimizers.schedules.PolynomialDecay`.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The step at which `end_learning_rate` is reached, > 0.
        end_learning_rate: The rate from then on, >= 0; above the initial rate it makes a ramp upwards.
        power: Above 1 most of the change comes early, below 1 late; > 0.
        cycle: Start again instead of staying at the end.
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = PolynomialDecay(1.0, decay_steps=10, end_learning_rate=0.0, power=2.0)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 9, 10, 11)]
        [1.0, 0.25, 0.01, 0.0, 0.0]
    """

    bounds: ClassVar = {
        "initial_learning_rate": NON_NEGATIVE,
        "decay_steps": POSITIVE,
        "end_learning_rate": NON_NEGATIVE,
        "power": POSITIVE,
    }

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str | None = None,
    ):
        super().__init__(
            name,
            initial_learning_rate=initial_learning_rate,
            decay_steps=decay_steps,
            end_learning_rate=end_learning_rate,
            power=power,
            cycle=cycle,
        )

    def at(self, step):
        total = float(self.decay_steps)
        if self.cycle:
            over = whole(step, total)
            total = total * ops.maximum(ops.where(step > over * total, over + 1.0, over), 1.0)
        remaining = ops.maximum(1.0 - step / total, 0.0)
        spread = self.initial_learning_rate - self.end_learning_rate
        return spread * ops.power(remaining, float(self.power)) + self.end_learning_rate


@_serializable
class REX(FunctionSchedule):
    """Fall slowly at first and steeply at the end, between a straight line and a constant rate.

    For a given budget of steps, above all a short one: in the paper it was better than a straight line with few steps,
    and as good as the usual schedules with many.

        rate(t) = end_learning_rate + (initial_learning_rate − end_learning_rate) · (1 − z) / (½ + ½(1 − z))

    with z = min(t, `decay_steps`) / `decay_steps`. The authors' ends at 0.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The step at which `end_learning_rate` is reached, > 0.
        end_learning_rate: The rate from then on, >= 0.
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = REX(0.6, decay_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 80, 100, 101)]
        [0.6, 0.4, 0.2, 0.0, 0.0]

    Reference:
        Chen, Wolfe and Kyrillidis, "REX: Revisiting budgeted training with an improved schedule", 2021,
        arXiv:2107.04197.
    """

    bounds: ClassVar = {
        "initial_learning_rate": NON_NEGATIVE,
        "decay_steps": POSITIVE,
        "end_learning_rate": NON_NEGATIVE,
    }

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(
            name,
            initial_learning_rate=initial_learning_rate,
            decay_steps=decay_steps,
            end_learning_rate=end_learning_rate,
        )

    def at(self, step):
        left = 1.0 - ops.minimum(step / self.decay_steps, 1.0)
        spread = self.initial_learning_rate - self.end_learning_rate
        return self.end_learning_rate + spread * left / (0.5 + 0.5 * left)


@_serializable
class InverseSquareRoot(FunctionSchedule):
    """Climb in a straight line to the peak, then fall like 1/√t without end: the schedule of the first transformers.

    For long runs whose length is open.

        rate(t) = peak_learning_rate · min(t / warmup_steps, √(warmup_steps / t))

    The formula of Vaswani et al. ("Noam"), d_model^−½ · min(s^−½, s · W^−3/2), counts s from 1. It is this one with
    `peak_learning_rate = (d_model · W)^−½`, `warmup_steps = W` and s = t; their peak is 7e-4 for d_model = 512 and
    W = 4000. Our step 0, as in every warm-up here, has rate 0.

    Args:
        peak_learning_rate: The highest rate, at step `warmup_steps`, >= 0.
        warmup_steps: The steps of the climb, > 0. Also how slowly the rate falls: at 4 · warmup_steps it is halved.
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = InverseSquareRoot(0.8, warmup_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100, 400, 1600)]
        [0.0, 0.4, 0.8, 0.4, 0.2]

    Reference:
        Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, equation 3.
    """

    bounds: ClassVar = {"peak_learning_rate": NON_NEGATIVE, "warmup_steps": POSITIVE}

    def __init__(self, peak_learning_rate: float, warmup_steps: float, name: str | None = None):
        super().__init__(name, peak_learning_rate=peak_learning_rate, warmup_steps=warmup_steps)

    def at(self, step):
        t = step / self.warmup_steps
        return self.peak_learning_rate * ops.minimum(t, 1.0) / ops.sqrt(ops.maximum(t, 1.0))
