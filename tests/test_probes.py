"""Probes of gradients, zeros, penalties, activations, time and memory, against NumPy on a network of five units."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optreg import select
from keras_optreg.callbacks import (
    Activations,
    DeadUnits,
    Gradients,
    Memory,
    MemoryWriter,
    Monitor,
    Penalties,
    StepTime,
    UpdateRatio,
    WeightNorm,
    ZeroFraction,
)
from keras_optreg.regularizers import L1

BACKEND = keras.backend.backend()
RATE, STRENGTH = 0.1, 0.05
RNG = np.random.default_rng(1)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 1)).astype("float32")
KERNELS = [np.array([[0.5, -1.0, 0.0, 1.0], [-1.0, 0.3, 0.0, 0.2], [2.0, 0.1, 0.0, -0.4]]), RNG.normal(size=(4, 1))]
BIAS = np.array([0.1, 0.0, -0.5, 0.0])  # the third unit is 0 for every example
MODES = {
    "tensorflow": [{}, {"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 2}],
    "jax": [{}, {"run_eagerly": True}, {"steps_per_execution": 2}],
    "torch": [{}],
}[BACKEND]
HIDDEN, OUT = "net/hidden/kernel", "net/out/kernel"


def network(**options):
    hidden = layers.Dense(4, "relu", kernel_regularizer=L1(STRENGTH), name="hidden")
    model = keras.Sequential([keras.Input((3,)), hidden, layers.Dense(1, use_bias=False, name="out")], name="net")
    model.set_weights([KERNELS[0], BIAS, KERNELS[1]])
    model.compile(keras.optimizers.SGD(RATE), "mse", **options)
    return model


def by_hand(num_steps, batch=4):
    """Gradient descent in float64: of each step the gradients, and the weights after it."""
    (w, v), b, rows = (k.copy() for k in KERNELS), BIAS.copy(), []
    for step in range(num_steps):
        at = slice(batch * step % 8, batch * step % 8 + batch)
        x, y = X[at].astype("float64"), Y[at]
        h = np.maximum(x @ w + b, 0)
        error = 2 * (h @ v - y) / batch
        before = (error @ v.T) * (h > 0)
        grads = {HIDDEN: x.T @ before + STRENGTH * np.sign(w), "net/hidden/bias": before.sum(0), OUT: h.T @ error}
        w, b, v = w - RATE * grads[HIDDEN], b - RATE * grads["net/hidden/bias"], v - RATE * grads[OUT]
        rows.append({"grads": grads, "weights": {HIDDEN: w, "net/hidden/bias": b, OUT: v}})
    return rows


def fit(model, probes, every=1, epochs=2, **options):
    memory = MemoryWriter()
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, **options}
    model.fit(X, Y, epochs=epochs, callbacks=[Monitor(probes, [memory], every)], **options)
    return memory.history


@pytest.mark.parametrize("options", MODES, ids=str)
@pytest.mark.parametrize("every", [1, "epoch"])
def test_gradients_zeros_and_penalties_are_those_computed_by_hand(options, every):
    history = fit(network(**options), [Gradients(), ZeroFraction(), Penalties()], every)
    length = 2 if every == "epoch" else options.get("steps_per_execution", 1)
    rows = by_hand(4)
    groups = [rows[i : i + length] for i in range(0, 4, length)]
    for path in (HIDDEN, "net/hidden/bias", OUT):
        steps, found = history[f"gradients/{path}"]
        assert steps == list(range(length, 5, length))
        expected = [np.mean([row["grads"][path] for row in group], axis=0) for group in groups]
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
        zeros = [(group[-1]["weights"][path] == 0).mean() for group in groups]
        np.testing.assert_allclose(history[f"zero_fraction/{path}"][1], zeros)
    assert history[f"zero_fraction/{HIDDEN}"][1] == [0.25] * len(groups)
    every_weight = [np.concatenate([w.ravel() for w in group[-1]["weights"].values()]) for group in groups]
    np.testing.assert_allclose(history["zero_fraction"][1], [(w == 0).mean() for w in every_weight])
    penalties = [STRENGTH * np.abs(group[-1]["weights"][HIDDEN]).sum() for group in groups]
    np.testing.assert_allclose(history[f"penalty/{HIDDEN}"][1], penalties, rtol=2e-5)
    assert {name for name in history if name.startswith("penalty")} == {f"penalty/{HIDDEN}"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("seen", [True, False])
def test_weights_of_several_dtypes_that_numpy_sees_in_memory_and_such_that_it_does_not(dtype, seen, monkeypatch):
    def on_a_gpu(tensor):
        raise RuntimeError("Unsupported device in DLTensor.")

    if not seen:
        monkeypatch.setattr(np, "from_dlpack", on_a_gpu)
    one, other = layers.Dense(300, dtype=dtype, name="one"), layers.Dense(200, use_bias=False, name="other")
    model = keras.Sequential([keras.Input((250,)), one, other], name="net")
    before = [np.where(RNG.random(w.shape) < 0.1, 0, RNG.normal(size=w.shape)) for w in model.trainable_variables]
    model.set_weights(before)  # more than a block of numbers
    before = [np.asarray(ops.convert_to_numpy(ops.cast(w, "float32")), "float64") for w in model.trainable_variables]
    probes = [WeightNorm(), UpdateRatio(), ZeroFraction()]
    for probe in probes:
        probe.start(model)
        probe.prepare(model)
    for w in model.trainable_variables:
        w.assign(1.5 * w)  # zeros stay
    measured = {name: value for probe in probes for name, value in probe.measure(model, {}).items()}
    after = [np.asarray(ops.convert_to_numpy(ops.cast(w, "float32")), "float64") for w in model.trainable_variables]
    for w, a, b in zip(model.trainable_variables, after, before, strict=True):
        size = max(np.linalg.norm(b), 1e-3 * b.size**0.5)
        assert measured[f"weight_norm/{w.path}"] == pytest.approx(np.linalg.norm(a), rel=1e-5)
        assert measured[f"update_ratio/{w.path}"] == pytest.approx(np.linalg.norm(a - b) / size, rel=1e-5)
        assert measured[f"zero_fraction/{w.path}"] == (a == 0).mean()
    everything = np.concatenate([a.ravel() for a in after])
    assert measured["weight_norm"] == pytest.approx(np.linalg.norm(everything), rel=1e-5)
    assert measured["zero_fraction"] == (everything == 0).mean()


def test_between_measured_steps_gradients_are_not_taken_and_afterwards_nothing_is_left():
    model = network()
    history = fit(model, [Gradients(select.kernels())], every=3)
    assert history["gradients/" + OUT][0] == [3]
    np.testing.assert_allclose(history["gradients/" + OUT][1][0], by_hand(3)[2]["grads"][OUT], rtol=2e-5, atol=1e-6)
    assert set(history) == {f"gradients/{HIDDEN}", f"gradients/{OUT}"}
    assert len(model.optimizer.variables) == 2
    assert fit(network(), [Penalties(select.matching("out"))]) == {}


def test_the_gradient_of_an_embedding_has_the_rows_that_stand_twice_added_up():
    model = keras.Sequential([keras.Input((2,), dtype="int32"), layers.Embedding(5, 2), layers.Flatten()])
    model.compile(keras.optimizers.SGD(0.0), lambda y, p: ops.sum(p))
    memory, ids = MemoryWriter(), np.array([[1, 1], [1, 3]])
    model.fit(ids, np.zeros((2, 1)), verbose=0, callbacks=[Monitor([Gradients()], [memory], every=1)])
    [found] = next(iter(memory.history.values()))[1]
    np.testing.assert_allclose(found, np.bincount(ids.ravel(), minlength=5)[:, None] * np.ones((1, 2)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute belongs to TensorFlow")
def test_under_a_strategy_gradients_and_activations_are_those_of_one_device():
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_STRATEGY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


UNDER_A_STRATEGY = """
import numpy as np, keras, tensorflow as tf
from keras_optreg.callbacks import Activations, Gradients, MemoryWriter, Monitor, Penalties, ZeroFraction

one = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(one, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).integers(4, size=(16, 3))
y = x.sum(1, keepdims=True) - 1.0
found = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        dense = keras.layers.Dense(1, "tanh", kernel_regularizer="l2", name="dense")
        embedding = keras.layers.Embedding(5, 2, name="embedding")
        model = keras.Sequential([keras.Input((3,), dtype="int32"), embedding, keras.layers.Flatten(), dense])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    memory = MemoryWriter()
    monitor = Monitor([Activations(x), Gradients(), Penalties(), ZeroFraction()], [memory], every=1)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
    assert len(model.optimizer.variables) == 2
    assert "gradients/sequential/embedding/embeddings" in memory.history
    assert "activation_saturation/sequential/dense" in memory.history
    found.append({name: np.array(values) for name, (_, values) in memory.history.items()})
assert found[0].keys() == found[1].keys()
for name in found[0]:
    np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-6, err_msg=name)
"""


# ------------------------------------------------------------------ activations


def outputs_by_hand(weights, x):
    hidden = np.maximum(x.astype("float64") @ weights[HIDDEN] + weights["net/hidden/bias"], 0)
    return {"net/hidden": hidden, "net/out": hidden @ weights[OUT]}


@pytest.mark.parametrize("options", MODES[:2], ids=str)
@pytest.mark.parametrize("every", [1, "epoch"])
def test_activations_are_those_of_the_weights_of_the_moment(options, every):
    model = network(**options)
    history = fit(model, [Activations(X[:5], batch_size=2), DeadUnits(X[:5], batch_size=2)], every)
    length = 1 if every == 1 else 2
    after = [row["weights"] for row in by_hand(4)[length - 1 :: length]]
    for name in ("net/hidden", "net/out"):
        outputs = [outputs_by_hand(weights, X[:5])[name] for weights in after]
        for what in ("mean", "std"):
            expected = [getattr(each, what)() for each in outputs]
            np.testing.assert_allclose(history[f"activation_{what}/{name}"][1], expected, rtol=1e-4, err_msg=name)
    hidden = [outputs_by_hand(weights, X[:5])["net/hidden"] for weights in after]
    np.testing.assert_allclose(history["activation_saturation/net/hidden"][1], [(a == 0).mean() for a in hidden])
    dead = [(a == 0).all(0).mean() for a in hidden]
    assert min(dead) >= 0.25
    assert history["dead_units/net/hidden"][1] == history["dead_units"][1] == dead
    assert "activation_saturation/net/out" not in history
    assert not {"call"} & set(model.get_layer("hidden").__dict__)


SATURATION = {
    "relu": ([-1.0, 0.0, 1e-3, 5.0], 2),
    "relu6": ([-1.0, 3.0, 5.9, 6.0, 8.0], 3),
    "tanh": ([-3.0, -2.2, -2.1, 0.0, 2.1, 2.2], 3),  # tanh'(2.1) = 0.058, tanh'(2.2) = 0.048
    "sigmoid": ([-5.0, -4.4, -4.2, 0.0, 4.4], 3),  # as tanh of half of it
    "hard_tanh": ([-1.5, -1.0, 0.0, 0.9, 1.5], 3),
    "hard_sigmoid": ([-3.5, 0.0, 2.0, 3.0], 2),
}


@pytest.mark.parametrize("name", SATURATION)
def test_saturation_counts_where_the_activation_is_flat(name):
    points, flat = SATURATION[name]
    model = keras.Sequential([keras.Input((1,)), layers.Activation(name, name="activation")])
    probe = Activations(np.array(points)[:, None], batch_size=2)
    probe.start(model)
    assert probe.measure(model, {})["activation_saturation/activation"] == pytest.approx(flat / len(points))


def measured(probe, model):
    probe.start(model)
    return probe.measure(model, {})


def test_layers_wherever_they_stand():
    """Nested, called twice, as layers of their own; in channels; without a graph."""
    x = RNG.normal(size=(3, 4, 4, 2)).astype("float32")
    shared = layers.ReLU(max_value=1.0, name="shared")
    inner = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(3, 1, name="conv"), layers.ReLU(name="shared")])
    inputs = keras.Input((4, 4, 2))
    outer = layers.Conv2D(2, 1, activation="relu", name="conv", kernel_initializer="ones", bias_initializer="ones")
    hidden = shared(inner(shared(outer(inputs))))
    flat = layers.Dense(1, layers.PReLU(), name="last")(layers.LSTM(2)(layers.Reshape((4, 12))(hidden)))
    model = keras.Model(inputs, flat)
    found = measured(Activations(x), model)
    before = np.maximum(x.sum(-1, keepdims=True).repeat(2, -1) + 1.0, 0)
    twice = np.minimum(before, 1.0)
    third = measured(Activations(x, layers=[inner.layers[-1]]), model)
    assert list(third) == [f"activation_{what}/shared" for what in ("mean", "std", "saturation")]
    inside = inner(twice)
    both = np.concatenate([twice.ravel(), np.minimum(ops.convert_to_numpy(inside), 1.0).ravel()])
    means = [both.mean(), third["activation_mean/shared"]]
    assert sorted([found["activation_mean/shared"], found["activation_mean/shared#2"]]) == pytest.approx(sorted(means))
    assert any("lstm" in name for name in found)
    assert not any("lstm_cell" in name or "saturation/lstm" in name for name in found)
    dead = measured(DeadUnits(x), model)
    assert {name for name in dead if "last" in name or "lstm" in name} == set()
    units = [np.minimum(before, 1.0), np.minimum(ops.convert_to_numpy(inside), 1.0)]  # two and three
    expected = np.concatenate([(a == 0).all((0, 1, 2)) for a in units]).mean()
    assert expected in [value for name, value in dead.items() if "shared" in name]


def test_units_of_a_convolution_are_its_filters_and_of_a_dense_layer_its_features():
    x = np.abs(RNG.normal(size=(3, 4, 2))).astype("float32")
    conv = layers.Conv1D(3, 1, activation="relu", name="conv")
    model = keras.Sequential([keras.Input((4, 2)), conv, layers.Dense(4, "relu", name="dense")])
    conv.set_weights([np.array([[[1.0, -1.0, -1.0], [1.0, 0.0, -1.0]]]), np.zeros(3)])
    model.layers[-1].set_weights([np.vstack([np.zeros(4), np.ones(4), np.ones(4)]), np.array([1.0, -1.0, 0.0, 2.0])])
    assert measured(DeadUnits(x), model) == {
        "dead_units": pytest.approx((2 + 2) / 7),
        "dead_units/sequential/conv": pytest.approx(2 / 3),
        "dead_units/sequential/dense": pytest.approx(2 / 4),
    }


def test_a_model_without_a_graph_and_with_named_inputs():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.drop = layers.Dense(2, "relu", name="dense"), layers.Dropout(0.9)

        def call(self, inputs, training=False):
            return self.drop(self.dense(inputs["a"] + inputs["b"]), training=training)

    model = Own()
    x = {"a": X, "b": -X}
    model(x)
    model.dense.set_weights([np.ones((3, 2)), np.array([2.0, -2.0])])
    found = measured(Activations(x, batch_size=3), model)
    [name] = [name for name in found if name.startswith("activation_mean")]
    assert found[name] == pytest.approx(1.0)
    assert found[name.replace("mean", "std")] == pytest.approx(1.0)


def test_the_pass_stores_nothing_in_the_model():
    dense = layers.Dense(2, "relu", activity_regularizer="l2", name="dense")
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization(), dense, layers.Dropout(0.5)])
    model(X[:1])  # its penalty of activities stays until the next call
    before = (
        [np.array(ops.convert_to_numpy(v)) for v in model.variables],
        float(ops.convert_to_numpy(sum(model.losses))),
    )
    measured(Activations(10 * X), model)
    for was, variable in zip(before[0], model.variables, strict=True):
        np.testing.assert_array_equal(was, ops.convert_to_numpy(variable))
    # TensorFlow forgets the earlier one when a model is called.
    assert float(ops.convert_to_numpy(sum(model.losses))) in (before[1], 0.0)


def test_refusals():
    for probe in (Activations, DeadUnits):
        with pytest.raises(ValueError, match=f"{probe.__name__} takes at least one example"):
            probe(X[:0])
        with pytest.raises(ValueError, match="arrays of the lengths \\[8, 7\\]"):
            probe([X, X[1:]])
        with pytest.raises(ValueError, match="`batch_size`"):
            probe(X, batch_size=0)
    linear = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="DeadUnits: no layer of the model"):
        DeadUnits(X).start(linear)
    with pytest.raises(ValueError, match="`batch_size`"):
        StepTime(batch_size=-1)
    with pytest.raises(ValueError, match="matches none"):
        fit(network(), [Gradients(select.embeddings())])


# ------------------------------------------------------------------ time and memory


def test_the_time_of_a_step_is_that_between_measurements_over_the_steps(monkeypatch):
    clock = iter([10.0, 10.5, 16.0, 16.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    batches = keras.Variable(0, dtype="int32", trainable=False)
    model = SimpleNamespace(optimizer=SimpleNamespace(_iterations=batches))
    probe, found = StepTime(batch_size=32), []
    for count in (1, 10):  # prepared one step before, as with every=n
        batches.assign(count - 1)
        if not found:
            probe.prepare(model)
        batches.assign(count)
        found.append(probe.measure(model, {}))
    assert found == [
        {"step_seconds": 0.5, "examples_per_second": 64.0},
        {"step_seconds": 5.5 / 9, "examples_per_second": pytest.approx(32 * 9 / 5.5)},
    ]
    assert probe.measure(model, {}) == {}  # no step since
    probe.stop(model)


def test_time_and_memory_of_a_fit():
    class Wait(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.02)

    model, memory = network(), MemoryWriter()
    monitor = Monitor([StepTime(4), Memory()], [memory], every=2)
    model.fit(X, Y, batch_size=2, epochs=3, verbose=0, callbacks=[Wait(), monitor])
    steps, seconds = memory.history["step_seconds"]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert min(seconds) >= 0.02
    rates = memory.history["examples_per_second"][1]
    np.testing.assert_allclose(np.multiply(rates, seconds), 4)
    sizes = memory.history["memory/process"][1]
    assert all(50 < size < 100_000 for size in sizes)


def test_memory_grows_by_what_is_held():
    probe = Memory()
    before = probe.measure(None, {})["memory/process"]
    held = np.ones(200 * 2**20, "uint8")
    assert 190 < probe.measure(None, {})["memory/process"] - before < 230
    del held
