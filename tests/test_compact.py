"""compact: the same function without its dead units, and everything that must stay, with its reason."""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optreg import optimizers
from keras_optreg.regularizers import L1, L2, compact

RNG = np.random.default_rng(0)
DATA = {shape: RNG.normal(size=(5, *shape)).astype("float32") for shape in [(4,), (9, 4), (9, 8, 2), (6, 6, 5, 2)]}


@pytest.fixture(autouse=True)
def _no_random_start(monkeypatch):
    """The tests give all weights; on JAX a random start is compiled anew for each shape."""
    zeros = lambda self, shape, dtype=None, **options: ops.zeros(shape, dtype)  # noqa: E731
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)


def sequential(shape, *these):
    return filled(keras.Sequential([keras.Input(shape), *these]))


def filled(model):
    """Random weights, none of them 0, and variances that are positive."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        values = rng.uniform(0.1, 1.0, weight.shape) * rng.choice([-1, 1], weight.shape)
        weight.assign(np.abs(values) if "variance" in weight.path else values)
    return model


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def kill(layer, units=(), inputs=(), bias=None):
    """Zeros for all that comes into the units, and all that the layer reads of the inputs."""
    kernel = array(layer.kernel)
    kernel[..., list(units)] = 0
    kernel[..., list(inputs), :] = 0
    layer.kernel.assign(kernel)
    if bias is not None:
        values = array(layer.bias)
        values[list(units)] = bias
        layer.bias.assign(values)


def widths(model):
    return {v.path.split("/")[-2]: v.shape[-1] for v in model.weights if v.path.endswith("kernel")}


def assert_same(model, new, rtol=1e-5, data=None):
    x = DATA[tuple(model.inputs[0].shape[1:])] if data is None else data
    for ours, theirs in zip(keras.tree.flatten(new(x)), keras.tree.flatten(model(x)), strict=True):
        theirs = array(theirs).astype("float32")
        np.testing.assert_allclose(array(ours).astype("float32"), theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


def shrunk(model):
    """The new model, and the one warning about what stays in it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        new = compact(model)
    [message] = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert message.startswith("compact: some dead units stay. ")
    return new, message


def refused(model, reason):
    """Nothing can go, and the message tells why."""
    with pytest.raises(ValueError, match=reason) as error:
        compact(model)
    return str(error.value)


# ------------------------------------------------------------------ dense chains


def between(name):
    """What may stand between two Dense layers."""
    made = {
        "relu": lambda: [layers.ReLU(max_value=6.0, negative_slope=0.1)],
        "leaky": lambda: [layers.LeakyReLU(0.2)],
        "elu": lambda: [layers.ELU()],
        "sigmoid": lambda: [layers.Activation("sigmoid")],
        "tanh": lambda: [layers.Activation(keras.activations.tanh)],
        "batch_norm": lambda: [layers.BatchNormalization(), layers.Activation("relu")],
        "batch_norm_without_scale": lambda: [layers.BatchNormalization(scale=False, center=False)],
        "renorm": lambda: [layers.BatchNormalization(renorm=True)],
        "prelu": lambda: [layers.PReLU()],
        "dropout": lambda: [layers.Dropout(0.5), layers.GaussianDropout(0.1), layers.AlphaDropout(0.1)],
        "noise": lambda: [layers.GaussianNoise(0.5), layers.Identity(), layers.ActivityRegularization(l2=0.1)],
        "rescaling": lambda: [layers.Rescaling(0.5, offset=2.0)],
    }
    return made if name is None else made[name]()


@pytest.mark.parametrize("name", between(None))
def test_through_what_treats_each_unit_alone(name):
    model = sequential((4,), layers.Dense(6, name="a"), *between(name), layers.Dense(5, "relu"), layers.Dense(3))
    kill(model.get_layer("a"), units=[0, 3])
    new = compact(model)
    assert widths(new) == {"a": 4, "dense": 5, "dense_1": 3}
    assert_same(model, new)
    assert [type(layer) for layer in new.layers] == [type(layer) for layer in model.layers]


