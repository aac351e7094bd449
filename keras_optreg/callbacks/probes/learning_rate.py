"""The learning rate."""

from collections.abc import Mapping
from typing import Any

from keras_optreg.callbacks.probes.probe import Probe


class LearningRate(Probe):
    """The rate that the next update will use, as `learning_rate`.

    Schedules, loss scaling and wrapped optimizers included; for a `MultiOptimizer`, `learning_rate_<name>` for each.
    """

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        if hasattr(optimizer, "optimizers"):
            return {f"learning_rate_{each.name}": each.learning_rate for each in optimizer.optimizers}
        return {"learning_rate": optimizer.learning_rate}
