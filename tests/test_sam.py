"""SAM against the equations of its papers in float64 NumPy, in every way `fit` runs a step; what becomes of a model."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.initializers import Constant
from stepping import BACKEND

import keras_optreg as kor
from keras_optreg.callbacks import DataLoss, EarlyStopping, GradientNorm, MemoryWriter, Monitor
from keras_optreg.optimizers import SAM
from keras_optreg.regularizers import L2

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5)).astype("float32")
Y = RNG.integers(0, 3, size=(24,))
KERNEL = RNG.normal(size=(5, 3)).astype("float32")
BIAS = RNG.normal(size=(3,)).astype("float32")
PLAIN, ADAPTIVE = {"rho": 0.3}, {"rho": 0.8, "adaptive": True}
MODES = {
    "default": {},
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
    "no jit": {"jit_compile": False},
    "two steps an execution": {"steps_per_execution": 2},
}
if BACKEND == "torch":  # torch compiles with a C++ compiler for minutes, and Keras has no steps_per_execution there
    MODES = {name: MODES[name] for name in ("default", "eager")}


# The method, from the papers.


def sam_gradient(gradient, weights, is_bias, rho, adaptive=False):
    """Algorithm 1 of SAM, and of ASAM with T = |w| + 0.01 but 1 for biases; all float64."""
    first = gradient(weights)
    scales = [
        np.abs(w) + 0.01 if adaptive and not bias else np.ones_like(w) for w, bias in zip(weights, is_bias, strict=True)
    ]
    norm = np.sqrt(sum(np.sum((t * g) ** 2) for t, g in zip(scales, first, strict=True)))
    worst = [w + rho * t**2 * g / norm for w, t, g in zip(weights, scales, first, strict=True)]
    return gradient(worst)


def train_by_hand(gradient, weights, batches, is_bias, lr=0.2, momentum=0.9, every=1, **options):
    """SGD with momentum on the gradients of SAM; with `every` their mean over so many batches."""
    weights = [np.asarray(w, "float64") for w in weights]
    velocity, sums = [0.0 * w for w in weights], [0.0 * w for w in weights]
    for i, batch in enumerate(batches, 1):
        found = sam_gradient(lambda ws, batch=batch: gradient(ws, *batch), weights, is_bias, **options)
        sums = [s + g / every for s, g in zip(sums, found, strict=True)]
        if i % every == 0:
            velocity = [momentum * v - lr * s for v, s in zip(velocity, sums, strict=True)]
            weights = [w + v for w, v in zip(weights, velocity, strict=True)]
            sums = [0.0 * s for s in sums]
    return weights


def softmax_gradient(weights, x, y, sample_weight=None, penalty=0.0):
    """Of the mean cross-entropy of softmax(x·W + b), and of penalty · ΣW²."""
    kernel, bias = weights
    logits = x.astype("float64") @ kernel + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = (p - np.eye(3)[y]) / len(x)
    if sample_weight is not None:
        error *= sample_weight[:, None]
    return [x.T.astype("float64") @ error + 2 * penalty * kernel, error.sum(axis=0)]


def batches_of(*arrays, size=4, epochs=2):
    return [tuple(a[i : i + size] for a in arrays) for _ in range(epochs) for i in range(0, len(arrays[0]), size)]


# The same with the package.


def dense(units=3, **options):
    return layers.Dense(units, kernel_initializer=Constant(KERNEL), bias_initializer=Constant(BIAS), **options)


def softmax_model(**options):
    return keras.Sequential([keras.Input((5,)), dense(**options)])


def sgd(**options):
    return keras.optimizers.SGD(0.2, momentum=0.9, **options)


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fitted(model, optimizer=None, epochs=2, x=X, y=Y, loss=None, callbacks=None, sample_weight=None, **compile_options):
    keras.utils.set_random_seed(5)  # torch's dropout draws from its global generator
    model.compile(optimizer or sgd(), loss or crossentropy(), **compile_options)
    model.history_of_fit = model.fit(
        x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, sample_weight=sample_weight
    ).history
    return model


def assert_weights(model, expected, **tolerance):
    for a, e in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, "float32"), e, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


@pytest.mark.parametrize(
    ("mode", "options"),
    [*((mode, PLAIN) for mode in MODES), *((mode, ADAPTIVE) for mode in ("default", "jit") if mode in MODES)],
)
def test_equals_the_papers_in_every_mode(mode, options):
    sam = fitted(SAM(softmax_model(), **options), **MODES[mode])
    expected = train_by_hand(softmax_gradient, [KERNEL, BIAS], batches_of(X, Y), [False, True], **options)
    assert_weights(sam, expected, rtol=0, atol=1e-6)
    plain = train_by_hand(softmax_gradient, [KERNEL, BIAS], batches_of(X, Y), [False, True], rho=0.0)
    assert np.abs(plain[0] - expected[0]).max() > 1e-2  # what SAM changes is far above the tolerance


def test_penalties_sample_weights_and_accumulation():
    sample_weight = RNG.uniform(0.2, 3.0, size=24).astype("float32")
    sam = SAM(softmax_model(), **PLAIN)
    kor.attach(sam, L2(0.05))
    fitted(sam, sgd(gradient_accumulation_steps=3), sample_weight=sample_weight)

    def gradient(weights, x, y, sample_weight):
        return softmax_gradient(weights, x, y, sample_weight, penalty=0.05)

    batches = batches_of(X, Y, sample_weight)
    assert_weights(sam, train_by_hand(gradient, [KERNEL, BIAS], batches, [False, True], every=3, **PLAIN))


def test_frozen_weights_are_not_part_of_the_norm():
    sam = SAM(keras.Sequential([keras.Input((5,)), layers.Dense(5, kernel_initializer="identity"), dense()]), rho=0.3)
    sam.model.layers[0].trainable = False
    fitted(sam)
    expected = train_by_hand(softmax_gradient, [KERNEL, BIAS], batches_of(X, Y), [False, True], rho=0.3)
    assert_weights(sam, [np.eye(5), np.zeros(5), *expected])


TOKENS = np.array([[0, 0, 1], [2, 0, 2], [1, 1, 1], [4, 2, 0]] * 2)
TARGETS = RNG.normal(size=(8, 2)).astype("float32")
TABLE = RNG.normal(size=(6, 2)).astype("float32")


def embedding_model():
    table = layers.Embedding(6, 2, embeddings_initializer=Constant(TABLE))
    return keras.Sequential([keras.Input((3,), dtype="int32"), table, layers.GlobalAveragePooling1D()])


def test_rows_of_an_embedding_that_occur_twice_in_a_batch():
    sam = fitted(SAM(embedding_model(), **ADAPTIVE), x=TOKENS, y=TARGETS, loss="mse")

    def gradient(weights, tokens, targets):
        counts = np.stack([np.bincount(row, minlength=6) for row in tokens]) / 3
        return [counts.T @ (counts @ weights[0] - targets) * 2 / targets.size]

    assert_weights(sam, train_by_hand(gradient, [TABLE], batches_of(TOKENS, TARGETS), [False], **ADAPTIVE))
    np.testing.assert_array_equal(sam.get_weights()[0][[3, 5]], TABLE[[3, 5]])  # tokens that do not occur


@keras.saving.register_keras_serializable("test_sam")
class Subclassed(keras.Model):
    """A model that is built by its first call only, and adds a penalty of its own to the loss."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = dense()

    def call(self, x):
        y = self.inner(x)
        self.add_loss(0.05 * ops.sum(ops.square(self.inner.kernel)))
        return y


