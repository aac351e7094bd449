"""Sees the gradients inside the compiled step, whatever the optimizer."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_optreg.callbacks.probes.probe import stand_in
from keras_optreg.callbacks.probes.replicas import num_replicas
from keras_optreg.callbacks.probes.weights import norm
from keras_optreg.introspection import inner_optimizer

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
        self.optimizer = inner_optimizer(model)
        self._positions = {id(w): i for i, w in enumerate(model.trainable_variables)}
        self._states: list[Any] = []
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

    def listen(self) -> Any:
        """A new variable: [on, Σ norm of all, Σ norm of each weight, how many of all, how many of each weight].

        The sums run while `on` is 1, over the calls of `apply`. A weight counts where it has a gradient.
        """
        state = self.optimizer.add_variable(
            (3 + 2 * len(self._positions),), dtype="float32", name="gradient_norms", aggregation="only_first_replica"
        )
        self._states.append(state)
        return state

    def leave(self, state: Any) -> None:
        """Take the listener's variable away, and with the last one the tap."""
        self._untrack(state)
        self._states = [each for each in self._states if each is not state]
        if not self._states:
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
        found = [i for i, g in enumerate(grads[: len(positions)]) if g is not None]
        if not found:
            return  # the optimizer says what is wrong
        replicated, grads = _sum_over_replicas([grads[i] for i in found])
        positions = [positions[i] for i in found]

        def added(state: Any) -> Any:
            norms = [norm(_dense(g)) for g in grads]
            if scale := self.optimizer.loss_scale_factor:
                norms = [each / scale for each in norms]
            of = dict(zip(positions, norms, strict=True))
            weights = range(len(self._positions))
            sums = ops.stack([ops.zeros(()), norm(ops.stack(norms)), *(of.get(i, ops.zeros(())) for i in weights)])
            counts = ops.convert_to_tensor([1.0, *(float(i in of) for i in weights)], "float32")
            return state + ops.concatenate([sums, counts])

        for variable in self._states:
            state = ops.convert_to_tensor(variable)
            if replicated:
                variable.assign(ops.where(state[0] > 0, added(state), state))
            else:
                variable.assign(ops.cond(state[0] > 0, lambda state=state: added(state), lambda state=state: state))

    def _hidden(self, method: Callable[[Any], None]) -> Callable[[Any], None]:
        def hiding(store: Any) -> None:
            with self.own_variables_only():
                method(store)

        return hiding

    @contextmanager
    def own_variables_only(self):
        """While this lasts, the optimizer has no variables but its own."""
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

    return True, tf.distribute.get_replica_context().all_reduce("SUM", [_dense(g) for g in grads])
