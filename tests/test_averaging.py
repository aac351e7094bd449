"""Optimizers whose result is an average: which weights a model holds, when, and what is said about it."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from stepping import BACKEND, values_of, variables_of

from keras_optreg.callbacks import EarlyStopping, EvaluateAtAverage
from keras_optreg.optimizers import SGD, Adam, Lookahead, ScheduleFreeAdamW, ScheduleFreeSGD

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]]).astype("float32")
RATE, BETA = 0.05, 0.8
op_by_op = pytest.mark.usefixtures("run_op_by_op")


def linear(optimizer, **compile_options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse", **compile_options)
    return model


def fit(model, epochs=2, callbacks=(), **options):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options)


def kernel(model):
    return model.get_weights()[0]


class Points:
    """Schedule-Free SGD on the linear model, in float64: z, x and y after each epoch."""

    def __init__(self, epochs):
        y = z = x = np.asarray(kernel(linear(SGD(0.1))), "float64")
        self.start, self.y, self.x = y, [], []
        for t in range(1, 3 * epochs + 1):
            batch = slice(4 * ((t - 1) % 3), 4 * ((t - 1) % 3) + 4)
            g = 2 / 4 * X[batch].T @ (X[batch] @ y - Y[batch])
            z = z - RATE * g
            x = (1 - 1 / t) * x + z / t
            y = (1 - BETA) * z + BETA * x
            if t % 3 == 0:
                self.x.append(x)
                self.y.append(y)


def loss(w):
    return np.mean((X @ w - Y) ** 2)


class Seen(keras.callbacks.Callback):
    """The weights at the end of each epoch and when the first batch of one begins."""

    def __init__(self):
        super().__init__()
        self.at_end, self.in_training = [], []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.in_training.append(kernel(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.at_end.append(kernel(self.model))


def test_validation_and_checkpoints_see_the_average_and_training_does_not(tmp_path):
    points, seen = Points(3), Seen()
    model = linear(ScheduleFreeSGD(RATE, BETA))
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    history = fit(model, 3, [EvaluateAtAverage(), seen, checkpoint], validation_data=(X, Y)).history
    np.testing.assert_allclose(history["val_loss"], [loss(x) for x in points.x], rtol=1e-4)
    np.testing.assert_allclose(seen.at_end, points.x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(seen.in_training, [points.start, *points.y[:2]], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(kernel(model), points.x[-1], rtol=1e-4, atol=1e-6)
    saved = keras.saving.load_model(tmp_path / "2.keras")
    np.testing.assert_allclose(kernel(saved), points.x[1], rtol=1e-4, atol=1e-6)
    fit(saved, 1, [EvaluateAtAverage()])  # from the file: on from y, not from x
    np.testing.assert_allclose(kernel(saved), points.x[2], rtol=1e-4, atol=1e-6)


def test_without_the_callback_the_end_of_fit_is_at_the_average_and_warns_once():
    points = Points(2)
    model = linear(ScheduleFreeSGD(RATE, BETA))
    with pytest.warns(UserWarning, match="ScheduleFreeSGD: validation and checkpoints of this fit used the "
                      "weights at which gradients are taken.*EvaluateAtAverage()"):  # fmt: skip
        fit(model, 1)
    np.testing.assert_allclose(kernel(model), points.x[0], rtol=1e-4, atol=1e-6)
    fit(model, 1)  # no second warning: they are errors here
    # The first gradient of the second fit is taken at x, all the rest goes on from y.
    assert np.abs(kernel(model) - points.x[1]).max() < 0.2 * np.abs(points.x[1] - points.x[0]).max()


@pytest.mark.parametrize("with_callback", [True, False])
@pytest.mark.parametrize("kind", ["ScheduleFreeSGD", "Lookahead"])
def test_a_second_fit_goes_on_from_the_training_point(kind, with_callback):
    """With the callback as if never stopped; without it but for the point of one gradient."""

    def made():
        return ScheduleFreeSGD(RATE, BETA) if kind == "ScheduleFreeSGD" else Lookahead(SGD(RATE, 0.9), 4, 0.3)

    unbroken, broken = linear(made()), linear(made())
    fit(unbroken, 4, [EvaluateAtAverage()])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*validation and checkpoints of this fit")
        for _ in range(4):
            fit(broken, 1, [EvaluateAtAverage()] if with_callback else [])
    moved = np.abs(kernel(unbroken) - kernel(linear(made()))).max()
    difference = np.abs(kernel(broken) - kernel(unbroken)).max()
    assert difference < (1e-5 if with_callback else 0.2) * moved, difference / moved


def test_a_backup_made_at_the_average_resumes_at_the_training_point(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    unbroken, broken, resumed = (linear(ScheduleFreeSGD(RATE, BETA)) for _ in range(3))
    fit(unbroken, 4, [EvaluateAtAverage()])
    with pytest.raises(KeyboardInterrupt):
        fit(broken, 4, [EvaluateAtAverage(), keras.callbacks.BackupAndRestore(str(tmp_path)), Interrupt()])
    fit(resumed, 4, [EvaluateAtAverage(), keras.callbacks.BackupAndRestore(str(tmp_path))])
    np.testing.assert_allclose(kernel(resumed), kernel(unbroken), rtol=1e-5, atol=1e-7)


@op_by_op
def test_saving_between_updates_warns_and_goes_on_from_the_same_point(tmp_path):
    model = linear(ScheduleFreeSGD(RATE, BETA))
    model.train_on_batch(X[:4], Y[:4])
    with pytest.warns(UserWarning, match="what is being saved holds the weights at which"):
        model.save(tmp_path / "m.keras")
    model.optimizer.to_average()
    model.save(tmp_path / "average.keras")  # no warning
    model.optimizer.to_training_point()
    loaded = [keras.saving.load_model(tmp_path / name) for name in ("m.keras", "average.keras")]
    assert [m.optimizer.is_at_average() for m in loaded] == [False, True]
    np.testing.assert_allclose(kernel(model), kernel(loaded[0]), rtol=1e-6)
    loaded[1].optimizer.to_training_point()
    for m in loaded:
        m.train_on_batch(X[4:8], Y[4:8])
    np.testing.assert_allclose(kernel(loaded[1]), kernel(loaded[0]), rtol=1e-5)


MADE = {
    "ScheduleFreeAdamW": lambda: ScheduleFreeAdamW(0.05, warmup_steps=3, weight_decay=0.1),
    "Lookahead": lambda: Lookahead(Adam(0.05), sync_period=2),
    "Lookahead of Keras's": lambda: Lookahead(keras.optimizers.Adam(0.05), sync_period=2),
}


@pytest.mark.parametrize("name", MADE)
def test_evaluating_on_the_way_changes_nothing(name):
    plain, watched = linear(MADE[name]()), linear(MADE[name]())
    fit(plain, 3, [EvaluateAtAverage()])
    fit(watched, 3, [EvaluateAtAverage()], validation_data=(X, Y))
    np.testing.assert_array_equal(kernel(plain), kernel(watched))
    before = kernel(watched)
    alone = watched.evaluate(X, Y, verbose=0)
    assert alone == watched.evaluate(X, Y, verbose=0, callbacks=[EvaluateAtAverage()])
    assert alone == pytest.approx(loss(kernel(watched)), rel=1e-5)
    np.testing.assert_array_equal(kernel(watched), before)


def test_evaluate_and_predict_alone_take_the_average_and_give_the_weights_back():
    model = linear(ScheduleFreeSGD(RATE, BETA))
    model.train_on_batch(X[:4], Y[:4])
    model.train_on_batch(X[4:8], Y[4:8])
    y = kernel(model)
    model.optimizer.to_average()
    x = kernel(model)
    model.optimizer.to_training_point([(model.layers[0].kernel, y)])
    assert np.abs(x - y).max() > 1e-4
    assert model.evaluate(X, Y, verbose=0, callbacks=[EvaluateAtAverage()]) == pytest.approx(loss(x), rel=1e-5)
    np.testing.assert_allclose(model.predict(X, verbose=0, callbacks=[EvaluateAtAverage()]), X @ x, rtol=1e-4)
    np.testing.assert_array_equal(kernel(model), y)


def test_nothing_is_swapped_before_the_first_update():
    model = linear(ScheduleFreeSGD(RATE))
    before = kernel(model)
    model.evaluate(X, Y, verbose=0, callbacks=[EvaluateAtAverage()])
    model.fit(X, Y, epochs=0, callbacks=[EvaluateAtAverage()])
    np.testing.assert_array_equal(kernel(model), before)


def test_the_best_weights_are_averages():
    model, seen = linear(ScheduleFreeSGD(RATE, BETA)), Seen()
    stopping = EarlyStopping("loss", patience=9, restore_best_weights=True)
    fit(model, 3, [EvaluateAtAverage(), seen, stopping])
    np.testing.assert_array_equal(kernel(model), seen.at_end[stopping.best_epoch])


def test_other_optimizers_are_told_what_there_is_for_them():
    model = linear(SGD(0.1))
    with pytest.raises(TypeError, match="SGD has no average to evaluate.*WeightAveraging"):
        fit(model, 1, [EvaluateAtAverage()])
    with pytest.raises(ValueError, match="ScheduleFreeSGD averages the weights itself"):
        ScheduleFreeSGD(0.1, use_ema=True)


@pytest.mark.parametrize("form", ["array", "batches"])
def test_batch_normalisation_is_that_of_the_average(form):
    keras.utils.set_random_seed(1)
    norm = layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dropout(0.5), norm, layers.Dense(1)])
    model.compile(ScheduleFreeSGD(0.1), "mse")
    data = X if form == "array" else [(X[:6], Y[:6]), (X[6:], Y[6:])]
    in_training = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            in_training.append(self.model.layers[2].get_weights()[2])

        def on_epoch_begin(self, epoch, logs=None):
            if epoch:
                np.testing.assert_array_equal(self.model.layers[2].get_weights()[2], in_training[-1])

    model.layers[1].rate = 0.0  # so that the statistics can be told
    fit(model, 2, [EvaluateAtAverage(data, batch_size=6), Watch()], validation_data=(X, Y))
    w, b = model.layers[0].get_weights()
    halves = [part @ w + b for part in (X[:6], X[6:])]
    mean, variance = (np.mean([f(half, axis=0) for half in halves], axis=0) for f in (np.mean, np.var))
    np.testing.assert_allclose(ops.convert_to_numpy(norm.moving_mean), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(norm.moving_variance), variance, rtol=1e-4)
    assert norm.momentum == 0.9
    assert np.abs(in_training[-1] - mean).max() > 1e-3


def test_batch_normalisation_without_data_is_said():
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization(name="norm"), layers.Dense(1)])
    model.compile(ScheduleFreeSGD(0.1), "mse")
    with pytest.warns(UserWarning, match="The batch normalisation of norm has statistics of other weights"):
        fit(model, 1, [EvaluateAtAverage()])
    with pytest.raises(ValueError, match="gave no batch"):
        fit(model, 2, [EvaluateAtAverage(iter([X]))])


@op_by_op
def test_the_point_is_right_where_a_weight_has_had_no_gradient():
    start = [np.array([[1.0, -2.0]], "float32"), np.array([3.0], "float32")]
    variables = variables_of(start)
    optimizer = ScheduleFreeSGD(0.1, 0.5)
    optimizer.build(variables)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist")
        optimizer.apply([2 * variables[0], None], variables)
        optimizer.apply([2 * variables[0], 2 * variables[1]], variables)
        y = values_of(variables)
        optimizer.to_average()
        x = values_of(variables)
        optimizer.apply([ops.zeros((1, 2)), None], variables)  # from x: back to y first
    z = start[0] * 0.8
    assert np.abs(x[1] - y[1]).max() > 0.01
    np.testing.assert_allclose(values_of(variables)[1], y[1], rtol=1e-6)
    assert not optimizer.is_at_average()
    # One weight by hand: z = 0.8·w₀, x = z, y = z; g = 2y; z = 0.64·w₀, x = 0.72·w₀, y = 0.68·w₀; then c = 1/3.
    np.testing.assert_allclose(x[0], 0.72 * start[0], rtol=1e-5)
    last = 0.5 * 0.64 + 0.5 * (0.72 * 2 / 3 + 0.64 / 3)
    np.testing.assert_allclose(values_of(variables)[0], last * start[0], rtol=1e-5)
    assert z.shape == start[0].shape


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras's mixed precision is the same code elsewhere")
def test_under_loss_scaling():
    points = Points(2)
    model = linear(keras.optimizers.LossScaleOptimizer(ScheduleFreeSGD(RATE, BETA), initial_scale=8.0))
    fit(model, 2, [EvaluateAtAverage()])
    np.testing.assert_allclose(kernel(model), points.x[1], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="on JAX it is right, and on torch in its first step")
@pytest.mark.skipif(not hasattr(keras.optimizers, "ScheduleFreeAdamW"), reason="Keras has had it since 3.14")
def test_keras_schedule_free_adamw_is_wrong_in_fit():
    """Why there is ours: in the first step of fit Keras's sets the weights to what its empty slot z says, about 0.

    After one step y = z = x = w₀ − γ·g/(|g| + ε), whatever β₁ is: each weight has moved by γ.
    """
    moves = {}
    for kind in (ScheduleFreeAdamW, keras.optimizers.ScheduleFreeAdamW):
        model = linear(kind(RATE, beta_1=BETA, weight_decay=0.0))
        start = kernel(model)
        fit(model, 1, [EvaluateAtAverage()] if kind is ScheduleFreeAdamW else [], batch_size=12)
        moves[kind] = np.abs(kernel(model) - start)
    np.testing.assert_allclose(moves[ScheduleFreeAdamW], RATE, rtol=1e-3)
    if np.allclose(moves[keras.optimizers.ScheduleFreeAdamW], RATE, rtol=1e-3):
        pytest.skip("this Keras is mended: take the sentence out of the docstring of ScheduleFreeAdamW")
    assert np.abs(moves[keras.optimizers.ScheduleFreeAdamW] - RATE).max() > 0.1


@op_by_op
@pytest.mark.skipif(BACKEND == "jax", reason="JAX computes in float64 only where it was told to before it began")
def test_in_float64():
    keras.config.set_floatx("float64")
    try:
        variables = variables_of([np.array([[1.0, -2.0]])], dtype="float64")
        optimizer = ScheduleFreeAdamW(0.05, BETA, warmup_steps=3)
        for _ in range(5):
            optimizer.apply([2 * variables[0]], variables)
        y = z = x = np.array([[1.0, -2.0]])
        v = total = 0.0
        for t in range(1, 6):
            g, gamma = 2 * y, 0.05 * min(1, t / 3)
            v, total = 0.999 * v + 0.001 * g**2, total + gamma**2
            z = z - gamma * g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            x = x + gamma**2 / total * (z - x)
            y = (1 - BETA) * z + BETA * x
        np.testing.assert_allclose(ops.convert_to_numpy(variables[0]), y, rtol=1e-8)
    finally:
        keras.config.set_floatx("float32")


@op_by_op
def test_frozen_weights_stay_as_they_are():
    variables = variables_of([np.array([[1.0, -2.0]], "float32"), np.array([3.0], "float32")])
    optimizer = ScheduleFreeSGD(0.1, 0.5)
    for _ in range(3):
        optimizer.apply([2 * v for v in variables], variables)
    optimizer.to_average()
    variables[1].trainable = False
    frozen = values_of(variables)[1]
    optimizer.apply([2 * variables[0]], variables[:1])
    optimizer.to_average()
    np.testing.assert_array_equal(values_of(variables)[1], frozen)


def test_an_evaluation_within_an_epoch_is_undone_before_the_next_batch():
    average = EvaluateAtAverage()

    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                self.model.evaluate(X, Y, verbose=0, callbacks=[average])

    plain, watched = linear(ScheduleFreeSGD(RATE, BETA)), linear(ScheduleFreeSGD(RATE, BETA))
    fit(plain, 2, [EvaluateAtAverage()])
    fit(watched, 2, [average, Evaluate()])
    np.testing.assert_array_equal(kernel(plain), kernel(watched))