@pytest.mark.parametrize(
    ("make", "penalty"),
    [(Subclassed, 0.05), (lambda: keras.Sequential([dense()]), 0.0)],
    ids=["subclass", "sequential"],
)
def test_models_that_are_not_built(make, penalty, tmp_path):
    sam = fitted(SAM(make(), rho=0.3), epochs=1)

    def gradient(weights, x, y):
        return softmax_gradient(weights, x, y, penalty=penalty)

    expected = train_by_hand(gradient, [KERNEL, BIAS], batches_of(X, Y), [False, True], rho=0.3)
    sam.save(tmp_path / "sam.keras")
    loaded = keras.saving.load_model(tmp_path / "sam.keras")
    loaded.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert_weights(loaded, expected)


# What the second pass must not leave behind.


def noisy_model(rate=0.5, last=dense):
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((5,)), layers.BatchNormalization(), layers.Dropout(rate), last()])


def self_assigning():
    """A layer that assigns its own trainable weight when it is called."""
    return layers.SpectralNormalization(dense())


def state_of(model):
    return [ops.convert_to_numpy(v) for v in model.variables]


@pytest.mark.parametrize(("mode", "last"), [("default", self_assigning), *([("jit", dense)] if "jit" in MODES else [])])
def test_rho_zero_is_plain_training_with_its_masks_statistics_and_logs(mode, last):
    runs = [
        fitted(wrap(noisy_model(last=last)), epochs=1, metrics=["accuracy"], **MODES[mode])
        for wrap in (lambda model: model, lambda model: SAM(model, rho=0.0))
    ]
    plain, sam = runs
    # Moving statistics, the state of dropout's seeds, and the vector of SpectralNormalization.
    assert len(sam.non_trainable_variables) == (4 if last is self_assigning else 3)
    for a, e in zip(state_of(sam), state_of(plain), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
    assert sam.history_of_fit.keys() == {"loss", "accuracy"}
    for name, values in plain.history_of_fit.items():
        np.testing.assert_allclose(sam.history_of_fit[name], values, rtol=1e-5)


def test_what_a_step_stores_and_logs_is_of_the_first_pass():
    plain, sam = noisy_model(), SAM(noisy_model(), rho=2.0)
    for model in (plain, sam):
        fitted(model, epochs=1, x=X[:4], y=Y[:4], metrics=["accuracy"])
    for a, e in zip(sam.non_trainable_variables, plain.non_trainable_variables, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(a), ops.convert_to_numpy(e), rtol=1e-6)
    assert sam.history_of_fit["loss"] == pytest.approx(plain.history_of_fit["loss"], rel=1e-6)
    assert sam.history_of_fit["accuracy"] == plain.history_of_fit["accuracy"]
    assert np.abs(sam.get_weights()[0] - plain.get_weights()[0]).max() > 1e-3


def test_both_passes_see_the_same_dropout():
    """The gradient of a loss linear in the weights is the same everywhere, if it is the same loss."""

    def model():
        keras.utils.set_random_seed(3)
        return keras.Sequential([keras.Input((5,)), layers.Dropout(0.5), dense()])

    options = {"loss": lambda y, p: p, "y": np.zeros((24, 3), "float32")}
    plain, sam = fitted(model(), **options), fitted(SAM(model(), rho=5.0), **options)
    assert_weights(sam, plain.get_weights())


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
@pytest.mark.parametrize("options", [PLAIN, ADAPTIVE], ids=["SAM", "ASAM"])
def test_gradients_without_a_direction_move_nothing(value, options):
    sam = SAM(softmax_model(), **options)
    gradients = [np.zeros((5, 3), "float32"), np.array([0.0, value, 0.0], "float32")]
    tensors = [[ops.convert_to_tensor(each) for each in these] for these in ([KERNEL, BIAS], gradients)]
    for point, start in zip(sam.ascended(*tensors), [KERNEL, BIAS], strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(point), start)


# 16 bits.


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_loss_scaling_cancels_in_the_ascent(policy):
    def trained(scale):
        optimizer = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=scale)
        return fitted(SAM(softmax_model(dtype=policy), **ADAPTIVE), optimizer)

    small, large = trained(8.0), trained(1024.0)
    assert_weights(large, small.get_weights(), atol=1e-5)
    expected = train_by_hand(softmax_gradient, [KERNEL, BIAS], batches_of(X, Y), [False, True], **ADAPTIVE)
    assert_weights(large, expected, atol=0.02)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_an_overflow_leaves_the_weights_bit_for_bit_and_halves_the_scale(policy):
    optimizer = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=2.0**40)
    sam = fitted(SAM(softmax_model(), rho=0.3), optimizer, epochs=1, x=X[:4], y=Y[:4])
    np.testing.assert_array_equal(sam.get_weights()[0], KERNEL)
    np.testing.assert_array_equal(sam.get_weights()[1], BIAS)
    assert float(optimizer.dynamic_scale) == 2.0**39
    sam.fit(X, Y, batch_size=4, epochs=10, verbose=0)
    assert int(optimizer.iterations) > 10  # it went on, with finite weights
    assert np.isfinite(sam.get_weights()[0]).all()