ACTIVATIONS = ["linear", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus"]
ACTIVATIONS += ["softsign", "tanh", "sigmoid", "log_sigmoid", "exponential", "hard_sigmoid", "hard_silu", "hard_tanh"]
ACTIVATIONS += ["hard_shrink", "soft_shrink", "tanh_shrink", "sparse_plus", "sparse_sigmoid", "squareplus"]
MIXING = ["softmax", "log_softmax", "sparsemax"]


def test_each_elementwise_activation():
    """One chain for each, behind the same input."""
    x = keras.Input((4,))

    def chain(name):
        y = layers.Dense(6, getattr(keras.activations, name), name=f"{name}_a")(x)
        y = layers.Dense(4, name, name=f"{name}_b")(y)
        return layers.Dense(2, "softmax", name=f"{name}_c")(y)

    model = filled(keras.Model(x, [chain(name) for name in ACTIVATIONS]))
    for name in ACTIVATIONS:
        kill(model.get_layer(f"{name}_a"), units=[1], bias=0.8)
        kill(model.get_layer(f"{name}_b"), units=[0, 2], bias=-0.6)
    new = compact(model)
    for name in ACTIVATIONS:
        assert [widths(new)[f"{name}_{layer}"] for layer in "abc"] == [5, 2, 2]
    assert_same(model, new)


def test_the_constant_moves_into_the_bias_by_the_formula():
    """b_k ← b_k + W_jk σ(a_j), in float64, for units with and without a bias of 0."""
    model = sequential((4,), layers.Dense(3, "sigmoid", name="a"), layers.Dense(2, name="b"))
    kill(model.get_layer("a"), units=[0, 1])
    model.get_layer("a").bias.assign([0.0, -1.5, 1.0])
    kernel, bias = (w.astype("float64") for w in model.get_layer("b").get_weights())
    expected = bias + 0.5 * kernel[0] + kernel[1] / (1 + np.exp(1.5))
    new = compact(model)
    np.testing.assert_allclose(array(new.get_layer("b").bias), expected, rtol=1e-6)
    np.testing.assert_array_equal(array(new.get_layer("b").kernel), kernel[2:].astype("float32"))
    np.testing.assert_array_equal(array(new.get_layer("a").bias), [1.0])


def test_units_that_nothing_reads_go_whatever_they_compute():
    model = sequential((4,), layers.Dense(6, "relu", name="a"), layers.BatchNormalization(), layers.Dense(3, name="b"))
    kill(model.get_layer("b"), inputs=[1, 4, 5])
    new = compact(model)
    assert widths(new) == {"a": 3, "b": 3}
    np.testing.assert_array_equal(array(new.get_layer("a").kernel), array(model.get_layer("a").kernel)[:, [0, 2, 3]])
    np.testing.assert_array_equal(array(new.get_layer("b").bias), array(model.get_layer("b").bias))
    assert_same(model, new)


def test_removal_repeats_forwards_and_backwards():
    """Backwards: unit 0 of `a` is read by the dead unit of `b` alone, unit 0 of `b` by the unread unit of `c` alone.
    Forwards: unit 3 of `c` reads only units of `b` which go."""
    model = sequential((4,), *(layers.Dense(4, "tanh", name=name) for name in "abc"), layers.Dense(2, name="head"))
    b, c, head = model.layers[1:]
    kernel = array(b.kernel)
    kernel[:, 1] = 0  # unit 1 of b is constant
    kernel[0, [0, 2, 3]] = 0  # unit 0 of a is read by unit 1 of b only: nobody
    b.kernel.assign(kernel)
    kernel = array(c.kernel)
    kernel[0, [0, 1, 3]] = 0  # unit 0 of b is read by unit 2 of c only
    kernel[[2, 3], 3] = 0  # unit 3 of c reads only units 0 and 1 of b; 0 goes after c's unit 2, and 1 is constant
    c.kernel.assign(kernel)
    kill(head, inputs=[2])
    new = compact(model)
    assert widths(new) == {"a": 3, "b": 2, "c": 2, "head": 2}
    assert_same(model, new)


def test_a_layer_without_bias_gets_one_only_for_constants_other_than_0():
    def make(bias):
        model = sequential((4,), layers.Dense(3, "relu", name="a"), layers.Dense(2, use_bias=False, name="b"))
        kill(model.get_layer("a"), units=[1], bias=bias)
        return model

    for bias, has_bias in ((0.7, True), (-0.7, False), (0.0, False)):
        model = make(bias)
        new = compact(model)
        assert new.get_layer("b").use_bias is has_bias
        assert not model.get_layer("b").use_bias
        assert_same(model, new)


def test_a_layer_keeps_one_unit():
    model = sequential((4,), layers.Dense(3, "relu", name="a"), layers.Dense(2, name="b"))
    kill(model.get_layer("a"), units=[0, 1, 2])
    new, message = shrunk(model)
    assert message.endswith("1 of 'a' (Dense): a layer keeps at least one unit.")
    assert widths(new) == {"a": 1, "b": 2}
    assert_same(model, new)
    assert "1 of 'a' (Dense): a layer keeps at least one unit" in refused(new, "nothing can be taken")


def test_dense_over_several_axes_and_flatten():
    model = sequential(
        (9, 4), layers.Dense(5, "sigmoid", name="a"), layers.Flatten(), layers.BatchNormalization(), layers.Dense(3)
    )
    kill(model.get_layer("a"), units=[1, 2])
    new = compact(model)
    assert new.layers[2].gamma.shape == (27,)  # 9 positions of 3 units
    assert_same(model, new)


# ------------------------------------------------------------------ convolutions


def test_valid_convolutions_pooling_flatten_dense():
    """Flatten is channels last: the features of channel j are j, j + C, j + 2C, …"""
    model = sequential(
        (9, 8, 2),
        layers.Conv2D(6, 3, name="a"),
        layers.BatchNormalization(),
        layers.Activation("sigmoid"),
        layers.MaxPooling2D(2),
        layers.SpatialDropout2D(0.5),
        layers.Conv2D(5, 2, activation="tanh", strides=1, dilation_rate=1, name="b"),
        layers.Flatten(),
        layers.Dense(4, "relu", name="c"),
        layers.Dense(3, "softmax", name="d"),
    )
    kill(model.get_layer("a"), units=[0, 4])
    kill(model.get_layer("b"), units=[1])
    kernel = array(model.get_layer("c").kernel).reshape(2, 2, 5, 4)
    kernel[:, :, 3] = 0
    model.get_layer("c").kernel.assign(kernel.reshape(20, 4))
    new = compact(model)
    assert widths(new) == {"a": 4, "b": 3, "c": 4, "d": 3}
    assert new.get_layer("c").kernel.shape == (12, 4)
    assert_same(model, new)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("convolution", "shape", "pooling"),
    [
        (layers.Conv1D, (9, 4), layers.GlobalAveragePooling1D()),
        (layers.Conv2D, (9, 8, 2), layers.GlobalMaxPooling2D()),
        (layers.Conv3D, (6, 6, 5, 2), layers.GlobalAveragePooling3D(keepdims=True)),
    ],
)
def test_a_padded_border_lets_zero_go_and_no_other_constant(convolution, shape, pooling, padding):
    def make(bias):
        model = sequential(
            shape,
            convolution(4, 3, padding="same", activation="relu", name="a"),
            convolution(3, 2, padding=padding, activation="relu", name="b"),
            pooling,
            layers.Dense(2, name="c"),
        )
        kill(model.get_layer("a"), units=[0, 2], bias=bias)
        kill(model.get_layer("b"), units=[1], bias=0.4)
        return model

    model = make(-1.0)  # relu makes it 0
    new = compact(model)
    assert widths(new) == {"a": 2, "b": 2, "c": 2}
    assert_same(model, new)

    model = make(1.0)
    if padding == "valid":
        new = compact(model)
        assert widths(new) == {"a": 2, "b": 2, "c": 2}
    else:
        new, message = shrunk(model)
        assert re.search(r"2 of 'a' \(Conv.D\): their output is a constant other than 0.*'b'", message)
        assert widths(new) == {"a": 4, "b": 2, "c": 2}
    assert_same(model, new)


