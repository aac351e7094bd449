"""A new model from the layers of a given one: of the same class, compiled in the same way."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_optreg.saving import without, without_tensorflow


def check_rebuildable(model: Any, purpose: str, instead: str) -> None:
    """Refuses what cannot be made anew from layers.

    Args:
        model: anything.
        purpose: the public function that asks, as messages name it.
        instead: what to do with a subclassed model, as the end of a sentence.

    Raises:
        TypeError: when the model is no Keras model.
        ValueError: when it is a subclass of `keras.Model`, of a class with a constructor of its own, or not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"{purpose} takes a Keras model. Received: {model!r}")
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise ValueError(
            f"{purpose} takes Sequential and functional models. {type(model).__name__} subclasses keras.Model, "
            f"whose `call` decides what follows its layers: {instead}."
        )
    if not model.built or not model.inputs:
        raise ValueError(
            f"{purpose}: the model {model.name!r} is not built, so it has no weights yet. "
            f"Begin it with keras.Input(shape), or call it on data first."
        )
    is_sequential = isinstance(model, keras.Sequential)
    plain = keras.Sequential if is_sequential else type(graph_of(model))
    own, expected = (inspect.getfullargspec(cls.__init__) for cls in (type(model), plain))
    if own.args != expected.args and not (own.varargs and own.varkw):
        tensors = "model.inputs[0], model.outputs[0]" if is_sequential else "model.input, model.output"
        raise ValueError(
            f"{purpose} makes a new {type(model).__name__} from layers, but its constructor is not that of "
            f"{plain.__name__}. Where its own methods are not needed, take a plain model of the same layers, "
            f"keras.Model({tensors})."
        )


def graph_of(model: Any) -> keras.Model:
    """A functional model of Keras's own class with the same layers, not compiled."""
    return keras.Model(model.input, model.output, name=model.name)


def sequential_of(model: Any, layers: list[Any]) -> Any:
    """A Sequential model like the given one, of these layers."""
    start = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype, name=model.inputs[0].name)
    return _compiled_as(model, type(model)([start, *layers], name=model.name))


def functional_of(model: Any, layer_of: Callable[[Any], Any], call: Callable[..., Any] | None = None) -> Any:
    """A functional model like the given one, with `layer_of(layer)` for each layer, called by `call(layer, …)`."""
    with without_tensorflow():
        graph: Any = keras.models.clone_model(graph_of(model), clone_function=layer_of, call_function=call)
    return _compiled_as(model, type(model)(graph.input, graph.output, name=model.name))


def _compiled_as(model: Any, new_model: Any) -> Any:
    """The new model, compiled with the live loss and metrics of the given one; their configs refuse lambdas."""
    if new_model.dtype_policy != model.dtype_policy:
        new_model.dtype_policy = model.dtype_policy  # says whether `compile` scales the loss
    if model.compiled and type(model).compile is keras.Model.compile:
        arguments = model._compile_config.config
        with without_tensorflow():
            new_model.compile(**{**arguments, "optimizer": _made_again(arguments["optimizer"])})
    return new_model


def _made_again(optimizer: Any) -> Any:
    # Without the positions of weights, whose order may change: selectors look anew.
    return type(optimizer).from_config(without(optimizer.get_config(), "built_with"))
