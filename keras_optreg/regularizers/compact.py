"""A model without its dead units."""

import inspect
import tempfile
import warnings
from typing import Any

import keras
import numpy as np

from keras_optreg.regularizers.channelwise import array, without_channels
from keras_optreg.regularizers.dead_units import Chains, Units, named
from keras_optreg.regularizers.rebuilding import check_rebuildable, functional_of, sequential_of


def compact(model: Any) -> keras.Model:
    r"""A new, smaller model that computes the same: without the units and filters that do nothing.

    When to use it: after training with a penalty that makes whole units or filters exactly zero, to get the smaller and
    faster network that the zeros stand for.

        y_k = act(Σ_j W_jk h_j + b_k),  h_j = act(Σ_i V_ij x_i + a_j)

        W_j· = 0:   nothing reads unit j;           it goes
        V_·j = 0:   h_j = act(a_j), a constant;     it goes, and b_k ← b_k + W_jk h_j

    A filter of a convolution is a unit, its weights those of all its taps. The rule is applied until nothing changes,
    since with a unit go the weights by which it read others. At least one unit a layer stays.

    Units are those of `Dense` and `Conv1D`, `Conv2D`, `Conv3D` with one of Keras's elementwise activations. Between
    these layers may stand what treats each channel alone: activations, `BatchNormalization` (a channel with γ = 0 is
    constant, too), `PReLU`, dropout and noise, pooling and global pooling, `Flatten`, `Rescaling`, cropping, zero
    padding, upsampling, depthwise convolutions; also several readers of one output. All else (`Add`, `Concatenate`,
    `Reshape`, normalisation over channels, softmax, functions of your own, recurrent layers, attention, layers called
    twice, nested models, groups, channels first, LoRA, quantized layers) keeps the units before it, with a warning that
    names it. So does a constant other than 0 in front of zero padding, which differs at the border.

    Equal means at inference and up to rounding, for finite inputs. In training it is another model: dropout draws other
    masks, and the sums in penalties have fewer terms.

    Args:
        model: a built `Sequential` or functional model. It is not changed.

    Returns:
        A new model of the same class, with the same inputs, outputs, names of layers and precision, and with the
        penalties and constraints that the layers' configs tell; it shares no weights with the given one. A layer
        without bias gets one when a constant other than 0 moves into it. The model is compiled when the given one was
        (unless its class has a `compile` of its own): with the same loss and metric objects and a new optimizer, which
        starts without moments.

    Raises:
        TypeError: when the model is no Keras model.
        ValueError: when nothing can go; the message names the dead units of each layer and why they stay. Or when the
            model is a subclass of `keras.Model`, of a class with a constructor of its own, or not built, or a layer
            cannot be made again from its config.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
        >>> kernel, bias, *others = model.get_weights()
        >>> kernel[:, :2] = 0  # two units see nothing
        >>> model.set_weights([kernel, bias, *others])
        >>> compact(model).layers[0].units
        2

    Reference:
        W. Wen, C. Wu, Y. Wang, Y. Chen, H. Li, "Learning structured sparsity in deep neural networks", 2016,
        arXiv:1608.03665, which removes the filters and neurons that group Lasso made zero. Here their constants move
        into the next bias, so that nothing is lost by it.
    """
    check_rebuildable(model, "compact", "apply it to the Sequential and functional models inside")
    chains = Chains(model)
    has_shrunk = chains.shrink()
    staying = [f"{count} of {named(layer)}: {why}" for layer, count, why in chains.staying()]
    if not has_shrunk:
        none = "No unit is dead; GroupLasso in an optimizer's penalties= makes exact zeros."
        found = f"Dead units that stay: {'. '.join(staying)}." if staying else none
        raise ValueError(f"compact: nothing can be taken from {model.name!r}. {found}")
    if staying:
        warnings.warn(f"compact: some dead units stay. {'. '.join(staying)}.", stacklevel=2)
    return _rebuilt(model, chains)


def _rebuilt(model: Any, chains: Chains) -> Any:
    pairs: list[tuple[Any, Any]] = []

    def made_again(operation: Any) -> Any:
        # What holds no weights: operations such as `*`, and Lambda, whose code its config may not tell.
        if not isinstance(operation, keras.Layer) or isinstance(operation, keras.layers.Lambda):
            return operation
        pairs.append((operation, _same_layer(operation, chains.units.get(id(operation)))))
        return pairs[-1][1]

    if isinstance(model, keras.Sequential):
        new_model = sequential_of(model, [made_again(layer) for layer in model.layers])
    else:
        new_model = functional_of(model, made_again)

    kept = {
        id(place.layer): np.resize(units.units, len(place.constants))
        for units in chains.units.values()
        if not units.units.all()
        for place in chains.places(units)
        if place.reader is None
    }
    for old, new in pairs:
        units = chains.units.get(id(old))
        if units is not None and not units.obstacle:
            new.kernel.assign(array(old.kernel)[..., units.inputs, :][..., units.units])
            if new.use_bias:
                new.bias.assign(keras.ops.cast(units.bias[units.units], new.bias.dtype))
        elif id(old) in kept:
            for weight, new_weight in zip(old.weights, new.weights, strict=True):
                new_weight.assign(without_channels(old, weight, kept[id(old)]))
        else:
            _copy_state(old, new)
    return new_model


def _same_layer(layer: Any, units: Units | None) -> Any:
    """A layer of the same config, but for its width and whether it has a bias."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of a lambda in a config; the function itself is taken
        config = layer.get_config()
    if inspect.isfunction(getattr(layer, "activation", None)) and "activation" in config:
        config["activation"] = layer.activation
    if units is not None and not units.obstacle:
        config["units" if "units" in config else "filters"] = int(units.units.sum())
        config["use_bias"] = layer.use_bias or bool(units.bias[units.units].any())
    try:
        return type(layer).from_config(config)
    except Exception as error:
        raise ValueError(
            f"compact: {named(layer)} cannot be made again from its config. Give its class get_config and from_config, "
            f"and register what the config names with keras.saving.register_keras_serializable. {error}"
        ) from error


def _copy_state(old: Any, new: Any) -> None:
    """Gives a layer, and those inside it, the state of another with the same config."""
    for a, b in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        if getattr(a, "lora_enabled", False) and a.quantization_mode is None:
            # Loading would merge the two factors into the kernel and leave zeros, which get no gradients.
            for weight, new_weight in zip(a.weights, b.weights, strict=True):
                new_weight.assign(array(weight))
            continue
        state: dict[str, Any] = {}
        a.save_own_variables(state)
        b.load_own_variables({name: array(value) for name, value in state.items()})
        if hasattr(a, "save_assets"):  # vocabularies
            with tempfile.TemporaryDirectory() as directory:
                a.save_assets(directory)
                b.load_assets(directory)