def test_causal_padding_is_padding_and_taps_of_size_1_need_none():
    def make(**second):
        model = sequential((9, 4), layers.Conv1D(4, 3, name="a"), layers.Conv1D(3, name="b", **second))
        kill(model.get_layer("a"), units=[1], bias=0.5)
        return model

    refused(make(kernel_size=2, padding="causal"), "zero padding")
    model = make(kernel_size=1, padding="same", strides=2)
    new = compact(model)
    assert widths(new) == {"a": 3, "b": 3}
    assert_same(model, new)


def spatial(name):
    made = {
        "average_same": lambda: layers.AveragePooling2D(3, 2, padding="same"),
        "max_same": lambda: layers.MaxPooling2D(3, 2, padding="same"),
        "up_nearest": lambda: layers.UpSampling2D(2),
        "up_bilinear": lambda: layers.UpSampling2D(2, interpolation="bilinear"),
        "up_bicubic": lambda: layers.UpSampling2D(3, interpolation="bicubic"),
        "cropping": lambda: layers.Cropping2D(1),
        "depthwise": lambda: layers.DepthwiseConv2D(2, activation="relu"),
        "depthwise_without_bias": lambda: layers.DepthwiseConv2D(2, use_bias=False),
    }
    return made if name is None else made[name]()


@pytest.mark.parametrize("name", spatial(None))
def test_what_moves_in_space_keeps_a_constant(name):
    model = sequential((9, 8, 2), layers.Conv2D(4, 3, name="a"), spatial(name), layers.Conv2D(3, 2, name="b"))
    kill(model.get_layer("a"), units=[0, 3], bias=-0.9)
    new = compact(model)
    assert new.get_layer("a").filters == 2
    assert_same(model, new)


