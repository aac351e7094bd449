"""Monitor: its numbers against NumPy, in every way a step can be compiled, and the traces it must not leave."""

import csv
import io
import itertools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optreg import select
from keras_optreg.callbacks import (
    ConsoleWriter,
    CSVWriter,
    DataLoss,
    GradientNorm,
    LearningRate,
    Logs,
    MemoryWriter,
    Monitor,
    Probe,
    TensorBoard,
    TrainValidationGap,
    UpdateRatio,
    WeightNorm,
    Weights,
    Writer,
)

BACKEND = keras.backend.backend()
RATE, STRENGTH = 0.1, 0.05
RNG = np.random.default_rng(1)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 1)).astype("float32")
MODES = {
    "tensorflow": [{}, {"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 2}],
    "jax": [{}, {"run_eagerly": True}, {"steps_per_execution": 2}],
    "torch": [{}],
}[BACKEND]


def linear(optimizer=None, **options):
    """One layer with a penalty on its kernel; small enough to differentiate by hand."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_regularizer=keras.regularizers.L2(STRENGTH))])
    model.set_weights([np.array([[0.5], [-1.0], [2.0]]), np.zeros(1)])
    model.compile(optimizer or keras.optimizers.SGD(RATE), "mse", **options)
    return model


def by_hand(num_steps, batch=4):
    """Gradient descent on the mean squared error with λΣw² in float64: the numbers of each step."""
    w, b, rows = np.array([[0.5], [-1.0], [2.0]]), np.zeros(1), []
    for step in range(num_steps):
        at = slice(batch * step % 8, batch * step % 8 + batch)
        error = X[at].astype("float64") @ w + b - Y[at]
        data, penalty = (error**2).mean(), STRENGTH * (w**2).sum()
        gw = 2 * X[at].T.astype("float64") @ error / batch + 2 * STRENGTH * w
        gb = 2 * error.mean(axis=0)
        rows.append(
            {"data": data, "penalty": penalty, "gw": np.linalg.norm(gw), "gb": abs(gb[0]), "w": np.linalg.norm(w)}
        )
        w, b = w - RATE * gw, b - RATE * gb
        rows[-1] |= {"w_after": np.linalg.norm(w), "b_after": abs(b[0]), "b": abs((b + RATE * gb)[0])}
    return rows


def fit(model, callbacks, epochs=2, **options):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options)


def read(memory, name):
    return memory.history[name]


@pytest.mark.parametrize("options", MODES, ids=str)
def test_numbers_are_those_computed_by_hand(options):
    memory, model = MemoryWriter(), linear(**options)
    length = options.get("steps_per_execution", 1)
    fit(model, [Monitor([GradientNorm(), WeightNorm(), UpdateRatio(), LearningRate()], [memory], every=length)])
    rows = by_hand(4)
    groups = [rows[i : i + length] for i in range(0, 4, length)]
    steps = list(range(length, 5, length))

    def expect(name, function):
        got_steps, values = read(memory, name)
        assert got_steps == steps
        np.testing.assert_allclose(values, [function(group) for group in groups], rtol=2e-5)

    kernel, bias = "sequential/dense/kernel", "sequential/dense/bias"
    expect(f"gradient_norm/{kernel}", lambda g: np.mean([r["gw"] for r in g]))
    expect(f"gradient_norm/{bias}", lambda g: np.mean([r["gb"] for r in g]))
    expect("gradient_norm", lambda g: np.mean([np.hypot(r["gw"], r["gb"]) for r in g]))
    expect(f"weight_norm/{kernel}", lambda g: g[-1]["w_after"])
    expect("weight_norm", lambda g: np.hypot(g[-1]["w_after"], g[-1]["b_after"]))
    expect("learning_rate", lambda g: RATE)
    if length == 1:  # of plain SGD: learning rate · gradient / weight
        expect(f"update_ratio/{kernel}", lambda g: RATE * g[0]["gw"] / g[0]["w"])
        expect(f"update_ratio/{bias}", lambda g: RATE * g[0]["gb"] / max(g[0]["b"], 1e-3))


@pytest.mark.parametrize("options", MODES, ids=str)
def test_data_loss_and_penalty_are_exact_means(options):
    memory, model = MemoryWriter(), linear(**options)
    history = fit(
        model, [Monitor([DataLoss(), TrainValidationGap()], [memory])], validation_data=(X[:3], Y[:3])
    ).history
    rows = by_hand(4)
    for epoch in range(2):
        part = rows[2 * epoch : 2 * epoch + 2]
        for name, key in (("data_loss", "data"), ("penalty", "penalty")):
            steps, values = read(memory, name)
            assert steps == [2, 4]
            assert values[epoch] == pytest.approx(np.mean([r[key] for r in part]), rel=1e-5)
            assert values[epoch] == history[name][epoch]
        assert history["data_loss"][epoch] + history["penalty"][epoch] == pytest.approx(
            history["loss"][epoch], rel=1e-5
        )
        gap = history["val_loss"][epoch] - history["loss"][epoch]
        assert read(memory, "gap_loss")[1][epoch] == pytest.approx(gap, rel=1e-5)
        assert read(memory, "val_penalty")[1][epoch] == pytest.approx(STRENGTH * part[-1]["w_after"] ** 2, rel=1e-5)


def test_the_weight_of_a_batch_is_its_size():
    memory, model = MemoryWriter(), linear(keras.optimizers.SGD(0.0))
    history = fit(model, [Monitor([DataLoss()], [memory])], epochs=1, batch_size=5).history  # 5 and 3 examples
    w = np.array([[0.5], [-1.0], [2.0]])
    assert history["data_loss"][0] == pytest.approx(((X @ w - Y) ** 2).mean(), rel=1e-5)
    assert history["penalty"][0] == pytest.approx(STRENGTH * 5.25, rel=1e-5)


def test_a_loss_of_which_x_is_no_part():
    """As `train_step` calls it in Keras's guide, `compute_loss(y=y, y_pred=y_pred)`: the batch is as long as y."""
    model, probe = linear(), DataLoss()
    assert probe.start(model)
    for at in (slice(0, 5), slice(5, 8)):
        model.compute_loss(y=Y[at], y_pred=model(X[at]))
    found = model.get_metrics_result()
    w = np.array([[0.5], [-1.0], [2.0]])
    assert float(found["data_loss"]) == pytest.approx(((X @ w - Y) ** 2).mean(), rel=1e-5)
    assert float(found["penalty"]) == pytest.approx(STRENGTH * 5.25, rel=1e-5)
    probe.stop(model)


def test_a_loss_of_no_batch_counts_once():
    model, probe = linear(), DataLoss()
    losses = iter([1.0, 2.0])
    model.__dict__["compute_loss"] = own = lambda: ops.convert_to_tensor(next(losses) + STRENGTH * 5.25)
    probe.start(model)
    for _ in range(2):
        model.compute_loss()
    assert float(model.get_metrics_result()["data_loss"]) == pytest.approx(1.5, rel=1e-5)
    probe.stop(model)
    assert model.compute_loss is own


def test_gradients_belong_to_the_weights_they_come_with():
    """A `train_step` of one's own may update some weights at a time, in any order."""
    model, probe = linear(), GradientNorm()
    kernel, bias = model.trainable_variables
    probe.start(model)
    probe.prepare(model)
    model.optimizer.apply([ops.array([2.0])], [bias])
    model.optimizer.apply([ops.array([4.0]), ops.array([[3.0], [0.0], [0.0]])], [bias, kernel])
    measured = probe.measure(model, {})
    assert measured == {
        "gradient_norm": pytest.approx((2 + 5) / 2),
        "gradient_norm/sequential/dense/kernel": pytest.approx(3),
        "gradient_norm/sequential/dense/bias": pytest.approx((2 + 4) / 2),
    }
    probe.stop(model)


@pytest.mark.parametrize("name", ["penalty", "data_loss"])
def test_a_metric_of_the_same_name_is_an_error_before_training(name):
    mae = keras.metrics.MeanAbsoluteError(name=name)
    model = linear(metrics=[mae])
    with pytest.raises(ValueError, match=f"'{name}' of its own.*another name"):
        fit(model, [Monitor([GradientNorm(), DataLoss()], [])])
    assert int(model.optimizer.iterations) == 0
    if name == "penalty":  # the model is as it was
        history = fit(model, [], epochs=1).history
        assert set(history) == {"loss", name}
        assert len(model.optimizer.variables) == 2


def test_without_penalties_nothing_is_put_into_the_logs():
    model, memory = keras.Sequential([keras.Input((3,)), layers.Dense(1)]), MemoryWriter()
    model.compile("sgd", "mse", metrics=[keras.metrics.MeanAbsoluteError(name="data_loss")])
    history = fit(model, [Monitor([DataLoss()], [memory])], epochs=1).history
    assert set(history) == {"loss", "data_loss"}
    assert read(memory, "data_loss")[1] == history["loss"] != history["data_loss"]
    assert read(memory, "penalty")[1] == [0.0]


def test_per_epoch_the_gradient_norm_is_the_mean_over_the_epoch():
    memory = MemoryWriter()
    fit(linear(), [Monitor([GradientNorm()], [memory])])
    norms = [np.hypot(r["gw"], r["gb"]) for r in by_hand(4)]
    assert read(memory, "gradient_norm")[0] == [2, 4]
    np.testing.assert_allclose(read(memory, "gradient_norm")[1], [np.mean(norms[:2]), np.mean(norms[2:])], rtol=2e-5)


def test_every_third_update_across_epochs_and_fits():
    memory, model = MemoryWriter(), linear()
    monitor = Monitor([GradientNorm(select.kernels())], [memory], every=3)
    fit(model, [monitor], epochs=2)
    fit(model, [monitor], epochs=3)
    assert read(memory, "gradient_norm")[0] == [3, 6, 9]
    norms = [np.hypot(r["gw"], r["gb"]) for r in by_hand(10)]
    np.testing.assert_allclose(read(memory, "gradient_norm")[1], [norms[2], norms[5], norms[8]], rtol=2e-5)
    assert set(memory.history) == {"gradient_norm", "gradient_norm/sequential/dense/kernel"}


@pytest.mark.parametrize("scaled", [False, True])
def test_with_accumulation_updates_count_also_where_an_epoch_ends_within_one(scaled):
    """Three batches an epoch, two an update: updates end with the batches 2, 4, 6, ..."""
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.9)
    optimizer = keras.optimizers.SGD(schedule, gradient_accumulation_steps=2)
    model = linear(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0) if scaled else optimizer)
    weights = [model.get_weights()]

    class Weigh(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(self.model.get_weights())

    often, seldom = MemoryWriter(), MemoryWriter()
    monitors = [
        Monitor([UpdateRatio(select.kernels()), LearningRate()], [often], every=1),
        Monitor([LearningRate()], [seldom], every=2),
    ]
    for epochs in (1, 2):  # and so across fits
        fit(model, [*monitors, Weigh()], epochs=epochs, batch_size=3)
    kernels = [kernel for kernel, _ in weights][::2]
    ratios = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in itertools.pairwise(kernels)]
    assert read(often, "update_ratio")[0] == [1, 2, 3, 4]
    np.testing.assert_allclose(read(often, "update_ratio")[1], ratios, rtol=1e-4)
    assert read(seldom, "learning_rate")[0] == [2, 4]
    rates = RATE * 0.9 ** np.array([2, 4, 6, 8])  # Keras's own optimizers count batches
    np.testing.assert_allclose(read(often, "learning_rate")[1], rates, rtol=1e-5)


