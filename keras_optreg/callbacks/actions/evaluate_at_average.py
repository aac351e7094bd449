"""Validate, predict and save with the averaged weights, and train on with the others."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_optreg import live_numbers
from keras_optreg.callbacks.actions.action import Action
from keras_optreg.introspection import averaging_optimizers, inner_optimizer


class EvaluateAtAverage(Action):
    """Puts the average into the model for validation, prediction, checkpoints and the end of training, and back.

    When to use it: with optimizers whose average is their result: `ScheduleFreeSGD`, `ScheduleFreeAdamW`, `Lookahead`.
    Place it before callbacks that save or copy weights at the end of an epoch, such as `ModelCheckpoint`.

    Training goes on from the very weights it had: with and without validation it gives the same numbers. A model that
    was saved at the average and loaded trains on where it was. Weights that another callback loads at the end of an
    epoch are overwritten when the next one begins.

    Args:
        batch_norm_data: Inputs from the training data, for models with batch normalisation, whose statistics belong
            to the weights that made them: an array, a list or a dict of arrays (a model with several inputs), or an
            iterable of batches `(x, y)`, such as a dataset. Before every evaluation the statistics are computed anew
            from all of it, as the mean over its batches. Some thousand examples are enough.
        batch_size: Examples in one batch of `batch_norm_data`, when that is arrays.

    Raises:
        TypeError: At the start of training or evaluation, when the optimizer has no average of its own.

    Example:
        ```python
        model.compile(kor.optimizers.ScheduleFreeAdamW(2.5e-3, warmup_steps=500), "mse")
        model.fit(x, y, validation_split=0.1, epochs=20, callbacks=[
            kor.callbacks.EvaluateAtAverage(), keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True)])
        ```

    Reference:
        Defazio et al., "The road less scheduled", 2024, arXiv:2405.15682; for the statistics, Izmailov et al.,
        "Averaging weights leads to wider optima and better generalization", 2018, section 3.
    """

    def __init__(self, batch_norm_data: Any = None, batch_size: int = 128):
        self.batch_norm_data = batch_norm_data
        self.batch_size = batch_size
        super().__init__()

    def reset(self) -> None:
        self._is_training = False
        self._kept: tuple[list[Any], list[Any]] | None = None  # what training goes on from

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._is_training = True
        for optimizer in self._optimizers():
            optimizer.is_evaluated_at_average = True

    def on_epoch_begin(self, epoch, logs=None):
        self._leave()

    def on_train_batch_begin(self, batch, logs=None):
        if self._kept is not None:  # another callback has evaluated within the epoch
            self._leave()

    def on_epoch_end(self, epoch, logs=None):
        self._enter()

    def on_train_end(self, logs=None):
        self._enter()
        for optimizer in self._optimizers():
            optimizer.is_evaluated_at_average = False
        self.reset()

    def on_test_begin(self, logs=None):
        self._enter()

    def on_test_end(self, logs=None):
        # In fit the end of the epoch follows, where checkpoints are made.
        if not self._is_training and self._kept is not None:
            self._leave()

    on_predict_begin, on_predict_end = on_test_begin, on_test_end

    def _optimizers(self) -> list[Any]:
        found = averaging_optimizers(self.model)
        if not found:
            kind = type(inner_optimizer(self.model)).__name__
            raise TypeError(
                f"EvaluateAtAverage: {kind} has no average to evaluate. It is for ScheduleFreeSGD, ScheduleFreeAdamW "
                "and Lookahead of keras_optreg.optimizers; for moving averages of the weights, use_ema=True of any "
                "optimizer, there is keras.callbacks.SwapEMAWeights."
            )
        return found

    def _enter(self) -> None:
        waiting = [o for o in self._optimizers() if o.built and not o.is_at_average()]
        if not waiting:
            return
        norms = self._norms()
        weights = [(o, [(v, _copy(v)) for v in o._trainable_variables]) for o in waiting]
        others = [v for v in self.model.non_trainable_variables if v.name != live_numbers.NAME]
        states = [(v, _copy(v)) for v in others] if norms else []
        for optimizer in waiting:
            optimizer.to_average()
        if any(optimizer.is_at_average() for optimizer in waiting):  # not before the first update
            self._kept = weights, states
            if norms:
                self._normalise(norms, states)

    def _leave(self) -> None:
        if self._kept is None:  # a new fit, perhaps from a file that another callback has just loaded
            for optimizer in self._optimizers():
                optimizer.to_training_point()
            return
        weights, states = self._kept
        self._kept = None
        for optimizer, kept in weights:
            optimizer.to_training_point(kept)
        for variable, value in states:
            variable.assign(value)

    def _norms(self) -> list[Any]:
        """The layers whose statistics are to be computed anew."""
        norms = [
            layer
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and layer.built
        ]
        if norms and self.batch_norm_data is None:
            warnings.warn(
                f"The batch normalisation of {norms[0].name} has statistics of other weights than those that are "
                "evaluated. Give some training inputs: EvaluateAtAverage(batch_norm_data=x_train[:2048]).",
                stacklevel=2,
            )
            return []
        return norms

    def _normalise(self, norms: list[Any], before: list[Any]) -> None:
        """Statistics of batch normalisation at the weights that the model has now."""
        momenta = [layer.momentum for layer in norms]
        n = 0
        try:
            for batch in self._batches():
                for layer in norms:
                    layer.momentum = n / (n + 1)  # so that the moving mean is the mean of all batches
                self.model(batch, training=True)
                n += 1
        finally:
            for layer, momentum in zip(norms, momenta, strict=True):
                layer.momentum = momentum
        if n == 0:
            raise ValueError(
                "EvaluateAtAverage: batch_norm_data gave no batch. An iterator can be gone through once only; give "
                "arrays or a dataset."
            )
        own = {id(v) for layer in norms for v in (layer.moving_mean, layer.moving_variance)}
        for variable, value in before:  # a forward pass moves seeds and other states, too
            if id(variable) not in own:
                variable.assign(value)

    def _batches(self) -> Any:
        data = self.batch_norm_data
        inputs = [data] if hasattr(data, "shape") else list(data.values()) if isinstance(data, dict) else data
        if not isinstance(inputs, list | tuple) or not all(hasattr(one, "shape") for one in inputs):
            for batch in data:
                yield keras.utils.unpack_x_y_sample_weight(batch)[0]
            return
        arrays = keras.tree.flatten(data)
        for start in range(0, len(arrays[0]), self.batch_size):
            yield keras.tree.map_structure(lambda a, s=start: a[s : s + self.batch_size], data)


def _copy(variable: Any) -> np.ndarray:
    """On the host: the backend's own buffers may be given away, as JAX does with those that a step has updated."""
    return np.array(keras.ops.convert_to_numpy(variable))