@pytest.mark.parametrize(
    "make", [lambda: layers.ZeroPadding2D(1), lambda: layers.DepthwiseConv2D(3, padding="same", use_bias=False)]
)
def test_zero_padding_between_keeps_other_constants(make):
    for bias, reason in ((0.0, ""), (0.5, "constant other than 0 that is not the same everywhere")):
        model = sequential((9, 8, 2), layers.Conv2D(4, 3, name="a"), make(), layers.Conv2D(3, 2, name="b"))
        kill(model.get_layer("a"), units=[0, 3], bias=bias)
        if reason:
            refused(model, reason)
        else:
            new = compact(model)
            assert new.get_layer("a").filters == 2
            assert_same(model, new)


def test_a_depthwise_filter_of_zeros_and_a_gamma_of_0_make_a_constant():
    model = sequential(
        (9, 8, 2),
        layers.Conv2D(5, 3, name="a"),
        layers.BatchNormalization(name="norm"),
        layers.DepthwiseConv2D(3, padding="same", activation="sigmoid", name="deep"),
        layers.Conv2D(3, 2, name="b"),
    )
    deep = array(model.get_layer("deep").kernel)
    deep[:, :, 1] = 0
    model.get_layer("deep").kernel.assign(deep)
    gamma, beta = array(model.get_layer("norm").gamma), array(model.get_layer("norm").beta)
    gamma[[0, 2]], beta[0] = 0, 0.0  # channel 0 is 0 at the padding, channel 2 is not
    model.get_layer("norm").gamma.assign(gamma)
    model.get_layer("norm").beta.assign(beta)
    new = compact(model)
    assert new.get_layer("a").filters == 3
    assert new.get_layer("deep").kernel.shape == (3, 3, 3, 1)
    assert_same(model, new)


@pytest.mark.parametrize("shared_axes", [None, [1, 2], [1], [1, 2, 3]])
def test_prelu_over_space(shared_axes):
    """A positive constant passes as it is; a negative one times α, which must be the same everywhere."""
    for bias, passes in ((0.5, True), (-0.5, shared_axes in ([1, 2], [1, 2, 3]))):
        model = sequential(
            (9, 8, 2),
            layers.Conv2D(4, 3, name="a"),
            layers.PReLU(shared_axes=shared_axes),
            layers.Conv2D(3, 2, name="b"),
        )
        kill(model.get_layer("a"), units=[2], bias=bias)
        if passes:
            new = compact(model)
            assert new.get_layer("a").filters == 3
            assert_same(model, new)
        else:
            refused(model, "parameters that differ by position")


def test_images_of_any_size():
    model = sequential(
        (None, None, 2),
        layers.Conv2D(4, 3, activation="sigmoid", name="a"),
        layers.BatchNormalization(),
        layers.AveragePooling2D(2, padding="same"),
        layers.Conv2D(3, 2, name="b"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="c"),
    )
    kill(model.get_layer("a"), units=[0])
    kill(model.get_layer("b"), units=[0])
    new = compact(model)
    assert widths(new) == {"a": 3, "b": 2, "c": 2}
    assert_same(model, new, data=DATA[9, 8, 2])


# ------------------------------------------------------------------ graphs


def test_a_residual_connection_keeps_its_channels_and_a_chain_beside_it_shrinks():
    x = keras.Input((9, 8, 2))
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(x)
    z = layers.Conv2D(6, 3, padding="same", activation="relu", name="inner")(y)
    z = layers.Conv2D(4, 3, padding="same", name="outer")(z)
    y = layers.GlobalAveragePooling2D()(layers.Add(name="add")([y, z]) * 2.0)
    model = filled(keras.Model(x, layers.Dense(3, name="head")(y)))
    kill(model.get_layer("stem"), units=[0], bias=0)
    kill(model.get_layer("inner"), units=[1, 5], bias=0)
    kill(model.get_layer("outer"), units=[2, 3], bias=0)
    new, message = shrunk(model)
    assert "1 of 'stem' (Conv2D): 'add' (Add) is not called with one tensor alone" in message
    assert "2 of 'outer' (Conv2D): 'add' (Add)" in message
    assert "inner" not in message
    assert widths(new) == {"stem": 4, "inner": 4, "outer": 4, "head": 3}
    assert_same(model, new)


def test_a_unit_with_two_readers_goes_when_both_do_without_it():
    """Unit 0 is constant, unit 1 unread by both, unit 2 unread by one: it stays."""
    x = keras.Input((4,))
    a = layers.Dense(5, "relu", name="a")(x)
    model = filled(keras.Model(x, [layers.Dense(2, name="b")(a), layers.Dense(3, name="c")(layers.ReLU()(a))]))
    kill(model.get_layer("a"), units=[0], bias=0.3)
    kill(model.get_layer("b"), inputs=[1, 2])
    kill(model.get_layer("c"), inputs=[1])
    new = compact(model)
    assert widths(new) == {"a": 3, "b": 2, "c": 3}
    assert_same(model, new)


