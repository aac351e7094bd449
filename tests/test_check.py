"""check finds what would go wrong, and changes nothing."""

import random

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optreg import optimizers
from keras_optreg.callbacks import CSVWriter, EarlyStopping, LearningRateDecay, Logs, MemoryWriter, Monitor, TensorBoard
from keras_optreg.check import check
from keras_optreg.schedules import StepDecay

BACKEND = keras.backend.backend()
X = np.random.default_rng(1).normal(size=(40, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def make(optimizer=None, loss="mse", dropout=0.3, **options):
    body = [layers.Dense(4, kernel_regularizer="l2", activation="tanh"), layers.Dropout(dropout), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *body])
    model.compile(optimizer or optimizers.Adam(0.1), loss, metrics=["mae"], **options)
    return model


def state(model):
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_it_reports_what_two_batches_say():
    model = make(dropout=0.0)
    report = check(model, X, Y, batch_size=8)
    assert report.ok
    w, b, v, c = (np.array(a, "float64") for a in model.get_weights())
    h = np.tanh(X[:8] @ w + b)
    error = h @ v + c - Y[:8]
    first = {"dense_1/kernel": h.T @ error / 4, "dense_1/bias": error.sum(0) / 4}
    gradients = {row.weight.removeprefix("sequential/"): row.gradient_norm for row in report.gradients}
    assert set(gradients) == {"dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"}
    alone = check(model, X[:8], Y[:8], batch_size=8)  # one batch: its gradient by hand
    alone_gradients = {row.weight.removeprefix("sequential/"): row.gradient_norm for row in alone.gradients}
    for name, gradient in first.items():
        assert alone_gradients[name] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    assert alone.logs["data_loss"] == pytest.approx((error**2).mean(), rel=1e-4)
    assert alone.logs["penalty"] == pytest.approx(0.01 * (w**2).sum(), rel=1e-4)
    assert alone.seconds_per_step is None
    assert report.seconds_per_step > 0
    assert report.learning_rate == pytest.approx(0.1)
    text = str(report)
    for part in ("check: ok", "val_mae", "seconds_per_step", "sequential/dense/kernel", "penalty"):
        assert part in text


def test_everything_is_as_it_was(tmp_path):
    board, stopping = TensorBoard(tmp_path / "board"), EarlyStopping("val_loss", restore_best_weights=True)
    memory, table = MemoryWriter(), CSVWriter(tmp_path / "run.csv")
    callbacks = [
        LearningRateDecay(StepDecay(0.5, 0.5, 1)),
        board,
        stopping,
        Monitor([Logs()], [memory, table]),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras"),
        keras.callbacks.BackupAndRestore(str(tmp_path / "backup")),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
    ]
    draw = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: keras.random.normal(()))
    model = make()
    history = model.fit(X, Y, epochs=1, verbose=0)
    keras.utils.set_random_seed(7)
    normals = [float(keras.random.normal(())) for _ in range(2)]
    keras.utils.set_random_seed(7)
    assert float(keras.random.normal(())) == normals[0]
    before, dices = state(model), (random.getstate(), np.random.get_state()[1].copy())
    assert check(model, X, Y, callbacks=[*callbacks, draw]).ok
    model.reset_metrics()
    assert float(keras.random.normal(())) == normals[1]
    after = state(model)
    num_metrics = len(model.metrics_variables)
    assert same(before[:-num_metrics], after[:-num_metrics])
    assert random.getstate() == dices[0]
    assert np.array_equal(np.random.get_state()[1], dices[1])
    assert model.history is history
    assert memory.history == {}
    assert stopping.best is None
    assert list(tmp_path.iterdir()) == []
    assert model.metrics_names == make().metrics_names


def test_training_after_a_check_is_the_training_without():
    runs = []
    for checked in (False, True):
        keras.utils.set_random_seed(3)
        model = make(keras.optimizers.SGD(0.1))
        model.fit(X, Y, verbose=0)  # building metrics rolls dice on torch; a check builds them too
        if checked:
            check(model, X, Y)
        history = model.fit(X, Y, epochs=2, batch_size=8, shuffle=False, verbose=0).history
        runs.append((history["loss"], model.get_weights()))
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-6)
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_typing_error_costs_seconds():
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match="'val_los', which is not in the logs") as error:
        check(model, X, Y, callbacks=[EarlyStopping("val_los")])
    assert "keras_optreg.check while running fit" in error.value.__notes__[0]
    assert same(before, model.get_weights())
    assert int(model.optimizer.iterations) == 0
    assert "apply" not in model.optimizer.__dict__
    assert "compute_loss" not in model.__dict__
    report = check(
        model, X, Y, callbacks=[keras.callbacks.ReduceLROnPlateau("val_los", mode="min")]
    )  # Keras would only warn
    assert not report.ok
    assert "ReduceLROnPlateau monitors 'val_los'" in str(report)
    with pytest.raises(Exception, match=r".+") as error:
        check(model, X[:, :2], Y)  # the wrong shape: whatever Keras says
    assert any("keras_optreg.check" in note for note in error.value.__notes__)


