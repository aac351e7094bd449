"""A warm-up, a constant rate, and a fall at the end."""

from typing import ClassVar

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE, POSITIVE
from keras_optreg.schedules.function_schedule import FunctionSchedule
from keras_optreg.schedules.shapes import Shape, between, check_shape, one_minus_sqrt


@keras.saving.register_keras_serializable("keras_optreg")
class WarmupStableDecay(FunctionSchedule):
    """Climb in a straight line, keep the rate for most of the training, and let it fall at the end.

    For long runs, and those that may go on: from a checkpoint of the constant stretch one can train longer, or decay
    at once (with a smaller `stable_steps`) and have a finished model for a tenth of the steps more.

        rate(t) = peak · t / W                                    while t < W
        rate(t) = peak                                            while t < W + S
        rate(t) = end + (peak − end) · shape((t − W − S) / D)     while t < W + S + D, then end

    with W, S and D the three numbers of steps.

    MiniCPM's exponential decay peak · 0.5^((t − W − S)/n) is `shape=shapes.exponential` with
    `decay_steps=log2(10) * n` and `end_learning_rate=peak / 10`.

    Args:
        peak_learning_rate: The rate of the constant stretch, >= 0.
        warmup_steps: The steps of the climb from 0, >= 0.
        stable_steps: The steps at the peak, >= 0.
        decay_steps: The steps of the fall, > 0. 10 to 20 % of all are usual.
        end_learning_rate: The rate at the end and from then on, >= 0.
        shape: One of `schedules.shapes`, or a registered function of the fraction.
        name: Kept in the config.

    Raises:
        ValueError: When a number is outside its range.
        TypeError: When `shape` is no registered function.

    Example:
        >>> schedule = WarmupStableDecay(0.8, warmup_steps=10, stable_steps=70, decay_steps=20)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 80, 85, 100)]
        [0.0, 0.4, 0.8, 0.8, 0.4, 0.0]

    Reference:
        Hu et al., "MiniCPM: Unveiling the potential of small language models with scalable training strategies", 2024,
        arXiv:2404.06395, section 4; the default shape is that of Hägele et al., "Scaling laws and compute-optimal
        training beyond fixed training durations", 2024, arXiv:2405.18392.
    """

    bounds: ClassVar = {
        "peak_learning_rate": NON_NEGATIVE,
        "warmup_steps": NON_NEGATIVE,
        "stable_steps": NON_NEGATIVE,
        "decay_steps": POSITIVE,
        "end_learning_rate": NON_NEGATIVE,
    }

    def __init__(
        self,
        peak_learning_rate: float,
        warmup_steps: float,
        stable_steps: float,
        decay_steps: float,
        end_learning_rate: float = 0.0,
        shape: Shape = one_minus_sqrt,
        name: str | None = None,
    ):
        super().__init__(
            name,
            peak_learning_rate=peak_learning_rate,
            warmup_steps=warmup_steps,
            stable_steps=stable_steps,
            decay_steps=decay_steps,
            end_learning_rate=end_learning_rate,
            shape=shape,
        )
        check_shape("WarmupStableDecay", shape)

    def at(self, step):
        peak, over = self.peak_learning_rate, step - (self.warmup_steps + self.stable_steps)
        rate = between(peak, self.end_learning_rate, over / self.decay_steps, self.shape)
        if not self.warmup_steps:
            return rate
        return ops.where(step < self.warmup_steps, peak * step / self.warmup_steps, rate)
