"""The five source articles, row by row: their programs as printed and as they should be, and what they say without one.

What a program does as printed is shown by its formulas in NumPy; ours is compared with NumPy or a closed form.
`docs/articles.md` tells the same for readers, and its programs run here.
"""

import contextlib
import io
import re
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optreg import select
from keras_optreg.callbacks import (
    EarlyStopping,
    GradientNorm,
    LearningRateDecay,
    MemoryWriter,
    Monitor,
    TrainValidationGap,
)
from keras_optreg.optimizers import SGD, Adam, RMSprop
from keras_optreg.regularizers import L1, L2, attach, insert_dropout
from keras_optreg.schedules import ExponentialDecay, StepDecay

BACKEND = keras.backend.backend()
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="the program calls TensorFlow")


def values(model):
    return [ops.convert_to_numpy(w) for w in model.trainable_variables]


def number(tensor):
    return ops.convert_to_numpy(tensor).item()


def sequence(*parts, shape):
    return keras.Sequential([keras.Input(shape), *parts])


def take_steps(model, optimizer, x, y, loss="mse", steps=1, compiling=None, **options):
    """`steps` updates under `fit`, each on all of x and y: one epoch over as many copies."""
    at_once = 50 if steps % 50 == 0 and BACKEND != "torch" else 1  # which Keras has not on torch
    model.compile(optimizer, loss, steps_per_execution=at_once, **(compiling or {}))
    copies = [np.concatenate([a] * steps) for a in (x, y)]
    return model.fit(*copies, batch_size=len(x), shuffle=False, verbose=0, **options)


def gradients(model, x, y, loss):
    """The gradient of the loss with its penalties by each weight: the heart of a training loop written by hand."""
    x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True)) + sum(model.losses)
        return tape.gradient(value, model.trainable_variables)
    if BACKEND == "jax":
        import jax

        def value(weights):
            state = [v.value for v in model.non_trainable_variables]
            predicted, _, penalties = model.stateless_call(weights, state, x, training=True, return_losses=True)
            return loss(y, predicted) + sum(penalties)

        return jax.grad(value)([v.value for v in model.trainable_variables])
    model.zero_grad()
    (loss(y, model(x, training=True)) + sum(model.losses)).backward()
    return [v.value.grad for v in model.trainable_variables]


# ---------------------------------------------------------------- 003: gradient descent on x²


def test_003_gradient_descent_on_a_parabola():
    x, optimizer = keras.Variable(2.0), SGD(0.1)
    for _ in range(100):
        optimizer.apply([2 * x], [x])
    assert number(x) == pytest.approx(2 * 0.8**100, rel=1e-4)  # 4.07e-10, as printed


@pytest.mark.parametrize(("options", "epochs"), [({"min_delta": 1e-3}, 19), ({"min_delta": 0.4, "relative": True}, 2)])
def test_000_and_002_gradient_descent_until_the_loss_has_converged(options, epochs):
    """From 2 at rate 0.1 the loss x² is 4·0.64ᵗ: it falls by less than 1e-3 first at t = 18, by 36 % always."""
    model = sequence(layers.Dense(1, use_bias=False, kernel_initializer="ones"), shape=(1,))
    model.set_weights([np.array([[2.0]])])
    model.compile(SGD(0.1), "mse")
    stopping = EarlyStopping("loss", patience=1, **options)
    history = model.fit(np.ones((1, 1)), np.zeros((1, 1)), epochs=1000, verbose=0, callbacks=[stopping])
    assert len(history.epoch) == epochs
    np.testing.assert_allclose(history.history["loss"], 4 * 0.64 ** np.arange(epochs), rtol=1e-4)
    assert "has not improved" in stopping.stop_reason


# ---------------------------------------------------------------- 001: linear regression y = 4 + 3x, plain, L1, L2

_random = np.random.RandomState(1)  # the stream of np.random.seed(1)
M, ALPHA, ITERATIONS = 100, 0.01, 1500
X = 2 * _random.rand(M, 1)
Y = 4 + 3 * X + _random.randn(M, 1)
THETA = _random.randn(1, 1)
WITH_INTERCEPT = np.hstack([X, np.ones((M, 1))])  # Keras's order: kernel, bias


