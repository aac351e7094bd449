"""Sees the gradients inside the compiled step, whatever the optimizer. The one file that reaches into optimizers."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_optreg.callbacks.probes.replicas import num_replicas
from keras_optreg.callbacks.probes.weights import norm

_HIDING = ("save_own_variables", "load_own_variables")


class GradientTap:
    """Stands in front of an optimizer's `apply` and adds up gradient norms in small variables of the optimizer.

    A variable of the optimizer is what every backend carries through the compiled step (JAX hands `optimizer.variables`
    in and out). It is hidden while the optimizer is saved or loaded, so files with and without a tap are the same, and
    it goes away with the last listener. One tap serves all listeners: taps put on top of each other could not be
    taken off in any order.

    Under loss scaling it sits on the inner optimizer, where gradients are unscaled and overflowing steps left out.
    """

    def __init__(self, model: Any):
        outer = model.optimizer
        self.optimizer = getattr(outer, "inner_optimizer", outer)
        self.num_weights = len(model.trainable_variables)
        self.without_gradient: set[int] = set()
        self._states: list[Any] = []
        self._apply = self.optimizer.apply
        if not outer.built:
            outer.build(model.trainable_variables)  # the tap's variable must come after the optimizer's own
        # In `__dict__`, past `__setattr__`, which would track it.
        self.optimizer.__dict__["apply"] = self
        for owner in {id(o): o for o in (outer, self.optimizer)}.values():
            for method in _HIDING:
                owner.__dict__[method] = self._hidden(getattr(owner, method))
        self._outer = outer

    @classmethod
    def on(cls, model: Any) -> "GradientTap":
        """The tap of the model's optimizer, put there if need be."""
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        tap = optimizer.__dict__.get("apply")
        return tap if isinstance(tap, cls) else cls(model)

    def listen(self) -> Any:
        """A new variable: [on, steps, Σ norm of all, Σ norm of each weight]; sums run while `on` is 1."""
        state = self.optimizer.add_variable(
            (3 + self.num_weights,), dtype="float32", name="gradient_norms", aggregation="only_first_replica"
        )
        self._states.append(state)
        return state

    def leave(self, state: Any) -> None:
        """Take the listener's variable away, and with the last one the tap."""
        self._untrack(state)
        self._states = [each for each in self._states if each is not state]
        if not self._states:
            for owner, names in ((self.optimizer, ("apply", *_HIDING)), (self._outer, _HIDING)):
                for name in names:
                    owner.__dict__.pop(name, None)

    def __call__(self, grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        self._record(grads)
        return self._apply(grads, trainable_variables)

    def _record(self, grads: list[Any]) -> None:
        # Known while tracing: a weight that the loss does not depend on has no gradient at all.
        self.without_gradient = {i for i, g in enumerate(grads) if g is None}
        replicated, grads = _sum_over_replicas(grads)

        def added(state: Any) -> Any:
            norms = [ops.zeros(()) if g is None else norm(_dense(g)) for g in grads]
            if scale := self.optimizer.loss_scale_factor:
                norms = [each / scale for each in norms]
            norms = ops.stack(norms)
            return state + ops.concatenate([ops.stack([0.0, 1.0, norm(norms)]), norms])

        for variable in self._states:
            state = ops.convert_to_tensor(variable)
            if replicated:
                variable.assign(ops.where(state[0] > 0, added(state), state))
            else:
                variable.assign(ops.cond(state[0] > 0, lambda state=state: added(state), lambda state=state: state))

    def _hidden(self, method: Callable[[Any], None]) -> Callable[[Any], None]:
        def hiding(store: Any) -> None:
            with self._own_variables_only():
                method(store)

        return hiding

    @contextmanager
    def _own_variables_only(self):
        for state in self._states:
            self._untrack(state)
        try:
            yield
        finally:
            for state in self._states:
                self.optimizer._track_variable(state)

    def _untrack(self, state: Any) -> None:
        # Keras has no public way to take a variable from an optimizer; its own learning-rate setter uses this one.
        self.optimizer._untrack_variable(state)


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

    context = tf.distribute.get_replica_context()
    known = [i for i, g in enumerate(grads) if g is not None]
    summed = context.all_reduce("SUM", [_dense(grads[i]) for i in known])
    return True, [summed[known.index(i)] if i in known else None for i in range(len(grads))]
