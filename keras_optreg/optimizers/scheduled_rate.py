"""The learning rate of an optimizer: a number, or a schedule that can still be scaled while it runs."""

from typing import Any

import keras
from keras import ops

from keras_optreg.optimizers import options
from keras_optreg.typing import Tensor


class ScheduledRate(keras.optimizers.Optimizer):
    """An optimizer whose learning rate can also be set while a schedule drives it, which Keras refuses.

    A number or the schedule's scale stands in the same place among the optimizer's variables.
    """

    def __init__(self, learning_rate: Any, **given: Any):
        super().__init__(learning_rate=options.as_rate(type(self).__name__, learning_rate), **given)
        if not isinstance(self._learning_rate, keras.Variable):
            self._learning_rate_scale = self.add_variable(
                (), "ones", name="learning_rate_scale", aggregation="only_first_replica"
            )

    @property
    def learning_rate(self) -> Tensor:
        """The current learning rate. Setting a number while a schedule drives it scales the schedule from here on.

        A schedule can be set before the optimizer is built.
        """
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        value = options.as_rate(type(self).__name__, value)
        if not isinstance(value, float):
            if self.built:
                raise ValueError(
                    f"The learning rate of {type(self).__name__} cannot become a schedule after the optimizer was "
                    "built: training steps that are already compiled would not follow it. Set a number, or compile "
                    "the model with a new optimizer."
                )
            if isinstance(self._learning_rate, keras.Variable):  # keep the variable: its place in checkpoints is fixed
                self._learning_rate_scale = self._learning_rate
            self._learning_rate_scale.assign(1.0)
            self._learning_rate = value
        elif isinstance(self._learning_rate, keras.Variable):
            self._learning_rate.assign(value)
        else:
            scheduled = float(ops.convert_to_numpy(self._scheduled_rate()))
            if scheduled == 0.0 and value != 0.0:
                raise ValueError(
                    f"The schedule's learning rate is 0 at this step, so no scaling of it gives {value}. "
                    "Set the rate at another step, or give the optimizer a number instead of a schedule."
                )
            self._learning_rate_scale.assign(value / scheduled if scheduled else 1.0)

    def _scheduled_rate(self) -> Tensor:
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(self.iterations)  # real updates, not micro-batches
        return rate()

    def _get_current_learning_rate(self) -> Tensor:
        if isinstance(self._learning_rate, keras.Variable):
            return self._learning_rate
        return ops.multiply(self._scheduled_rate(), self._learning_rate_scale)

    def rate_scale(self) -> float:
        """The factor on the schedule; 1 without one."""
        if isinstance(self._learning_rate, keras.Variable):
            return 1.0
        return float(ops.convert_to_numpy(self._learning_rate_scale))

    def scale_rate(self, scale: float) -> None:
        """Set the factor on the schedule."""
        self._learning_rate_scale.assign(scale)
