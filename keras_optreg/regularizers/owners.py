"""Which layer keeps the penalty of a weight, and does the layer's config tell it? The only place that knows layers.

Keras counts a penalty where `variable.regularizer` stands, but saves and clones what a *layer's config* says. So each
weight has an owner: the layer, and the attribute from which that layer's `get_config` takes the penalty. Some layers
keep one penalty for several weights (the four projections of attention, both factors of LoRA), some have no place.
Keras has no public way to walk all sublayers and their own variables: `_layers` and `_*_variables` are used here only.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_optreg.introspection import open_to_state
from keras_optreg.regularizers.saved_form import is_serializable
from keras_optreg.saving import serialize, without_tensorflow

# Variables whose regularizer argument is not called `<variable>_regularizer`.
_ARGUMENTS = {
    "recurrent_kernel": "recurrent_regularizer",
    "depthwise_kernel": "depthwise_regularizer",
    "pointwise_kernel": "pointwise_regularizer",
    "lora_kernel_a": "kernel_regularizer",
    "lora_kernel_b": "kernel_regularizer",
    "lora_embeddings_a": "embeddings_regularizer",
    "lora_embeddings_b": "embeddings_regularizer",
}
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


@dataclass(eq=False)
class Holder:
    """An attribute that keeps the penalty of `variables`, and what the config of the last layer of `chain` calls it."""

    target: Any
    attribute: str
    chain: tuple[keras.Layer, ...]
    argument: str
    variables: list[Any] = field(default_factory=list)

    @property
    def penalty(self) -> Any:
        return getattr(self.target, self.attribute)

    @penalty.setter
    def penalty(self, value: Any) -> None:
        with open_to_state(self.target):
            setattr(self.target, self.attribute, value)


@dataclass(eq=False)
class Owner:
    """A weight, the deepest layer it belongs to, and the holder of its penalty (None: the layer has no argument)."""

    variable: Any
    layer: keras.Layer
    argument: str
    holder: Holder | None
    is_trainable: bool
    is_parameter: bool
    """Made to be trained, even if frozen now; not the state of a layer, such as a moving mean or a seed."""


def track(layer: keras.Layer, penalty: Any) -> None:
    """Has the layer hand the strengths of a penalty to compiled functions, as it does for its own attributes."""
    with open_to_state(layer) as tracker:
        tracker.track(penalty)


def forget(model: keras.Layer, penalties: Iterable[Any]) -> None:
    """Undoes `track` for penalties that were taken away, in all layers that no longer use them."""
    for chain in _walk((model,), set()):
        layer = chain[-1]
        weights = [*layer._trainable_variables, *layer._non_trainable_variables]
        used = {id(value) for value in [*vars(layer).values(), *(v.regularizer for v in weights)]}
        for penalty in penalties:
            if id(penalty) not in used:
                layer._tracker.untrack(penalty)


def owners_of(model: Any, purpose: str) -> list[Owner]:
    """The owners of `model.weights`, in that order, each weight once.

    Raises:
        TypeError: when `model` is no Keras model or layer.
        ValueError: when it has not been built, so that its weights do not exist yet.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"{purpose} takes a Keras model or layer. Received: {model!r}")
    if not model.built:
        raise ValueError(
            f"{purpose}: the model {model.name!r} is not built, so its weights do not exist yet. "
            f"Begin it with keras.Input(shape), call it on data, or call model.build(input_shape) first."
        )
    trainable = {id(v) for v in model.trainable_variables}
    holders: dict[tuple[int, str], Holder] = {}
    found: dict[int, Owner] = {}
    for chain in _walk((model,), set()):
        for variable in [*chain[-1]._trainable_variables, *chain[-1]._non_trainable_variables]:
            argument, holder = _holder(chain, variable)
            before = found.get(id(variable))
            # A wrapper such as SpectralNormalization tracks its inner layer's kernel too: the deeper layer comes later.
            if before is not None and before.holder is not None and holder is None:
                continue
            if holder is not None:
                holder = holders.setdefault((id(holder.target), holder.attribute), holder)
                holder.variables.append(variable)
            is_parameter = any(variable is v for v in chain[-1]._trainable_variables)
            is_parameter &= not getattr(variable, "overwrite_with_gradient", False)  # the scales of float8
            is_trainable = is_parameter and id(variable) in trainable
            found[id(variable)] = Owner(variable, chain[-1], argument, holder, is_trainable, is_parameter)
    weights = {id(v): v for v in model.weights}
    return [found[i] for i in weights if i in found]