def line(use_bias):
    slope = keras.initializers.Constant(THETA.item())
    return sequence(layers.Dense(1, use_bias=use_bias, kernel_initializer=slope), shape=(1,))


def half_squared_error(y, predicted):
    """The data term of the article's formula, 1/(2m) Σ(h − y)²; Keras's "mse" is 1/m Σ(h − y)²."""
    return ops.mean(ops.square(predicted - y), axis=-1) / 2


def descent(columns, scale, shrink=lambda slope: 0.0, prox=lambda slope: slope, steps=ITERATIONS):
    """Steps down scale/m · ½Σ(h − y)², with a penalty on the slope by its gradient or its proximal map."""
    theta = np.zeros((columns.shape[1], 1))
    theta[0] = THETA
    for _ in range(steps):
        gradient = scale / M * columns.T @ (columns @ theta - Y)
        gradient[0] += shrink(theta[0])
        theta = theta - ALPHA * gradient
        theta[0] = prox(theta[0])
    return theta.ravel()


def fitted(use_bias, loss="mse", penalty=None, steps=ITERATIONS, **options):
    model = line(use_bias)
    if penalty is not None:
        attach(model, penalty)
    take_steps(model, SGD(ALPHA, **options), X, Y, loss, steps)
    return np.concatenate([w.ravel() for w in values(model)])


def test_001_without_an_intercept_the_slope_ends_near_6():
    printed = descent(X, scale=2)
    assert printed == pytest.approx(6.0317, abs=1e-4)
    assert printed == pytest.approx((X * Y).sum() / (X * X).sum())  # the best line through the origin, far from 3
    np.testing.assert_allclose(fitted(use_bias=False), printed, rtol=1e-5)


def test_001_with_an_intercept_it_ends_at_least_squares():
    best = np.linalg.lstsq(WITH_INTERCEPT, Y, rcond=None)[0].ravel()
    assert best == pytest.approx([2.8425, 4.2370], abs=1e-4)
    ours = fitted(use_bias=True)
    np.testing.assert_allclose(ours, descent(WITH_INTERCEPT, scale=2), rtol=1e-5)
    np.testing.assert_allclose(ours, best, atol=0.01)  # 1,500 iterations; only the last 0.2 % of the way is missing


SOFT = {
    "L1": (L1, lambda s, w: s * np.sign(w), lambda s, w: np.sign(w) * np.maximum(np.abs(w) - ALPHA * s, 0)),
    "L2": (L2, lambda s, w: 2 * s * w, lambda s, w: w / (1 + 2 * ALPHA * s)),
}  # with s = λ/(2m): the class, the gradient, and the proximal map of a step of size ALPHA


@pytest.mark.parametrize("name", SOFT)
def test_001_penalties_at_the_formulas_scale_in_the_loss_and_in_the_update(name):
    penalty, gradient, prox = SOFT[name]
    s = 40.0 / (2 * M)
    ours = penalty.per_example(40.0, M)
    in_loss = fitted(True, half_squared_error, ours, steps=500)
    in_update = fitted(True, half_squared_error, penalties=ours, steps=500)
    by_hand = partial(descent, WITH_INTERCEPT, 1, steps=500)
    np.testing.assert_allclose(in_loss, by_hand(shrink=partial(gradient, s)), rtol=2e-5)
    np.testing.assert_allclose(in_update, by_hand(prox=partial(prox, s)), rtol=2e-5)
    np.testing.assert_allclose(in_loss, in_update, rtol=2e-3)  # two ways to the same place
    assert abs(in_loss[0] - by_hand()[0]) > 0.1  # and not the unpenalised one


def test_001_l1_in_the_update_makes_a_slope_that_is_not_worth_its_price_exactly_zero():
    assert 2 * np.cov(X.ravel(), Y.ravel(), ddof=0)[0, 1] < 4.0  # the pull of the data on a slope of 0
    in_update = fitted(True, "mse", steps=750, penalties=L1(4.0))
    assert in_update[0] == 0
    assert in_update[1] == pytest.approx(Y.mean(), rel=1e-5)


