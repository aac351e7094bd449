"""Schedules that are constant between jumps."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE, POSITIVE, check, is_number
from keras_optreg.schedules.function_schedule import FunctionSchedule, whole

_serializable = keras.saving.register_keras_serializable("keras_optreg")


@_serializable
class StepDecay(FunctionSchedule):
    """Multiply the rate by `drop` after every `every` steps.

    The schedule of many image models, most often per epoch: `LearningRateDecay(StepDecay(0.1, 0.5, 10))` halves the
    rate every ten epochs.

        rate(t) = initial_learning_rate · drop^⌊t / every⌋

    Equal to `keras.optimizers.schedules.ExponentialDecay(..., staircase=True)`.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        drop: The factor of each jump, >= 0 (0.5 halves).
        every: Steps, or epochs under a callback, between jumps, > 0.
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = StepDecay(0.8, drop=0.5, every=10)
        >>> [round(float(schedule(t)), 4) for t in (0, 9, 10, 25)]
        [0.8, 0.8, 0.4, 0.2]
    """

    bounds: ClassVar = {"initial_learning_rate": NON_NEGATIVE, "drop": NON_NEGATIVE, "every": POSITIVE}

    def __init__(self, initial_learning_rate: float, drop: float, every: float, name: str | None = None):
        super().__init__(name, initial_learning_rate=initial_learning_rate, drop=drop, every=every)

    def at(self, step):
        return self.initial_learning_rate * ops.power(float(self.drop), whole(step, self.every))


@_serializable
class PiecewiseConstant(FunctionSchedule):
    """One rate for each stretch of the training.

        rate(t) = values[0] while t <= boundaries[0], values[i] while boundaries[i−1] < t <= boundaries[i], ...

    A boundary still belongs to the stretch before it, as in `keras.optimizers.schedules.PiecewiseConstantDecay`, which
    this equals. (In `join` a boundary is the first step of what follows.)

    Args:
        boundaries: Steps at which the rate changes, increasing.
        values: Rates >= 0, one more than there are boundaries.
        name: Kept in the config.

    Raises:
        ValueError: When the lengths do not fit, the boundaries do not increase, or a rate is negative.

    Example:
        >>> schedule = PiecewiseConstant([100, 200], [0.5, 0.25, 0.125])
        >>> [float(schedule(t)) for t in (0, 100, 101, 201)]
        [0.5, 0.5, 0.25, 0.125]
    """

    def __init__(self, boundaries: Sequence[float], values: Sequence[float], name: str | None = None):
        super().__init__(name, boundaries=list(boundaries), values=list(values))
        check_boundaries("PiecewiseConstant", self.boundaries, "values", len(self.values))
        for value in self.values:
            check("PiecewiseConstant", {"values": value}, {"values": NON_NEGATIVE})

    def at(self, step):
        rate = self.values[0]
        for boundary, value in zip(self.boundaries, self.values[1:], strict=True):
            rate = ops.where(step > boundary, value, rate)
        return rate


def check_boundaries(owner: str, boundaries: Sequence[float], what: str, count: int) -> None:
    """Raise a `ValueError` unless the boundaries are increasing numbers, one fewer than the `count` things between."""
    if count != len(boundaries) + 1:
        raise ValueError(
            f"{owner} needs one more of `{what}` than there are `boundaries`. "
            f"Received: {count} {what} and {len(boundaries)} boundaries ({list(boundaries)})."
        )
    numbers = all(is_number(b) and b >= 0 for b in boundaries)
    if not numbers or any(b <= a for a, b in pairwise(boundaries)):
        raise ValueError(
            f"The `boundaries` of {owner} must be increasing numbers >= 0. Received: boundaries={list(boundaries)}"
        )
