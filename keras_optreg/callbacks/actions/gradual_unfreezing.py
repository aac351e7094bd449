"""Unfreeze a pretrained model layer by layer while it trains."""

import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_optreg.bounds import COUNT, POSITIVE_COUNT, check
from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.actions.trainable import set_trainable

Group = str | keras.Layer | Sequence["str | keras.Layer"]


class GradualUnfreezing(Action):
    """Unfreezes frozen layers one group after another, within one `fit`.

    When to use it: fine-tuning. The new head trains alone first, so that its random start does not spoil the pretrained
    weights; then the layers nearest to it join, and so on down. Freeze the layers, compile, and fit.

    Group i is unfrozen when epoch `first` + i·`every` begins. It acts at once (a `trainable` that is set in a callback
    of one's own does not: the compiled step has its weights by then), and the optimizer goes on: its count, its rate or
    schedule and the slots of the weights that train already are kept. Slots are made for a group only when it joins,
    and the training step is compiled anew each time. With `fit(initial_epoch=n)` the groups due until then join in the
    beginning. What is unfrozen stays so after `fit`, and a further `fit` goes on with the groups of the first; in
    another process they come from `state_dict()`, without which the default groups are what is frozen by then.

    An unfrozen layer's batch normalisation takes the statistics of the batches again; put
    `FreezeBatchNorm` behind this callback to keep the pretrained ones.

    Args:
        layers: the groups in the order in which they join: each a layer (a nested model is one), a regular expression
            that is searched in the names of all layers, or a list of these. By default every frozen layer of
            `model.layers` that has weights, by itself, from the last one back.
        first: the epoch in which the first group joins, from 0.
        every: epochs from one group to the next.

    Attributes:
        found_frozen: the names of the default groups, which were frozen when the first `fit` began, in their order.

    Raises:
        ValueError: for numbers out of their ranges; in training, when a group has no layer with weights in the model,
            or nothing was ever frozen and no `layers` are given.

    Example:
        ```python
        base.trainable = False
        model = keras.Sequential([base, keras.layers.Dense(10, "softmax")])
        model.compile(kor.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy")
        unfreezing = kor.callbacks.GradualUnfreezing(["block5", "block4"], first=2, every=2)
        model.fit(x, y, epochs=8, callbacks=[unfreezing, kor.callbacks.FreezeBatchNorm()])
        ```

    Reference:
        Howard & Ruder, "Universal language model fine-tuning for text classification", 2018, arXiv:1801.06146,
        section 3.3: one layer more in each epoch, from the last.
    """

    state = ("found_frozen",)

    def __init__(self, layers: Sequence[Group] | None = None, first: int = 1, every: int = 1):
        check("GradualUnfreezing", {"first": first, "every": every}, {"first": COUNT, "every": POSITIVE_COUNT})
        if isinstance(layers, str | keras.Layer):
            raise TypeError(f"GradualUnfreezing takes a list of groups. Received: {layers!r}. Write [{layers!r}].")
        self.layers = layers if layers is None else list(layers)
        self.first = first
        self.every = every
        self.found_frozen: list[str] = []
        super().__init__()

    def reset(self) -> None:
        """It forgets nothing: in a further `fit` of the model, what has joined still counts among the groups."""
        self._groups: list[list[Any]] = []

    def set_model(self, model: Any) -> None:
        if model is not self._model and not self._resumed:
            self.found_frozen = []
        super().set_model(model)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self.layers is not None:
            self._groups = [self._found(group) for group in self.layers]
            return
        layers = {layer.name: layer for layer in self.model.layers}
        if not self.found_frozen:
            frozen = [name for name, layer in layers.items() if layer.weights and not layer.trainable_weights]
            self.found_frozen = frozen[::-1]
        if not self.found_frozen:
            raise ValueError(
                "GradualUnfreezing: no layer of the model is frozen. Set `layer.trainable = False` of the layers that "
                "are to wait, then compile."
            )
        if missing := [name for name in self.found_frozen if name not in layers]:
            raise ValueError(
                f"GradualUnfreezing: its state is of a model with the layers {', '.join(missing)}, which this one has "
                f"not. There are: {', '.join(layers)}."
            )
        self._groups = [[layers[name]] for name in self.found_frozen]

    def on_epoch_begin(self, epoch, logs=None):
        due = [layer for i, group in enumerate(self._groups) if epoch >= self.first + i * self.every for layer in group]
        if waiting := [layer for layer in due if not all(part.trainable for part in layer._flatten_layers())]:
            set_trainable(self.model, waiting, True)

    def _found(self, group: Group) -> list[Any]:
        members = [group] if isinstance(group, str | keras.Layer) else list(group)
        every = [layer for layer in self.model._flatten_layers(include_self=False) if layer.weights]
        found = [
            layer
            for layer in every
            if any(re.search(m, layer.name) if isinstance(m, str) else m is layer for m in members)
        ]
        if not found:
            names = ", ".join(layer.name for layer in every)
            raise ValueError(f"GradualUnfreezing: {group!r} is none of the layers with weights. There are: {names}.")
        return found
