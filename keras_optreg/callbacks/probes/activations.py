"""What layers put out for given examples: distributions, and units that are never active."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import keras
import numpy as np
from keras import activations, layers

from keras_optreg.bounds import POSITIVE_COUNT, check
from keras_optreg.callbacks.probes.probe import Probe, stand_in

_FLAT = 0.05
"""A slope below this part of the steepest one is saturation."""
_SATURATED: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
    activations.relu: lambda a: a == 0,
    activations.relu6: lambda a: (a == 0) | (a >= 6),
    activations.tanh: lambda a: 1 - a**2 < _FLAT,
    activations.sigmoid: lambda a: 4 * a * (1 - a) < _FLAT,
    activations.hard_tanh: lambda a: np.abs(a) >= 1,
    activations.hard_sigmoid: lambda a: (a <= 0) | (a >= 1),
}
_WITHOUT_FUNCTION = (layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax)
_INSIDE_LOOPS = (layers.RNN, layers.Wrapper)


class _ActivationProbe(Probe):
    """A probe of what layers put out, in a forward pass of the model on examples of the user's.

    The model is called as in `predict`, eagerly, and its layers hand over what they return; nothing in the training
    step changes. Layers inside recurrent layers and wrappers such as `TimeDistributed` are left out, since they are
    called within a loop.
    """

    def __init__(self, examples: Any, layers: Sequence[keras.Layer] | None = None, batch_size: int = 256):
        self.name = type(self).__name__
        check(self.name, {"batch_size": batch_size}, {"batch_size": POSITIVE_COUNT})
        arrays = keras.tree.flatten(examples)
        if not arrays or not all(len(array) == len(arrays[0]) > 0 for array in arrays):
            raise ValueError(
                f"{self.name} takes at least one example, as the inputs of the model: an array, or a list or dict of "
                f"arrays of equal length. Received arrays of the lengths {[len(array) for array in arrays]}"
            )
        self.examples = examples
        self.layers = None if layers is None else list(layers)
        self.batch_size = batch_size

    def _suits(self, layer: Any) -> bool:
        raise NotImplementedError

    def start(self, model: Any) -> bool:
        chosen = [each for each in _layers_of(model) if self._suits(each)] if self.layers is None else self.layers
        if not chosen:
            raise ValueError(
                f"{self.name}: no layer of the model {model.name!r} has an activation that it measures. "
                "Name the layers: layers=[model.get_layer('...')]."
            )
        self._named: dict[str, Any] = {}
        for layer in chosen:
            name = layer.path or layer.name  # Keras gives a path to layers with weights only
            same = sum(other == name or other.startswith(f"{name}#") for other in self._named)
            self._named[f"{name}#{same + 1}" if same else name] = layer
        return False

    def _outputs(self, model: Any) -> Iterator[tuple[str, Any, int, np.ndarray]]:
        """Name, layer, which of its calls, and output; batch after batch."""
        number = len(keras.tree.flatten(self.examples)[0])
        for start in range(0, number, self.batch_size):
            part = keras.tree.map_structure(lambda a, at=start: a[at : at + self.batch_size], self.examples)
            found: list[tuple[str, Any, Any]] = []
            with ExitStack() as stack:
                for name, layer in self._named.items():
                    stack.callback(stand_in(layer, "call", _handing_over(name, layer, found)))
                # Whatever the pass would store, such as penalties of activities, goes into the scope and away with it.
                stack.enter_context(keras.StatelessScope(collect_losses=True))
                stack.enter_context(_no_gradient())
                model(part, training=False)
            calls = Counter[str]()
            for name, layer, output in found:
                calls[name] += 1
                yield name, layer, calls[name], keras.ops.convert_to_numpy(output).astype("float64")


class Activations(_ActivationProbe):
    """What each layer puts out for given examples: mean, standard deviation, and how much of it is saturated.

    `activation_mean/<layer>`, `activation_std/<layer>` and `activation_saturation/<layer>`, over all examples and
    units. A standard deviation that shrinks or grows from layer to layer, or a saturation near 1, says that signals or
    gradients do not get through. An output counts as saturated where the activation is (almost) flat:

        relu                      a = 0
        relu6                     a = 0 or a ≥ 6
        tanh, sigmoid             slope < 5 % of the steepest: |tanh| > 0.975, sigmoid < 0.013 or > 0.987
        hard_tanh, hard_sigmoid   at either end

    Other activations have mean and standard deviation only. The numbers come from a forward pass of the model on
    `examples`, in measured steps only, so they cost nothing in the training step; a few hundred examples are enough.

    Args:
        examples: Inputs of the model: an array, or a list or dict of arrays.
        layers: Which layers; when `None`, all that have an activation.
        batch_size: Examples a pass.

    Raises:
        ValueError: For no examples; at the start of training, when there is no such layer.

    Reference:
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """

    def _suits(self, layer: Any) -> bool:
        return isinstance(layer, _WITHOUT_FUNCTION) or callable(getattr(layer, "activation", None))

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        sums: dict[str, Any] = {}  # [how many, Σ a, Σ a², how many are saturated]
        for name, layer, _, a in self._outputs(model):
            saturated = _saturation(layer)
            flat = np.nan if saturated is None else np.count_nonzero(saturated(a))
            sums[name] = sums.get(name, 0) + np.array([a.size, a.sum(), (a**2).sum(), flat])
        found = {}
        for name, (count, total, squares, flat) in sums.items():
            mean = total / count
            found[f"activation_mean/{name}"] = mean
            found[f"activation_std/{name}"] = max(squares / count - mean**2, 0.0) ** 0.5
            if not np.isnan(flat):
                found[f"activation_saturation/{name}"] = flat / count
        return found


class DeadUnits(_ActivationProbe):
    """Which part of the units is 0 for every one of given examples: `dead_units/<layer>`, and `dead_units` of all.

        #{units j : aⱼ(x) = 0 for all examples x} / #units

    Of layers with an activation like ReLU, one that is 0 for all negative inputs. Such a unit has no gradient on these
    examples and may never come back; a smaller learning rate or fewer large biases help. A unit is a feature of a
    Dense layer, a filter of a convolution. Measured in a forward pass, as `Activations` are.

    Args:
        examples: Inputs of the model: an array, or a list or dict of arrays. Give as many as the statement is about.
        layers: Which layers; when `None`, all with an activation like ReLU.
        batch_size: Examples a pass.

    Raises:
        ValueError: For no examples; at the start of training, when there is no such layer.
    """

    def _suits(self, layer: Any) -> bool:
        function = layer if isinstance(layer, layers.ReLU) else getattr(layer, "activation", None)
        if not callable(function) or isinstance(layer, layers.RNN):
            return False
        if isinstance(function, keras.Layer) and not isinstance(function, layers.ReLU):
            return False  # with weights, perhaps, that a call would build
        return not np.any(keras.ops.convert_to_numpy(function(np.array([[-3.0, -1.0, -0.1]], "float32"))))

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        active: dict[tuple[str, int], np.ndarray] = {}
        for name, layer, call, a in self._outputs(model):
            units = np.moveaxis(a, _unit_axis(layer, a.ndim), -1)
            now = (units.reshape(-1, units.shape[-1]) != 0).any(axis=0)
            # A layer that is called twice has the same units each time; without weights it has those of its inputs.
            key = (name, 0 if layer.weights else call)
            active[key] = active.get(key, np.zeros_like(now)) | now
        of = {name: np.concatenate([units for (n, _), units in active.items() if n == name]) for name, _ in active}
        each = {f"dead_units/{name}": 1 - float(units.mean()) for name, units in of.items()}
        return {"dead_units": 1 - float(np.concatenate(list(of.values())).mean()), **each} if of else {}


def _layers_of(layer: Any) -> Iterator[Any]:
    """The layers inside, each once."""
    seen = set()
    stack = [layer]
    while stack:
        inner = [] if isinstance(stack[0], _INSIDE_LOOPS) else stack[0]._layers
        yield stack.pop(0)
        fresh = [each for each in inner if id(each) not in seen]
        seen.update(id(each) for each in fresh)
        stack = [*fresh, *stack]


def _handing_over(name: str, layer: Any, found: list[tuple[str, Any, Any]]) -> Callable[..., Any]:
    call = layer.call

    def handing_over(*args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        found.append((name, layer, output))
        return output

    return handing_over


def _saturation(layer: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    if isinstance(layer, layers.RNN):
        return None  # what it puts out has passed its gates, too
    if isinstance(layer, layers.ReLU):
        if layer.negative_slope:
            return None
        most = np.inf if layer.max_value is None else layer.max_value
        return lambda a: (a == 0) | (a >= most)
    return _SATURATED.get(getattr(layer, "activation", None))


def _unit_axis(layer: Any, rank: int) -> int:
    # Layers that are nothing but an activation do not say where channels stand.
    default = keras.config.image_data_format() if rank > 3 and not layer.weights else "channels_last"
    return 1 if getattr(layer, "data_format", default) == "channels_first" else -1


def _no_gradient() -> Any:
    if keras.config.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()
