"""What callbacks share that put other weights into a model to evaluate it, and training's weights back."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_optreg import live_numbers
from keras_optreg.callbacks.actions.action import Action


class SwappedWeights(Action):
    """Abstract: an average stands in the model for validation, prediction, checkpoints and the end of training.

    A subclass puts it there in `_put_average`, and training's weights back in `_put_back`.

    Args:
        batch_norm_data: inputs from the training data, for models with batch normalisation; its statistics are computed
            anew from all of it whenever the average is put into the model.
        batch_size: examples in one batch of `batch_norm_data`, when that is arrays.
    """

    def __init__(self, batch_norm_data: Any = None, batch_size: int = 128):
        self.batch_norm_data = batch_norm_data
        self.batch_size = batch_size
        super().__init__()

    def _put_average(self) -> Any:
        """Put the average into the model; returns what `_put_back` needs, or None when nothing was done."""
        raise NotImplementedError

    def _put_back(self, kept: Any) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        self._is_training = False
        self._kept: tuple[Any, dict[int, np.ndarray]] | None = None  # what training goes on from

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._is_training = True

    def on_epoch_begin(self, epoch, logs=None):
        self._leave()

    def on_train_batch_begin(self, batch, logs=None):
        self._leave()  # another callback may have evaluated within the epoch

    def on_epoch_end(self, epoch, logs=None):
        self._enter()

    def on_train_end(self, logs=None):
        self._enter()
        self._is_training = False

    def on_test_begin(self, logs=None):
        self._enter()

    def on_test_end(self, logs=None):
        if not self._is_training:  # in fit the end of the epoch follows, where checkpoints are made
            self._leave()

    on_predict_begin, on_predict_end = on_test_begin, on_test_end

    def _enter(self) -> None:
        if self._kept is not None:
            return
        norms = self._norms()
        states = {i: copy_of(v) for i, v in self._states().items()} if norms else {}
        if (kept := self._put_average()) is not None:
            self._kept = kept, states
            if norms:
                self._normalise(norms, states)

    def _leave(self) -> None:
        if self._kept is None:
            return
        kept, states = self._kept
        self._kept = None
        self._put_back(kept)
        variables = self._variables()
        for i, value in states.items():
            variables[i].assign(value)

    def _variables(self) -> list[Any]:
        return [v for v in self.model.variables if v.name != live_numbers.NAME]

    def _states(self) -> dict[int, Any]:
        """What does not train, by its place: until it is put back, layers may be frozen or unfrozen."""
        trainable = {id(v) for v in self.model.trainable_variables}
        return {i: v for i, v in enumerate(self._variables()) if id(v) not in trainable}

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
                f"evaluated. Give some training inputs: {type(self).__name__}(batch_norm_data=x_train[:2048]).",
                stacklevel=2,
            )
            return []
        return norms

    def _normalise(self, norms: list[Any], before: dict[int, np.ndarray]) -> None:
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
                f"{type(self).__name__}: batch_norm_data gave no batch. An iterator can be gone through once only; "
                "give arrays or a dataset."
            )
        own = {id(v) for layer in norms for v in (layer.moving_mean, layer.moving_variance)}
        for i, variable in self._states().items():  # a forward pass moves seeds and other states, too
            if id(variable) not in own:
                variable.assign(before[i])

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


def copy_of(variable: Any) -> np.ndarray:
    """On the host: the backend's own buffers may be given away, as JAX does with those that a step has updated."""
    return np.array(keras.ops.convert_to_numpy(variable))