def test_001_l1_as_printed_is_right_by_doubling_twice_and_l2_is_half_as_strong():
    """λ/m·sign(θ) stands where the formula has λ/(2m), but 2/m stands where its data term has 1/m: the same minimum.

    For L2 the formula's gradient λ/m·θ was not doubled.
    """
    xx, xy, strength = (X * X).sum(), (X * Y).sum(), 1.0
    minimum = {"L1": (xy - strength / 2) / xx, "L2": xy / (xx + strength)}  # of 1/(2m)Σ(θx − y)² + λ/(2m)(|θ| or θ²)
    printed = {
        "L1": descent(X, scale=2, shrink=lambda w: strength / M * np.sign(w))[0],
        "L2": descent(X, scale=2, shrink=lambda w: strength / M * w)[0],
    }
    assert printed["L1"] == pytest.approx(minimum["L1"])
    assert minimum["L1"] == pytest.approx(6.0278, abs=5e-5)
    assert printed["L2"] == pytest.approx(xy / (xx + strength / 2))
    assert (printed["L2"], minimum["L2"]) == pytest.approx((6.0084, 5.9853), abs=5e-5)
    for name, penalty in (("L1", L1), ("L2", L2)):
        ours = fitted(False, half_squared_error, penalty.per_example(strength, M), steps=1000)
        assert ours == pytest.approx(minimum[name], rel=1e-5)
    beside_mse = fitted(False, "mse", L2.per_example(2 * strength, M), steps=500)  # twice the data term, twice the λ
    assert beside_mse == pytest.approx(minimum["L2"], rel=1e-5)


# ---------------------------------------------------------------- 002: a network under fit and by hand


def momentum_average(g, state):
    state["v"] = 0.9 * state.get("v", 0) + (1 - 0.9) * g
    return state["v"]


def adam(g, state):
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * g * g
    return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7 / np.sqrt(1 - 0.999**t))


def rmsprop(g, state):
    state["v"] = 0.9 * state.get("v", 0) + 0.1 * g * g
    return g / np.sqrt(state["v"] + 1e-7)


RULES = {
    "SGD": (partial(SGD, 0.01), 0.01, lambda g, state: g),
    "momentum": (partial(SGD, 0.01, momentum=0.9, dampening=0.9), 0.01, momentum_average),
    "Adam": (partial(Adam, 0.01), 0.01, adam),
    "RMSprop": (partial(RMSprop, 0.01), 0.01, rmsprop),
}


def backpropagation(weights, x, y):
    """Gradients of the mean squared error of Dense(10, relu), Dense(1), by the chain rule."""
    w1, b1, w2, b2 = weights
    hidden = np.maximum(x @ w1 + b1, 0)
    error = 2 * (hidden @ w2 + b2 - y) / len(x)
    back = error @ w2.T * (hidden > 0)
    return [x.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]


@pytest.mark.parametrize("name", RULES)
def test_002_fit_and_a_hand_written_loop_give_the_same_weights(name):
    make, rate, rule = RULES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype("float32")
    y = (x[:, :1] * x[:, 1:2]).astype("float32")
    batches = [(x[i : i + 20], y[i : i + 20]) for i in (0, 20, 40)] * 4
    start = [rng.normal(size=s) * 0.5 for s in ((4, 10), (10,), (10, 1), (1,))]

    under_fit, by_hand = (sequence(layers.Dense(10, "relu"), layers.Dense(1), shape=(4,)) for _ in range(2))
    for model in (under_fit, by_hand):
        model.set_weights(start)
    under_fit.compile(make(), "mse")
    under_fit.fit(x, y, batch_size=20, epochs=4, shuffle=False, verbose=0)
    optimizer, loss = make(), keras.losses.MeanSquaredError()
    for batch in batches:
        optimizer.apply(gradients(by_hand, *batch, loss), by_hand.trainable_variables)

    reference, states = [w.astype("float32").astype("float64") for w in start], [{} for _ in start]
    for batch in batches:
        for i, g in enumerate(backpropagation(reference, *batch)):
            reference[i] = reference[i] - rate * rule(g, states[i])
    for a, b, c in zip(values(under_fit), values(by_hand), reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)