@pytest.mark.parametrize("scaled", ["LossScaleOptimizer", "loss_scale_factor"])
def test_loss_scaling_does_not_scale_the_norm(scaled):
    inner = keras.optimizers.SGD(RATE, loss_scale_factor=8.0 if scaled == "loss_scale_factor" else None)
    optimizer = (
        inner if scaled == "loss_scale_factor" else keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    )
    memory, model = MemoryWriter(), linear(optimizer)
    fit(model, [Monitor([GradientNorm(), LearningRate()], [memory], every=1)])
    norms = [np.hypot(r["gw"], r["gb"]) for r in by_hand(4)]
    np.testing.assert_allclose(read(memory, "gradient_norm")[1], norms, rtol=2e-5)
    assert read(memory, "learning_rate")[1] == pytest.approx([RATE] * 4)


def test_rows_that_stand_twice_in_a_batch_count_once():
    """TensorFlow gives the gradient of an embedding as slices, one for each occurrence."""
    model = keras.Sequential([keras.Input((2,), dtype="int32"), layers.Embedding(5, 2), layers.Flatten()])
    model.compile(keras.optimizers.SGD(0.0), lambda y, p: ops.sum(p))
    memory = MemoryWriter()
    model.fit(
        np.array([[1, 1], [1, 3]]),
        np.zeros((2, 1)),
        verbose=0,
        callbacks=[Monitor([GradientNorm()], [memory], every=1)],
    )
    assert read(memory, "gradient_norm")[1][0] == pytest.approx(np.sqrt(2 * 3**2 + 2 * 1**2))


