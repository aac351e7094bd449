"""Which units of a model can go without a change of what it computes, and why others cannot.

A unit goes when nothing that follows reads it, or when its own weights are zero: its output is then a constant, which
moves into the biases behind. Nothing is written here; masks and biases say what is left. Keras has no public way to
walk the calls of a graph: `_keras_history`, `_inbound_nodes` and `_flatten_layers` are used.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_optreg.regularizers.channelwise import activated, array, behind, is_elementwise, pads, why_not

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_KINDS = (layers.Dense, *_CONVOLUTIONS)
_AT_LEAST_ONE = "a layer keeps at least one unit"


class Units:
    """A Dense or convolution layer and what is left of it: `inputs` and `units` are masks, `bias` has what moved in."""

    def __init__(self, layer: Any, obstacle: str):
        self.layer = layer
        self.obstacle = obstacle
        """Why neither its inputs nor its units can be taken away."""
        kernel = array(layer.kernel)
        self.kernel = kernel.reshape(-1, *kernel.shape[-2:])  # taps × inputs × units; a Dense layer has one tap
        self.inputs, self.units = (np.ones(size, bool) for size in kernel.shape[-2:])
        self.bias = array(layer.bias).astype("float64") if layer.use_bias else np.zeros(len(self.units))

    @property
    def why_fixed(self) -> str:
        """Why its units cannot be taken away."""
        if self.obstacle or is_elementwise(self.layer.activation):
            return self.obstacle
        return f"{named(self.layer)} has an activation that is not known to treat each channel alone"

    def constants(self) -> np.ndarray:
        """The output of each unit that does not depend on the input; NaN for the others."""
        is_constant = (self.kernel[:, self.inputs] == 0).all((0, 1))
        return np.where(is_constant, self.bias if self.why_fixed else activated(self.layer, self.bias), np.nan)

    def ignores(self) -> np.ndarray:
        """Which inputs it multiplies by nothing but zeros."""
        return (self.kernel[:, :, self.units] == 0).all((0, 2))

    def drop_inputs(self, gone: np.ndarray, constants: np.ndarray) -> None:
        """Takes inputs away, and moves what they contribute into the biases."""
        gone = gone & self.inputs
        values = np.where(np.isfinite(constants), constants, 0.0)[gone]  # the others are ignored
        self.bias = self.bias + values @ self.kernel[:, gone].astype("float64").sum(0)
        self.inputs = self.inputs & ~gone


@dataclass(eq=False)
class _Place:
    """Somewhere that the output of units comes to: constants and NaN as they arrive there."""

    layer: Any
    constants: np.ndarray
    reader: Units | None = None
    """The Dense or convolution layer that reads them; without one and without obstacle, a layer they pass through."""
    obstacle: str = ""

    def frees(self) -> np.ndarray:
        """Which features it can do without."""
        if self.reader is None:
            return np.zeros(len(self.constants), bool)
        moves = np.isfinite(self.constants)
        if isinstance(self.layer, _CONVOLUTIONS) and pads(self.layer):
            moves = self.constants == 0  # the border is zero and not the constant
        return moves | self.reader.ignores()

    @property
    def why_kept(self) -> str:
        return self.obstacle or (
            f"their output is a constant other than 0 that is not the same everywhere before {named(self.layer)}: "
            f"zero padding, or parameters that differ by position"
        )


class Chains:
    """The Dense and convolution layers of a model and what lies between them."""

    def __init__(self, model: Any):
        self.outputs = {id(tensor) for tensor in keras.tree.flatten(model.outputs)}
        self.calls: dict[int, list[Any]] = defaultdict(list)
        self.readers: dict[int, list[Any]] = defaultdict(list)
        for node in _nodes(model):
            self.calls[id(node.operation)].append(node)
            for tensor in node.input_tensors:
                self.readers[id(tensor)].append(node)
        found = [nodes[0].operation for nodes in self.calls.values()]
        self.units = {id(layer): Units(layer, self._obstacle(layer)) for layer in found if _has_units(layer)}
        self.inside = [
            Units(layer, f"they are inside {named(parent)}; compact it by itself if it is a model")
            for parent in found
            if isinstance(parent, keras.Layer)
            for layer in parent._flatten_layers(include_self=False)
            if _has_units(layer)
        ]

    def shrink(self) -> bool:
        """Takes away all units that can go, until none is left; false when there was none."""
        rounds = 0
        while any([self._shrink(units) for units in self.units.values()]):
            rounds += 1
        return rounds > 0

    def _shrink(self, units: Units) -> bool:
        if units.why_fixed:
            return False
        places = [place for place in self.places(units) if place.reader or place.obstacle]
        gone = np.logical_and.reduce([units.units, *(_of_units(place.frees(), units) for place in places)])
        if (gone == units.units).all():
            gone[np.argmax(gone)] = False
        for place in places:
            if place.reader:
                place.reader.drop_inputs(np.resize(gone, len(place.constants)), place.constants)
        units.units = units.units & ~gone
        return bool(gone.any())

    def staying(self) -> Iterator[tuple[Any, int, str]]:
        """Layers with dead units that stay: how many, and why."""
        for units in self.units.values():
            constant = np.isfinite(units.constants())
            dead, reasons = units.units & constant, {units.why_fixed: units.units & constant}
            if not units.why_fixed:
                places = [place for place in self.places(units) if place.reader or place.obstacle]
                frees = [_of_units(place.frees(), units) for place in places]
                known = [_of_units(np.isfinite(place.constants), units) for place in places]
                each = [free | here | constant for free, here in zip(frees, known, strict=True)]
                dead = np.logical_and.reduce([units.units, *each])
                reasons = {place.why_kept: dead & ~free for place, free in zip(places, frees, strict=True)}
                reasons[_AT_LEAST_ONE] = dead & np.logical_and.reduce(frees)
            if dead.any():
                why = "; ".join(reason for reason, which in reasons.items() if which.any())
                yield units.layer, int(dead.sum()), why
        for units in self.inside:
            if (constant := np.isfinite(units.constants())).any():
                yield units.layer, int(constant.sum()), units.obstacle

    def places(self, units: Units) -> Iterator[_Place]:
        """All places that the output of the units comes to, through layers that treat each channel alone."""
        [node] = self.calls[id(units.layer)]
        return self._places(node.output_tensors[0], units.constants())

    def _places(self, tensor: Any, constants: np.ndarray) -> Iterator[_Place]:
        if id(tensor) in self.outputs:
            yield _Place(None, constants, obstacle="they are outputs of the model")
        for node in self.readers[id(tensor)]:
            layer = node.operation
            reader = self.units.get(id(layer))
            obstacle = reader.obstacle if reader else self._obstacle(layer)
            if not obstacle and node.arguments.args[0] is not tensor:
                obstacle = f"{named(layer)} takes them as a mask"
            yield _Place(layer, constants, None if obstacle else reader, obstacle)
            if not reader and not obstacle:
                out = node.output_tensors[0]
                yield from self._places(out, behind(layer, constants, len(out.shape), out.shape[-1]))

    def _obstacle(self, layer: Any) -> str:
        """Why a layer can neither lose channels nor let them through; empty when it can."""
        nodes = self.calls[id(layer)]
        args, kwargs = nodes[0].arguments.args, nodes[0].arguments.kwargs
        options = {name: x for name, x in kwargs.items() if name != "mask" and x is not None and x is not False}
        if len(nodes) > 1:
            reason = f"is called {len(nodes)} times"
        elif options:
            reason = "is called with " + ", ".join(f"{name}={value}" for name, value in options.items())
        elif len(args) != 1 or not isinstance(args[0], keras.KerasTensor):
            reason = "is not called with one tensor alone"
        elif type(layer) in _KINDS:
            reason = _why_fixed(layer)
        else:
            tensor = nodes[0].output_tensors[0]
            reason = why_not(layer, len(args[0].shape)) or ("" if tensor.shape[-1] else "has no fixed width")
        return reason and f"{named(layer)} {reason}"


def named(layer: Any) -> str:
    """The layer's name and class, as messages tell them."""
    return f"{layer.name!r} ({type(layer).__name__})"


def _has_units(layer: Any) -> bool:
    """Whether zeros in its kernel are the zeros of units; with fewer bits they are packed and shifted."""
    return type(layer) in _KINDS and layer.built and layer.quantization_mode in (None, "int8", "float8")


def _why_fixed(layer: Any) -> str:
    if layer.quantization_mode is not None:
        return f"is quantized ({layer.quantization_mode})"
    if layer.lora_enabled:
        return "has LoRA enabled"
    if getattr(layer, "groups", 1) != 1:
        return "is a convolution in groups"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "has its channels first"
    return ""


def _of_units(features: np.ndarray, units: Units) -> np.ndarray:
    """A mask of features as one of units: all features of a unit."""
    return np.all(features.reshape(-1, len(units.units)), axis=0)


def _nodes(model: Any) -> list[Any]:
    """The calls of layers and operations between the inputs and the outputs of a model, each once."""
    found: dict[int, Any] = {}
    waiting = list(keras.tree.flatten(model.outputs))
    for tensor in waiting:
        operation, index, _ = tensor._keras_history
        node = operation._inbound_nodes[index]
        if id(node) not in found and not node.is_input:
            found[id(node)] = node
            waiting += node.input_tensors
    return list(found.values())