def test_002_momentum_as_programmed_takes_ten_times_the_step_of_momentum_as_written():
    """SGD(0.01, momentum=0.9) sums gradients, v = βv + g; the formula averages them, v = βv + (1 − β)g."""
    programmed, written, equal = (keras.Variable(1.0) for _ in range(3))
    optimizers = [SGD(0.01, momentum=0.9), SGD(0.01, 0.9, dampening=0.9), SGD(0.1, 0.9, dampening=0.9)]
    for _ in range(20):
        for w, optimizer in zip((programmed, written, equal), optimizers, strict=True):
            optimizer.apply([ops.ones(())], [w])
    assert 1 - number(programmed) == pytest.approx(10 * (1 - number(written)), rel=1e-4)
    assert number(equal) == pytest.approx(number(programmed), rel=1e-5)


# ---------------------------------------------------------------- 000: penalties in the loss; compile takes none


@pytest.mark.parametrize(
    ("penalty", "by_hand"),
    [
        (L1(0.01), lambda w: 0.01 * np.abs(w).sum()),
        (L2(0.01), lambda w: 0.01 * (w**2).sum()),
        (L2.halved(0.01), lambda w: 0.5 * 0.01 * (w**2).sum()),
    ],
    ids=["λΣ|w|", "λΣw²", "½λΣw²"],
)
def test_000_and_004_the_penalty_in_the_loss_is_the_sum_by_hand(penalty, by_hand):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 6)), np.eye(10)[rng.integers(10, size=16)]
    model = sequence(layers.Dense(12, "relu"), layers.Dense(10, "softmax"), shape=(6,))
    model.compile(SGD(), "categorical_crossentropy")
    data_loss = model.evaluate(x, y, verbose=0)
    attach(model, penalty)
    expected = sum(by_hand(w.astype("float64")) for w in values(model) if w.ndim == 2)
    assert sum(map(number, model.losses)) == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(data_loss + expected, rel=1e-5)


def test_000_compile_takes_no_kernel_regularizer_and_attach_does_what_was_meant():
    def network(**options):
        keras.utils.set_random_seed(1)
        return sequence(layers.Dense(128, "relu", **options), layers.Dense(10, "softmax", **options), shape=(6,))

    model, built_with_it = network(), network(kernel_regularizer=keras.regularizers.L2(0.01))
    with pytest.raises(TypeError, match="kernel_regularizer"):
        model.compile("adam", "categorical_crossentropy", kernel_regularizer=keras.regularizers.L2(0.01))
    assert [row.survives for row in attach(model, L2(0.01))] == [True, True]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)), np.eye(10)[rng.integers(10, size=32)]
    for m in (model, built_with_it):
        take_steps(m, SGD(0.1), x, y, "categorical_crossentropy", steps=5)
    for ours, kerass in zip(values(model), values(built_with_it), strict=True):
        np.testing.assert_allclose(ours, kerass, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "missing"),
    [("theta = theta - alpha * gradients", "alpha"), ("for images, labels in train_dataset: pass", "train_dataset")],
)
def test_001_and_002_programs_that_stop_at_an_undefined_name(line, missing):
    with pytest.raises(NameError, match=missing):
        exec(line, {"theta": THETA, "gradients": THETA})


# ---------------------------------------------------------------- 004: L1 and L2 that run to NaN

RANDOM = np.random.default_rng(0)
INPUTS, TARGETS, LAMBDA = RANDOM.random((100, 10)), RANDOM.random((100, 1)), 0.1


def shrunk(penalty, scale, rate, steps=1000):
    """Gradient descent with the data gradient scale · 2Xᵀ(Xw − y); the programs have scale 1, their loss 1/m."""
    gradient = {"L1": np.sign, "L2": lambda w: 2 * w}[penalty]
    w = np.full((10, 1), 0.5)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            w = w - rate * (scale * 2 * INPUTS.T @ (INPUTS @ w - TARGETS) + LAMBDA * gradient(w))
    return w


@pytest.mark.parametrize("penalty", ["L1", "L2"])
def test_004_as_printed_runs_to_nan_for_want_of_a_division_by_m(penalty):
    steepest = np.linalg.eigvalsh(2 * INPUTS.T @ INPUTS).max()
    assert 0.01 * steepest > 2  # above 2, each step overshoots by more than it corrects
    assert np.isnan(shrunk(penalty, scale=1, rate=0.01)).all()
    assert 0.01 * steepest / 100 < 2
    assert np.isfinite(shrunk(penalty, scale=1 / 100, rate=0.01)).all()