def test_a_model_of_mixed_precision_is_scaled_under_any_global_policy():
    keras.config.set_dtype_policy("mixed_float16")
    model = softmax_model()
    keras.config.set_dtype_policy("float32")
    sam = SAM(model)
    sam.compile("sgd", crossentropy())
    assert isinstance(sam.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("policy", ["bfloat16"], indirect=True)
def test_bfloat16(policy):
    sam = fitted(SAM(softmax_model(), rho=0.3), epochs=1)
    expected = train_by_hand(softmax_gradient, [KERNEL, BIAS], batches_of(X, Y, epochs=1), [False, True], rho=0.3)
    assert {v.dtype for v in sam.trainable_variables} == {"bfloat16"}
    assert_weights(sam, expected, atol=0.06)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX computes in 32 bits, and Keras's losses do on torch")
@pytest.mark.parametrize("policy", ["float64"], indirect=True)
@pytest.mark.parametrize("options", [PLAIN, ADAPTIVE], ids=["SAM", "ASAM"])
def test_float64_equals_the_papers_to_its_own_precision(policy, options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    sam = fitted(SAM(softmax_model(), **options), keras.optimizers.SGD(0.25, momentum=0.875), loss=loss)
    expected = train_by_hand(
        softmax_gradient, [KERNEL, BIAS], batches_of(X, Y), [False, True], lr=0.25, momentum=0.875, **options
    )
    for a, e in zip(sam.get_weights(), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12)


# Several inputs and outputs.


def two_regressions():
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    outputs = {"u": dense(name="u")(a), "v": dense(name="v", use_bias=False)(b)}
    return keras.Model({"a": a, "b": b}, outputs)


def test_dictionaries_of_inputs_and_outputs():
    x = {"a": X, "b": X[::-1].copy()}
    y = {"u": RNG.normal(size=(24, 3)).astype("float32"), "v": RNG.normal(size=(24, 3)).astype("float32")}
    options = {"x": x, "y": y, "loss": {"u": "mse", "v": "mse"}, "loss_weights": {"u": 1.0, "v": 0.5}}
    sam = fitted(SAM(two_regressions(), rho=0.3), **options)

    def gradient(weights, a, b, u, v):
        first, bias, second = weights
        error_u, error_v = 2 * (a @ first + bias - u) / u.size, (b @ second - v) / v.size
        return [a.T @ error_u, error_u.sum(axis=0), b.T @ error_v]

    batches = batches_of(x["a"], x["b"], y["u"], y["v"])
    assert_weights(sam, train_by_hand(gradient, [KERNEL, BIAS, KERNEL], batches, [False, True, False], rho=0.3))
    assert sam.history_of_fit.keys() == {"loss", "u_loss", "v_loss"}  # the names that the model itself would log
    assert sam.predict(x, verbose=0).keys() == {"u", "v"}


# A model like any other: saved, cloned, used by itself, watched.


def test_saved_and_loaded_it_continues_as_if_never_stopped(tmp_path):
    # Without dropout, for Keras saves no state of seeds.
    unbroken = fitted(SAM(noisy_model(rate=0.0), rho=0.5, adaptive=True), epochs=1)
    unbroken.save(tmp_path / "sam.keras")
    loaded = keras.saving.load_model(tmp_path / "sam.keras")
    assert type(loaded) is SAM
    assert (loaded.rho, loaded.adaptive, loaded.name) == (0.5, True, unbroken.name)
    for sam in (unbroken, loaded):
        sam.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for a, e in zip(state_of(loaded), state_of(unbroken), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-7)


def test_weights_config_and_clone(tmp_path):
    sam = fitted(SAM(softmax_model(), rho=0.3, adaptive=True, name="sharp"), epochs=1)
    sam.save_weights(tmp_path / "sam.weights.h5")
    for other in (SAM.from_config(sam.get_config()), keras.models.clone_model(sam)):
        assert (other.rho, other.adaptive, other.name) == (0.3, True, "sharp")
        assert other.model is not sam.model
        other.load_weights(tmp_path / "sam.weights.h5")
        assert_weights(other, sam.get_weights(), rtol=0, atol=0)


def test_the_model_inside_stays_usable_and_shares_its_weights(tmp_path):
    model = noisy_model()
    sam = fitted(SAM(model, rho=0.3))
    assert [id(w) for w in sam.weights] == [id(w) for w in model.weights]
    outputs = model.predict(X, verbose=0)
    np.testing.assert_array_equal(sam.predict(X, verbose=0), outputs)
    np.testing.assert_allclose(ops.convert_to_numpy(sam(X)), outputs, rtol=1e-5, atol=1e-6)
    sam.model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras.Sequential
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), outputs)
    model.compile("sgd", crossentropy())
    assert sam.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)


