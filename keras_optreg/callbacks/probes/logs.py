"""Measures read from Keras's logs."""

from collections.abc import Mapping
from typing import Any

from keras_optreg.callbacks.direction import direction
from keras_optreg.callbacks.probes.probe import Probe


class Logs(Probe):
    """All that Keras logs, under Keras's names; within an epoch its running means."""

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        return dict(logs)


class TrainValidationGap(Probe):
    """How much worse each logged number is on validation data: `gap_loss`, `gap_accuracy`, ...; per epoch.

    Positive is worse: val_loss − loss, accuracy − val_accuracy. Where Keras cannot say which direction is better, it is
    validation minus training. (Keras's training numbers are means over the epoch, while the weights still moved, so
    a small gap below 0 is common early on.)
    """

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        gaps = {}
        for name in logs:
            if f"val_{name}" in logs:
                difference = logs[f"val_{name}"] - logs[name]
                gaps[f"gap_{name}"] = -difference if direction(model, name) == "max" else difference
        return gaps
