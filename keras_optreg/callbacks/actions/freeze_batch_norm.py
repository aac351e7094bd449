"""Keep the statistics of batch normalisation as they are."""

from collections.abc import Sequence

import keras

from keras_optreg.bounds import COUNT, check
from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.actions.trainable import set_trainable


class FreezeBatchNorm(Action):
    """Freezes batch normalisation: it normalises by its moving statistics, which stay, and its scale and shift stay.

    When to use it: fine-tuning on little data or in small batches, whose statistics would be worse than the pretrained
    ones; and in the last epochs of a training, so that the model is trained as it will be evaluated.

    From epoch `start` on, at once and within `fit`; the optimizer goes on with the other weights. Layers that another
    callback unfreezes are frozen again when the epoch begins: put this one behind it. They stay frozen after `fit`.

    Args:
        start: the first epoch in which they are frozen, from 0.
        layers: the layers; by default all `keras.layers.BatchNormalization` in the model, nested ones too.

    Raises:
        ValueError: when `start` is no number of epochs; in training, when the model has no such layer.
        TypeError: when one of `layers` is no batch normalisation.

    Example:
        ```python
        model.fit(x, y, epochs=8, callbacks=[kor.callbacks.FreezeBatchNorm(start=6)])
        ```

    Reference:
        Goyal et al., "Accurate, large minibatch SGD", 2017, section 5.4 (detection, fine-tuned with frozen statistics).
    """

    def __init__(self, start: int = 0, layers: Sequence[keras.Layer] | None = None):
        check("FreezeBatchNorm", {"start": start}, {"start": COUNT})
        for layer in layers or ():
            if not isinstance(layer, keras.layers.BatchNormalization):
                raise TypeError(f"FreezeBatchNorm takes BatchNormalization layers. Received: {layer!r}")
        self.start = start
        self.layers = None if layers is None else list(layers)
        super().__init__()

    def reset(self) -> None:
        """It has no state: what it did is in the layers."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch < self.start:
            return
        layers = self.layers
        if layers is None:
            found = self.model._flatten_layers()
            layers = [layer for layer in found if isinstance(layer, keras.layers.BatchNormalization)]
        if not layers:
            raise ValueError(f"FreezeBatchNorm: the model {self.model.name!r} has no BatchNormalization layer.")
        if open_ones := [layer for layer in layers if layer.trainable]:
            set_trainable(self.model, open_ones, False)