def test_probes_attach_and_early_stopping():
    sam = SAM(softmax_model(), rho=0.3)
    assert kor.attach(sam, L2(0.05))[0].survives is True
    memory = MemoryWriter()
    monitor = Monitor([GradientNorm(), DataLoss()], [memory], every=1)
    fitted(sam, epochs=1, x=X[:4], y=Y[:4], callbacks=[monitor, EarlyStopping("data_loss")])

    def gradient(weights):
        return softmax_gradient(weights, X[:4], Y[:4], penalty=0.05)

    # The norm is of what the optimizer gets, the second gradient; the losses are those at w.
    second = sam_gradient(gradient, [KERNEL.astype("float64"), BIAS.astype("float64")], [False, True], rho=0.3)
    norm = np.sqrt(sum(np.sum(g**2) for g in second))
    assert memory.history["gradient_norm"][1] == pytest.approx([norm], rel=1e-5)
    penalty = 0.05 * np.sum(KERNEL.astype("float64") ** 2)
    assert memory.history["penalty"][1] == pytest.approx([penalty], rel=1e-5)
    plain = softmax_model()
    plain.compile("sgd", crossentropy())
    assert memory.history["data_loss"][1] == pytest.approx([plain.evaluate(X[:4], Y[:4], verbose=0)], rel=1e-5)
    assert [row.penalty for row in kor.summary(sam)] == ["L2(0.05) in the loss", None]
    assert kor.check(sam, X, Y).ok


