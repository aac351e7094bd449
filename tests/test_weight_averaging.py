"""WeightAveraging: what is averaged, when it is in the model, and that training does not notice."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_optreg.callbacks import NaNGuard, WeightAveraging
from keras_optreg.optimizers import SGD, Lookahead, ScheduleFreeSGD

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]]).astype("float32")
RATE = 0.1


def linear(**options):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(SGD(RATE, **options), "mse")
    return model


def fit(model, epochs=4, *callbacks, **options):
    return model.fit(X, Y, epochs=epochs, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks), **options)


def path(updates, accumulate=1):
    """The weights after each update, by NumPy: gradient descent on the mean square of batches of four."""
    w, points, g = np.ones((3, 1)), [], 0.0
    for batch in range(updates * accumulate):
        part = slice(4 * (batch % 3), 4 * (batch % 3) + 4)
        g = g + 2 / 4 * X[part].T @ (X[part] @ w - Y[part]) / accumulate
        if (batch + 1) % accumulate == 0:
            w, g = w - RATE * g, 0.0
            points.append(w)
    return points


def moving(points, decay):
    average = points[0]
    for w in points[1:]:
        average = decay * average + (1 - decay) * w
    return average


def close(model, expected):
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5, atol=1e-6)


class Seen(keras.callbacks.Callback):
    """Weights at the end of each epoch, as a callback behind the averaging sees them."""

    def __init__(self):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights()[0])


ENDS = path(12)[2::3]
CASES = {
    "the mean over epochs": (WeightAveraging, {}, np.mean(ENDS, axis=0), 4),
    "from an epoch": (WeightAveraging, {"start": 2}, np.mean(ENDS[2:], axis=0), 2),
    "moving, over epochs": (WeightAveraging, {"decay": 0.7}, moving(ENDS, 0.7), 4),
    "the mean over updates": (WeightAveraging, {"every": 2}, np.mean(path(12)[1::2], axis=0), 6),
    "from an update": (WeightAveraging, {"every": 2, "start": 5}, np.mean(path(12)[5::2], axis=0), 4),
    "moving, every update": (WeightAveraging, {"decay": 0.9, "every": 1}, moving(path(12), 0.9), 12),
}


@pytest.mark.parametrize("case", CASES)
def test_the_end_is_the_average(case):
    make, arguments, expected, count = CASES[case]
    averaging, model = make(**arguments), linear()
    fit(model, 4, averaging)
    assert averaging.count == count
    close(model, expected)


def test_updates_and_not_batches_count_under_accumulation():
    model = linear(gradient_accumulation_steps=2)
    fit(model, 4, WeightAveraging(every=2))
    close(model, np.mean(path(6, accumulate=2)[1::2], axis=0))


def test_validation_and_callbacks_behind_it_have_the_average_and_training_does_not():
    model, seen = linear(), Seen()
    history = fit(model, 4, WeightAveraging(start=1), seen, validation_data=(X, Y)).history
    expected = [ENDS[0], *(np.mean(ENDS[1:n], axis=0) for n in (2, 3, 4))]
    np.testing.assert_allclose(seen.weights, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history["val_loss"], [np.mean((X @ w - Y) ** 2) for w in expected], rtol=1e-4)
    plain = fit(linear(), 4).history
    np.testing.assert_allclose(history["loss"], plain["loss"], rtol=1e-6)


def test_evaluating_with_it_afterwards_changes_nothing():
    model, averaging = linear(), WeightAveraging()
    fit(model, 4, averaging)
    loss = model.evaluate(X, Y, verbose=0, callbacks=[averaging])
    assert loss == pytest.approx(np.mean((X @ np.mean(ENDS, axis=0) - Y) ** 2), rel=1e-4)
    close(model, np.mean(ENDS, axis=0))


@pytest.mark.parametrize("arguments", [{}, {"decay": 0.5, "every": 2}], ids=str)
def test_it_goes_on_from_its_state(arguments):
    unbroken, broken = linear(), linear()
    whole, first, second = (WeightAveraging(**arguments) for _ in range(3))
    fit(unbroken, 4, whole)
    fit(broken, 2, first)
    second.load_state_dict(first.state_dict())
    fit(broken, 4, second, initial_epoch=2)
    assert second.count == whole.count
    np.testing.assert_allclose(broken.get_weights()[0], unbroken.get_weights()[0], rtol=1e-6)
    fit(broken, 1, WeightAveraging())  # and without the state, from the average
    start, part = unbroken.get_weights()[0], linear()
    part.set_weights([start])
    fit(part, 1)
    close(broken, part.get_weights()[0])


def test_a_state_does_not_change_afterwards():
    averaging = WeightAveraging()
    fit(linear(), 1, averaging)
    state = averaging.state_dict()
    before = state["average"][0].copy()
    later = WeightAveraging()
    later.load_state_dict(state)
    fit(linear(), 3, later, initial_epoch=1)
    np.testing.assert_array_equal(state["average"][0], before)


def test_batch_normalisation_has_the_statistics_of_the_average():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, use_bias=False), layers.BatchNormalization(), layers.Dense(1)]
    )
    model.compile(SGD(RATE), "mse")
    fit(model, 3, WeightAveraging(batch_norm_data=X, batch_size=6))
    hidden = (X @ model.layers[0].get_weights()[0]).reshape(2, 6, 2)
    mean, variance = model.layers[1].get_weights()[2:]
    np.testing.assert_allclose(mean, hidden.mean(axis=1).mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, hidden.var(axis=1).mean(axis=0), rtol=1e-4, atol=1e-6)


def test_half_precision_weights_are_averaged_in_float32():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, dtype="bfloat16")])
    model.compile(SGD(0.0), "mse")
    averaging = WeightAveraging(decay=0.999, every=1)
    model.layers[0].set_weights([np.array([[1.0]])])

    class Jump(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.layers[0].set_weights([np.array([[1.0 + epoch]])])

    model.fit(X[:, :1], Y, epochs=2, batch_size=1, shuffle=False, verbose=0, callbacks=[averaging, Jump()])
    assert averaging.average[0].item() == pytest.approx(2 - 0.999**12, rel=1e-5)


def test_a_start_that_is_never_reached_is_said():
    model = linear()
    with pytest.warns(UserWarning, match="WeightAveraging has averaged nothing: training ended before start=9 epochs"):
        fit(model, 4, WeightAveraging(start=9))
    close(model, ENDS[-1])


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("first", [True, False])
def test_points_that_are_not_finite_are_left_out(first):
    bad = X.copy()
    bad[4:8] = np.nan  # the second batch of three
    w, points = np.ones((3, 1)), []
    for batch in range(6):
        part = slice(4 * (batch % 3), 4 * (batch % 3) + 4)
        if batch % 3 != 1:
            w = w - RATE * 2 / 4 * X[part].T @ (X[part] @ w - Y[part])
            points.append(w)
        elif not first:  # the guard has gone back before the averaging looks
            points.append(w)
    model, averaging, guard = linear(), WeightAveraging(every=1), NaNGuard.skip()
    callbacks = [averaging, guard] if first else [guard, averaging]

    def train():
        model.fit(bad, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)

    if first:
        with pytest.warns(UserWarning, match="WeightAveraging leaves out a point") as said:
            train()
        assert len([one for one in said if "WeightAveraging" in str(one.message)]) == 1
        assert averaging.outcome() == "averaged 4 points; 2 with NaN or infinity were left out"
    else:
        train()
        assert averaging.outcome() is None
    close(model, np.mean(points, axis=0))


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("make", [SGD, keras.optimizers.SGD], ids=["ours", "Keras's"])
def test_the_end_is_its_average_where_the_optimizer_has_one_too(make):
    model = linear()
    model.compile(make(RATE, use_ema=True, ema_momentum=0.5), "mse")
    averaging = WeightAveraging()
    fit(model, 2, averaging)
    close(model, np.mean(ENDS[:2], axis=0))
    again = WeightAveraging()
    again.load_state_dict(averaging.state_dict())
    fit(model, 4, again, initial_epoch=2)  # from the weights of training
    close(model, np.mean(ENDS, axis=0))


@pytest.mark.parametrize("optimizer", [lambda: ScheduleFreeSGD(RATE), lambda: Lookahead(SGD(RATE))])
def test_it_refuses_optimizers_whose_result_is_an_average(optimizer):
    model = linear()
    model.compile(optimizer(), "mse")
    with pytest.raises(TypeError, match=r"WeightAveraging .* Use EvaluateAtAverage\(\)"):
        fit(model, 1, WeightAveraging())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"decay": 1.5}, "decay"), ({"start": -1}, "start"), ({"every": 0}, "every=0"), ({"every": "batch"}, "'batch'")],
    ids=str,
)
def test_what_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"WeightAveraging.*{message}"):
        WeightAveraging(**arguments)
