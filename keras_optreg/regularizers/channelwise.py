"""Layers that treat each channel alone: what they make of a constant channel, and how to take channels from them.

Channels are the last axis. Behind `Flatten` there are m·C features for C channels, and feature i is of channel i mod C.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

_ELEMENTWISE = tuple(
    getattr(keras.activations, name)
    for name in (
        *(
            "linear",
            "relu",
            "relu6",
            "leaky_relu",
            "elu",
            "celu",
            "selu",
            "gelu",
            "silu",
            "mish",
            "softplus",
            "softsign",
        ),
        *("tanh", "sigmoid", "log_sigmoid", "exponential", "hard_sigmoid", "hard_silu", "hard_tanh"),
        *("hard_shrink", "soft_shrink", "tanh_shrink", "sparse_plus", "sparse_sigmoid", "squareplus"),
    )
)
"""Keras's activations but for softmax, log_softmax, sparsemax and glu, which mix the channels."""


def is_elementwise(activation: Any) -> bool:
    """Whether it is one of Keras's elementwise activations. Any other function may mix the channels."""
    return any(activation is known for known in _ELEMENTWISE)


def array(tensor: Any) -> np.ndarray:
    """A copy as NumPy's array, of the same dtype."""
    return np.array(keras.ops.convert_to_numpy(tensor))


def pads(layer: Any) -> bool:
    """Whether a convolution puts zeros around its input."""
    return layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)


def activated(layer: Any, constants: np.ndarray) -> np.ndarray:
    """The layer's activation of each constant, in the precision in which the layer computes."""
    return _where_known(layer.activation, layer, constants, 1)


def why_not(layer: Any, rank: int) -> str:
    """Why channels cannot be taken from a layer with an input of this rank; empty when they can."""
    if type(layer) not in _CONSTANTS:
        return "is not known to treat each channel alone"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "has its channels first"
    if isinstance(layer, layers.BatchNormalization) and layer.axis not in (-1, rank - 1):
        return "does not normalise the last axis"
    if isinstance(layer, layers.Rescaling) and (np.ndim(layer.scale) or np.ndim(layer.offset)):
        return "has an array as its scale or offset"
    if isinstance(layer, _DEPTHWISE) and layer.depth_multiplier != 1:
        return "makes several channels of each"
    if not is_elementwise(getattr(layer, "activation", keras.activations.linear)):
        return "has an activation that is not known to treat each channel alone"
    return ""


def behind(layer: Any, constants: np.ndarray, rank: int, width: int) -> np.ndarray:
    """What a layer makes, at inference, of constant features.

    Args:
        layer: one for which `why_not` is empty.
        constants: one number a feature of the layer's input, NaN where the feature is not constant.
        rank: the number of axes of the layer's output.
        width: the length of its last axis.

    Returns:
        One number a feature of the output, NaN where it depends on the input or is not the same everywhere.
    """
    out = _CONSTANTS[type(layer)](layer, constants, rank)
    return np.resize(np.where(np.isfinite(out), out, np.nan), width)


def without_channels(layer: Any, weight: Any, keep: np.ndarray) -> np.ndarray:
    """A weight of the layer with the features `keep` only."""
    value = array(weight)
    axis = -2 if isinstance(layer, _DEPTHWISE) and weight is layer.kernel else -1
    return value.compress(keep, axis) if value.shape[axis] == len(keep) else value  # PReLU may share its numbers


def _same(layer: Any, constants: np.ndarray, rank: int) -> np.ndarray:
    return constants


def _zero_only(layer: Any, constants: np.ndarray, rank: int) -> np.ndarray:
    return np.where(constants == 0, 0.0, np.nan)


def _called(layer: Any, constants: np.ndarray, rank: int) -> np.ndarray:
    return _where_known(layer.call, layer, constants, rank)


def _where_known(function: Callable[[Any], Any], layer: Any, constants: np.ndarray, rank: int) -> np.ndarray:
    features = np.nan_to_num(constants).reshape((1,) * (rank - 1) + (-1,))
    out = array(function(keras.ops.cast(features, layer.compute_dtype)))
    return np.where(np.isnan(constants), np.nan, out.reshape(-1).astype("float64"))


def _normalised(layer: Any, constants: np.ndarray, rank: int) -> np.ndarray:
    # A channel scaled by 0 is the offset whatever comes in: how channels are chosen by penalties on gamma.
    return _called(layer, np.where(array(layer.gamma) == 0, 0.0, constants) if layer.scale else constants, rank)


def _prelu(layer: Any, constants: np.ndarray, rank: int) -> np.ndarray:
    out = np.maximum(constants, 0) + array(layer.alpha).astype("float64") * np.minimum(constants, 0)
    everywhere = out.reshape(-1, len(constants))
    return np.where((everywhere == everywhere[0]).all(0), everywhere[0], np.nan)


def _filtered(layer: Any, constants: np.ndarray, rank: int) -> np.ndarray:
    """A depthwise convolution. A filter of zeros makes a constant of anything; others keep one within the border."""
    taps = array(layer.kernel).astype("float64").reshape(-1, len(constants))
    constants = np.where((taps == 0).all(0), 0.0, constants)
    if pads(layer):
        constants = _zero_only(layer, constants, rank)
    return activated(layer, constants * taps.sum(0) + (array(layer.bias).astype("float64") if layer.use_bias else 0.0))


_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
# Of these very classes: a subclass may do anything in its `call`.
_CONSTANTS: dict[type, Callable[[Any, np.ndarray, int], np.ndarray]] = {
    **dict.fromkeys((layers.Activation, layers.ELU, layers.LeakyReLU, layers.ReLU, layers.Rescaling), _called),
    layers.BatchNormalization: _normalised,
    layers.PReLU: _prelu,
    **dict.fromkeys((layers.Identity, layers.ActivityRegularization, layers.Flatten), _same),
    # The identity at inference.
    **dict.fromkeys((layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise), _same),
    **dict.fromkeys((layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D), _same),
    # Means, maxima and copies of a constant. Averages count no padding, on any backend.
    **dict.fromkeys((layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D), _same),
    **dict.fromkeys((layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D), _same),
    **dict.fromkeys((layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D), _same),
    **dict.fromkeys((layers.GlobalAveragePooling3D, layers.GlobalMaxPooling1D), _same),
    **dict.fromkeys((layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D), _same),
    **dict.fromkeys((layers.Cropping1D, layers.Cropping2D, layers.Cropping3D), _same),
    **dict.fromkeys((layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D), _same),
    **dict.fromkeys((layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D), _zero_only),
    **dict.fromkeys(_DEPTHWISE, _filtered),
}
