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
    A weight the loss does not depend on has no gradient, and no entry.

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
        self._state = self._tap.listen()
        return True

    def prepare(self, model: Any) -> None:
        self._state.assign([1.0] + [0.0] * (self._state.shape[0] - 1))

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        on, steps, *norms = (float(value) for value in ops.convert_to_numpy(self._state))
        if on:
            self._state.assign([0.0] * self._state.shape[0])
        if steps == 0:  # no update took place: loss scaling left them out
            return {}
        whole, *each = (value / steps for value in norms)
        selected = [i for i in self._selected if i not in self.without_gradient]
        return {"gradient_norm": whole, **{f"gradient_norm/{self._paths[i]}": each[i] for i in selected}}

    @property
    def without_gradient(self) -> set[int]:
        """Positions of the trainable weights that had no gradient at all in the last compiled step."""
        return self._tap.without_gradient if self._tap else set()

    def stop(self, model: Any) -> None:
        if self._tap is not None:
            self._tap.leave(self._state)
            self._tap = None
