"""Give penalties to what the layers of a model put out."""

from typing import Any

import keras

from keras_optreg.introspection import open_to_state
from keras_optreg.regularizers.attach import retrace
from keras_optreg.regularizers.layer_choice import Choice, chosen, names
from keras_optreg.regularizers.owners import forget
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.saved_form import is_serializable, same_penalty
from keras_optreg.table import Table


def attach_activity(model: Any, penalty: Any, on: Choice) -> Table:
    r"""Adds a penalty on the outputs of layers to the loss of a model that is already built.

    As `activity_regularizer=` in the constructor, for a layer that exists. It is saved with the layer.

        loss = data loss + Σ over layers, 1/n Ω(outputs)        n: the examples of the batch

    Keras counts it once for each call of a layer, and also when the layer is frozen.

    Args:
        model: a built Keras model.
        penalty: `KLSparsity`, `L1`, `L2` or any other penalty object of this package, whose sums are float32 under
            every dtype policy; None takes the penalty of the chosen layers away.
        on: a layer class or a tuple of classes, a regular expression for `layer.name`, a list of layers or of their
            names, or a function of a layer. Layers inside nested models and wrappers are found too.

    Returns:
        A table with one row a layer: `layer`, `penalty`, and what stood there `before`.

    Raises:
        TypeError: when the model or the penalty is none, or `on` is nothing of the above.
        ValueError: when no layer matches; when a layer inside `TimeDistributed` is chosen, where Keras loses what it
            adds to the loss (choose the `TimeDistributed` itself); or when another penalty stands there. The model is
            then unchanged.

    Example:
        >>> from keras_optreg.regularizers import KLSparsity
        >>> layers = [keras.Input((3,)), keras.layers.Dense(8, "sigmoid", name="code"), keras.layers.Dense(3)]
        >>> row = attach_activity(keras.Sequential(layers), KLSparsity(1e-3), on="code")[0]
        >>> row.layer, row.penalty
        ('code', KLSparsity(0.001, target=0.05))
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"attach_activity takes a Keras model. Received: {model!r}")
    if not isinstance(penalty, PenaltyRegularizer | None):
        raise TypeError(f"attach_activity takes a penalty of keras_optreg, such as L1(1e-5). Received: {penalty!r}")
    every: list[Any] = [layer for layer in model._flatten_layers() if layer is not model]
    found: list[Any] = chosen(every, on, "attach_activity", "on")
    if not found:
        raise ValueError(f"attach_activity: no layer matches on={on!r}. The model's layers: {names(every)}.")
    inside = {
        id(layer)
        for wrapper in every
        if isinstance(wrapper, keras.layers.TimeDistributed)
        for layer in wrapper._flatten_layers()
        if layer is not wrapper
    }
    lost = [layer.name for layer in found if id(layer) in inside]
    if lost:
        raise ValueError(
            f"attach_activity: {', '.join(lost)} is inside TimeDistributed, where Keras loses what a layer adds to the "
            "loss. Choose the TimeDistributed layer itself."
        )
    others = [
        f"{layer.name} ({layer.activity_regularizer!r})"
        for layer in found
        if None not in (penalty, layer.activity_regularizer) and not same_penalty(layer.activity_regularizer, penalty)
    ]
    if others:
        raise ValueError(
            f"attach_activity: another penalty stands on {', '.join(others)}. Take it away first: "
            "attach_activity(model, None, on=...). Nothing was changed."
        )
    rows, removed = [], [layer.activity_regularizer for layer in found]
    for layer in found:
        rows.append((layer.name, penalty, layer.activity_regularizer))
        with open_to_state(layer):
            layer.activity_regularizer = penalty
    forget(model, [one for one in removed if one is not penalty])
    retrace(model)
    is_lost = penalty is not None and not is_serializable(penalty)
    return Table(("layer", "penalty", "before"), rows, "It cannot be saved with the model." if is_lost else "")
