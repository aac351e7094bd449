"""Runs one update of all weights on the backend at hand. The only file that touches private hooks of the backends.

On TensorFlow outside `tf.distribute`, the whole update is one function compiled by XLA: every weight and slot is read
once and written once, where Keras passes over memory for each small formula. The function is inlined in
`fit(jit_compile=True)` and runs inside `tf.cond` (as `LossScaleOptimizer` has it) and eagerly.
Under a strategy all replicas compute the same next values from reduced gradients, and only the assignment crosses
replicas. JAX and torch run the same generator of (variable, value) pairs in their own way.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_optreg.optimizers.slots import update_precision
from keras_optreg.optimizers.update_order import Pairs, is_by_rows, row_updates, updates
from keras_optreg.typing import Tensor

if TYPE_CHECKING:
    from keras_optreg.optimizers.rule_optimizer import RuleOptimizer


class Runner:
    """Carries out `update_order.updates`, with gradient accumulation, for one built optimizer."""

    def __init__(self, optimizer: "RuleOptimizer"):
        self._optimizer = optimizer
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def run(self, grads: Sequence[Tensor], indices: tuple[int, ...]) -> int | Tensor:
        """Apply one step (a micro-step, under gradient accumulation) to the weights at these positions.

        Returns:
            1, or 0 where the step was left out because loss scaling made gradients of other replicas overflow.
        """
        if keras.backend.backend() == "tensorflow":
            return self._run_tensorflow(grads, indices)
        if keras.backend.backend() == "torch":
            self._run_torch(grads, indices)
        else:
            assign_all(self._selected(grads, indices))
        return 1

    # What is done with one micro-batch: the two branches of gradient accumulation, as generators of pairs.

    def _update(self, grads: Sequence[Tensor], indices: tuple[int, ...], scalars: dict[str, Tensor]) -> Iterable[Pairs]:
        sums = self._optimizer.accumulators(indices)
        if sums:
            k = self._optimizer.gradient_accumulation_steps
            grads = [(ops.convert_to_tensor(a) + g) / k for a, g in zip(sums, grads, strict=True)]
        yield from updates(self._optimizer, grads, indices, **scalars)
        if sums:
            every = [a for a in self._optimizer._accumulated_gradients if a is not None]
            yield [(a, ops.zeros(a.shape, a.dtype)) for a in every]

    def _hold(self, grads: Sequence[Tensor], indices: tuple[int, ...]) -> Iterable[Pairs]:
        sums = self._optimizer.accumulators(indices)
        yield [(a, ops.convert_to_tensor(a) + g) for a, g in zip(sums, grads, strict=True)]

    def _is_boundary(self) -> Tensor:
        count = ops.convert_to_tensor(self._optimizer._iterations)
        return ops.equal(ops.mod(count + 1, self._optimizer.gradient_accumulation_steps), 0)

    def _selected(self, grads: Sequence[Tensor], indices: tuple[int, ...]) -> Pairs:
        """Both branches computed and one selected by value: right where no branching around assignments is possible."""
        optimizer = self._optimizer
        grads = optimizer.unscaled(grads)
        new = [pair for pairs in self._update(grads, indices, optimizer.scalars()) for pair in pairs]
        if not optimizer.gradient_accumulation_steps:
            return new
        update = self._is_boundary()
        held = {id(target): value for pairs in self._hold(grads, indices) for target, value in pairs}
        return [
            (
                target,
                ops.where(update, ops.cast(value, target.dtype), held.get(id(target), ops.convert_to_tensor(target))),
            )
            for target, value in new
        ]

    # ------------------------------------------------------------------ torch

    def _run_torch(self, grads: Sequence[Tensor], indices: tuple[int, ...]) -> None:
        import torch

        optimizer = self._optimizer
        with torch.no_grad():
            grads = optimizer.unscaled(grads)
            if optimizer.gradient_accumulation_steps and not bool(self._is_boundary()):
                steps = self._hold(grads, indices)
            else:
                steps = self._update(grads, indices, optimizer.scalars())
            for pairs in steps:
                _assign_torch(pairs)

    # ------------------------------------------------------------------ TensorFlow

    def _run_tensorflow(self, grads: Sequence[Tensor], indices: tuple[int, ...]) -> int | Tensor:
        import tensorflow as tf

        optimizer = self._optimizer
        if not tf.distribute.has_strategy():
            rows = [
                k for k, g in enumerate(grads) if isinstance(g, tf.IndexedSlices) and is_by_rows(optimizer, indices[k])
            ]
            for k in rows:
                self._call_on_rows(grads[k], indices[k])
            grads = [g for k, g in enumerate(grads) if k not in rows]
            indices = tuple(i for k, i in enumerate(indices) if k not in rows)
            if not indices:
                return 1
        # Dense: the norms of IndexedSlices count rows that occur twice wrongly.
        shapes = [optimizer._trainable_variables[i].shape for i in indices]
        grads = [tf.ensure_shape(tf.convert_to_tensor(g), shape) for g, shape in zip(grads, shapes, strict=True)]
        if tf.distribute.has_strategy():
            grads = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, grads)
            return self._assign_reduced(grads, indices)
        if optimizer.gradient_accumulation_steps:
            tf.cond(
                self._is_boundary(),
                lambda: self._call(self._update, grads, indices, optimizer.scalars()),
                lambda: self._call(self._hold, grads, indices),
            )
        else:
            self._call(self._update, grads, indices, optimizer.scalars())
        return 1

    def _assign_reduced(self, grads: Sequence[Tensor], indices: tuple[int, ...]) -> int | Tensor:
        """Under a strategy: the step from summed gradients, or none where loss scaling made one of them overflow.

        Keras's `LossScaleOptimizer` asks only the first replica, and before the sum, whether gradients are finite.
        """
        pairs = self._selected(grads, indices)
        if not self._optimizer.is_loss_scaled:
            assign_all(pairs)
            return 1
        finite = ops.all(ops.stack([ops.all(ops.isfinite(g)) for g in grads]))
        old = [ops.convert_to_tensor(target) for target, _ in pairs]
        assign_all([(v, ops.where(finite, ops.cast(x, o.dtype), o)) for (v, x), o in zip(pairs, old, strict=True)])
        return ops.cast(finite, self._optimizer._iterations.dtype)

    def _call(
        self, branch: Callable[..., Any], grads: Sequence[Tensor], indices: tuple[int, ...], *scalars: Any
    ) -> None:
        import tensorflow as tf

        key = (branch.__name__, indices, self._optimizer.settings())
        if key not in self._compiled:

            def step(grads: Sequence[Tensor], *scalars: Any) -> None:
                for pairs in branch(self._optimizer.unscaled(grads), indices, *scalars):
                    for target, value in pairs:
                        variable = _raw(target)
                        variable.assign(tf.cast(value, variable.dtype), read_value=False)

            self._compiled[key] = tf.function(step, autograph=False, jit_compile=self._can_compile())
        self._compiled[key](grads, *scalars)

    def _call_on_rows(self, g: Any, i: int) -> None:
        """Updates the rows of one weight that its gradient names. Not by XLA, which would copy the whole table."""
        import tensorflow as tf

        key = ("rows", i, self._optimizer.settings())
        if key not in self._compiled:

            def step(values: Tensor, rows: Tensor, **scalars: Tensor) -> None:
                [values] = self._optimizer.unscaled([values])
                values, rows = _each_row_once(values, rows)

                def read(variable: Any) -> Tensor:
                    found = tf.gather(_raw(variable), rows)
                    return tf.cast(found, update_precision(found.dtype))

                for target, value in row_updates(self._optimizer, values, i, read, **scalars):
                    raw = _raw(target)
                    raw.scatter_update(tf.IndexedSlices(tf.cast(value, raw.dtype), rows))

            self._compiled[key] = tf.function(step, autograph=False)
        self._compiled[key](g.values, g.indices, **self._optimizer.scalars())

    def _can_compile(self) -> bool:
        """XLA takes a function whose variables live on one device."""
        weights = self._optimizer._trainable_variables
        return len({_raw(v).device for v in weights}) == 1


def _raw(variable: Any) -> Any:
    """The variable of the backend."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _each_row_once(values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the values of each row, and the rows.

    As many as were given, so that shapes are known: those left over repeat the last row with its sum.
    """
    import tensorflow as tf

    order = tf.argsort(rows, stable=True)
    ordered = tf.gather(rows, order)
    is_new = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    place = tf.cumsum(tf.concat([tf.zeros_like(rows[:1], tf.int32), is_new], 0))  # as long as rows, also for none
    place_of_each = tf.minimum(tf.range(tf.size(rows)), tf.reduce_max(place))
    sums = tf.math.unsorted_segment_sum(tf.gather(values, order), place, tf.size(rows))
    first = tf.math.unsorted_segment_min(ordered, place, tf.size(rows))
    return tf.gather(sums, place_of_each), tf.gather(first, place_of_each)


def assign_all(pairs: Pairs) -> None:
    """Assign every value to its variable, on every replica when a TensorFlow strategy is active."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        with torch.no_grad():
            _assign_torch(pairs)
        return
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.distribute.has_strategy():
            _assign_on_replicas(pairs)
            return
    for target, value in pairs:
        target.assign(ops.cast(ops.convert_to_tensor(value), target.dtype))


