"""Dropout for a model that exists."""

from typing import Any

import keras

from keras_optreg.bounds import FRACTION, check
from keras_optreg.regularizers.layer_choice import Choice, chosen, names
from keras_optreg.regularizers.rebuilding import check_rebuildable, functional_of, sequential_of

_DENSE_AND_CONVOLUTIONS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def insert_dropout(model: Any, rate: float, after: Choice | None = None, seed: int | None = None) -> keras.Model:
    r"""A new model with dropout after the chosen layers; it shares all weights with the given one.

    Use it to regularize a network that was built, or trained, without dropout. Training either model trains both: they
    hold the same layers. Prediction and evaluation are unchanged, since dropout acts in training only.

        training:   y ← y · b / (1 − rate),  b ~ Bernoulli(1 − rate), drawn anew for each element
        inference:  y ← y

    Args:
        model: a built `Sequential` or functional model. Layers inside nested models are not reached: insert into
            those first, or name the nested model itself.
        rate: the fraction of elements set to zero, in [0, 1).
        after: the layers to put dropout behind: a layer class or a tuple of classes, a regular expression for
            `layer.name` (`re.search`), a list of layers or of their names, or a function of a layer, true for those.
            Defaults to all dense and convolutional layers with an activation other than linear of their own: where
            activations are layers, `keras.layers.ReLU` or `keras.layers.Activation` names them. The layers that make
            the model's outputs are left out unless the list names them. A layer used several times gets several.
        seed: an integer makes the masks reproducible; the k-th inserted layer draws from `seed + k`.

    Returns:
        The new model, of the same class. It is compiled when the given one was (unless its class has a `compile` of its
        own): with the same loss and metric objects and a new optimizer, which starts without moments.

    Raises:
        TypeError: when the model is no Keras model, or `after` is none of these.
        ValueError: when the rate is not in [0, 1), the model is a subclass of `keras.Model` (its layers cannot be
            called one by one), of a class with a constructor of its own, or not built, no layer matches, or a chosen
            layer's output is not one tensor.

    Example:
        >>> layers = [keras.Input((3,)), keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(1)]
        >>> [layer.name for layer in insert_dropout(keras.Sequential(layers), 0.5).layers][:2]
        ['hidden', 'hidden_dropout']

    Reference:
        N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014; the
        scaling in training ("inverted dropout") is Keras's.
    """
    check("insert_dropout", {"rate": rate}, {"rate": FRACTION})
    check_rebuildable(model, "insert_dropout", "add keras.layers.Dropout there")
    outputs = {id(tensor._keras_history.operation) for tensor in keras.tree.flatten(model.outputs)}
    before_dropout = {id(layer) for layer in _before_dropout(model, after, outputs)}
    inserted: list[str] = []

    def dropout_behind(layer: Any) -> keras.Layer:
        again = sum(name.startswith(f"{layer.name}_dropout") for name in inserted)
        inserted.append(f"{layer.name}_dropout" + (f"_{again}" if again else ""))
        return keras.layers.Dropout(rate, seed=None if seed is None else seed + len(inserted) - 1, name=inserted[-1])

    if isinstance(model, keras.Sequential):
        layers: list[Any] = []
        for layer in model.layers:
            layers += [layer, dropout_behind(layer)] if id(layer) in before_dropout else [layer]
        return sequential_of(model, layers)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        if id(layer) not in before_dropout:
            return output
        if not isinstance(output, keras.KerasTensor):
            raise ValueError(
                f"insert_dropout: the output of {layer.name!r} is not one tensor but {type(output).__name__}. "
                f"Leave this layer out of `after`."
            )
        return dropout_behind(layer)(output)

    return functional_of(model, lambda layer: layer, call)


def _before_dropout(model: Any, after: Choice | None, outputs: set[int]) -> list[keras.Layer]:
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    inner = [layer for layer in layers if id(layer) not in outputs]
    if after is None:
        found = [layer for layer in inner if _has_activation(layer)]
    else:
        is_list = isinstance(after, list | tuple | set) and not all(isinstance(a, type) for a in after)
        found = chosen(layers if is_list else inner, after, "insert_dropout", "after")
    if not found and after is None:
        raise ValueError(
            "insert_dropout: by default dropout goes behind dense and convolutional layers with an activation of their "
            "own, other than those that make the outputs, and there is none. Say where: after=keras.layers.ReLU, "
            f"after='re_lu', after=[names]. The model's layers: {names(layers)}."
        )
    if not found:
        raise ValueError(
            f"insert_dropout: no layer matches after={after!r}. Output layers are left out unless a list names them, "
            f"and layers inside nested models are not reached. The model's layers: {names(layers)}."
        )
    return found


def _has_activation(layer: keras.Layer) -> bool:
    linear = (None, keras.activations.linear)
    return isinstance(layer, _DENSE_AND_CONVOLUTIONS) and layer.activation not in linear  # type: ignore[attr-defined]