def test_units_that_are_outputs_stay():
    x = keras.Input((4,))
    a = layers.Dense(5, "relu", name="a")(x)
    model = filled(keras.Model(x, [layers.Dense(2, name="b")(a), layers.ReLU()(a)]))
    kill(model.get_layer("a"), units=[0, 1])
    assert "2 of 'a' (Dense): they are outputs of the model." in refused(model, "nothing can be taken from")


def test_dictionaries_of_inputs_and_a_mask_and_other_state():
    tokens, x = keras.Input((6,), dtype="int32", name="tokens"), keras.Input((4,), name="x")
    y = layers.Embedding(7, 3, mask_zero=True)(tokens)
    y = layers.BatchNormalization()(layers.Dense(5, "tanh", name="a")(y))
    y = layers.Dense(4, name="b")(layers.GlobalAveragePooling1D()(y))
    z = layers.LSTM(3)(layers.Reshape((2, 2))(layers.Normalization(mean=1.0, variance=4.0)(x)))
    z = layers.LayerNormalization()(z)
    model = filled(keras.Model({"tokens": tokens, "x": x}, {"out": layers.Concatenate()([y, z])}))
    kill(model.get_layer("a"), units=[0, 4])
    new = compact(model)
    assert new.get_layer("a").units == 3
    data = {"tokens": np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 1, 2, 3]]), "x": DATA[4,][:2]}
    assert set(new(data)) == {"out"}
    assert_same(model, new, data=data)


def test_adapted_normalization_is_copied():
    norm = layers.Normalization()
    model = sequential((4,), norm, layers.Dense(3, "relu", name="a"), layers.Dense(2))
    norm.adapt(DATA[4,] * 3 + 1)
    kill(model.get_layer("a"), units=[0])
    new = compact(model)
    assert_same(model, new)
    assert np.abs(array(new.layers[0].mean) - 1).max() > 0.01


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="lookup layers are TensorFlow's")
def test_vocabularies_are_copied():
    words = keras.Input((1,), dtype="string")
    lookup = layers.StringLookup(output_mode="multi_hot")
    lookup.adapt(["yes", "no", "perhaps"])
    model = filled(keras.Model(words, layers.Dense(2)(layers.Dense(3, "relu", name="a")(lookup(words)))))
    kill(model.get_layer("a"), units=[0])
    new = compact(model)
    assert new.layers[1].get_vocabulary() == lookup.get_vocabulary()
    assert_same(model, new, data=np.array([["no"], ["perhaps"], ["never"]]))


# ------------------------------------------------------------------ what must stay


def elementwise_but_unknown(x):
    return ops.relu(x)


def mixing(name):
    """Layers between two Dense layers over (9, 4) through which no unit can be followed."""
    made = {
        "softmax": lambda: layers.Activation("softmax"),
        "softmax_layer": lambda: layers.Softmax(),
        "user_function": lambda: layers.Activation(elementwise_but_unknown),
        "lambda": lambda: layers.Lambda(lambda x: x * ops.sigmoid(x), output_shape=lambda shape: shape),
        "layer_norm": lambda: layers.LayerNormalization(),
        "group_norm": lambda: layers.GroupNormalization(2),
        "unit_norm": lambda: layers.UnitNormalization(),
        "reshape": lambda: layers.Reshape((6, 9)),
        "permute": lambda: layers.Permute((2, 1)),
        "batch_norm_over_time": lambda: layers.BatchNormalization(axis=1),
        "rescaling_by_channel": lambda: layers.Rescaling(np.arange(6.0) + 1),
        "separable": lambda: layers.SeparableConv1D(4, 2),
        "transposed": lambda: layers.Conv1DTranspose(4, 2),
        "depthwise_multiplied": lambda: layers.DepthwiseConv1D(2, depth_multiplier=2),
        "depthwise_softmax": lambda: layers.DepthwiseConv1D(2, activation="softmax"),
        "groups": lambda: layers.Conv1D(4, 2, groups=2),
        "time_distributed": lambda: layers.TimeDistributed(layers.Dense(4)),
        "recurrent": lambda: layers.GRU(3, return_sequences=True),
        "bidirectional": lambda: layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True)),
        "nested": lambda: keras.Sequential([keras.Input((9, 6)), layers.Dense(4)]),
        "own_dense": lambda: OwnDense(4),
        "own_relu": lambda: OwnReLU(),
        "flatten_channels_first": lambda: layers.Flatten(data_format="channels_first"),
    }
    return made if name is None else made[name]()


class OwnDense(layers.Dense):
    def call(self, inputs):
        return super().call(inputs) * ops.sum(inputs, -1, keepdims=True)


class OwnReLU(layers.ReLU):
    def call(self, inputs):
        return super().call(inputs) - ops.mean(inputs, -1, keepdims=True)