def assign_if(condition: Tensor, pairs: Callable[[], Pairs]) -> None:
    """Assign the pairs where the condition holds; they are computed then only, on backends that can branch there."""
    backend = keras.backend.backend()
    if backend == "torch":
        if bool(condition):
            assign_all(pairs())
        return
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.distribute.has_strategy():
            tf.cond(condition, lambda: assign_all(pairs()), lambda: None)
            return
    assign_all([(v, ops.where(condition, ops.cast(value, v.dtype), ops.convert_to_tensor(v))) for v, value in pairs()])


def _assign_torch(pairs: Pairs) -> None:
    # Tensors of variables are live in torch: a value that *is* another variable's tensor must be copied first.
    live = {target.value.data_ptr() for target, _ in pairs}
    values = [ops.convert_to_tensor(value) for _, value in pairs]
    values = [value.clone() if value.data_ptr() in live else value for value in values]
    for (target, _), value in zip(pairs, values, strict=True):
        target.assign(value)


def _assign_on_replicas(pairs: Pairs) -> None:
    import tensorflow as tf

    targets = [_raw(target) for target, _ in pairs]
    values = [
        tf.cast(ops.convert_to_tensor(value), target.dtype) for target, (_, value) in zip(targets, pairs, strict=True)
    ]

    def assign(strategy: Any, values: Sequence[Any]) -> None:
        for target, value in zip(targets, values, strict=True):
            strategy.extended.update(target, lambda v, x: v.assign(x), args=(value,), group=False)

    # The one place where Keras, too, meets tf.distribute: inside fit a merge call, elsewhere a plain one.
    if tf.distribute.in_cross_replica_context():
        assign(tf.distribute.get_strategy(), values)
    else:
        tf.__internal__.distribute.interim.maybe_merge_call(assign, tf.distribute.get_strategy(), values)
