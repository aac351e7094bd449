"""What a built optimizer keeps for its weights: slots, how each starts, shared scalars and flags."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from keras_optreg.live_numbers import Home, LiveNumbers
from keras_optreg.optimizers.weight_plan import WeightPlan
from keras_optreg.select import path_of
from keras_optreg.typing import Variable

if TYPE_CHECKING:
    from keras_optreg.optimizers.rule_optimizer import RuleOptimizer

ZEROS = 0.0
"""A slot that starts at zero. Any other number starts it there."""
WEIGHT = "weight"
"""A slot that starts as a copy of its weight."""
GRADIENT = "gradient"
"""A slot that starts as the first gradient of its weight."""
FILLED = (WEIGHT, GRADIENT)
"""Starts that are known in the first step only."""


class Scalar(NamedTuple):
    """A slot that is one number a weight."""

    start: float = ZEROS


class Shaped(NamedTuple):
    """A slot of zeros with a shape of its own: `shape(shape of the weight)`, or None where the weight has none."""

    shape: Callable[[tuple[int, ...]], tuple[int, ...] | None]


Start = float | str | Scalar | Shaped


@dataclass(eq=False)
class Built:
    """What a built optimizer has for its weights, besides what Keras's base class holds."""

    plan: WeightPlan
    slots: dict[str, list[Variable]]
    shared: dict[str, Variable]
    started: Variable | None
    """1 for each weight that has had a gradient; only there when a slot starts as the weight or its gradient."""
    multipliers: Variable | None
    """The factor on the learning rate of each weight; only there when some were given."""
    strengths: Home | None
    """Where compiled functions read the strengths of the penalties; only there when some were given."""

    def at_strengths(self, dtype: Any) -> AbstractContextManager[Any]:
        """While this lasts, the penalties have their strengths of this step."""
        return nullcontext() if self.strengths is None else self.strengths.reading(dtype)


def update_precision(dtype: Any) -> str:
    """The dtype in which a weight is updated: float32 for 16-bit weights, otherwise its own.

    A 16-bit average with a momentum of 0.999 does not move.
    """
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if name in ("float16", "bfloat16") or name.startswith("float8") else name


class PreciseState(keras.optimizers.Optimizer):
    """An optimizer whose variables have the precision of the update, which is never less than float32."""

    def add_variable(self, shape: Any, initializer: Any = "zeros", dtype: Any = None, **kwargs: Any) -> Any:
        """As Keras's, in that precision."""
        dtype = update_precision(dtype or keras.config.floatx())
        return super().add_variable(shape, initializer=initializer, dtype=dtype, **kwargs)


def create(optimizer: "RuleOptimizer", plan: WeightPlan, variables: Sequence[Variable]) -> Built:
    """The variables of an optimizer, in the order that is the layout of its checkpoints."""
    slots: dict[str, list[Any]] = {name: [] for name in optimizer.slots}
    for variable in variables:
        for name, start in optimizer.slots.items():
            slots[name].append(_slot(optimizer, variable, name, start))
    shared = {name: _scalars(optimizer, first, name) for name, first in optimizer.shared_slots.items()}
    is_filled = any(start in FILLED for start in optimizer.slots.values())
    started = _scalars(optimizer, np.zeros(len(variables)), "started") if is_filled else None
    is_multiplied = bool(optimizer.learning_rate_multipliers)
    multipliers = _scalars(optimizer, np.array(plan.multipliers), "multipliers") if is_multiplied else None
    return Built(plan, slots, shared, started, multipliers, _strengths(optimizer))


def _strengths(optimizer: "RuleOptimizer") -> Home | None:
    parts = [p for _, penalty in optimizer.penalties if isinstance(penalty, LiveNumbers) for p in penalty.live_parts()]
    parts = list({id(part): part for part in parts}.values())
    return Home(parts, _scalars(optimizer, Home.values_of(parts), "strengths")) if parts else None


def _slot(optimizer: "RuleOptimizer", variable: Variable, name: str, start: Start) -> Variable | None:
    if optimizer._overwrite_variable_with_gradient(variable):
        return None
    if isinstance(start, Scalar | Shaped):
        first, shape = (start.start, ()) if isinstance(start, Scalar) else (ZEROS, start.shape(variable.shape))
        name = f"{path_of(variable).replace('/', '_').replace(':', '_')}_{name}"
        initializer = keras.initializers.Constant(first)
        return None if shape is None else optimizer.add_variable(shape, initializer, dtype=variable.dtype, name=name)
    initializer = keras.initializers.Constant(ZEROS if start in FILLED else start)
    return optimizer.add_variable_from_reference(variable, name=name, initializer=initializer)


def _scalars(optimizer: "RuleOptimizer", start: Any, name: str) -> Variable:
    initializer = keras.initializers.Constant(start)
    return optimizer.add_variable(np.shape(start), initializer, name=name, aggregation="only_first_replica")
