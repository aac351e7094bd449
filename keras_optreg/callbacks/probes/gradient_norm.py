"""How large the gradients are."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_optreg import select
from keras_optreg.callbacks.probes.gradient_tap import GradientTap
from keras_optreg.callbacks.probes.probe import Probe


class GradientNorm(Probe):
    """The norm of the gradient of each weight, `gradient_norm/<path>`, and of all together, `gradient_norm`.

        ‖∂loss/∂w‖ = √Σ gᵢ²

    as the optimizer receives it: of the whole loss with its penalties, unscaled, before clipping and accumulation.
    It is computed inside the compiled step, in measured steps only, with any optimizer. One step is measured, or with
    `steps_per_execution` all of one execution, or per epoch all of the epoch; of several steps, the mean of the norms.
    A weight the loss does not depend on has no gradient, and no entry. Where a `train_step` of one's own calls the
    optimizer several times a step, with some of the weights each, each call counts, for the weights that it has.

    Args:
        on: For which of the trainable weights, a selector; all of them when `None`. The global norm is always of all.
    """

    def __init__(self, on: select.Selector | None = None):
        self.on = select.everything() if on is None else select.as_selector(on)
        self._tap: GradientTap | None = None

    def start(self, model: Any) -> bool:
        self._paths = [select.path_of(w) for w in model.trainable_variables]
        self._selected = self.on.resolve(model.trainable_variables, "GradientNorm")
        self._tap = GradientTap.on(model)
        self._norms = self._tap.norms()
        return True

    def prepare(self, model: Any) -> None:
        self._norms.switch(True)

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        on, *sums_and_counts = ops.convert_to_numpy(self._norms.variables[0]).tolist()
        if on:
            self._norms.switch(False)
        half = len(sums_and_counts) // 2
        sums, counts = sums_and_counts[:half], sums_and_counts[half:]
        # None of all where no update took place: loss scaling left them out.
        names = {"gradient_norm": 0} | {f"gradient_norm/{self._paths[i]}": 1 + i for i in self._selected}
        return {name: sums[i] / counts[i] for name, i in names.items() if counts[i]}

    def stop(self, model: Any) -> None:
        if self._tap is not None:
            self._tap.leave(self._norms)
            self._tap = None
