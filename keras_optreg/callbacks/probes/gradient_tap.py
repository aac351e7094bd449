"""Sees the gradients inside the compiled step, whatever the optimizer."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_optreg.callbacks.probes.probe import stand_in
from keras_optreg.callbacks.probes.replicas import num_replicas
from keras_optreg.callbacks.probes.weights import norm
from keras_optreg.introspection import inner_optimizer

_HIDING = ("save_own_variables", "load_own_variables")


Gradients = dict[int, Any]
"""By the position of their weight among the trainable ones: dense, unscaled, summed over replicas."""


class Norms:
    """Adds up norms in one variable: [on, Σ norm of all, Σ norm of each weight, how many of all, how many of each]."""

    def __init__(self, optimizer: Any, shapes: Sequence[Any]):
        self.num_weights = len(shapes)
        self.variables = [_variable(optimizer, (3 + 2 * self.num_weights,), "gradient_norms")]

    def added(self, values: list[Any], gradients: Gradients) -> list[Any]:
        """The variables' values after one more step."""
        norms = {i: norm(g) for i, g in gradients.items()}
        weights = range(self.num_weights)
        sums = [ops.zeros(()), norm(ops.stack(list(norms.values()))), *(norms.get(i, ops.zeros(())) for i in weights)]
        counts = ops.convert_to_tensor([1.0, *(float(i in norms) for i in weights)], "float32")
        return [values[0] + ops.concatenate([ops.stack(sums), counts])]

    def switch(self, on: bool) -> None:
        """Begin with nothing, or end."""
        self.variables[0].assign([float(on)] + [0.0] * (self.variables[0].shape[0] - 1))


class Sums:
    """Adds up the gradients themselves, one variable a weight, behind [on, how many of each weight]."""

    def __init__(self, optimizer: Any, shapes: Sequence[Any], positions: Sequence[int]):
        self.positions = list(positions)
        self.variables = [
            _variable(optimizer, (1 + len(self.positions),), "gradient_counts"),
            *(_variable(optimizer, shapes[i], "gradient_sum") for i in self.positions),
        ]

    def added(self, values: list[Any], gradients: Gradients) -> list[Any]:
        """The variables' values after one more step."""
        state, *sums = values
        found = [float(i in gradients) for i in self.positions]
        for k, i in enumerate(self.positions):
            if i in gradients:  # the first stands in place of what was left from an earlier measurement
                sums[k] = ops.cast(gradients[i], "float32") + ops.where(state[1 + k] > 0, sums[k], 0.0)
        return [state + ops.convert_to_tensor([0.0, *found], "float32"), *sums]

    def switch(self, on: bool) -> None:
        """Begin with nothing, or end."""
        self.variables[0].assign([float(on)] + [0.0] * len(self.positions))


class NonFinite:
    """Remembers which gradients were not finite in the first step that had such: [on, a flag for each weight]."""

    def __init__(self, optimizer: Any, shapes: Sequence[Any]):
        self.num_weights = len(shapes)
        self.variables = [_variable(optimizer, (1 + self.num_weights,), "non_finite_gradients")]

    def added(self, values: list[Any], gradients: Gradients) -> list[Any]:
        """The variables' values after one more step."""
        [state] = values
        fine = [ops.all(ops.isfinite(gradients[i])) if i in gradients else True for i in range(self.num_weights)]
        flags = 1.0 - ops.stack([ops.cast(each, "float32") for each in (True, *fine)])
        return [ops.where(ops.any(state[1:] > 0), state, state + flags)]

    def switch(self, on: bool) -> None:
        """Begin with nothing, or end."""
        self.variables[0].assign([float(on)] + [0.0] * self.num_weights)


def _variable(optimizer: Any, shape: Any, name: str) -> Any:
    return optimizer.add_variable(shape, dtype="float32", name=name, aggregation="only_first_replica")


Listener = Norms | Sums | NonFinite


