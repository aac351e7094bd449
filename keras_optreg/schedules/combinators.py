"""Schedules made of schedules."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE, POSITIVE, check, is_number
from keras_optreg.schedules.decays import PolynomialDecay
from keras_optreg.schedules.function_schedule import FunctionSchedule
from keras_optreg.schedules.steps import check_boundaries

Schedule = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable("keras_optreg")
class Joined(FunctionSchedule):
    """Schedules one after the other; `join` and `warmup` make it."""

    def __init__(self, schedules: Sequence[Any], boundaries: Sequence[float], name: str | None = None):
        super().__init__(name, schedules=list(schedules), boundaries=list(boundaries))
        check_boundaries("join", self.boundaries, "schedules", len(self.schedules))
        for schedule in self.schedules:
            _check_part("join", schedule)

    def at(self, step):
        rate = _rate(self.schedules[0], step)
        for boundary, schedule in zip(self.boundaries, self.schedules[1:], strict=True):
            # `where` computes both sides, so the later schedule must never see a negative step.
            rate = ops.where(step >= boundary, _rate(schedule, ops.maximum(step - boundary, 0.0)), rate)
        return rate


@keras.saving.register_keras_serializable("keras_optreg")
class Scaled(FunctionSchedule):
    """A schedule times a factor; `scale` makes it."""

    def __init__(self, schedule: Any, factor: Any, name: str | None = None):
        super().__init__(name, schedule=schedule, factor=factor)
        for part in (schedule, factor):
            _check_part("scale", part)

    def at(self, step):
        return _rate(self.schedule, step) * _rate(self.factor, step)


def join(schedules: Sequence[Any], boundaries: Sequence[float]) -> Joined:
    """Run schedules one after the other, each from its own step 0.

        rate(t) = schedules[i](t − boundaries[i−1])   while boundaries[i−1] <= t < boundaries[i]

    Args:
        schedules: Schedules, Keras's or ours, or numbers for constant rates.
        boundaries: The first step of each schedule but the first, increasing.

    Raises:
        ValueError: When there is not one boundary fewer than schedules, or they do not increase.
        TypeError: When a part is neither a schedule nor a number.

    Example:
        >>> schedule = join([0.5, PolynomialDecay(1.0, 10, end_learning_rate=0.0)], [100])
        >>> [float(schedule(t)) for t in (0, 99, 100, 105, 110)]
        [0.5, 0.5, 1.0, 0.5, 0.0]
    """
    return Joined(schedules, boundaries)


def warmup(schedule: Any, steps: float, start: float = 0.0) -> Joined:
    """Climb in a straight line to where `schedule` begins, then follow it from its own step 0.

    Use it where the first steps are the dangerous ones: Adam on transformers, large batches, training after loading.
    It goes in front of every schedule: `warmup(CosineRestarts(1e-3, 1000), 100)` is cosine with warm-up and restarts.

        rate(t) = start + (schedule(0) − start) · t / steps   while t < steps, then schedule(t − steps)

    Args:
        schedule: A schedule, Keras's or ours, or a number for a constant rate after the warm-up.
        steps: The length of the climb, > 0; the schedule runs that much later.
        start: The rate at step 0, >= 0.

    Raises:
        ValueError: When `steps` or `start` is outside its range.
        TypeError: When `schedule` is neither a schedule nor a number.

    Example:
        >>> schedule = warmup(1.0, steps=4)
        >>> [float(schedule(t)) for t in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Reference:
        Goyal et al., "Accurate, large minibatch SGD: Training ImageNet in 1 hour", 2017, section 2.2.
    """
    check("warmup", {"steps": steps, "start": start}, {"steps": POSITIVE, "start": NON_NEGATIVE})
    _check_part("warmup", schedule)
    climb = PolynomialDecay(start, steps, end_learning_rate=float(_rate(schedule, 0)))
    return Joined([climb, schedule], [steps])


def scale(schedule: Any, factor: Any) -> Scaled:
    """Multiply a schedule by a number, or by another schedule at the same step.

        rate(t) = schedule(t) · factor(t)

    Use it to raise or lower a schedule as a whole: k times the rate for k times the batch. With `warmup(1.0, steps)` as
    the factor the climb takes place within the schedule, which is not moved to later steps; `warmup` moves it.

    Args:
        schedule: A schedule, Keras's or ours, or a number for a constant rate.
        factor: A number >= 0, or a schedule.

    Raises:
        TypeError: When one of the two is neither a schedule nor a number.

    Example:
        >>> schedule = scale(PolynomialDecay(1.0, 10, end_learning_rate=0.0), warmup(4.0, steps=2))
        >>> [round(float(schedule(t)), 4) for t in (0, 1, 2, 5, 10)]
        [0.0, 1.8, 3.2, 2.0, 0.0]
    """
    return Scaled(schedule, factor)


def _rate(part: Any, step: Any) -> Any:
    return part(step) if isinstance(part, Schedule) else float(part)


def _check_part(owner: str, part: Any) -> None:
    if isinstance(part, Schedule) or (is_number(part) and part >= 0):
        return
    raise TypeError(
        f"{owner} takes learning-rate schedules, or numbers >= 0 for constant rates. Received: {part!r}. "
        "A plain function cannot be saved: make it a subclass of keras_optreg.schedules.FunctionSchedule."
    )
