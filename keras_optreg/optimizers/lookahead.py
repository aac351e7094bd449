"""Lookahead: k steps forward, one step back. Zhang et al. 2019, Algorithm 1, arXiv:1907.08610."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_optreg.bounds import CLOSED_FRACTION, POSITIVE_COUNT, check
from keras_optreg.optimizers.averaged import Averaged
from keras_optreg.optimizers.compiled_step import assign_if
from keras_optreg.optimizers.update_order import Pairs, value_of
from keras_optreg.optimizers.weight_plan import is_proximal
from keras_optreg.optimizers.wrapper import Wrapper
from keras_optreg.saving import deserialize, serialize
from keras_optreg.typing import Variable


@keras.saving.register_keras_serializable("keras_optreg")
class Lookahead(Averaged, Wrapper):
    """Lets an optimizer run ahead, and now and then moves slow weights a part of the way, from where it starts again.

    When to use it: around a fast optimizer whose weights jump about; with `RAdam` it is known as Ranger. Evaluate at
    the slow weights: add `callbacks.EvaluateAtAverage()` to fit.

    Equations (θ: the weights of the model; φ: slow weights, from the first θ):

        θ ← inner step                        k times
        φ ← φ + α·(θ − φ),    θ ← φ           then

    In between, the weights to evaluate are what the slow ones would become, φ + α·(θ − φ).

    Args:
        inner_optimizer: any optimizer, of this package or Keras's. Its rate and options stay its own.
        sync_period: k >= 1, in updates. 6 as in TensorFlow Addons; 5 and 10 in the paper.
        slow_step_size: α in [0, 1]. 0.5 as in the paper.

    Raises:
        ValueError: for a number outside its range; for an inner optimizer that averages itself or rebuilds the weights
            from a copy of its own (`MADGRAD`, `COCOB`), or is under loss scaling, which goes outside.

    Example:
        >>> import keras
        >>> from keras_optreg.optimizers import SGD
        >>> w = keras.Variable([1.0])
        >>> optimizer = Lookahead(SGD(0.25), sync_period=2)
        >>> for _ in range(2): optimizer.apply([2 * w], [w])          # SGD alone: 1 → 0.5 → 0.25
        >>> keras.ops.convert_to_numpy(w).tolist()
        [0.625]

    Differs: the inner state is kept at a synchronisation, as the paper recommends. A constraint of a weight holds
    after it, too. Cost: a copy of the weights, and a pass over them every k steps.
    """

    bounds = {"sync_period": POSITIVE_COUNT, "slow_step_size": CLOSED_FRACTION}

    def __init__(
        self, inner_optimizer: Any, sync_period: int = 6, slow_step_size: float = 0.5, name: str | None = None
    ):
        check("Lookahead", {"sync_period": sync_period, "slow_step_size": slow_step_size}, self.bounds)
        super().__init__([inner_optimizer], name)
        self.inner_optimizer, self.sync_period, self.slow_step_size = inner_optimizer, sync_period, slow_step_size
        parts = (inner_optimizer, *getattr(inner_optimizer, "optimizers", ()))
        if any(hasattr(o, "to_average") or o.use_ema or getattr(o, "owns_iterate", False) for o in parts):
            raise ValueError(
                f"Lookahead cannot wrap this {type(inner_optimizer).__name__}: use_ema=True, Schedule-Free and "
                "Lookahead average the weights themselves; MADGRAD and COCOB rebuild them from a copy of their own, "
                "and would undo the step back. Leave use_ema out, or use that optimizer alone."
            )
        if any(is_proximal(penalty) for part in parts for _, penalty in getattr(part, "penalties", ())):
            warnings.warn(
                "Lookahead mixes zeros of a proximal penalty with slow weights: they are exact only where those are 0.",
                stacklevel=2,
            )

    def build(self, variables: Sequence[Variable]) -> None:
        if self.built:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)
        self.slow = self.add_optimizer_variables(variables, "slow")
        self.is_started = self.add_variable((), "zeros", name="is_started", aggregation="only_first_replica")

    def _apply(self, grads, variables):
        assign_if(ops.equal(self.is_started, 0), self._start)  # in `build` it is lost inside `fit` on TensorFlow
        assign_if(ops.greater(self.at_average, 0), self.training_points)
        before = ops.copy(ops.convert_to_tensor(self.iterations))
        self.inner_optimizer.apply(grads, variables)
        is_due = ops.logical_and(self.iterations > before, ops.equal(ops.mod(self.iterations, self.sync_period), 0))
        assign_if(is_due, self._synchronised)
        self.at_average.assign(ops.zeros(()))

    def _start(self) -> Pairs:
        return [*((slow, value_of(v)) for v, slow in self._slow()), (self.is_started, ops.ones(()))]

    def _synchronised(self) -> Pairs:
        new = [w for _, w in self.averages()]
        return [pair for (v, slow), w in zip(self._slow(), new, strict=True) for pair in ((slow, w), (v, w))]

    def _slow(self) -> Pairs:
        return [(v, s) for v, s in zip(self._trainable_variables, self.slow, strict=True) if s is not None]

    def averages(self) -> Pairs:
        back = 1 - self.slow_step_size
        mixed = [(v, (w := value_of(v)) + back * (slow - w)) for v, slow in self._slow()]
        return [(v, w if (c := getattr(v, "constraint", None)) is None else c(w)) for v, w in mixed]

    def training_points(self) -> Pairs:
        alpha = self.slow_step_size or 1.0  # at 0 the fast weights are lost in the average
        return [(v, slow + (value_of(v) - slow) / alpha) for v, slow in self._slow()]

    def get_config(self) -> dict[str, Any]:
        own = {"sync_period": self.sync_period, "slow_step_size": self.slow_step_size, "name": self.name}
        return {"inner_optimizer": serialize(self.inner_optimizer), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Lookahead":
        return cls(**{**config, "inner_optimizer": deserialize(config["inner_optimizer"], custom_objects)})
