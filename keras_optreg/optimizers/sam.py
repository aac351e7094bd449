"""SAM: the gradient is taken uphill of the weights. Foret et al. 2021, arXiv:2010.01412, Algorithm 1."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE, check
from keras_optreg.saving import deserialize, serialize
from keras_optreg.select import biases, matching
from keras_optreg.typing import Tensor

_ETA = 0.01
_SHIFTS = biases() | matching("(^|/)beta$")
# What a subclass may define, and what would never be called: SAM trains, evaluates and predicts by its own.
_BYPASSED = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "metrics")


@keras.saving.register_keras_serializable("keras_optreg")
class SAM(keras.Model):
    """Sharpness-aware minimisation: each step takes the gradient where the loss is highest within ρ, to first order.

    When to use it: to generalize better where a network fits its training data well, for the price of a second gradient
    a step (`benchmarks/sam_cost.py`). It wraps the model, and is compiled, with any optimizer, and fitted in its place.

    Equations (g gradient of the loss of the batch, with its penalties; norms over all trainable weights together):

        e = ρ · T² g(w) / ‖T g(w)‖       T = 1; if `adaptive`, T = |w| + η with η = 0.01, and 1 for biases
        w ← optimizer(w, g(w + e))

    Args:
        model: a Keras model, built or not. It shares its weights with this one and stays usable by itself, as
            `sam.model`: predict with it, save or export it.
        rho: ρ >= 0, how far from w to go: the length of e, or if `adaptive` of e / T. 0.05 as in the paper; the authors
            of the adaptive form take 0.5. 0 is plain training, with a second gradient that changes nothing. It is read
            when a step is compiled: after a change, compile again.
        adaptive: ASAM, whose e follows the size of each weight, so that (but for η and the biases) scaling one layer up
            and the next one down changes nothing.
        **options: `name` and `trainable`, as of any model.

    Raises:
        TypeError: when `model` is no Keras model.
        ValueError: when `rho` or `adaptive` is not as above, `model` is a SAM already, or its class (or the object) has
            a `train_step`, `compute_loss` or the like of its own, which SAM would bypass. In training, when a layer
            reads its weights past Keras, as `TorchModuleWrapper` does.

    Example:
        >>> dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        >>> sam = SAM(keras.Sequential([keras.Input((1,)), dense]), rho=0.5)
        >>> sam.compile(keras.optimizers.SGD(0.1), "mse")  # the loss is w², its gradient 2w
        >>> history = sam.fit(keras.ops.ones((4, 1)), keras.ops.zeros((4, 1)), verbose=0)  # one step
        >>> round(float(sam.model.get_weights()[0][0, 0]), 4)  # 1 - 0.1 · 2 · 1.5
        0.7

    Differs: no ε in the denominator; where g(w) is zero, or not finite (as when loss scaling begins), e is 0. Both
    passes begin from the same state, the seeds of dropout included, so both see the same masks. What the first pass
    stores is kept: moving statistics, metrics and the loss are those at w, as in plain training (the authors' code logs
    the second loss). The optimizer is called once, with g(w + e), and that is what `GradientNorm` measures. Under
    `tf.distribute` g(w) is summed over the replicas, so the result is that of one device with the whole batch; in the
    paper each replica ascends by itself. With gradient accumulation each micro-batch has its own e. T is that of the
    code of ASAM's authors, 1 for what PyTorch calls bias: here variables whose name ends with `bias`, or is `beta`.
    Weights stored in 16 bits (the policy "bfloat16") round e to their resolution; "mixed_float16" stores 32.

    Reference: Foret, Kleiner, Mobahi, Neyshabur 2021, arXiv:2010.01412. Adaptive: Kwon, Kim, Park, Choi 2021,
    arXiv:2102.11600.
    """

    def __init__(self, model: keras.Model, rho: float = 0.05, adaptive: bool = False, **options: Any):
        _check_model(model)
        check("SAM", {"rho": rho}, {"rho": NON_NEGATIVE})
        if not isinstance(adaptive, bool):
            raise ValueError(f"The `adaptive` of SAM must be True or False. Received: {adaptive=!r}")
        # The model's policy, for `compile` asks it whether to scale the loss; but the model casts its inputs itself.
        super().__init__(dtype=model.dtype_policy, autocast=False, **options)
        self.model = model
        self.rho = float(rho)
        self.adaptive = adaptive
        self.built = model.built

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs, training=training)

    @property
    def output_names(self) -> list[str]:
        """The model's; `compile` names losses and metrics by them where there are several outputs."""
        return self.model.output_names

    def get_config(self) -> dict[str, Any]:
        own = {"model": serialize(self.model), "rho": self.rho, "adaptive": self.adaptive}
        return {**own, "name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SAM":
        return cls(**{**config, "model": deserialize(config["model"], custom_objects)})

    def train_step(self, *args: Any) -> Any:
        if not self.built:  # in TensorFlow's `fit`; the state before the step must be known
            self._symbolic_build(data_batch=args[-1])
        if not self.trainable_variables:
            return super().train_step(*args)
        return self._jax_step(*args) if keras.config.backend() == "jax" else self._step(*args)

    def ascended(self, values: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """The point w + e of the equations, where the second gradient is taken.

        Args:
            values: the trainable weights w, in the order of `trainable_variables`.
            gradients: g(w), dense; None where the loss does not depend on a weight. Any factor in them, such as that
                of loss scaling, cancels.
        """
        weights = self.trainable_variables
        dtype = keras.backend.result_type("float32", *(v.dtype for v in weights))  # 16 bits are too few for a norm
        directions: list[Tensor | None] = []  # T² g
        squares = [ops.zeros((), dtype)]  # ‖T g‖², weight by weight
        for variable, value, g in zip(weights, values, gradients, strict=True):
            if g is None or getattr(variable, "overwrite_with_gradient", False):  # of float8, which holds no gradient
                directions.append(None)
                continue
            g = ops.cast(g, dtype)
            if self.adaptive and not _SHIFTS.selects(variable):
                scale = ops.abs(ops.cast(value, dtype)) + _ETA
                squares.append(ops.sum(ops.square(scale * g)))
                directions.append(scale * scale * g)
            else:
                squares.append(ops.sum(ops.square(g)))
                directions.append(g)
        norm = ops.sqrt(sum(squares))
        is_usable = ops.logical_and(norm > 0, ops.isfinite(norm))
        factor = self.rho / ops.where(is_usable, norm, ops.ones_like(norm))

        def moved(value: Tensor, direction: Tensor | None) -> Tensor:
            if direction is None:
                return ops.convert_to_tensor(value)
            e = ops.where(is_usable, factor * direction, ops.zeros_like(direction))  # not a product: 0 · inf is not 0
            return ops.cast(ops.cast(value, dtype) + e, value.dtype)

        return [moved(value, direction) for value, direction in zip(values, directions, strict=True)]

    def _jax_step(self, state: Any, data: Any) -> Any:
        import jax

        weights, others, slots, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def at(values: Sequence[Tensor]) -> Any:
            gradient = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
            found = gradient(values, others, metrics, x, y, sample_weight, training=True, optimizer_variables=slots)
            return found[0][1], found[1]

        (loss, y_pred, others_after, metrics), first = at(weights)
        _, second = at(self.ascended(weights, first))
        weights, slots = self.optimizer.stateless_apply(slots, second, weights)
        logs, metrics = self._update_metrics_variables(metrics, loss, x, y, y_pred, sample_weight)
        return logs, (weights, others_after, slots, metrics)

    def _step(self, data: Any) -> Any:
        """On TensorFlow and torch. The weights are never moved: the second pass reads others in their place."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = self.trainable_variables
        with _no_gradients():
            values = [
                ops.copy(w) for w in weights
            ]  # before the pass, for SpectralNormalization assigns its kernel in it
            others = [(v, ops.copy(v)) for v in self.non_trainable_variables]
        same_random_numbers = _random_numbers_from_here()

        def forward() -> tuple[Tensor, Any, Tensor]:
            y_pred = self(x, training=True)
            loss = self._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            return loss, y_pred, self.optimizer.scale_loss(loss)

        loss, y_pred, first = _differentiate(forward, weights)
        replicas, first = _sum_over_replicas(first)
        with _no_gradients():
            ascended = self.ascended(values, first)
        elsewhere = keras.StatelessScope([*others, *zip(weights, ascended, strict=True)], collect_losses=True)
        with same_random_numbers, elsewhere:
            _, _, second = _differentiate(forward, weights)
        _check_that_weights_were_read(weights, first, second)

        with _no_gradients():
            self.optimizer.apply(second, weights)
            # Under tf.distribute Keras divides the loss by the replicas, so that their gradients add up to the batch's.
            batch_size = ops.shape(next(each for each in keras.tree.flatten(x) if each is not None))[0]
            self._loss_tracker.update_state(loss * replicas, sample_weight=batch_size)
            return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _differentiate(
    forward: Callable[[], tuple[Tensor, Any, Tensor]], weights: Sequence[Any]
) -> tuple[Tensor, Any, list[Tensor | None]]:
    """The loss, the predictions, and the gradient of the scaled loss.

    In a stateless scope, `weight.value` is the tensor that stands for the weight there. As Keras's gradient is, it is
    the gradient by what the weight is after the pass, where a layer assigned it.
    """
    if keras.config.backend() == "torch":
        import torch

        for w in weights:
            w.value.requires_grad_(True)
        loss, y_pred, scaled = forward()
        return loss, y_pred, list(torch.autograd.grad(scaled, [w.value for w in weights], allow_unused=True))
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch([w.value for w in weights])
        loss, y_pred, scaled = forward()
    return loss, y_pred, tape.gradient(scaled, [w.value for w in weights])


def _no_gradients() -> AbstractContextManager[Any]:
    if keras.config.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _random_numbers_from_here() -> AbstractContextManager[Any]:
    """A context in which torch draws again what it draws from now on: its dropout has no seed among the variables."""
    if keras.config.backend() != "torch":
        return nullcontext()
    import torch

    gpu = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    states = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in gpu]

    @contextmanager
    def again() -> Iterator[None]:
        with torch.random.fork_rng(gpu):
            torch.set_rng_state(states[0])
            for device, state in zip(gpu, states[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield

    return again()


def _sum_over_replicas(gradients: Sequence[Tensor | None]) -> tuple[int, list[Tensor | None]]:
    """How many replicas there are under `tf.distribute`, and the dense gradients of the whole batch."""
    if keras.config.backend() != "tensorflow":
        return 1, list(gradients)
    import tensorflow as tf

    # An embedding's gradient comes as slices in which a row can stand twice: their norm would be wrong.
    dense = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return 1, dense
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, [g for g in dense if g is not None]))
    return context.num_replicas_in_sync, [None if g is None else next(summed) for g in dense]


def _check_that_weights_were_read(weights: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> None:
    past_keras = [w.path for w, a, b in zip(weights, first, second, strict=True) if a is not None and b is None]
    if past_keras:
        raise ValueError(
            f"SAM: the layer of {past_keras[0]} reads this weight past Keras, as TorchModuleWrapper does, so the loss "
            "cannot be taken at other weights. Train this model without SAM, or write the layer with Keras."
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"SAM takes a Keras model. Received: {model!r}")
    if isinstance(model, SAM):
        raise ValueError(f"The model {model.name!r} is a SAM already. Give its inner model, `{model.name}.model`.")
    own = [n for n in _BYPASSED if n in vars(model) or getattr(type(model), n) is not getattr(keras.Model, n)]
    if own:
        raise ValueError(
            f"{type(model).__name__} has a `{own[0]}` of its own, which would never be called: SAM trains with its "
            "own `train_step`, and computes loss and metrics as `keras.Model` does. Give it a model without one, with "
            "the loss in `compile(loss=...)` or a layer's `add_loss`."
        )
