"""Rates that go up and down again and again."""

from math import log
from typing import ClassVar

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE, POSITIVE, POSITIVE_FRACTION, check
from keras_optreg.schedules.function_schedule import FunctionSchedule, whole


@keras.saving.register_keras_serializable("keras_optreg")
class Cyclical(FunctionSchedule):
    """Go up and down between two rates in straight lines, again and again, less far each time if wanted.

    For a range of rates that a range test found in place of one rate. The paper's three policies are

    - `Cyclical(low, high, n)`: "triangular";
    - `Cyclical(low, high, n, cycle_factor=0.5)`: "triangular2", every cycle half as high as the one before;
    - `Cyclical(low, high, n, step_factor=0.99994)`: "exp_range", every step a little less high than the one before.

    With n = `step_size`, m = `step_size_down`, cycle c = ⌊t / (n + m)⌋ and p = t − c·(n + m) the steps in it,

        rate(t) = initial + (maximal − initial) · min(p/n, (n + m − p)/m) · cycle_factor^c · step_factor^t

    Equal to TensorFlow Addons' `CyclicalLearningRate` classes, whose functions could not be saved, and to PyTorch's
    `CyclicLR`. The momentum that PyTorch moves the other way is `Cyclical(0.9, 0.8, n)`.

    Args:
        initial_learning_rate: The rate at which every cycle begins and ends, >= 0.
        maximal_learning_rate: The rate in the middle of the first cycle, >= 0; it may be the lower one.
        step_size: The steps from the first to the other, > 0. The paper advises 2 to 8 epochs.
        step_size_down: The steps back, > 0; `step_size` when `None`.
        cycle_factor: The height of a cycle over that of the one before, in (0, 1].
        step_factor: The paper's γ, the height at a step over that at the step before, in (0, 1].
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.

    Example:
        >>> schedule = Cyclical(0.2, 1.0, step_size=10, cycle_factor=0.5)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 20, 30, 40)]
        [0.2, 0.6, 1.0, 0.2, 0.6, 0.2]

    Reference:
        Smith, "Cyclical learning rates for training neural networks", 2015, arXiv:1506.01186, section 3.
    """

    bounds: ClassVar = {
        "initial_learning_rate": NON_NEGATIVE,
        "maximal_learning_rate": NON_NEGATIVE,
        "step_size": POSITIVE,
        "cycle_factor": POSITIVE_FRACTION,
        "step_factor": POSITIVE_FRACTION,
    }

    def __init__(
        self,
        initial_learning_rate: float,
        maximal_learning_rate: float,
        step_size: float,
        step_size_down: float | None = None,
        cycle_factor: float = 1.0,
        step_factor: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(
            name,
            initial_learning_rate=initial_learning_rate,
            maximal_learning_rate=maximal_learning_rate,
            step_size=step_size,
            step_size_down=step_size_down,
            cycle_factor=cycle_factor,
            step_factor=step_factor,
        )
        if step_size_down is not None:
            check("Cyclical", {"step_size_down": step_size_down}, {"step_size_down": POSITIVE})

    def at(self, step):
        up = self.step_size
        down = up if self.step_size_down is None else self.step_size_down
        cycle = whole(step, up + down)
        over = step - cycle * (up + down)
        height = ops.clip(ops.minimum(over / up, (up + down - over) / down), 0.0, 1.0)
        # γ is so near 1 that float32 would lose it; its logarithm keeps its digits.
        factor = ops.power(float(self.cycle_factor), cycle) * ops.exp(step * log(self.step_factor))
        return self.initial_learning_rate + (self.maximal_learning_rate - self.initial_learning_rate) * height * factor