@pytest.mark.parametrize(
    ("penalty", "way"),
    [(L1(LAMBDA), "loss"), (L1(LAMBDA), "update"), (L2(LAMBDA), "loss"), (L2.halved(LAMBDA), "update")],
    ids=["L1 in the loss", "L1 in the update", "L2 in the loss", "½L2 in the update"],
)
def test_004_ours_reaches_the_minimum_of_the_printed_loss(penalty, way):
    """mean((Xw − y)²) + Ω(w). L2's minimum is ridge regression; L1's satisfies the conditions of the Lasso."""
    model = sequence(layers.Dense(1, use_bias=False), shape=(10,))
    if way == "loss":
        attach(model, penalty)
    # L1's gradient jumps at zero, so in the loss the weights zigzag there by the rate, which must shrink.
    rate = ExponentialDecay(0.3, decay_steps=100, decay_rate=0.5) if (way, type(penalty)) == ("loss", L1) else 0.3
    take_steps(model, SGD(rate, penalties=penalty if way == "update" else None), INPUTS, TARGETS, steps=600)
    w = values(model)[0].astype("float64")
    if isinstance(penalty, L2):
        ridge = INPUTS.T @ INPUTS / 100 + penalty.strength * np.eye(10)
        np.testing.assert_allclose(w, np.linalg.solve(ridge, INPUTS.T @ TARGETS / 100), atol=1e-5)
        return
    if way == "update":
        pull = -2 / 100 * INPUTS.T @ (INPUTS @ w - TARGETS)  # equals λ·sign(w) where w ≠ 0, at most λ elsewhere
        assert 0 < (w == 0).sum() < 10
        np.testing.assert_allclose(pull[w != 0], LAMBDA * np.sign(w[w != 0]), atol=1e-5)
        assert (np.abs(pull[w == 0]) <= LAMBDA).all()
    else:
        assert lasso(w) == pytest.approx(lasso(lasso_minimum()), abs=1e-3)
        assert lasso(np.linalg.lstsq(INPUTS, TARGETS, rcond=None)[0]) > lasso(w) + 0.01
        assert (w != 0).all()  # near zero, never at it


def lasso(w):
    return np.mean((INPUTS @ w - TARGETS) ** 2) + LAMBDA * np.abs(w).sum()


def lasso_minimum():
    """By coordinate descent: each weight in turn at its minimum, in closed form."""
    w = np.zeros((10, 1))
    for i in list(range(10)) * 200:
        rest = TARGETS - INPUTS @ w + INPUTS[:, [i]] * w[i]
        pull = 2 / 100 * (INPUTS[:, i] @ rest).item()
        w[i] = np.sign(pull) * max(abs(pull) - LAMBDA, 0) / (2 / 100 * (INPUTS[:, i] ** 2).sum())
    return w


# ---------------------------------------------------------------- 004: dropout


@only_tensorflow
def test_004_the_dropout_and_stopping_programs_multiply_a_matrix_by_a_vector():
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="ndims must be >= 2"):
        tf.matmul(tf.random.uniform((100, 10)), tf.random.uniform((10,)))


@only_tensorflow
def test_004_dropout_as_printed_has_no_switch_so_it_acts_at_prediction():
    import tensorflow as tf

    first, second = (tf.nn.dropout(tf.ones((100, 10)), rate=0.5) for _ in range(2))
    assert (first != second).numpy().any()


def test_004_our_dropout_acts_in_training_only():
    x = np.random.default_rng(0).normal(size=(64, 10)).astype("float32")
    plain = sequence(layers.Dense(32, "relu", name="hidden"), layers.Dense(1), shape=(10,))
    model = insert_dropout(plain, 0.5, seed=0)
    expected = plain.predict(x, verbose=0)
    for _ in range(2):
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    hidden = keras.Model(model.inputs[0], model.get_layer("hidden_dropout").output)
    before = ops.convert_to_numpy(plain.get_layer("hidden")(x))
    dropped = ops.convert_to_numpy(hidden(x, training=True))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], before[kept] / (1 - 0.5), rtol=1e-6)
    assert 0.45 < kept[before > 0].mean() < 0.55


