"""Stop when a number has stopped getting better."""

import logging
import sys
from math import isnan
from typing import Any

from keras_optreg.bounds import NON_NEGATIVE, check
from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.direction import direction


class EarlyStopping(Action):
    """Stop training when a monitored number has not improved for `patience` epochs.

    Keras's arguments, under Keras's names, in Keras's order, and its meaning of them. The differences: NaN is never
    the best value and never an improvement (in Keras a first NaN stays the best for ever); `relative` improvements;
    a name that is not logged is an error, not a warning; the reason is kept in `stop_reason`; the state can be saved.

    A value x improves on the best b when, for `mode="min"`,

        x < b − min_delta            or, with `relative`,            x < b − min_delta · |b|

    and for `"max"` accordingly. With `restore_best_weights` the best weights are put back when training ends, however
    it ends; the optimizer's state is not. (With an optimizer that has `use_ema`, they replace the averaged weights.)

    Args:
        monitor: A name in the logs: `"val_loss"`, `"val_accuracy"`, `"loss"`, ...
        min_delta: What counts as an improvement, in units of the number, or as a fraction of it with `relative`.
        patience: Epochs without improvement before training stops.
        verbose: 1 prints why training stopped and which weights were restored.
        mode: `"min"`, `"max"`, or `"auto"`: losses and what Keras's metrics say about themselves.
        baseline: Epochs count as being without improvement until this value is passed.
        restore_best_weights: Put back the weights of the best epoch.
        start_from_epoch: Epochs, from 0, before which values are ignored.
        relative: Take `min_delta` as a fraction of the best value.

    Attributes:
        stop_reason: Why training was stopped, as a sentence; `None` when it was not.
        best: The best value; `None` before there is one.
        best_epoch: Its epoch, from 0.
        stopped_epoch: The epoch in which training was stopped, from 0; 0 when it was not.

    Raises:
        ValueError: For an unknown mode or a negative number; at the first epoch's end, when `monitor` is not in the
            logs or its direction is unknown.

    Example:
        ```python
        stopping = EarlyStopping("val_loss", patience=5, restore_best_weights=True)
        model.fit(x, y, validation_split=0.1, epochs=100, callbacks=[stopping])
        print(stopping.stop_reason)   # val_loss has not improved on 0.2817 (epoch 12) for 5 epochs
        ```

    Reference:
        Prechelt, "Early stopping - but when?", 1998.
    """

    state = ("best", "best_epoch", "best_weights", "wait", "stopped_epoch", "stop_reason", "_seen")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        relative: bool = False,
    ):
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"The `mode` of EarlyStopping must be 'auto', 'min' or 'max'. Received: mode={mode!r}")
        self.monitor = monitor
        self.min_delta = abs(min_delta)  # as in Keras, the sign does not matter
        self.patience = patience
        self.verbose = verbose
        self.mode = mode
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self.relative = relative
        numbers = {"min_delta": self.min_delta, "patience": patience, "start_from_epoch": start_from_epoch}
        check("EarlyStopping", numbers, dict.fromkeys(numbers, NON_NEGATIVE))
        super().__init__()

    def reset(self) -> None:
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: list[Any] | None = None
        self.wait = 0
        self.stopped_epoch = 0
        self.stop_reason: str | None = None
        self._seen = False

    def report(self) -> str | None:
        return self.stop_reason

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.stopped_epoch, self.stop_reason = 0, None  # of this training, also where it goes on from a state
        self._validated = False

    def on_test_begin(self, logs=None):
        self._validated = True

    def on_epoch_end(self, epoch, logs=None):
        value = self._value(epoch, logs or {})
        if value is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self._improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self._improves(value, self.baseline):
                self.wait = 0
            return
        # Keras never stops after the very first epoch, whatever the patience.
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.stop_reason = self._reason(value)
            self.model.stop_training = True
            self._say(f"Epoch {epoch + 1}: early stopping: {self.stop_reason}")

    def on_train_end(self, logs=None):
        if not self.restore_best_weights:
            return
        if self.best_weights is None:
            self._say(f"No weights restored: {self.monitor} never had a value that is a number.")
            return
        self._say(f"Restoring the weights of the best epoch, {self.best_epoch + 1}.")
        self.model.set_weights(self.best_weights)

    def _value(self, epoch: int, logs: dict[str, Any]) -> float | None:
        if self.monitor in logs:
            self._seen = True
            self._direction()
            return float(logs[self.monitor])
        # Validation need not run in each epoch (`validation_freq`): after the first time, or while values are ignored
        # anyway, an epoch without it is no mistake.
        name = self.monitor.removeprefix("val_")
        later = name != self.monitor and name in logs and not self._validated and epoch + 1 <= self.start_from_epoch
        if self._seen or later:
            return None
        raise ValueError(
            f"EarlyStopping monitors {self.monitor!r}, which is not in the logs. "
            f"There are: {', '.join(logs) or 'none'}. "
            + (
                "Names with val_ need validation data in fit; where validation does not run in the first epoch "
                "(validation_freq), set start_from_epoch to the first epoch that has it, counted from 0."
                if name in logs
                else "A callback that adds it to the logs must stand before EarlyStopping in the list. "
                "(keras_optreg.check finds a wrong name in two batches.)"
            )
        )

    def _direction(self) -> str:
        found = self.mode if self.mode != "auto" else direction(self.model, self.monitor)
        if found is None:
            raise ValueError(
                f"EarlyStopping cannot tell whether more or less of {self.monitor!r} is better. "
                "Pass mode='max' or mode='min'."
            )
        return found

    def _improves(self, value: float, reference: float | None) -> bool:
        if isnan(value):
            return False
        if reference is None:
            return True
        margin = self.min_delta * (abs(reference) if self.relative else 1)
        return value < reference - margin if self._direction() == "min" else value > reference + margin

    def _reason(self, value: float) -> str:
        epochs = f"{self.wait} epoch{'s' if self.wait != 1 else ''}"
        if self.best is None:
            return f"{self.monitor} was not a number for {epochs}"
        least = f" by {self.min_delta:g}{' of itself' if self.relative else ''}" if self.min_delta else ""
        if self.baseline is not None and not self._improves(self.best, self.baseline):
            return f"{self.monitor} has not passed the baseline {self.baseline:g}{least} for {epochs}; last {value:.4g}"
        where = f"{self.best:.4g} (epoch {self.best_epoch + 1})"
        return f"{self.monitor} has not improved on {where}{least} for {epochs}; last {value:.4g}"

    def _say(self, sentence: str) -> None:
        logging.getLogger("keras_optreg").info(sentence)
        if self.verbose:
            sys.stdout.write(f"\n{sentence}\n")