class GradientTap:
    """Stands in front of an optimizer's `apply` and lets listeners look at gradients.

    What a listener finds it keeps in variables of the optimizer, the first of which begins with 1 while it listens.

    A variable of the optimizer is what every backend carries through the compiled step (JAX hands `optimizer.variables`
    in and out). It is hidden while the optimizer is saved or loaded, so files with and without a tap are the same, and
    it goes away with its listener. One tap serves all listeners: taps put on top of each other could not be taken off
    in any order.

    Under loss scaling it sits on the inner optimizer, where gradients are unscaled and overflowing steps left out.
    """

    def __init__(self, model: Any):
        outer = model.optimizer
        self.optimizer = inner_optimizer(model)
        self._positions = {id(w): i for i, w in enumerate(model.trainable_variables)}
        self._shapes = [tuple(w.shape) for w in model.trainable_variables]
        self._listeners: list[Listener] = []
        self._apply = self.optimizer.apply
        if not outer.built:
            outer.build(model.trainable_variables)  # the tap's variable must come after the optimizer's own
        self._put_back = [stand_in(self.optimizer, "apply", self)]
        for owner in {id(o): o for o in (outer, self.optimizer)}.values():
            for method in _HIDING:
                self._put_back.append(stand_in(owner, method, self._hidden(getattr(owner, method))))

    @classmethod
    def on(cls, model: Any) -> "GradientTap":
        """The tap of the model's optimizer, put there if need be."""
        tap = inner_optimizer(model).__dict__.get("apply")
        return tap if isinstance(tap, cls) else cls(model)

    def norms(self) -> Norms:
        """A new listener for the norms of all weights."""
        return self._joined(Norms(self.optimizer, self._shapes))

    def sums(self, positions: Sequence[int]) -> Sums:
        """A new listener for the gradients of the weights at these positions."""
        return self._joined(Sums(self.optimizer, self._shapes, positions))

    def non_finite(self) -> NonFinite:
        """A new listener for gradients that are not finite."""
        return self._joined(NonFinite(self.optimizer, self._shapes))

    def _joined(self, listener: Any) -> Any:
        self._listeners.append(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Take the listener's variables away, and with the last one the tap."""
        self._untrack(listener)
        self._listeners = [each for each in self._listeners if each is not listener]
        if not self._listeners:
            for put_back in self._put_back:
                put_back()

    def __call__(self, grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        # A `train_step` of one's own may give the gradients of some weights only, in an order of its own.
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        weights = self.optimizer._trainable_variables if trainable_variables is None else trainable_variables
        self._record(grads, [self._positions.get(id(w)) for w in weights])
        return self._apply(grads, trainable_variables)

    def _record(self, grads: list[Any], positions: list[int | None]) -> None:
        # Known while tracing: a weight that the loss does not depend on has no gradient at all.
        found = [(place, g) for place, g in zip(positions, grads, strict=False) if place is not None and g is not None]
        if not found:
            return  # the optimizer says what is wrong
        replicated, grads = _sum_over_replicas([g for _, g in found])

        def added(listener: Listener, values: list[Any]) -> list[Any]:
            scale = self.optimizer.loss_scale_factor
            dense = [_dense(g) / scale if scale else _dense(g) for g in grads]
            return listener.added(values, {place: g for (place, _), g in zip(found, dense, strict=True)})

        for listener in self._listeners:
            values = [ops.convert_to_tensor(variable) for variable in listener.variables]
            on = values[0][0] > 0
            if replicated:
                changed = [ops.where(on, *pair) for pair in zip(added(listener, values), values, strict=True)]
            else:
                changed = ops.cond(on, partial(added, listener, values), partial(list, values))
            for variable, value in zip(listener.variables, changed, strict=True):
                variable.assign(value)

    def _hidden(self, method: Callable[[Any], None]) -> Callable[[Any], None]:
        def hiding(store: Any) -> None:
            with self.own_variables_only():
                method(store)

        return hiding

    @contextmanager
    def own_variables_only(self):
        """While this lasts, the optimizer has no variables but its own."""
        for listener in self._listeners:
            self._untrack(listener)
        try:
            yield
        finally:
            for listener in self._listeners:
                for variable in listener.variables:
                    self.optimizer._track_variable(variable)

    def _untrack(self, listener: Listener) -> None:
        # Keras has no public way to take a variable from an optimizer; its own learning-rate setter uses this one.
        for variable in listener.variables:
            self.optimizer._untrack_variable(variable)


def _dense(gradient: Any) -> Any:
    """TensorFlow gives the gradient of an embedding as slices, in which a row can stand twice: they are added up."""
    if keras.config.backend() != "tensorflow":
        return gradient
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)  # Keras's own conversion would leave the slices as they are


def _sum_over_replicas(grads: list[Any]) -> tuple[bool, list[Any]]:
    """Under `tf.distribute` each replica holds the gradient of its part of the batch: their sum is the gradient."""
    if num_replicas() == 1:
        return False, grads
    import tensorflow as tf

    return True, tf.distribute.get_replica_context().all_reduce("SUM", [_dense(g) for g in grads])