def test_without_validation_its_names_are_missing():
    with pytest.raises(ValueError, match="validation data"):
        check(make(), X, Y, callbacks=[EarlyStopping("val_loss")], validation_data=False)
    assert check(make(), X, Y, callbacks=EarlyStopping("val_loss"), validation_data=(X[:3], Y[:3])).ok


def test_numbers_that_are_none_are_problems():
    report = check(make(), np.where(X > 1, np.nan, X), Y)
    assert not report.ok
    assert any("loss is nan" in problem for problem in report.problems)
    assert any("the gradient of sequential/dense/kernel is nan" in problem for problem in report.problems)


def test_weights_that_learn_nothing_are_named():
    inputs = keras.Input((3,))
    hidden = layers.Dense(2, activation="relu", bias_initializer=keras.initializers.Constant(-100.0), name="dead")(
        inputs
    )
    model = keras.Model(inputs, layers.Dense(1, name="live")(hidden))
    model.compile("sgd", "mse")
    report = check(model, X, Y)
    assert report.ok
    assert "the gradient of dead/kernel is exactly 0" in str(report)
    assert "live/bias is" not in str(report)


def test_a_place_that_cannot_be_written_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("in the way")
    report = check(make(), X, Y, callbacks=[TensorBoard(tmp_path / "file" / "run")])
    assert not report.ok
    assert "TensorBoardWriter will not be able to write" in str(report)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        assert index < 2, "only two batches are to be read"
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


def test_datasets():
    model = make(dropout=0.0)
    arrays = check(model, X, Y, batch_size=8).logs["loss"]
    datasets = [Batches()]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        datasets.append(tf.data.Dataset.from_tensor_slices((X, Y)).batch(8))
    if BACKEND == "torch":
        import torch

        tensors = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        datasets.append(torch.utils.data.DataLoader(tensors, batch_size=8))
    for dataset in datasets:
        assert check(model, dataset).logs["loss"] == pytest.approx(arrays, rel=1e-5)
    if BACKEND == "torch":  # batches that are inputs alone
        alone = keras.Sequential([keras.Input((3,)), layers.Dense(2, activity_regularizer="l2")])
        alone.compile("sgd")
        assert check(alone, torch.utils.data.DataLoader(torch.from_numpy(X), batch_size=8)).ok
    with pytest.raises(TypeError, match="use up the first batches"):
        check(model, (Batches()[i] for i in range(2)))


def test_it_needs_a_compiled_model_and_callbacks_that_copy():
    with pytest.raises(ValueError, match="compile"):
        check(keras.Sequential([keras.Input((3,)), layers.Dense(1)]), X, Y)

    class Uncopyable(keras.callbacks.Callback):
        def __deepcopy__(self, memo):
            raise RuntimeError("holds a socket")

    with pytest.raises(TypeError, match=r"Uncopyable cannot be copied: holds a socket\. Leave it out"):
        check(make(), X, Y, callbacks=[Uncopyable()])


def test_an_unbuilt_model_and_a_model_of_ones_own():
    class Own(keras.Model):  # without get_config: it cannot be cloned, and need not be
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model.compile("sgd", "mse")
    report = check(model, X, Y)
    assert report.ok
    assert len(report.gradients) == 2
    assert int(model.optimizer.iterations) == 0


def test_steps_left_out_by_loss_scaling_are_said():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=float("inf"))
    report = check(make(scaled, dropout=0.0), X, Y)
    assert "note: no update took place" in str(report)


def test_a_train_step_that_updates_nothing_is_a_problem():
    class Idle(keras.Sequential):
        def train_step(self, *arguments):
            logs = {"loss": ops.zeros(())}
            return logs if BACKEND != "jax" else (logs, arguments[0])

    model = Idle([keras.Input((3,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    report = check(model, X, Y)
    assert not report.ok
    assert "problem: no update took place" in str(report)


def test_gradients_are_reported_where_accumulation_leaves_both_steps_without_an_update():
    report = check(make(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), dropout=0.0), X, Y)
    assert report.ok
    assert "no update" not in str(report)
    assert all(row.gradient_norm > 0 for row in report.gradients)