@pytest.mark.parametrize("name", mixing(None))
def test_what_may_mix_the_channels_keeps_them_and_the_rest_shrinks(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sequential(
            (9, 4),
            layers.Dense(6, name="a"),
            mixing(name),
            layers.Dense(5, "relu", name="b"),
            layers.Dense(3, name="c"),
        )
    middle = model.layers[1]
    kill(model.get_layer("a"), units=[0, 1], bias=0)
    kill(model.get_layer("b"), units=[0])
    new, message = shrunk(model)
    assert f"2 of 'a' (Dense): {middle.name!r} ({type(middle).__name__})" in message
    assert (new.get_layer("a").units, new.get_layer("b").units) == (6, 4)
    assert_same(model, new)


@pytest.mark.parametrize("activation", [*MIXING, elementwise_but_unknown, lambda x: x**2, layers.ReLU()], ids=str)
def test_an_activation_that_may_mix_the_units_keeps_them(activation):
    model = sequential((4,), layers.Dense(6, activation, name="a"), layers.Dense(4, "relu", name="b"), layers.Dense(2))
    kill(model.get_layer("a"), units=[1])
    refused(model, r"1 of 'a' \(Dense\): 'a' \(Dense\) has an activation that is not known to treat each channel alone")
    kill(model.get_layer("b"), units=[0], inputs=[2])  # unread, but the others feel it
    new, message = shrunk(model)
    assert "has an activation that is not known" in message
    assert widths(new)["a"] == 6
    assert widths(new)["b"] == 3
    assert_same(model, new)


def test_dropout_that_acts_at_inference_is_no_identity():
    for options, reason in (({"training": True}, r"'dropout' \(Dropout\) is called with training=True"), ({}, "")):
        x = keras.Input((4,))
        y = layers.Dropout(0.5, name="dropout")(layers.Dense(4, name="a")(x), **options)
        model = filled(keras.Model(x, layers.Dense(2, name="b")(y)))
        kill(model.get_layer("a"), units=[1])
        if reason:
            refused(model, reason)
        else:
            assert widths(compact(model)) == {"a": 3, "b": 2}


def test_layers_called_twice_stay():
    x = keras.Input((4,))
    shared, norm = layers.Dense(4, "relu", name="shared"), layers.BatchNormalization(name="norm")
    y = layers.Dense(4, name="a")(shared(norm(shared(norm(x)))))
    model = filled(keras.Model(x, layers.Dense(2, name="b")(y)))
    kill(shared, units=[0, 1], bias=0)
    refused(model, r"2 of 'shared' \(Dense\): 'shared' \(Dense\) is called 2 times\.$")
    kill(model.get_layer("a"), units=[3])
    new, message = shrunk(model)
    assert "is called 2 times" in message
    assert widths(new) == {"shared": 4, "a": 3, "b": 2}
    assert_same(model, new)


def test_units_that_are_taken_as_a_mask_stay():
    x, other = keras.Input((9, 4)), keras.Input((4,))
    y = layers.GlobalAveragePooling1D(name="mean")(x, mask=layers.Dense(9, name="a")(other))
    model = filled(keras.Model([x, other], layers.Dense(2)(y)))
    kill(model.get_layer("a"), units=[0])
    refused(model, r"1 of 'a' \(Dense\): 'mean' \(GlobalAveragePooling1D\) takes them as a mask")


def test_channels_first_stays():
    first = [layers.Conv2D(4, 3, data_format="channels_first", name=name) for name in "ab"]
    model = sequential((2, 8, 8), *first)
    kill(model.get_layer("a"), units=[0])
    assert "1 of 'a' (Conv2D): 'a' (Conv2D) has its channels first" in refused(model, "nothing can be taken")


def test_lora_stays_and_can_still_train():
    model = sequential((4,), layers.Dense(6, name="a"), layers.Dense(5, name="b"), layers.Dense(3), layers.Dense(2))
    kill(model.get_layer("a"), units=[0])
    model.get_layer("b").enable_lora(2)
    model.get_layer("b").lora_kernel_b.assign(np.ones((2, 5)))
    kill(model.get_layer("dense"), units=[1])
    new, message = shrunk(model)
    assert "1 of 'a' (Dense): 'b' (Dense) has LoRA enabled" in message
    assert (new.get_layer("a").units, new.get_layer("dense").units) == (6, 2)
    for ours, theirs in zip(new.get_layer("b").weights, model.get_layer("b").weights, strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))
        assert ours.trainable == theirs.trainable
    assert_same(model, new)