# ---------------------------------------------------------------- 004: early stopping


def stops_as_printed(losses, patience=10):
    """The article's condition: stop when the loss is *lower* than `patience` iterations ago."""
    return next((i for i, loss in enumerate(losses) if i >= patience and losses[i - patience] > loss), None)


def test_004_early_stopping_as_printed_stops_because_training_goes_well():
    improving = 0.9 ** np.arange(1000)
    assert stops_as_printed(improving) == 10
    assert stops_as_printed(improving[::-1]) is None  # getting worse, it never stops


def test_004_our_early_stopping_stops_ten_epochs_after_the_last_improvement():
    story = [*np.linspace(1.0, 0.5, 6), *np.linspace(0.51, 0.9, 200)]  # best in epoch 5, counted from 0
    model = sequence(layers.Dense(1), shape=(1,))
    model.compile(SGD(0.01), "mse")
    weights = []

    def tell(epoch, logs):
        logs["val_loss"] = story[epoch]
        weights.append(values(model)[0])

    stopping = EarlyStopping("val_loss", patience=10, restore_best_weights=True)
    history = model.fit(
        np.ones((4, 1)), np.zeros((4, 1)), epochs=len(story), verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=tell), stopping],
    )  # fmt: skip
    assert len(history.epoch) == 6 + 10
    assert (stopping.best, stopping.best_epoch, stopping.stopped_epoch) == (0.5, 5, 15)
    np.testing.assert_array_equal(values(model)[0], weights[5])


# ---------------------------------------------------------------- 000 and 003: learning-rate decay and clipping