def test_a_weight_without_gradient_has_no_entry():
    used, idle = layers.Dense(1, name="used"), layers.Dense(1, name="idle")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [used(inputs), idle(inputs)])
    model.compile(keras.optimizers.SGD(RATE), ["mse", None])
    memory, probe = MemoryWriter(), GradientNorm()
    if BACKEND == "jax":  # JAX gives zeros, not None
        model.fit(X, Y, verbose=0, callbacks=[Monitor([probe], [memory], every=1)])
        assert read(memory, "gradient_norm/idle/kernel")[1] == [0.0]
    else:
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            model.fit(X, Y, verbose=0, callbacks=[Monitor([probe], [memory], every=1)])
        assert {n for n in memory.history if "idle" in n} == set()
    assert read(memory, "gradient_norm/used/kernel")[1][0] > 0


def test_a_model_without_input_shape_is_watched_from_its_second_step():
    model, memory = keras.Sequential([layers.Dense(1)]), MemoryWriter()
    model.compile(keras.optimizers.SGD(RATE), "mse")
    fit(model, [Monitor([GradientNorm(), WeightNorm()], [memory], every=1)])
    assert read(memory, "gradient_norm")[0][-3:] == [2, 3, 4]
    assert len(model.optimizer.variables) == 2


def test_several_monitors_share_the_step_and_leave_no_trace():
    model = linear(keras.optimizers.Adam(RATE), metrics=["mae"])
    names, num_variables = model.metrics_names, None
    first, second = MemoryWriter(), MemoryWriter()
    model.optimizer.build(model.trainable_variables)
    num_variables = len(model.optimizer.variables)
    monitors = [
        Monitor([GradientNorm(), DataLoss()], [first], every=1),
        Monitor([GradientNorm(), DataLoss()], [second]),
    ]
    fit(model, monitors)
    assert len(read(first, "gradient_norm")[1]) == 4
    assert read(second, "gradient_norm")[1][0] == pytest.approx(np.mean(read(first, "gradient_norm")[1][:2]), rel=1e-5)
    assert len(model.optimizer.variables) == num_variables
    assert model.metrics_names == names
    for thing in (model, model.optimizer):
        assert not {"apply", "compute_loss", "save_own_variables", "load_own_variables"} & set(thing.__dict__)
    assert set(fit(model, []).history) == {"loss", "mae"}


