"""What the Schedule-Free methods share: three points, of which the model holds one. Defazio et al. 2024.

z takes the steps, x is the average of all z, and gradients are taken at y = (1 − β)·z + β·x. The model holds y while
training; x is the result. Only z is stored: x = (y − (1 − β)·z)/β.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_optreg.optimizers.averaged import Averaged
from keras_optreg.optimizers.rule_optimizer import RuleOptimizer, Step
from keras_optreg.optimizers.update_order import Pairs, state_of, value_of
from keras_optreg.typing import Tensor

Tensors = dict[str, Tensor]


def rate(lr: Tensor, t: Tensor, warmup_steps: int) -> Tensor:
    """γ: the learning rate, growing in a straight line over the first steps."""
    return lr * ops.minimum(1.0, t / warmup_steps) if warmup_steps else lr


def share(shared: Tensors, sums: Tensors, *, lr: Tensor, t: Tensor, warmup_steps: int, **_: Any) -> Tensors:
    """c: the weight of this step in the average, the square of the largest γ so far over the sum of all of them."""
    gamma = ops.maximum(shared["gamma"], rate(lr, t, warmup_steps))
    total = shared["sum"] + ops.square(gamma)
    return {"gamma": gamma, "sum": total, "c": ops.square(gamma) / ops.maximum(total, 1e-30)}


def schedule_free(direction: Tensor, y: Tensor, state: Tensors, gamma: Tensor, c: Tensor, beta_1: float) -> Step:
    """Z goes a step along -direction, x goes to z by a fraction c, and y follows from both."""
    c = ops.cast(c, y.dtype)
    delta = c * (state["z"] - y) - gamma * (1 - beta_1 * (1 - c)) * direction
    return Step(delta, {**state, "z": state["z"] - gamma * direction})


class ScheduleFree(Averaged, RuleOptimizer):
    """Abstract: an optimizer with the slot z, an argument `beta_1` and the averaging above."""

    shared_slots = {"gamma": 0.0, "sum": 0.0, "c": 0.0}
    share = staticmethod(share)
    constants = ("beta_1",)
    owns_iterate = True
    beta_1: float

    def __init__(self, learning_rate: Any, *, own: dict[str, Any], **options: Any):
        super().__init__(learning_rate, own=own, **options)
        if self.use_ema:
            raise ValueError(
                f"{type(self).__name__} averages the weights itself; use_ema=True would average what is not its "
                "result. Leave use_ema out."
            )

    def resumed(self, w: Tensor, state: Tensors) -> Tensor:
        return ops.where(self.at_average > 0, self._y(w, state["z"]), w)

    def left_behind(self, indices: Sequence[int]) -> Pairs:
        rest = [(v, self.resumed(w, {"z": self._z(i, w)})) for i, v, w in self._weights() if i not in indices]
        return [*rest, (self.at_average, ops.zeros(()))]

    def averages(self) -> Pairs:
        return [(v, w + (w - self._z(i, w)) * (1 / self.beta_1 - 1)) for i, v, w in self._weights()]

    def training_points(self) -> Pairs:
        return [(v, self._y(w, self._z(i, w))) for i, v, w in self._weights()]

    def _y(self, x: Tensor, z: Tensor) -> Tensor:
        return x + (1 - self.beta_1) * (z - x)

    def _z(self, i: int, w: Tensor) -> Tensor:
        return state_of(self, i, w, w)["z"]

    def _weights(self) -> list[tuple[int, Any, Tensor]]:
        """All but frozen weights, which stay as they are, and float8's scales, which have no z."""
        weights = enumerate(self._trainable_variables)
        kept = [(i, v) for i, v in weights if self.state.slots["z"][i] is not None and getattr(v, "trainable", True)]
        return [(i, v, value_of(v)) for i, v in kept]
