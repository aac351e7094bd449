"""The gradients themselves."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_optreg import select
from keras_optreg.callbacks.probes.gradient_tap import GradientTap
from keras_optreg.callbacks.probes.probe import Probe


class Gradients(Probe):
    """The gradient of each weight, as arrays `gradients/<path>`; a histogram in TensorBoard.

    What `GradientNorm` measures in one number: of the whole loss with its penalties, unscaled, before clipping and
    accumulation, taken inside the compiled step and not in a second pass; under `tf.distribute` summed over replicas,
    and for an embedding with the rows that stand twice in a batch added up. Over several steps (`steps_per_execution`,
    or per epoch), the mean gradient. A weight without a gradient has no entry.

    The gradients stay on the device until they are measured: from the beginning of `fit` to its end that takes as much
    memory as the selected weights do in float32. With large models, select a few.

    Args:
        on: Of which of the trainable weights, a selector; all of them when `None`.

    Example:
        ```python
        board = TensorBoardWriter("logs/run1/gradients")
        model.fit(x, y, callbacks=[Monitor([Gradients(select.kernels())], [board], every=100)])
        ```
    """

    def __init__(self, on: select.Selector | None = None):
        self.on = select.everything() if on is None else select.as_selector(on)
        self._tap: GradientTap | None = None

    def start(self, model: Any) -> bool:
        weights = model.trainable_variables
        positions = self.on.resolve(weights, "Gradients")
        self._paths = [select.path_of(weights[i]) for i in positions]
        self._tap = GradientTap.on(model)
        self._sums = self._tap.sums(positions)
        return True

    def prepare(self, model: Any) -> None:
        self._sums.switch(True)

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        state, *sums = self._sums.variables
        on, *counts = ops.convert_to_numpy(state).tolist()
        if on:
            self._sums.switch(False)
        found = zip(self._paths, sums, counts, strict=True)
        return {f"gradients/{path}": ops.convert_to_numpy(total) / count for path, total, count in found if count}

    def stop(self, model: Any) -> None:
        if self._tap is not None:
            self._tap.leave(self._sums)
            self._tap = None