# Refusals.


class OwnStep(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


class OwnLoss(keras.Model):
    def compute_loss(self, **kwargs):
        return super().compute_loss(**kwargs)


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "0.05", None, True])
def test_bad_rho_is_refused(rho):
    with pytest.raises(ValueError, match=r"The `rho` of SAM must be a number in \[0, inf\)\. Received: rho="):
        SAM(softmax_model(), rho)


def test_models_it_would_bypass_are_refused():
    with pytest.raises(TypeError, match="SAM takes a Keras model"):
        SAM(layers.Dense(1))
    with pytest.raises(ValueError, match=r"Give its inner model, `sam\.model`"):
        SAM(SAM(softmax_model(), name="sam"))
    with pytest.raises(ValueError, match="OwnStep has a `train_step` of its own"):
        SAM(OwnStep())
    with pytest.raises(ValueError, match="OwnLoss has a `compute_loss` of its own"):
        SAM(OwnLoss())
    patched = softmax_model()
    patched.train_step = lambda data: {}
    with pytest.raises(ValueError, match="Sequential has a `train_step` of its own"):
        SAM(patched)
    with pytest.raises(ValueError, match="`adaptive` of SAM must be True or False"):
        SAM(softmax_model(), 0.05, 0.01)


@pytest.mark.skipif(BACKEND != "torch", reason="a layer of torch")
def test_a_layer_that_reads_its_weights_past_keras_is_refused():
    import torch

    sam = SAM(keras.Sequential([keras.layers.TorchModuleWrapper(torch.nn.Linear(5, 3))]))
    with pytest.raises(ValueError, match="reads this weight past Keras"):
        fitted(sam)


DISTRIBUTED = """
import numpy as np, tensorflow as tf, keras
from keras import layers
from keras_optreg.optimizers import SAM
from keras_optreg.regularizers import L2

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
x, y = rng.integers(0, 7, size=(16, 3)), rng.normal(size=(16, 1)).astype("float32")

def train():
    keras.utils.set_random_seed(1)
    inner = [layers.Embedding(7, 4), layers.Flatten(), layers.Dense(1, kernel_regularizer=L2(0.1))]
    sam = SAM(keras.Sequential([keras.Input((3,), dtype="int32"), *inner]), rho=0.8, adaptive=True)
    alone = not tf.distribute.has_strategy()
    sam.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"], run_eagerly=alone)
    history = sam.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    return [np.array(w) for w in sam.get_weights()] + [np.array(v) for v in history.values()]

alone = train()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    together = train()
print("RESULT", len(alone), max(float(np.abs(a - b).max()) for a, b in zip(alone, together, strict=True)))
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_two_replicas_equal_one_device_with_the_whole_batch():
    done = subprocess.run([sys.executable, "-c", DISTRIBUTED], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    _, count, difference = next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split()
    assert int(count) == 5  # three weights, the loss and the metric
    assert float(difference) < 2e-6