@pytest.mark.parametrize("way", ["schedule", "callback"])
def test_000_and_003_learning_rate_decay(way):
    """w ← w − αₜ·g with a gradient of 1: the way covered is the sum of the rates."""
    w0, rates = 1.0, [0.1 * 0.5 ** (epoch // 2) for epoch in range(6)]
    model = sequence(layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(w0)), shape=(1,))
    schedule = ExponentialDecay(0.1, decay_steps=2, decay_rate=0.5, staircase=True)
    optimizer = SGD(schedule if way == "schedule" else 0.1)
    model.compile(optimizer, loss=lambda y, predicted: ops.mean(predicted))
    decay = [LearningRateDecay(StepDecay(0.1, drop=0.5, every=2))] if way == "callback" else []
    model.fit(np.ones((1, 1)), np.ones((1, 1)), epochs=6, verbose=0, callbacks=decay)
    assert values(model)[0].item() == pytest.approx(w0 - sum(rates), rel=1e-5)


@pytest.mark.parametrize(
    ("option", "by_hand"),
    [
        ({"clipvalue": 1.0}, lambda gs: [np.clip(g, -1, 1) for g in gs]),
        ({"clipnorm": 1.0}, lambda gs: [g / max(1, np.linalg.norm(g)) for g in gs]),
        ({"global_clipnorm": 1.0}, lambda gs: [g / max(1, np.sqrt(sum((h**2).sum() for h in gs))) for g in gs]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_000_and_002_gradient_clipping(option, by_hand):
    grads = [np.array([[3.0, -4.0], [0.5, 0.0]]), np.array([0.3, 0.4])]
    weights = [keras.Variable(np.zeros_like(g)) for g in grads]
    SGD(1.0, **option).apply([ops.convert_to_tensor(g, "float32") for g in grads], weights)
    for w, expected in zip(weights, by_hand(grads), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(w), -expected, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- 000 and 002: thirty layers


def deep(activation, initializer="glorot_uniform", is_normalised=False, depth=30, width=16):
    parts = []
    for _ in range(depth - 1):
        parts += [layers.Dense(width, kernel_initializer=initializer)]
        parts += [layers.BatchNormalization()] if is_normalised else []
        parts += [layers.Activation(activation)]
    return sequence(*parts, layers.Dense(1), shape=(width,))


def first_step(model, optimizer=None):
    """Gradient norms of the kernels, first layer to last, as the monitor sees them in the first step of `fit`."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 16)), rng.normal(size=(64, 1))
    memory = MemoryWriter()
    take_steps(
        model, optimizer or SGD(0.0), x, y, compiling={"run_eagerly": True},  # tracing thirty layers takes longer
        callbacks=[Monitor([GradientNorm(select.kernels())], [memory], every=1)],
    )  # fmt: skip
    return [norms[0] for name, (_, norms) in memory.history.items() if name.startswith("gradient_norm/")]


def test_000_and_002_in_thirty_sigmoid_layers_gradients_vanish():
    norms = first_step(deep("sigmoid"))
    assert len(norms) == 30
    assert norms[0] < 1e-8 * norms[-1]
    assert all(a < b for a, b in zip(norms[:-5], norms[5:], strict=True))  # smaller and smaller on the way back


def test_002_too_small_random_weights_leave_no_gradient_anywhere():
    """What goes forward shrinks as what comes back does, so all layers get equally little."""
    assert max(first_step(deep("tanh", keras.initializers.RandomNormal(stddev=0.1, seed=0)))) < 1e-8


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu", "initializer": "he_normal"},
        {"activation": "tanh", "initializer": "glorot_normal"},
        {"activation": "sigmoid", "is_normalised": True},
    ],
    ids=["ReLU and He", "Xavier", "batch normalisation"],
)
def test_000_and_002_the_cures(options):
    norms = first_step(deep(**options))
    assert 1e-2 < norms[0] / norms[-1] < 1e2
    assert min(norms) > 1e-3


def test_000_and_002_clipping_tames_exploding_gradients():
    model = deep("relu", keras.initializers.RandomNormal(stddev=1.5, seed=0), depth=10)
    before = values(model)
    norms = first_step(model, SGD(0.1, global_clipnorm=1.0))
    moved = np.sqrt(sum(((a - b).astype("float64") ** 2).sum() for a, b in zip(before, values(model), strict=True)))
    assert norms[0] > 1e6
    assert moved == pytest.approx(0.1, rel=1e-2)  # the rate times the norm it was clipped to


# ---------------------------------------------------------------- 002: activations and losses


@pytest.mark.parametrize(
    ("loss", "slope", "is_learned"),
    [
        (keras.losses.MeanSquaredError(), lambda p: 2 * (p - 1) * p * (1 - p), False),
        (keras.losses.BinaryCrossentropy(), lambda p: p - 1, True),
    ],
    ids=["squared error", "cross-entropy"],
)
def test_002_a_saturated_sigmoid_learns_by_cross_entropy_and_not_by_squared_error(loss, slope, is_learned):
    """One weight z = −10 says p = σ(z) = 5e-5 where 1 is right. ∂/∂z: squared error 2(p − 1)p(1 − p), entropy p − 1."""
    start = keras.initializers.Constant(-10.0)
    model = sequence(layers.Dense(1, "sigmoid", use_bias=False, kernel_initializer=start), shape=(1,))
    one = np.ones((1, 1), "float32")
    z = -10.0
    assert number(gradients(model, one, one, loss)[0]) == pytest.approx(slope(1 / (1 + np.exp(-z))), rel=1e-3)
    for _ in range(100):
        z -= slope(1 / (1 + np.exp(-z)))
    take_steps(model, SGD(1.0), one, one, loss, 100)
    assert values(model)[0].item() == pytest.approx(z, abs=1e-2)
    assert (model.predict(one, verbose=0).item() > 0.98) is is_learned
    assert (model.predict(one, verbose=0).item() < 1e-2) is not is_learned


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy"])
def test_002_relu_learns_where_sigmoid_stays_at_chance(loss):
    """Is a point right of 0? Five hidden layers; the answer that ignores the input has error ¼ and entropy log 2."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(200, 2))
    y = (x[:, :1] > np.median(x[:, :1])).astype("float64")
    chance = {"mse": 0.25, "binary_crossentropy": np.log(2)}[loss]
    reached = {}
    for activation, initializer in (("sigmoid", "glorot_uniform"), ("relu", "he_normal")):
        hidden = [layers.Dense(16, activation, kernel_initializer=initializer) for _ in range(5)]
        model = sequence(*hidden, layers.Dense(1, "sigmoid"), shape=(2,))
        history = take_steps(model, SGD(0.1, momentum=0.9), x, y, loss, steps=50, epochs=3).history
        reached[activation] = history["loss"][-1]  # the mean of the last 50 steps
    assert reached["sigmoid"] > 0.95 * chance
    assert reached["relu"] < 0.5 * chance


# ---------------------------------------------------------------- overfitting; data


def test_000_and_004_overfitting_is_a_gap_that_regularization_makes_smaller():
    rng = np.random.default_rng(0)
    x, x_new = rng.normal(size=(30, 20)), rng.normal(size=(500, 20))
    start = [rng.normal(size=s) / 4 for s in ((20, 64), (64,), (64, 1), (1,))]
    y, y_new = (a[:, :1] + rng.normal(size=(len(a), 1)) for a in (x, x_new))  # one input matters, the rest is noise

    def gap_and_loss(penalty):
        model = sequence(layers.Dense(64, "relu"), layers.Dense(1), shape=(20,))
        model.set_weights(start)
        if penalty:
            attach(model, penalty)
        memory = MemoryWriter()
        logs = take_steps(
            model, Adam(0.01), x, y, steps=150, epochs=2, compiling={"metrics": ["mse"]}, validation_batch_size=500,
            validation_data=(x_new, y_new), callbacks=[Monitor([TrainValidationGap()], [memory])],
        ).history  # fmt: skip
        gap = memory.history["gap_mse"][1][-1]  # of the metric: the loss has the penalty on both sides
        assert gap == pytest.approx(logs["val_mse"][-1] - logs["mse"][-1], rel=1e-6)
        return gap, logs["mse"][-1], logs["val_mse"][-1]

    plain, regularized = gap_and_loss(None), gap_and_loss(L2(0.4))
    assert plain[1] < 0.05  # learned by heart, although the noise alone has variance 1
    assert plain[0] > 1
    assert regularized[0] < 0.6 * plain[0]
    assert regularized[2] < 0.9 * plain[2]


def test_002_normalisation_is_the_z_score_of_the_training_data():
    rng = np.random.default_rng(0)
    x, new = (rng.normal([5.0, -300.0, 0.01], [2.0, 50.0, 0.001], size=(n, 3)) for n in (200, 20))
    layer = layers.Normalization()
    layer.adapt(x)
    model = sequence(layer, shape=(3,))
    np.testing.assert_allclose(model.predict(new, verbose=0), (new - x.mean(0)) / x.std(0), rtol=1e-3, atol=1e-4)


def test_002_augmentation_acts_in_training_only():
    images = np.random.default_rng(0).random((8, 12, 12, 1)).astype("float32")
    normalization = layers.Normalization(axis=None, mean=0.5, variance=0.04)
    flip = layers.RandomFlip("horizontal", seed=0)
    augmented = sequence(
        normalization, flip, layers.RandomRotation(0.1, seed=1), layers.RandomZoom(0.2, seed=2), shape=(12, 12, 1)
    )
    unchanged = (images - 0.5) / 0.2
    np.testing.assert_allclose(augmented.predict(images, verbose=0), unchanged, rtol=1e-4, atol=1e-5)
    trained_on = ops.convert_to_numpy(augmented(images, training=True))
    assert trained_on.shape == images.shape
    assert np.abs(trained_on - unchanged).mean() > 0.1

    mirrored = ops.convert_to_numpy(flip(images, training=True))
    for before, after in zip(images, mirrored, strict=True):  # each image is itself or its mirror image
        assert min(np.abs(after - before).max(), np.abs(after - before[:, ::-1]).max()) < 1e-6


# ---------------------------------------------------------------- the page

PAGE = (Path(__file__).parents[1] / "docs" / "articles.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("article", re.findall(r"^## (\d{3})", PAGE, re.MULTILINE))
def test_the_programs_on_the_page_print_what_it_says(article):
    section = re.split(r"^## ", PAGE.split(f"\n## {article}")[1], flags=re.MULTILINE)[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert blocks
    for block in blocks:
        keras.utils.set_random_seed(0)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, f"docs/articles.md, {article}", "exec"), {})
        assert printed.getvalue().splitlines() == re.findall(r"#> (.*)", block)
