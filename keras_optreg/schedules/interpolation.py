"""Values at given steps with a shape between them, and the one-cycle policy, which is that."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE, POSITIVE, Interval, check, is_number
from keras_optreg.schedules.function_schedule import FunctionSchedule
from keras_optreg.schedules.shapes import Shape, between, check_shape, cosine, linear

_serializable = keras.saving.register_keras_serializable("keras_optreg")


def _through(step: Any, steps: Sequence[float], values: Sequence[float], shape: Shape) -> Any:
    value: Any = values[-1]
    for (begin, end), (first, last) in reversed([*zip(pairwise(steps), pairwise(values), strict=True)]):
        if begin < end:
            value = ops.where(step < end, between(first, last, (step - begin) / (end - begin), shape), value)
    return value


@_serializable
class Interpolation(FunctionSchedule):
    """Go through given values at given steps, in straight lines or another shape between them.

    For schedules of one's own, and for other numbers than learning rates: momentum, dropout, the strength of a penalty.

        value(t) = values[i+1] + (values[i] − values[i+1]) · shape((t − steps[i]) / (steps[i+1] − steps[i]))

    between steps[i] and steps[i+1]; values[0] before steps[0] and the last value after the last step. (The constants of
    `PiecewiseConstant` jump.)

    Args:
        steps: Steps >= 0, increasing.
        values: The values there, >= 0, as many.
        shape: One of `schedules.shapes`, or a registered function of the fraction.
        name: Kept in the config.

    Raises:
        ValueError: When the lengths differ, the steps do not increase, or a number is negative.
        TypeError: When `shape` is no registered function.

    Example:
        >>> schedule = Interpolation([0, 10, 30], [0.0, 1.0, 0.2])
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 20, 30, 99)]
        [0.0, 0.5, 1.0, 0.6, 0.2, 0.2]
    """

    def __init__(
        self,
        steps: Sequence[float],
        values: Sequence[float],
        shape: Shape = linear,
        name: str | None = None,
    ):
        super().__init__(name, steps=list(steps), values=list(values), shape=shape)
        check_shape("Interpolation", shape)
        if len(self.steps) != len(self.values) or not self.steps:
            raise ValueError(
                "Interpolation needs as many `values` as `steps`, and at least one. "
                f"Received: steps={self.steps}, values={self.values}"
            )
        if not all(is_number(s) and s >= 0 for s in self.steps) or any(b <= a for a, b in pairwise(self.steps)):
            raise ValueError(
                f"The `steps` of Interpolation must be increasing numbers >= 0. Received: steps={self.steps}"
            )
        for value in self.values:
            check("Interpolation", {"values": value}, {"values": NON_NEGATIVE})

    def at(self, step):
        return _through(step, self.steps, self.values, self.shape)


@_serializable
class OneCycle(FunctionSchedule):
    """Climb to a high rate, then fall far below the first: fast training of a known length with a large rate.

    Take the largest rate that does not diverge, and less of other regularization than usual: the large rate is some.
    Momentum moves the other way, see `momentum`.

        rate(0) = max/div_factor,   rate(w·T) = max,   rate(T) = max/(div_factor · final_div_factor)

    with T = `total_steps` and w = `warmup_fraction`, and the shape between them; after T the last rate. With an
    `annihilation_fraction` a, as in the paper, the rate is back at the first at (1 − a)·T, and falls to the last in
    the steps that remain.

    The arguments are those of PyTorch's `OneCycleLR` (`max_lr`, `total_steps`, `pct_start`, `div_factor`,
    `final_div_factor`), which counts from 0 to T − 1: `OneCycleLR(max, T, pct_start=w)` is
    `OneCycle(max, T − 1, warmup_fraction=(w·T − 1)/(T − 1))`. fastai and optax count as here.

    Args:
        maximal_learning_rate: The peak, >= 0.
        total_steps: The step at which the last rate is reached, > 0: the steps of the training.
        warmup_fraction: The part of the steps in which the rate climbs, in [0, 1).
        div_factor: By how much the first rate is below the peak, > 0.
        final_div_factor: By how much the last rate is below the first, > 0.
        annihilation_fraction: The part of the steps from the first to the last rate, in (0, 1 − warmup_fraction);
            `None` for a fall right from the peak to the last rate.
        shape: One of `schedules.shapes`, or a registered function of the fraction. The paper's is `shapes.linear`.
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.
        TypeError: When `shape` is no registered function.

    Example:
        >>> schedule = OneCycle(1.0, total_steps=100, div_factor=10.0)
        >>> [round(float(schedule(t)), 4) for t in (0, 15, 30, 65, 100)]
        [0.1, 0.55, 1.0, 0.5, 0.0]

    Reference:
        Smith and Topin, "Super-convergence: Very fast training of neural networks using large learning rates", 2017,
        arXiv:1708.07120. The cosine and the fall right from the peak are fastai's.
    """

    bounds: ClassVar = {
        "maximal_learning_rate": NON_NEGATIVE,
        "total_steps": POSITIVE,
        "warmup_fraction": FRACTION,
        "div_factor": POSITIVE,
        "final_div_factor": POSITIVE,
    }

    def __init__(
        self,
        maximal_learning_rate: float,
        total_steps: float,
        warmup_fraction: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        annihilation_fraction: float | None = None,
        shape: Shape = cosine,
        name: str | None = None,
    ):
        super().__init__(
            name,
            maximal_learning_rate=maximal_learning_rate,
            total_steps=total_steps,
            warmup_fraction=warmup_fraction,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            annihilation_fraction=annihilation_fraction,
            shape=shape,
        )
        check_shape("OneCycle", shape)
        if annihilation_fraction is not None:
            rest = Interval(0, 1 - warmup_fraction, low_included=False)
            check("OneCycle", {"annihilation_fraction": annihilation_fraction}, {"annihilation_fraction": rest})

    @property
    def _steps(self) -> list[float]:
        top, end = self.warmup_fraction * self.total_steps, self.total_steps
        a = self.annihilation_fraction
        return [0, top, end] if a is None else [0, top, (1 - a) * end, end]

    def at(self, step):
        peak = self.maximal_learning_rate
        first = peak / self.div_factor
        back = [] if self.annihilation_fraction is None else [first]
        return _through(step, self._steps, [first, peak, *back, first / self.final_div_factor], self.shape)

    def momentum(self, max_momentum: float = 0.95, base_momentum: float = 0.85) -> Interpolation:
        """The momentum that goes with it: down while the rate climbs, and back up.

        Args:
            max_momentum: The momentum at the first and at the last step, >= 0; also while the rate is annihilated.
            base_momentum: The momentum at the peak of the rate, >= 0.

        Returns:
            A schedule on the same steps and with the same shape, for `callbacks.ParameterSchedule`.

        Example:
            >>> momentum = OneCycle(1.0, total_steps=100).momentum()
            >>> [round(float(momentum(t)), 4) for t in (0, 15, 30, 65, 100)]
            [0.95, 0.9, 0.85, 0.9, 0.95]
        """
        values = [max_momentum, base_momentum] + [max_momentum] * (len(self._steps) - 2)
        knots = dict(zip(self._steps, values, strict=True))  # with a warm-up of no steps the later one stands
        return Interpolation(list(knots), list(knots.values()), self.shape)