def _walk(chain: tuple[keras.Layer, ...], seen: set[int]) -> Iterator[tuple[keras.Layer, ...]]:
    """Every layer once, as the chain of layers from the model down to it; parents before children."""
    seen.add(id(chain[-1]))
    yield chain
    for layer in chain[-1]._layers:
        if id(layer) not in seen:
            yield from _walk((*chain, layer), seen)


def _holder(chain: tuple[keras.Layer, ...], variable: Any) -> tuple[str, Holder | None]:
    layer, parent = chain[-1], chain[-2] if len(chain) > 1 else None
    name = variable.name
    if isinstance(layer, _DEPTHWISE) and name == "kernel":
        argument = "depthwise_regularizer"
    else:
        argument = _ARGUMENTS.get(name, f"{name}_regularizer")
    # Attention hands one argument to its four projections, and only its own config is saved.
    if isinstance(parent, keras.layers.MultiHeadAttention) and hasattr(parent, f"_{argument}"):
        return argument, Holder(parent, f"_{argument}", chain[:-1], argument)
    if isinstance(parent, keras.layers.GroupQueryAttention) and hasattr(parent, argument):
        return argument, Holder(parent, argument, chain[:-1], argument)
    if not hasattr(layer, argument) or isinstance(getattr(type(layer), argument, None), property):
        return argument, None
    # LSTM(...) and its kin save the arguments of their cell as their own; RNN(cell) saves the cell.
    if isinstance(parent, keras.layers.RNN) and hasattr(type(parent), argument):
        return argument, Holder(layer, argument, chain[:-1], argument)
    return argument, Holder(layer, argument, chain, argument)


class SavedConfig:
    """What the model's config, as `save`, `clone_model` and `from_config` see it, says about its layers."""

    def __init__(self, model: keras.Layer):
        self._model = model
        self._inside: dict[int, dict[str, Any]] = {}
        try:
            with without_tensorflow():
                self._root: Any = model.get_config()
        except NotImplementedError:
            self._root = None

    def why_lost(self, owner: Owner, penalty: Any) -> str:
        """Why a reload would lose the penalty of the weight; empty when it survives."""
        again = "attach again, or use transfer, after loading"
        if not is_serializable(penalty):
            return (
                getattr(penalty, "why_unsaved", "")
                or f"{type(penalty).__name__} cannot be saved: give it get_config and register it"
            )
        if owner.holder is None:
            return f"{type(owner.layer).__name__} has no {owner.argument} argument: {again}"
        keeper = type(owner.holder.chain[-1]).__name__
        config = self._root
        for parent, layer in zip(owner.holder.chain, owner.holder.chain[1:], strict=False):
            config = self._configs_inside(config).get(layer.name)
            if config is None:
                return f"the config of {type(parent).__name__} does not contain the layer {layer.name!r}: {again}"
        if (config or {}).get(owner.holder.argument) == serialize(penalty):
            return ""
        if len(owner.holder.variables) > 1:
            return f"{keeper} saves one {owner.argument} for {len(owner.holder.variables)} of its weights: {again}"
        return f"the config of {keeper} does not tell {owner.argument}: {again}"

    def _configs_inside(self, config: Any) -> dict[str, Any]:
        """The configs of layers found inside a config, by name; the outermost where a name occurs at several depths."""
        if id(config) not in self._inside:
            found: dict[str, Any] = {}
            queue = deque([config])
            while queue:
                node = queue.popleft()
                if isinstance(node, dict):
                    inner = node.get("config")
                    if isinstance(inner, dict) and "name" in inner:
                        found.setdefault(inner["name"], inner)
                    queue.extend(node.values())
                elif isinstance(node, list | tuple):
                    queue.extend(node)
            self._inside[id(config)] = found
        return self._inside[id(config)]


def attributes_of(model: keras.Layer, kind: type) -> Iterator[tuple[keras.Layer, str]]:
    """All attributes of the model's layers that hold an object of this kind, private ones too."""
    for chain in _walk((model,), set()):
        for name, value in list(vars(chain[-1]).items()):
            if isinstance(value, kind):
                yield chain[-1], name
