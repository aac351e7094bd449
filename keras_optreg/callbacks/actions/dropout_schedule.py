"""Let a schedule set the rate of dropout, per epoch or per batch."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE, check
from keras_optreg.callbacks.actions.scheduled import Scheduled
from keras_optreg.introspection import open_to_state
from keras_optreg.live_numbers import LiveNumbers


class DropoutSchedule(Scheduled):
    """Set the rate of dropout layers by a schedule. The step is traced once more, in the first `fit`, and then no more.

    Use `early` for models that underfit: dropout at the beginning makes the gradients of different batches agree, and
    the final fit of the training data is better. Use `late` for models that overfit but are slow to begin with.

        rate = schedule(t)

    t is Keras's number of the epoch, or the number of batches since epoch 0 began (with `steps_per_execution=k` it
    moves in steps of k): each `fit` begins at t = 0, unless `initial_epoch` or `load_state_dict` says otherwise. What
    was set last stays after `fit`: it is `layer.rate`, and saved with the model. It is added to the logs as
    `dropout_rate`.

    Args:
        schedule: a schedule, ours or Keras's, or a function from t to the rate, in [0, 1).
        every: `"epoch"` or `"batch"`.
        layers: the layers, `keras.layers.Dropout` or `SpatialDropout1D`, `2D`, `3D`. Defaults to all of them in the
            model, nested ones too, but not those inside attention layers. `insert_dropout` puts some into a model that
            has none.

    Raises:
        TypeError: when `schedule` cannot be called, or one of `layers` is no dropout layer.
        ValueError: for another `every` or a rate outside [0, 1); at the start of training, when the model has no
            dropout layer, or when `initial_epoch` is above 0 and t cannot be known.

    Example:
        ```python
        model.fit(x, y, epochs=60, callbacks=[kor.callbacks.DropoutSchedule.early(0.1, until=20)])
        ```

    Reference:
        Z. Liu et al., "Dropout reduces underfitting", ICML 2023, sections 3 and 4.
    """

    log_name = "dropout_rate"

    def __init__(
        self, schedule: Callable[[Any], Any], every: str = "epoch", layers: Sequence[keras.Layer] | None = None
    ):
        super().__init__(schedule, every)
        for layer in layers or ():
            if not isinstance(layer, keras.layers.Dropout):
                raise TypeError(f"DropoutSchedule takes Dropout and SpatialDropout layers. Received: {layer!r}")
        self.layers = None if layers is None else list(layers)

    @classmethod
    def early(cls, rate: float, until: float, **arguments: Any) -> Self:
        """`rate` for t < `until`, then none. (`linear` is the gentler form of it.)"""
        check("DropoutSchedule.early", {"rate": rate, "until": until}, {"rate": FRACTION, "until": NON_NEGATIVE})
        return cls(lambda t: rate if t < until else 0.0, **arguments)

    @classmethod
    def late(cls, rate: float, start: float, **arguments: Any) -> Self:
        """None for t < `start`, then `rate`."""
        check("DropoutSchedule.late", {"rate": rate, "start": start}, {"rate": FRACTION, "start": NON_NEGATIVE})
        return cls(lambda t: rate if t >= start else 0.0, **arguments)

    @classmethod
    def linear(cls, rate: float, until: float, end_rate: float = 0.0, **arguments: Any) -> Self:
        """From `rate` at t = 0 in a straight line to `end_rate` at `until`, where it stays."""
        numbers = {"rate": rate, "until": until, "end_rate": end_rate}
        check("DropoutSchedule.linear", numbers, {"rate": FRACTION, "until": NON_NEGATIVE, "end_rate": FRACTION})

        def at(t: float) -> float:
            return end_rate if t >= until else rate + (end_rate - rate) * t / until

        return cls(at, **arguments)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        model = self.model
        inside = {
            id(layer)
            for parent in model._flatten_layers()
            if isinstance(parent, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention)
            for layer in parent._flatten_layers()
        }
        every = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.Dropout) and id(layer) not in inside
        ]
        self._layers = every if self.layers is None else self.layers
        missing = [layer.name for layer in self._layers if not any(layer is other for other in every)]
        if missing or not self._layers:
            raise ValueError(
                f"DropoutSchedule: {', '.join(missing) or 'no dropout layer'} in the model {model.name!r}. "
                "insert_dropout(model, rate) makes a model with dropout from one without."
            )
        is_new = not all("scheduled_rate" in vars(layer) for layer in self._layers)
        self._rates = [_live_rate(layer) for layer in self._layers]
        if is_new and model.train_function is not None:
            model.make_train_function(force=True)  # what it traces now reads the rate at every step

    def _apply(self, t: int) -> None:
        rate = float(self.schedule(t))
        check("DropoutSchedule", {"rate": rate}, {"rate": FRACTION})
        if any(live.rate != rate for live in self._rates):
            _ = self.model  # on JAX this brings the state to the host, so that what is set here is not overwritten
            for live in self._rates:
                live.rate = rate
        for layer in self._layers:
            layer.rate = rate  # for whoever saves the model

    def _value(self) -> float:
        return self._rates[0].rate


def _live_rate(layer: Any) -> LiveNumbers:
    """The rate of a layer, read at every step from now on. The class, and so the saved layer, stays Keras's."""
    if "scheduled_rate" in vars(layer):
        return layer.scheduled_rate
    live = LiveNumbers(rate=layer.rate)
    with open_to_state(layer):
        layer.scheduled_rate = live
        if not hasattr(layer, "seed_generator"):  # Keras makes none for a rate of 0
            layer.seed_generator = keras.random.SeedGenerator(layer.seed)

    def call(inputs: Any, training: bool = False) -> Any:
        if layer.rate != live.numbers["rate"]:  # set by hand since
            return type(layer).call(layer, inputs, training)
        if not training:
            return inputs
        with live.home.reading():
            rate = live.rate
        shape = ops.shape(inputs)
        noise = layer._get_noise_shape(inputs) if hasattr(layer, "_get_noise_shape") else layer.noise_shape or shape
        noise = [size if size is not None else shape[axis] for axis, size in enumerate(noise)]
        is_kept = keras.random.uniform(noise, dtype="float32", seed=layer.seed_generator) >= rate
        scaled = inputs * ops.cast(1 / (1 - rate), inputs.dtype)
        return ops.where(is_kept, scaled, ops.zeros_like(inputs))

    layer.__dict__["call"] = call
    return live