@pytest.mark.parametrize("following", ["none", "the same", "others"])
def test_an_interrupted_training_is_cleaned_up_by_the_next(tmp_path, following):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    def two_monitors():
        writers = [CSVWriter(tmp_path / "interrupted.csv"), MemoryWriter()]
        return [Monitor([GradientNorm(), DataLoss()], [writer], every=1) for writer in writers]

    model, begun = linear(), two_monitors()
    with pytest.raises(KeyboardInterrupt):
        fit(model, [*begun, Stop()])
    monitors = {"none": [], "the same": begun, "others": two_monitors()}[following]
    history = fit(model, monitors).history
    assert set(history) == ({"loss", "data_loss", "penalty"} if monitors else {"loss"})
    assert "gradient_norm" in (tmp_path / "interrupted.csv").read_text()  # written, and closed
    for monitor in monitors[1:]:
        assert len(read(monitor.writers[0], "gradient_norm")[0]) == 4 + (following == "the same")
    assert len(model.optimizer.variables) == 2
    assert model.metrics_names == ["loss"]
    for thing in (model, model.optimizer):
        assert not {"apply", "compute_loss", "make_train_function", "save_own_variables"} & set(thing.__dict__)


def test_the_train_function_is_made_anew_only_for_probes_in_the_step():
    made, model = [], linear()
    make = model.make_train_function
    model.__dict__["make_train_function"] = lambda force=False: (made.append(force), make(force=force))
    for probe, times in ((LearningRate(), 0), (GradientNorm(), 2), (DataLoss(), 2)):
        made.clear()
        fit(model, [Monitor([probe], [])], epochs=1)
        assert made.count(True) == times


