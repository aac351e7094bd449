"""Dropout for a model that exists."""

import inspect
from typing import Any

import keras

from keras_optreg.bounds import FRACTION, check
from keras_optreg.regularizers.layer_choice import Choice, chosen, names
from keras_optreg.saving import without, without_tensorflow

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
    _check_model(model)
    outputs = {id(tensor._keras_history.operation) for tensor in keras.tree.flatten(model.outputs)}
    before_dropout = {id(layer) for layer in _before_dropout(model, after, outputs)}
    inserted: list[str] = []

    def dropout_behind(layer: Any) -> keras.Layer:
        again = sum(name.startswith(f"{layer.name}_dropout") for name in inserted)
        inserted.append(f"{layer.name}_dropout" + (f"_{again}" if again else ""))
        return keras.layers.Dropout(rate, seed=None if seed is None else seed + len(inserted) - 1, name=inserted[-1])

    if isinstance(model, keras.Sequential):
        start = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype, name=model.inputs[0].name)
        layers: list[Any] = [start]
        for layer in model.layers:
            layers += [layer, dropout_behind(layer)] if id(layer) in before_dropout else [layer]
        return _compiled_as(model, type(model)(layers, name=model.name))

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

    with without_tensorflow():
        new_graph: Any = keras.models.clone_model(_graph(model), clone_function=lambda layer: layer, call_function=call)
    return _compiled_as(model, type(model)(new_graph.input, new_graph.output, name=model.name))


def _compiled_as(model: Any, new_model: Any) -> Any:
    """The new model, compiled with the live loss and metrics of the given one; their configs refuse lambdas."""
    if model.compiled and type(model).compile is keras.Model.compile:
        arguments = model._compile_config.config
        with without_tensorflow():
            new_model.compile(**{**arguments, "optimizer": _made_again(arguments["optimizer"])})
    return new_model


def _made_again(optimizer: Any) -> Any:
    # Without the positions of weights, whose order dropout may change: selectors look anew.
    return type(optimizer).from_config(without(optimizer.get_config(), "built_with"))


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"insert_dropout takes a Keras model. Received: {model!r}")
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise ValueError(
            f"insert_dropout takes Sequential and functional models. {type(model).__name__} subclasses keras.Model, "
            "whose `call` decides what follows its layers: add keras.layers.Dropout there."
        )
    if not model.built or not model.inputs:
        raise ValueError(
            f"insert_dropout: the model {model.name!r} is not built, so there are no weights to share. "
            f"Begin it with keras.Input(shape), or call it on data first."
        )
    is_sequential = isinstance(model, keras.Sequential)
    plain = keras.Sequential if is_sequential else type(_graph(model))
    own, expected = (inspect.getfullargspec(cls.__init__) for cls in (type(model), plain))
    if own.args != expected.args and not (own.varargs and own.varkw):
        tensors = "model.inputs[0], model.outputs[0]" if is_sequential else "model.input, model.output"
        raise ValueError(
            f"insert_dropout makes a new {type(model).__name__} from layers, but its constructor is not that of "
            f"{plain.__name__}. Add keras.layers.Dropout where it is made; or, where its own methods are not needed, "
            f"insert into a plain model of the same layers, keras.Model({tensors})."
        )


def _graph(model: Any) -> keras.Model:
    """A functional model of Keras's own class with the same layers, not compiled."""
    return keras.Model(model.input, model.output, name=model.name)


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
