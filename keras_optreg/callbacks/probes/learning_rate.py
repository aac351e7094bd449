"""The learning rate."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_optreg.callbacks.probes.probe import Probe, compiled
from keras_optreg.introspection import learning_rates


class LearningRate(Probe):
    """The rate that the next update will use, as `learning_rate`.

    Schedules, loss scaling and wrapped optimizers included; for a `MultiOptimizer`, `learning_rate_<name>` for each.
    """

    def __init__(self):
        self._compiled: Any = None

    def start(self, model: Any) -> bool:
        scheduled = not all(isinstance(rate, keras.Variable) for rate in learning_rates(model).values())
        if scheduled:
            self._compiled = compiled(
                model, lambda: {name: ops.convert_to_tensor(rate) for name, rate in learning_rates(model).items()}
            )
        return False

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        return self._compiled() if self._compiled else learning_rates(model)

    def stop(self, model: Any) -> None:
        self._compiled = None