@pytest.mark.parametrize("wrapped", [False, True])
def test_files_saved_meanwhile_are_those_without_a_monitor(tmp_path, wrapped):
    def make():
        adam = keras.optimizers.Adam(RATE)
        model = linear(keras.optimizers.LossScaleOptimizer(adam, initial_scale=8.0) if wrapped else adam)
        model.optimizer.build(model.trainable_variables)
        return model

    def train(model, folder, watched, epochs=2):
        folder.mkdir(exist_ok=True)
        saving = [
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
        ]
        fit(model, [*([Monitor([GradientNorm(), DataLoss()], [], every=1)] if watched else []), *saving], epochs=epochs)
        return [np.asarray(ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]

    plain, watched = (train(make(), tmp_path / name, name == "watched") for name in ("plain", "watched"))
    for a, b in zip(plain, watched, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    for source, watching in (("watched", False), ("plain", True)):  # and the second epoch may follow either first
        model = make()
        model.load_weights(tmp_path / source / "1.weights.h5")  # a warning, were a variable too many, is an error here
        for a, b in zip(plain, train(model, tmp_path / "next", watching, epochs=1), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        loaded = keras.models.load_model(tmp_path / source / "2.keras")
        for a, b in zip(plain, (*loaded.variables, *loaded.optimizer.variables), strict=True):
            np.testing.assert_allclose(a, ops.convert_to_numpy(b), rtol=1e-5, atol=1e-7)


def test_writers(tmp_path):
    stream, memory = io.StringIO(), MemoryWriter()
    table = CSVWriter(tmp_path / "deep" / "run.csv")
    monitor = Monitor([LearningRate(), Logs(), Weights(select.kernels())], [table, ConsoleWriter(stream), memory])
    model = linear()
    fit(model, [monitor], epochs=1)
    fit(model, [monitor], epochs=1)
    rows = list(csv.DictReader((tmp_path / "deep" / "run.csv").read_text().splitlines()))
    losses = [(int(row["step"]), float(row["value"])) for row in rows if row["name"] == "loss"]
    assert losses == list(zip(*read(memory, "loss"), strict=True))
    assert [step for step, _ in losses] == [2, 4]
    array = read(memory, "weights/sequential/dense/kernel")[1][1]
    assert array.shape == (3, 1)
    means = [float(row["value"]) for row in rows if row["name"] == "weights/sequential/dense/kernel/mean"]
    assert means[1] == pytest.approx(array.mean())
    assert stream.getvalue().startswith("step 2  learning_rate 0.1  ")


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_a_place_that_cannot_be_written_is_an_error_before_training(tmp_path, kind):
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "run"
    callback = TensorBoard(place) if kind == "tensorboard" else Monitor([Logs()], [CSVWriter(place / "run.csv")])
    model = linear()
    with pytest.raises(OSError, match=r"cannot write to .* Pass a directory"):
        fit(model, [callback])
    assert int(model.optimizer.iterations) == 0


def test_a_probe_and_a_writer_of_ones_own():
    class Largest(Probe):
        def measure(self, model, logs):
            return {"largest": ops.max(ops.stack([ops.max(ops.abs(w)) for w in model.trainable_variables]))}

    class Last(Writer):
        def write(self, step, values):
            self.last = (step, values)

    last = Last()
    fit(linear(keras.optimizers.SGD(0.0)), [Monitor([Largest()], [last])], epochs=1)
    assert last.last == (2, {"largest": 2.0})


def test_refusals():
    with pytest.raises(TypeError, match="takes probes"):
        Monitor([WeightNorm], [])
    with pytest.raises(TypeError, match="takes writers"):
        Monitor([WeightNorm()], ["logs"])
    for every in (0, 2.5, True, "batch"):
        with pytest.raises(ValueError, match="every="):
            Monitor([WeightNorm()], [], every)
    with pytest.raises(ValueError, match="`floor`"):
        UpdateRatio(floor=0)
    with pytest.raises(TypeError, match=r"Call it: select\.kernels\(\)"):
        GradientNorm(select.kernels)
    with pytest.raises(ValueError, match="another probe"):
        fit(linear(), [Monitor([WeightNorm(), WeightNorm()], [])])
    with pytest.raises(ValueError, match="matches none"):
        fit(linear(), [Monitor([GradientNorm(select.embeddings())], [])])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute belongs to TensorFlow")
def test_under_a_strategy_the_numbers_are_those_of_one_device():
    """In a process of its own, since devices cannot be split once TensorFlow runs."""
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
from keras_optreg.callbacks import DataLoss, GradientNorm, LearningRate, LearningRateDecay, MemoryWriter, Monitor

one = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(one, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
y = x.sum(1, keepdims=True) - 1
found = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope():
        dense = keras.layers.Dense(1, kernel_initializer="ones", kernel_regularizer="l2")
        model = keras.Sequential([keras.Input((3,)), dense])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    memory = MemoryWriter()
    monitor = Monitor([GradientNorm(), DataLoss(), LearningRate()], [memory], every=1)
    decay = LearningRateDecay(lambda t: 0.1 / (1 + t))
    logs = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[decay, monitor]).history
    assert len(model.optimizer.variables) == 2
    numbers = [values for name, (_, values) in memory.history.items() if "/" not in name]
    found.append(np.array([*numbers, logs["data_loss"] * 2, logs["penalty"] * 2]))
np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
"""
