"""The learning rate."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_optreg.callbacks.probes.probe import Probe, compiled
from keras_optreg.introspection import inner_optimizer


class LearningRate(Probe):
    """The rate that the next update will use, as `learning_rate`.

    Schedules, loss scaling and wrapped optimizers included; for a `MultiOptimizer`, `learning_rate_<name>` for each.
    """

    def __init__(self):
        self._compiled: Any = None

    def start(self, model: Any) -> bool:
        scheduled = not all(isinstance(rate, keras.Variable) for rate in _rates(model).values())
        if scheduled:
            self._compiled = compiled(
                model, lambda: {name: ops.convert_to_tensor(rate) for name, rate in _rates(model).items()}
            )
        return False

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        return self._compiled() if self._compiled else _rates(model)

    def stop(self, model: Any) -> None:
        self._compiled = None


def _rates(model: Any) -> dict[str, Any]:
    optimizer = inner_optimizer(model)
    if hasattr(optimizer, "optimizers"):
        return {f"learning_rate_{each.name}": each.learning_rate for each in optimizer.optimizers}
    return {"learning_rate": optimizer.learning_rate}
