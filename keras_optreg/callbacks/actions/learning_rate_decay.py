"""Let a schedule set the learning rate, per epoch or per batch."""

from collections.abc import Callable
from typing import Any

import keras

from keras_optreg.callbacks.actions.action import Action


class LearningRateDecay(Action):
    """Set the learning rate by a schedule, per epoch or per batch.

    Use it for schedules that count epochs, or with an optimizer that was made with a plain number. A schedule given to
    the optimizer itself costs nothing per step and is saved with the model: prefer that where it will do.

    Where the optimizer has a number, the rate is set to

        rate = schedule(t)

    and where an optimizer of keras_optreg already follows a schedule S, the two are multiplied:

        rate = S(step) · schedule(t) / schedule(0)

    t is Keras's number of the epoch, or the number of batches since the first epoch began (with
    `steps_per_execution=k` it moves in steps of k). The rate is added to the logs as `learning_rate`.

    Args:
        schedule: A schedule, ours or Keras's, or a function from t to the rate.
        every: `"epoch"` or `"batch"`.

    Raises:
        ValueError: For another `every`; at the start of training, when `schedule(0)` is 0 on top of a schedule.
        TypeError: When `schedule` cannot be called; at the start of training, when one of Keras's own optimizers
            follows a schedule, because its rate cannot be set.

    Example:
        ```python
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, epochs=30, callbacks=[LearningRateDecay(StepDecay(0.1, drop=0.5, every=10))])
        ```
    """

    state = ("_step", "_applied")

    def __init__(self, schedule: Callable[[Any], Any], every: str = "epoch"):
        if not callable(schedule):
            raise TypeError(
                "LearningRateDecay takes a schedule, or a function from the number of the epoch (or batch) to the "
                f"rate. Received: {schedule!r}"
            )
        if every not in ("epoch", "batch"):
            raise ValueError(f"The `every` of LearningRateDecay is 'epoch' or 'batch'. Received: every={every!r}")
        self.schedule = schedule
        self.every = every
        super().__init__()

    def reset(self) -> None:
        self._step: int | None = None  # batches before this epoch; known when the first epoch begins
        self._applied = 1.0  # on top of a schedule: the factor that is in the rate now

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        optimizer = self.model.optimizer
        self._on_top = _follows_schedule(optimizer)
        if not self._on_top:
            return
        self._first = float(self.schedule(0))
        if self._first == 0:
            raise ValueError(
                "LearningRateDecay multiplies the optimizer's own schedule by schedule(t)/schedule(0), but schedule(0) "
                "is 0. Begin above 0, or give the optimizer a number in place of its schedule."
            )
        # Keras's own setter refuses a number then. Ask now, not after the first epoch.
        inner = type(getattr(optimizer, "inner_optimizer", optimizer))
        if inner.learning_rate.fset is keras.optimizers.Optimizer.learning_rate.fset:
            raise TypeError(
                f"LearningRateDecay cannot set the learning rate of {inner.__module__}.{inner.__name__}, which follows "
                "a schedule of its own. Give the optimizer a number, or use the optimizer of the same name in "
                "keras_optreg.optimizers, where the two are multiplied."
            )

    def on_epoch_begin(self, epoch, logs=None):
        if self.every == "epoch":
            self._apply(epoch)
        elif self._step is None:
            # fit(initial_epoch=n) goes on where n epochs would have ended.
            self._step = epoch * (self.params.get("steps") or 0)

    def on_train_batch_begin(self, batch, logs=None):
        if self.every == "batch":
            self._apply(self._step + batch)
            self._batch = batch

    def on_train_batch_end(self, batch, logs=None):
        self._batch = batch

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "batch":
            self._step += self._batch + 1
        if logs is not None:
            logs["learning_rate"] = _rate_of(self.model.optimizer)

    def _apply(self, t: int) -> None:
        rate = float(self.schedule(t))
        optimizer = self.model.optimizer
        if self._on_top:
            current = _rate_of(optimizer)
            if current == 0:  # no factor is visible in 0; the next t brings the whole change
                return
            # A factor of 0 could never be divided out again, so 1e-12 stands for it.
            factor = rate / self._first or 1e-12
            rate = current * (factor / self._applied)
            self._applied = factor
        optimizer.learning_rate = rate


def _follows_schedule(optimizer: Any) -> bool:
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return isinstance(optimizer.get_config().get("learning_rate"), dict)


def _rate_of(optimizer: Any) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))  # `float` alone fails under tf.distribute
