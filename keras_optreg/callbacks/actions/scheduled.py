"""What callbacks share that set a number by a schedule, per epoch or per batch."""

from collections.abc import Callable
from typing import Any

from keras_optreg.callbacks.actions.action import Action


class Scheduled(Action):
    """Abstract: a number that follows a schedule. A subclass sets it in `_apply(t)`, and says in `_value` what it is.

    t is Keras's number of the epoch, or the number of batches since epoch 0 began (with `steps_per_execution=k` it
    moves in steps of k): each `fit` begins at t = 0, unless `initial_epoch` or `load_state_dict` says otherwise.

    Args:
        schedule: a schedule, ours or Keras's, or a function from t to the number.
        every: `"epoch"` or `"batch"`.

    Raises:
        ValueError: for another `every`; at the start of training, when `initial_epoch` is above 0 and t cannot be
            known: per batch, with data of unknown length.
        TypeError: when `schedule` cannot be called.
    """

    state = ("_step",)
    log_name = ""

    def __init__(self, schedule: Callable[[Any], Any], every: str):
        kind = type(self).__name__
        if not callable(schedule):
            raise TypeError(
                f"{kind} takes a schedule, or a function from the number of the epoch (or batch) to the number that "
                f"is set. Received: {schedule!r}"
            )
        if every not in ("epoch", "batch"):
            raise ValueError(f"The `every` of {kind} is 'epoch' or 'batch'. Received: every={every!r}")
        self.schedule = schedule
        self.every = every
        super().__init__()

    def _apply(self, t: int) -> None:
        raise NotImplementedError

    def _value(self) -> float:
        raise NotImplementedError

    def reset(self) -> None:
        self._step: int | None = None  # batches before this epoch; known when the first epoch begins

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = 0  # in this epoch; data of unknown length end in a batch that begins and never ends
        if self.every == "epoch":
            self._apply(epoch)
        elif self._step is None:
            steps = self.params.get("steps")
            if epoch and steps is None:
                raise ValueError(
                    f"{type(self).__name__}(every='batch') cannot tell how many batches come before epoch {epoch}, "
                    "because the data do not know their length. Pass steps_per_epoch to fit, or give this callback the "
                    "state_dict() of the one that trained until there, or use every='epoch'."
                )
            # fit(initial_epoch=n) goes on where n epochs would have ended.
            self._step = epoch * steps if epoch else 0

    def on_train_batch_begin(self, batch, logs=None):
        if self.every == "batch":
            self._apply((self._step or 0) + batch)

    def on_train_batch_end(self, batch, logs=None):
        self._batches = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "batch":
            self._step = (self._step or 0) + self._batches
        if logs is not None:
            logs[self.log_name] = self._value()
