"""Which gradients are not finite."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_optreg import select
from keras_optreg.callbacks.probes.gradient_tap import GradientTap
from keras_optreg.callbacks.probes.probe import Probe


class NonFiniteGradients(Probe):
    """How many weights had a gradient with NaN or infinity, `non_finite_gradients`, and 1 as `non_finite/<path>` each.

    It watches every step from within, also those between two measurements, and keeps the first that had such: of later
    ones nothing is finite any more. What was measured is forgotten. `NaNGuard` acts on it.
    """

    def __init__(self):
        self._tap: GradientTap | None = None

    def start(self, model: Any) -> bool:
        self._paths = [select.path_of(w) for w in model.trainable_variables]
        self._tap = GradientTap.on(model)
        self._found = self._tap.non_finite()
        self._found.switch(True)
        return True

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        _, *flags = ops.convert_to_numpy(self._found.variables[0]).tolist()
        bad = {f"non_finite/{path}": 1.0 for path, flag in zip(self._paths, flags, strict=True) if flag}
        if bad:
            self._found.switch(True)
        return {"non_finite_gradients": float(len(bad)), **bad}

    def stop(self, model: Any) -> None:
        if self._tap is not None:
            self._tap.leave(self._found)
            self._tap = None
