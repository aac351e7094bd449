"""What actions share that watch one number of the logs: its name, which way is better, what is an improvement."""

import logging
import sys
from typing import Any

from keras_optreg.bounds import NON_NEGATIVE, check
from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.direction import Mode, direction, is_better


class Monitored(Action):
    """Abstract: watches one number. A subclass calls `_value` at the end of each epoch, and `_improves`.

    Args:
        monitor: a name in the logs.
        mode: `"min"`, `"max"`, or `"auto"`: losses and what Keras's metrics say about themselves.
        verbose: 1 prints what is done.
        min_delta: what counts as an improvement; as in Keras its sign does not matter.
        relative: take `min_delta` as a fraction of the best value.
        start_from_epoch: epochs, from 0, before which values are ignored.

    Raises:
        ValueError: for an unknown mode or a negative number; at the first epoch's end, when `monitor` is not in the
            logs or its direction is unknown.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        verbose: int = 0,
        min_delta: float = 0.0,
        relative: bool = False,
        start_from_epoch: int = 0,
    ):
        owner = type(self).__name__
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"The `mode` of {owner} must be 'auto', 'min' or 'max'. Received: mode={mode!r}")
        self.monitor = monitor
        self.mode = mode
        self.verbose = verbose
        self.min_delta = abs(min_delta)
        self.relative = relative
        self.start_from_epoch = start_from_epoch
        numbers = {"min_delta": self.min_delta, "start_from_epoch": start_from_epoch}
        check(owner, numbers, dict.fromkeys(numbers, NON_NEGATIVE))
        super().__init__()

    def reset(self) -> None:
        self._seen = False

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._validated = False

    def on_test_begin(self, logs=None):
        self._validated = True

    def _value(self, epoch: int, logs: dict[str, Any]) -> float | None:
        """The number at the end of this epoch; None when there is none, or it is to be ignored."""
        if self.monitor in logs:
            self._seen = True
            self._direction()
            return None if epoch < self.start_from_epoch else float(logs[self.monitor])
        # Validation need not run in each epoch (`validation_freq`): after the first time, or while values are ignored
        # anyway, an epoch without it is no mistake.
        name = self.monitor.removeprefix("val_")
        later = name != self.monitor and name in logs and not self._validated and epoch + 1 <= self.start_from_epoch
        if self._seen or later:
            return None
        owner = type(self).__name__
        raise ValueError(
            f"{owner} monitors {self.monitor!r}, which is not in the logs. "
            f"There are: {', '.join(logs) or 'none'}. "
            + (
                "Names with val_ need validation data in fit; where validation does not run in the first epoch "
                "(validation_freq), set start_from_epoch to the first epoch that has it, counted from 0."
                if name in logs
                else f"A callback that adds it to the logs must stand before {owner} in the list. "
                "(keras_optreg.check finds a wrong name in two batches.)"
            )
        )

    def _direction(self) -> Mode:
        found = self.mode if self.mode != "auto" else direction(self.model, self.monitor)
        if found is None:
            raise ValueError(
                f"{type(self).__name__} cannot tell whether more or less of {self.monitor!r} is better. "
                "Pass mode='max' or mode='min'."
            )
        return found  # type: ignore[return-value]

    def _improves(self, value: float, reference: float | None) -> bool:
        return is_better(value, reference, self._direction(), self.min_delta, relative=self.relative)

    def _say(self, sentence: str) -> None:
        logging.getLogger("keras_optreg").info(sentence)
        if self.verbose:
            sys.stdout.write(f"\n{sentence}\n")