@pytest.mark.parametrize(("mode", "told"), [("int8", "ab"), ("float8", "ab"), ("int4", "a")])
def test_quantized_layers_stay(mode, told):
    model = sequential((4,), *(layers.Dense(6, "relu", name=name) for name in "abcd"), layers.Dense(2, name="e"))
    kill(model.get_layer("a"), units=[0])
    kill(model.get_layer("b"), units=[1], bias=0)
    kill(model.get_layer("c"), units=[2, 3])
    model.get_layer("b").quantize(mode)
    new, message = shrunk(model)
    for name in told:
        assert f"1 of '{name}' (Dense): 'b' (Dense) is quantized ({mode})" in message
    assert [layer.units for layer in new.layers] == [6, 6, 4, 6, 2]
    assert new.get_layer("b").quantization_mode == mode
    assert_same(model, new)


def test_units_inside_other_layers_are_told():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, "relu", name="deep"), layers.Dense(2)], name="inner")
    model = sequential((4,), inner, layers.Dense(2, name="a"))
    kill(inner.get_layer("deep"), units=[0, 1])
    refused(model, r"2 of 'deep' \(Dense\): they are inside 'inner' \(Sequential\); compact it by itself")
    assert widths(compact(inner))["deep"] == 1


def test_nothing_dead():
    model = sequential((4,), layers.Dense(3, name="a"), layers.Dense(2, name="b"))
    refused(model, r"nothing can be taken from 'sequential'. No unit is dead; GroupLasso in an optimizer's penalties=")


# ------------------------------------------------------------------ random masks


