"""An optimizer made of others: what Lookahead and Partition share."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_optreg.optimizers.slots import PreciseState
from keras_optreg.typing import Tensor, Variable


class Wrapper(PreciseState):
    """Abstract: hands gradients on to `optimizers`, and shows their learning rate, count and options as its own.

    The first of them speaks for all. Setting the learning rate sets the first one's, and multiplies those of the
    others by the same factor.
    """

    optimizers: tuple[Any, ...] = ()

    def __init__(self, optimizers: Sequence[Any], name: str | None):
        owner = type(self).__name__
        for optimizer in optimizers:
            if isinstance(optimizer, type):
                raise TypeError(f"{owner} got a class; make an object of it: {optimizer.__name__}(1e-3).")
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                raise ValueError(f"{owner} goes inside loss scaling: write LossScaleOptimizer({owner}(...)).")
            if not isinstance(optimizer, keras.optimizers.Optimizer):
                raise TypeError(f"{owner} takes optimizers, such as AdamW(1e-3). Received: {optimizer!r}")
        for option in ("gradient_accumulation_steps", "loss_scale_factor"):
            given = {getattr(optimizer, option) for optimizer in optimizers}
            if len(given) > 1:
                raise ValueError(f"The optimizers in {owner} must have the same `{option}`. Received: {given}")
        super().__init__(learning_rate=0.0, name=name)
        self.optimizers = tuple(optimizers)

    def build(self, variables: Sequence[Variable]) -> None:
        """As Keras's, without its accumulators: the inner optimizers have them."""
        # Past Keras's tracking, which would take the weights for variables of the optimizer.
        self.__dict__["_trainable_variables"] = list(variables)
        self.__dict__["_trainable_variables_indices"] = {self._var_key(v): i for i, v in enumerate(variables)}
        self.built = True

    @property
    def first(self) -> Any:
        """The optimizer that speaks for all."""
        return self.optimizers[0]

    @property
    def variables(self) -> list[Variable]:
        return [*self._variables, *(v for optimizer in self.optimizers for v in optimizer.variables)]

    @property
    def iterations(self) -> Any:
        """Updates so far: those of a single inner optimizer, which may leave some out; with several, their calls."""
        return self.first.iterations if len(self.optimizers) == 1 else super().iterations

    @property
    def learning_rate(self) -> Any:
        return self.first.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        before = float(ops.convert_to_numpy(self.first.learning_rate))
        if before == 0.0 and len(self.optimizers) > 1:
            raise ValueError(
                f"The learning rate of {type(self).__name__} is 0, so its other optimizers cannot follow by the same "
                "factor. Set the learning rate of each of `.optimizers`."
            )
        self.first.learning_rate = value
        for optimizer in self.optimizers[1:]:
            optimizer.learning_rate = float(ops.convert_to_numpy(optimizer.learning_rate)) * (float(value) / before)

    @property
    def loss_scale_factor(self) -> float | None:
        return self.first.loss_scale_factor if self.optimizers else None

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: float | None) -> None:
        for optimizer in self.optimizers:
            optimizer.loss_scale_factor = value

    @property
    def gradient_accumulation_steps(self) -> int | None:  # type: ignore[override]
        return self.first.gradient_accumulation_steps if self.optimizers else None

    @gradient_accumulation_steps.setter
    def gradient_accumulation_steps(self, value: int | None) -> None:
        if self.optimizers:
            raise ValueError(f"Give gradient_accumulation_steps to the optimizers in {type(self).__name__}.")

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[Variable] | None = None) -> None:
        """Update the weights. `grads` match `trainable_variables`, or the variables the optimizer was built with."""
        if not grads:
            return
        if trainable_variables is None and not self.built:
            raise ValueError(
                f"{type(self).__name__}.apply(grads) was called before the optimizer was built. Call "
                "`optimizer.build(variables)` first, or pass the variables as the second argument."
            )
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        if not self.built:
            self.build(variables)
        self._check_variables_are_known(variables)
        self._apply(list(grads), variables)
        self._iterations.assign_add(1)

    def _apply(self, grads: list[Tensor], variables: list[Variable]) -> None:
        raise NotImplementedError

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        if len(self.optimizers) > 1:
            raise ValueError(f"Call exclude_from_weight_decay of the optimizer in {type(self).__name__} that is meant.")
        self.first.exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights: Sequence[Tensor]) -> None:
        if len(weights) != len(self.variables):
            raise ValueError(f"{type(self).__name__} has {len(self.variables)} variables. Received: {len(weights)}")
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    # Files: each optimizer keeps its own variables; Keras finds and asks the inner ones.

    def save_own_variables(self, store: Any) -> None:
        for i, variable in enumerate(self._variables):
            store[str(i)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        if len(store.keys()) != len(self._variables):
            warnings.warn(
                f"Skipping variable loading for optimizer '{self.name}': the saved state is another optimizer's, with "
                f"{len(store.keys())} variables. Here: {len(self._variables)}.",
                stacklevel=3,
            )
            return
        for i, variable in enumerate(self._variables):
            variable.assign(store[str(i)])
