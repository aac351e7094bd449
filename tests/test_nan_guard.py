"""NaNGuard: it says which gradient went first, stops, skips the step, or goes back and on with a smaller rate."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optreg.callbacks import GradualUnfreezing, NaNGuard, ParameterSchedule
from keras_optreg.optimizers import SGD, Adam
from keras_optreg.schedules import StepDecay

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]]).astype("float32")
MODES = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])


def model_of(optimizer, **options):
    keras.utils.set_random_seed(1)
    stack = [
        layers.Dense(2, name="lower"),
        layers.BatchNormalization(),
        layers.Dropout(0.2, seed=1),
        layers.Dense(1, name="head"),
    ]
    model = keras.Sequential([keras.Input((3,)), *stack])
    model.compile(optimizer, "mse", **options)
    return model


def with_bad(*batches):
    """The inputs with a NaN in each of these batches of two."""
    x = X.copy()
    for batch in batches:
        x[2 * batch] = np.nan
    return x


def fit(model, x, *callbacks, epochs=1, **options):
    options = {"batch_size": 2, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, Y, epochs=epochs, callbacks=list(callbacks), **options)


def without(*batches):
    keep = np.setdiff1d(np.arange(12), [i for b in batches for i in (2 * b, 2 * b + 1)])
    return X[keep], Y[keep]


def close(model, other):
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_it_stops_and_says_where(mode):
    guard = NaNGuard()
    model = model_of(SGD(0.1), **mode)
    history = fit(model, with_bad(2), guard, epochs=3)
    assert len(history.history["loss"]) == 1
    assert guard.stop_reason.startswith("epoch 1, batch 3: the loss was nan and the gradient of ")
    assert "head/bias was not finite (first on the way back from the loss; so were those of 5 of 5 others)" in (
        guard.stop_reason
    )
    assert guard.outcome() == guard.stop_reason
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 3
    assert len(model.optimizer.variables) == 2  # nothing is left of it


@keras.saving.register_keras_serializable("test_nan_guard")
class Root(keras.Layer):
    """√|x|, whose slope at 0 is infinite though its value is not."""

    def call(self, inputs):
        return ops.sqrt(ops.abs(inputs))


def test_the_layer_in_which_it_began_is_named():
    dense = [layers.Dense(1, use_bias=False, kernel_initializer="ones", name=name) for name in ("lower", "head")]
    model = keras.Sequential([keras.Input((1,)), dense[0], Root(), dense[1]])
    model.compile(keras.optimizers.SGD(0.1), lambda y, p: ops.mean(p))
    guard = NaNGuard()
    model.fit(np.zeros((4, 1)), np.zeros((4, 1)), batch_size=2, verbose=0, callbacks=[guard])
    assert (
        guard.stop_reason
        == "epoch 1, batch 1: the gradient of sequential/lower/kernel was not finite; training stopped"
    )


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "make", [lambda: SGD(0.1, momentum=0.9), lambda: keras.optimizers.Adam(0.1)], ids=["ours", "Keras's"]
)
def test_a_skipped_step_leaves_no_trace(mode, make):
    guard, model, reference = NaNGuard.skip(), model_of(make(), **mode), model_of(make(), **mode)
    history = fit(model, with_bad(1, 2, 4), guard).history
    x, y = without(1, 2, 4)
    expected = reference.fit(x, y, batch_size=2, shuffle=False, verbose=0).history  # seeds, statistics and means too
    close(model, reference)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 3
    assert [event.split(":")[0] for event in guard.events] == [f"epoch 1, batch {n}" for n in (2, 3, 5)]
    assert guard.stop_reason is None


@pytest.mark.usefixtures("run_op_by_op")
def test_skipping_too_often_in_a_row_stops_at_the_last_good_state():
    guard, model, reference = NaNGuard.skip(limit=2), model_of(SGD(0.1)), model_of(SGD(0.1))
    fit(model, with_bad(1, 2, 3), guard)
    reference.fit(X[:2], Y[:2], batch_size=2, verbose=0)
    close(model, reference)
    assert guard.stop_reason.startswith("epoch 1, batch 4: ")
    assert guard.stop_reason.endswith(", 3 times in a row; training stopped")


@pytest.mark.parametrize("rate", [0.1, StepDecay(0.1, 0.5, 1000)], ids=["number", "schedule"])
def test_it_goes_back_and_on_with_a_smaller_rate(rate):
    guard, model = NaNGuard.roll_back(factor=0.5, every=2), model_of(SGD(rate, momentum=0.9))
    fit(model, with_bad(2), guard)  # batches 3 and 4 are undone, 5 and 6 follow
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.05)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 4
    reference = model_of(SGD(0.1, momentum=0.9))
    reference.fit(X[:4], Y[:4], batch_size=2, shuffle=False, verbose=0)
    reference.optimizer.learning_rate = 0.05
    reference.fit(X[8:], Y[8:], batch_size=2, shuffle=False, verbose=0)
    close(model, reference)
    [event] = guard.events
    assert event.startswith("epoch 1, batch 4: ")  # where it was looked for
    assert event.endswith("; went back to the last good state, with learning rate 0.05")


@pytest.mark.usefixtures("run_op_by_op")
def test_rates_fall_each_time():
    guard, model = NaNGuard.roll_back(factor=0.5, every=1), model_of(Adam(0.1))
    fit(model, with_bad(1, 2, 4), guard)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.1 / 8)


def test_weights_that_are_not_finite_count_as_well():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(SGD(1e38), lambda y, p: 1e3 * ops.mean(p))  # a finite gradient, and too large a step
    guard = NaNGuard.skip(limit=1)
    model.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=2, verbose=0, callbacks=[guard])
    assert "the update made weights that are not finite" in guard.events[0]
    assert model.get_weights()[0].item() == 1.0


@pytest.mark.usefixtures("run_op_by_op")
def test_under_accumulation_a_bad_part_takes_the_update_with_it():
    model, reference = (
        model_of(SGD(0.1, gradient_accumulation_steps=2)),
        model_of(SGD(0.1, gradient_accumulation_steps=2)),
    )
    fit(model, with_bad(2), NaNGuard.skip())
    x, y = without(2, 3)
    reference.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    close(model, reference)


def test_a_good_training_is_not_touched():
    model, reference = model_of(Adam(0.1)), model_of(Adam(0.1))
    guard = NaNGuard.roll_back(every=2)
    fit(model, X, guard, epochs=2)
    fit(reference, X, epochs=2)
    close(model, reference)
    assert guard.outcome() is None


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("validation", [{}, {"validation_data": (X, Y)}], ids=["plain", "validated"])
def test_the_last_updates_of_an_epoch_are_looked_at_before_others_see_the_weights(validation):
    guard, model = NaNGuard.roll_back(limit=1), model_of(SGD(0.1, momentum=0.9))
    start, seen = model.get_weights(), []

    class See(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append(self.model.get_weights())

        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights())

    history = fit(model, with_bad(4), guard, See(), epochs=3, **validation).history
    assert len(seen) == (4 if validation else 2)  # the second epoch is bad again, and the last
    for weights in [*seen, model.get_weights()]:
        for one, two in zip(weights, start, strict=True):
            np.testing.assert_array_equal(one, two)
    assert np.all(np.isfinite(history.get("val_loss", 0.0)))
    first, second = guard.events
    assert first.startswith("epoch 1, batch 6: ")
    assert first.endswith("; went back to the last good state, with learning rate 0.05")
    assert second == guard.stop_reason
    assert second.endswith(", 2 times in a row; training stopped")


@pytest.mark.usefixtures("run_op_by_op")
def test_an_incomplete_window_stops_as_well():
    guard, model = NaNGuard(every=4), model_of(SGD(0.1))
    history = fit(model, with_bad(5), guard, epochs=2).history
    assert len(history["loss"]) == 1
    assert guard.stop_reason.startswith("epoch 1, batch 6: the loss was nan and the gradient of ")


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("every", [1, 2])
def test_the_means_of_an_epoch_are_its_own(every):
    model, reference = model_of(SGD(0.1)), model_of(SGD(0.1))
    model.evaluate(X, Y + 100, verbose=0)  # leaves its sums in the metrics
    found = fit(model, with_bad(0), NaNGuard(limit=3, every=every), epochs=2).history["loss"]
    expected = reference.fit(X[2 * every :], Y[2 * every :], batch_size=2, shuffle=False, verbose=0, epochs=2)
    assert found == pytest.approx(expected.history["loss"], rel=1e-5)
    close(model, reference)


@pytest.mark.usefixtures("run_op_by_op")
def test_a_number_that_a_schedule_has_set_stays():
    model, reference = model_of(SGD(0.01, momentum=0.5)), model_of(SGD(0.01, momentum=0.5))
    fit(model, with_bad(1), NaNGuard.skip(), ParameterSchedule("momentum", lambda t: 0.9 if t else 0.5))
    x, y = without(1)
    schedule = ParameterSchedule("momentum", lambda t: 0.9 if t else 0.5)
    reference.fit(x, y, batch_size=2, shuffle=False, verbose=0, callbacks=[schedule])
    close(model, reference)


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("guard_is_first", [True, False])
def test_it_goes_back_with_the_weights_that_train_from_then_on(guard_is_first):
    model, reference = model_of(SGD(0.1, momentum=0.9)), model_of(SGD(0.1, momentum=0.9))
    for each in (model, reference):
        each.get_layer("lower").trainable = False
        each.compile(SGD(0.1, momentum=0.9), "mse")
    callbacks = [NaNGuard.skip(), GradualUnfreezing()]
    fit(model, with_bad(0), *(callbacks if guard_is_first else callbacks[::-1]), epochs=2)
    x, y = without(0)
    reference.fit(x, y, batch_size=2, shuffle=False, verbose=0, epochs=2, callbacks=[GradualUnfreezing()])
    close(model, reference)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere fit builds the model before the first step")
@pytest.mark.usefixtures("run_op_by_op")
def test_a_model_that_its_first_step_builds_can_be_stopped_but_not_taken_back():
    def unbuilt():
        model = keras.Sequential([layers.Dense(1)])
        model.compile(SGD(0.1), "mse")
        return model

    with pytest.raises(ValueError, match=r"NaNGuard: the model 'sequential\w*' is not built.*Give it an Input"):
        fit(unbuilt(), X, NaNGuard.skip())
    guard = NaNGuard()
    fit(unbuilt(), with_bad(1), guard)
    assert guard.stop_reason.startswith("epoch 1, batch 2: ")


@pytest.mark.usefixtures("run_op_by_op")
def test_its_state_goes_on():
    first, second = NaNGuard.skip(limit=3), NaNGuard.skip(limit=3)
    model = model_of(SGD(0.1))
    fit(model, with_bad(4, 5), first)
    second.load_state_dict(first.state_dict())
    fit(model, with_bad(0, 1), second)
    assert second.stop_reason.endswith("4 times in a row; training stopped")


@pytest.mark.parametrize(("name", "value"), [("limit", -1), ("factor", 0.0), ("every", 0)])
def test_what_it_refuses(name, value):
    with pytest.raises(ValueError, match=f"NaNGuard.*{name}"):
        NaNGuard(**{name: value})


def test_a_rate_that_cannot_be_set_is_said_before_training():
    model = model_of(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)))
    with pytest.raises(TypeError, match="NaNGuard cannot set the learning rate of keras"):
        fit(model, X, NaNGuard.roll_back())
