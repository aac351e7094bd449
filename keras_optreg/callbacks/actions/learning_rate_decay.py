"""Let a schedule set the learning rate, per epoch or per batch."""

from collections.abc import Callable
from typing import Any

import keras

from keras_optreg.callbacks.actions.scheduled import Scheduled
from keras_optreg.introspection import inner_optimizer


class LearningRateDecay(Scheduled):
    """Set the learning rate by a schedule, per epoch or per batch.

    Use it for schedules that count epochs, or with an optimizer that was made with a plain number. A schedule given to
    the optimizer itself costs nothing per step and is saved with the model: prefer that where it will do.

    Where the optimizer has a number, the rate is set to

        rate = schedule(t)

    and where an optimizer of keras_optreg already follows a schedule S, the two are multiplied:

        rate = S(step) · schedule(t) / schedule(0)

    Both hold whatever the rate or its scale was before: nothing adds up from fit to fit, or over saving and loading.
    `step` is the optimizer's and goes on across fits. t is Keras's number of the epoch, or the number of batches since
    epoch 0 began (with `steps_per_execution=k` it moves in steps of k): each `fit` begins at t = 0, unless
    `initial_epoch` or `load_state_dict` says otherwise. What was set last stays after `fit`, and is saved with the
    model: a later training without this callback has the rate of the last t, or S(step) times its factor.

    The rate is added to the logs as `learning_rate`.

    Args:
        schedule: A schedule, ours or Keras's, or a function from t to the rate.
        every: `"epoch"` or `"batch"`.

    Raises:
        ValueError: For another `every`; at the start of training, when `schedule(0)` is 0 on top of a schedule, or when
            `initial_epoch` is above 0 and t cannot be known: per batch, with data of unknown length.
        TypeError: When `schedule` cannot be called; at the start of training, when one of Keras's own optimizers
            follows a schedule, because its rate cannot be set.

    Example:
        ```python
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, epochs=30, callbacks=[LearningRateDecay(StepDecay(0.1, drop=0.5, every=10))])
        ```
    """

    log_name = "learning_rate"

    def __init__(self, schedule: Callable[[Any], Any], every: str = "epoch"):
        super().__init__(schedule, every)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        optimizer = inner_optimizer(self.model)
        self._is_scheduled = not isinstance(optimizer.learning_rate, keras.Variable)
        if not self._is_scheduled:
            return
        self._first = float(self.schedule(0))
        if self._first == 0:
            raise ValueError(
                "LearningRateDecay multiplies the optimizer's own schedule by schedule(t)/schedule(0), but schedule(0) "
                "is 0. Begin above 0, or give the optimizer a number in place of its schedule."
            )
        if not hasattr(optimizer, "scale_rate"):
            kind = type(optimizer)
            raise TypeError(
                f"LearningRateDecay cannot set the learning rate of {kind.__module__}.{kind.__name__}, which follows "
                "a schedule of its own. Give the optimizer a number, or use the optimizer of the same name in "
                "keras_optreg.optimizers, where the two are multiplied."
            )

    def _apply(self, t: int) -> None:
        rate = float(self.schedule(t))
        model = self.model  # on JAX this brings the state to the host, so that what is set here is not overwritten
        if self._is_scheduled:  # the scale itself, not the rate: where S(step) is 0, no rate would tell the factor
            inner_optimizer(model).scale_rate(rate / self._first)
        else:
            model.optimizer.learning_rate = rate

    def _value(self) -> float:
        # `float` alone fails under tf.distribute
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