def architectures(name):
    made = {
        "dense": lambda: sequential(
            (4,),
            layers.Dense(8, "gelu", name="a"),
            layers.Dense(7, use_bias=False, name="b"),
            layers.BatchNormalization(),
            layers.Activation("softplus"),
            layers.Dense(6, "sigmoid", name="c"),
            layers.Dense(2, name="head"),
        ),
        "images": lambda: sequential(
            (9, 8, 2),
            layers.Conv2D(8, 3, activation="sigmoid", name="a"),
            layers.AveragePooling2D(2, padding="same"),
            layers.Conv2D(7, 2, use_bias=False, name="b"),
            layers.BatchNormalization(),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Conv2D(6, 2, activation="elu", name="c"),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ),
        "series": lambda: sequential(
            (9, 4),
            layers.Conv1D(8, 2, padding="causal", activation="exponential", name="a"),
            layers.Dropout(0.3),
            layers.Conv1D(7, 2, dilation_rate=2, name="b"),
            layers.DepthwiseConv1D(2, activation="tanh"),
            layers.Dense(6, "hard_sigmoid", name="c"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(3, name="head"),
        ),
    }
    return made if name is None else made[name]()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", architectures(None))
def test_random_masks(name, seed):
    """What goes of a layer is the union of the units without input and those without reader, and no more."""
    model, rng = architectures(name), np.random.default_rng(seed)
    expected = {"head": model.get_layer("head").units}
    for this, reader in zip("abc", ["b", "c", "head"], strict=True):
        layer, following = model.get_layer(this), model.get_layer(reader)
        width = array(layer.kernel).shape[-1]
        constant, unread = rng.random(width) < 0.3, rng.random(width) < 0.3
        constant[0] = unread[0] = False
        kill(layer, units=np.flatnonzero(constant))
        features = following.kernel.shape[-2]
        kill(following, inputs=[i for i in range(features) if unread[i % width]])
        expected[this] = int((~constant & ~unread).sum())
    new = compact(model)
    assert {k: v for k, v in widths(new).items() if k in expected} == expected
    assert_same(model, new)
    refused(new, "No unit is dead")


def test_what_a_penalty_made_zero_in_training_goes():
    """L1 in the update: a hidden unit goes when its column or its row has become zero, and one of ten inputs counts."""
    x = RNG.normal(size=(64, 10)).astype("float32")
    y = np.maximum(x[:, :1], 0)
    model = keras.Sequential([keras.Input((10,)), layers.Dense(12, "relu", name="a"), layers.Dense(1, name="b")])
    start = np.random.default_rng(2)
    for name in "ab":
        kernel = model.get_layer(name).kernel
        kernel.assign(start.uniform(-0.3, 0.3, kernel.shape))
    model.compile(optimizers.SGD(0.1, penalties=L1(0.03)), "mse")
    model.fit(x, y, batch_size=64, epochs=150, verbose=0)
    columns, rows = (array(layer.kernel) for layer in model.layers)
    alive = (columns != 0).any(0) & (rows != 0).any(1)
    assert 1 <= alive.sum() <= 6
    new = compact(model)
    assert new.layers[0].units == alive.sum()
    assert_same(model, new, data=x)
    assert new.count_params() == 12 * alive.sum() + 1


# ------------------------------------------------------------------ the new model


def prunable(**options):
    model = sequential(
        (4,),
        layers.Dense(6, "relu", name="a", kernel_regularizer=L2(0.5), kernel_constraint="non_neg", **options),
        layers.BatchNormalization(name="norm"),
        layers.Dense(3, name="b", trainable=False),
    )
    kill(model.get_layer("a"), units=[0, 5])
    return model


def test_it_shares_nothing_and_the_given_model_is_unchanged():
    model = prunable()
    before = [array(w) for w in model.weights]
    new = compact(model)
    assert not {id(layer) for layer in new.layers} & {id(layer) for layer in model.layers}
    for weight in new.weights:
        weight.assign(weight * 0 + 7.0)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_names_penalties_constraints_and_frozen_layers_are_kept():
    model = prunable()
    new = compact(model)
    assert new.name == model.name
    assert [layer.name for layer in new.layers] == ["a", "norm", "b"]
    assert [layer.trainable for layer in new.layers] == [True, True, False]
    assert new.get_layer("a").kernel.regularizer.get_config() == L2(0.5).get_config()
    assert isinstance(new.get_layer("a").kernel.constraint, keras.constraints.NonNeg)
    assert new.inputs[0].name == model.inputs[0].name
    np.testing.assert_allclose(array(new.losses[0]), array(model.losses[0]), rtol=1e-6)
    assert len(new.trainable_weights) == len(model.trainable_weights)


def test_it_is_compiled_as_the_given_model_and_trains():
    model = prunable()
    model.compile(optimizers.Adam(0.25), lambda y, p: ops.mean((y - p) ** 2), metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    new = compact(model)
    assert new.loss is model.loss
    assert new.optimizer is not model.optimizer
    assert new.optimizer.get_config()["learning_rate"] == 0.25
    history = new.fit(DATA[4,], np.zeros((5, 3), "float32"), epochs=20, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert "mae" in history
    assert int(model.optimizer.iterations) == 0
    assert widths(new) == {"a": 4, "b": 3}


def test_a_model_that_is_not_compiled_gives_one_that_is_not():
    assert not compact(prunable()).compiled


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_saved_and_loaded(kind, tmp_path):
    model = prunable()
    if kind == "functional":
        model = keras.Model(model.inputs[0], model.outputs[0], name="functional")
    new = compact(model)
    assert type(new) is type(model)
    new.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert widths(again) == {"a": 4, "b": 3}
    assert_same(model, again)
    refused(again, "No unit is dead")


@pytest.mark.parametrize(("policy", "rtol"), [("mixed_float16", 5e-3), ("mixed_bfloat16", 4e-2), ("bfloat16", 4e-2)])
def test_precision_is_kept(policy, rtol):
    keras.config.set_dtype_policy(policy)
    try:
        model = sequential(
            (4,), layers.Dense(6, "sigmoid", name="a"), layers.BatchNormalization(), layers.Dense(5, name="b")
        )
        model.compile("sgd", "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    kill(model.get_layer("a"), units=[0, 3])
    new = compact(model)
    assert widths(new) == {"a": 4, "b": 5}
    assert new.dtype_policy == model.dtype_policy
    assert [layer.dtype_policy for layer in new.layers] == [layer.dtype_policy for layer in model.layers]
    assert {v.dtype for v in new.weights} == {v.dtype for v in model.weights}
    assert type(new.optimizer) is type(model.optimizer)
    assert_same(model, new, rtol)


class OwnStep(keras.Model):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)


class OwnConstructor(keras.Sequential):
    def __init__(self, units):
        super().__init__([keras.Input((4,)), layers.Dense(units, "relu", name="a"), layers.Dense(1)])


@keras.saving.register_keras_serializable("test_compact")
class Subclassed(keras.Model):
    def call(self, x):
        return x


class WithoutConfig(layers.Layer):
    def __init__(self, factor):
        super().__init__(name="own")
        self.factor = ops.ones(()) * factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {"name": self.name}


def test_the_class_is_kept():
    plain = prunable()
    model = OwnStep(plain.inputs[0], plain.outputs[0])
    assert type(compact(model)) is OwnStep


def test_mistakes_are_refused():
    with pytest.raises(TypeError, match="compact takes a Keras model"):
        compact("model")
    with pytest.raises(ValueError, match=r"Subclassed subclasses keras.Model.*apply it to the Sequential"):
        compact(Subclassed())
    with pytest.raises(ValueError, match="not built"):
        compact(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="its constructor is not that of Sequential"):
        compact(OwnConstructor(3))
    model = sequential((4,), layers.Dense(3, name="a"), layers.Dense(2), WithoutConfig(2.0))
    kill(model.get_layer("a"), units=[0])
    with pytest.raises(ValueError, match=r"'own' \(WithoutConfig\) cannot be made again from its config"):
        compact(model)
