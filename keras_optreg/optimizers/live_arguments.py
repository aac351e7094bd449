"""Numbers of an optimizer that its compiled step reads from variables, for as long as something schedules them.

Otherwise they are constants in the compiled step. The variables are not in files: what they hold is in the config.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_optreg import bounds
from keras_optreg.optimizers.weight_decay import FullyDecoupled
from keras_optreg.typing import Tensor, Variable

if TYPE_CHECKING:
    from keras_optreg.optimizers.rule_optimizer import RuleOptimizer

DECAY = "weight_decay"


class LiveArguments:
    """Those of one optimizer."""

    def __init__(self, optimizer: "RuleOptimizer"):
        self._optimizer = optimizer
        self._made: dict[str, Variable] = {}  # kept, because functions that are compiled read them
        self._read: list[str] = []
        self._fits: dict[str, Any] = {}  # by name, the fit in which it was added
        self._is_hidden = False

    def __contains__(self, name: str) -> bool:
        return name in self._read

    def candidates(self) -> list[str]:
        """The names that `add` takes: the rule's own numbers that may change from step to step, and weight decay."""
        optimizer = self._optimizer
        own = [name for name, interval in optimizer.bounds.items() if not interval.is_count]
        numbers = [name for name in own if name not in optimizer.constants]
        decay = optimizer.weight_decay
        rate = decay.rate if isinstance(decay, FullyDecoupled) else decay
        return numbers if rate is None or callable(rate) else [*numbers, DECAY]

    def check(self, name: str, value: float) -> None:
        """Whether a number may have this value.

        Raises:
            ValueError: for a value outside the range, and for one with which the optimizer would need other slots, or
                lose the metric that its proximal penalties need.
        """
        optimizer, owner = self._optimizer, type(self._optimizer).__name__
        ranges = {DECAY: bounds.CLOSED_FRACTION if self.is_fully_decoupled() else bounds.NON_NEGATIVE}
        bounds.check(owner, {name: value}, {name: ranges.get(name) or optimizer.bounds[name]})
        if name == DECAY:
            return
        before, needed = optimizer.__dict__[name], self._needs()
        optimizer.__dict__[name] = value
        try:
            if self._needs() != needed:
                raise ValueError(
                    f"The `{name}` of {owner} cannot change from {before:g} to {value:g} while training: with one of "
                    "them the method keeps other things for each weight, or has no step for proximal penalties. Keep "
                    f"away from that value, or make the optimizer with another {name}."
                )
        finally:
            optimizer.__dict__[name] = before

    def _needs(self) -> tuple[Any, ...]:
        return tuple(self._optimizer.slots), bool(self._optimizer.has_metric)

    def is_fully_decoupled(self) -> bool:
        """Whether the weight decay is one that the learning rate does not touch."""
        return isinstance(self._optimizer.weight_decay, FullyDecoupled)

    def add(self, name: str, fit: Any = None) -> None:
        """Let the step read a number from a variable. Steps that are compiled already do not.

        Raises:
            ValueError: for a name that is not among the candidates, or is there since the same fit.
        """
        owner = type(self._optimizer).__name__
        if name in self:
            if fit is not None and self._fits[name] == weakref.ref(fit):
                raise ValueError(f"Two callbacks set the {name!r} of {owner} in one fit. Leave one of them out.")
            self._fits[name] = None if fit is None else weakref.ref(fit)
            return  # it is there since a fit that was interrupted
        if name not in self.candidates():
            hint = "its rule needs it as a fixed number"
            if name not in self._optimizer.bounds:
                hint = "it is no number of its rule"
            if name == DECAY:
                hint = "it has none that is a number; give weight_decay=0.0 at construction"
            raise ValueError(
                f"{owner} cannot follow a schedule of {name!r}: {hint}. It can of: {', '.join(self.candidates())}."
            )
        if name not in self._made:
            self._made[name] = self._optimizer.add_variable(
                (),
                keras.initializers.Constant(self.number(name)),
                name=f"live_{name}",
                aggregation="only_first_replica",
            )
        else:
            self._optimizer._track_variable(self._made[name])
        self._read.append(name)
        self._fits[name] = None if fit is None else weakref.ref(fit)
        self.refresh(name)

    def remove(self, name: str) -> None:
        """Let the number be a constant again, of the value that it has now, in steps compiled from now on."""
        self._read.remove(name)
        self._optimizer._untrack_variable(self._made[name])

    def number(self, name: str) -> float:
        """The value as a float."""
        value = getattr(self._optimizer, name)
        return float(value.rate if isinstance(value, FullyDecoupled) else value)

    def set(self, name: str, value: float) -> None:
        """Set the number; weight decay that is fully decoupled stays so."""
        is_decoupled = name == DECAY and self.is_fully_decoupled()
        setattr(self._optimizer, name, FullyDecoupled(value) if is_decoupled else value)

    def refresh(self, name: str) -> None:
        """Write the number into its variable."""
        self._made[name].assign(self.number(name))

    def tensors(self, dtype: Any) -> dict[str, Tensor]:
        """The rule's own numbers among them, as tensors."""
        return {name: self.tensor(name, dtype) for name in self._read if name != DECAY}

    def tensor(self, name: str, dtype: Any) -> Tensor:
        """One of them."""
        return ops.cast(ops.convert_to_tensor(self._made[name]), dtype)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While this lasts, the optimizer shows its other variables only, as in files."""
        self._is_hidden = True
        try:
            yield
        finally:
            self._is_hidden = False

    def shown(self, variables: list[Variable]) -> list[Variable]:
        """The variables of the optimizer, without those that are hidden now."""
        hidden = {id(self._made[name]) for name in self._read} if self._is_hidden else ()
        return [variable for variable in variables if id(variable) not in hidden]


class LiveState(keras.optimizers.Optimizer):
    """An optimizer with live arguments: setting one of them acts in the next step."""

    live: LiveArguments

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if "live" in self.__dict__ and name in self.live:
            self.live.refresh(name)

    @property
    def variables(self) -> list[Variable]:
        """All variables, in the order of the checkpoints."""
        return self.live.shown(super().variables)
