"""EarlyStopping and LearningRateDecay against stories told by hand."""

import json
import logging
from math import nan
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_optreg import optimizers
from keras_optreg.callbacks import EarlyStopping, LearningRateDecay
from keras_optreg.callbacks.direction import direction
from keras_optreg.schedules import PolynomialDecay, StepDecay, warmup

X = np.ones((6, 1), "float32")


class Story(keras.callbacks.Callback):
    """Puts told numbers into the logs, and the number of the epoch into the weights."""

    def __init__(self, name, values):
        super().__init__()
        self.name, self.values, self.epochs = name, values, 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        logs[self.name] = self.values[epoch]
        self.model.set_weights([np.full_like(w, epoch) for w in self.model.get_weights()])


def model_with(optimizer=None, **options):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    # On TensorFlow a compiled step costs more than all the rest of a test; on JAX an eager one does.
    eagerly = keras.backend.backend() == "tensorflow"
    model.compile(optimizer or keras.optimizers.SGD(0.0), "mse", run_eagerly=eagerly, **options)
    return model


def told(values, name="val_loss", epochs=None, model=None, **arguments):
    model, stopping, story = model or model_with(), EarlyStopping(name, **arguments), Story(name, values)
    model.fit(X, X, batch_size=6, epochs=epochs or len(values), verbose=0, callbacks=[story, stopping])
    return story.epochs, stopping, float(model.get_weights()[0][0, 0])


STORIES = {
    "patience": ([3, 2, 1, 1, 1, 1], dict(patience=2), 5),
    "improving to the end": ([4, 3, 2, 1], dict(patience=1), 4),
    "patience 0 stops at the first failure": ([3, 2, 2, 1], {}, 3),
    "never after the first epoch": ([3, 1], dict(baseline=0.5), 2),
    "min_delta": ([3, 2.9, 2.8, 2.7], dict(patience=2, min_delta=0.15), 4),
    "min_delta adds up over epochs": ([3, 2.9, 2.8, 2.7, 2.6], dict(patience=2, min_delta=0.15), 5),
    "relative min_delta": ([100, 98, 96, 94, 80], dict(patience=3, min_delta=0.05, relative=True), 5),
    "relative to a negative best": ([-100, -101, -106], dict(patience=1, min_delta=0.05, relative=True), 2),
    "absolute where relative goes on": ([1.0, 0.9, 0.81], dict(patience=1, min_delta=0.2), 2),
    "relative goes on where absolute stops": ([1.0, 0.75, 0.56], dict(patience=1, min_delta=0.2, relative=True), 3),
    "first value NaN does not matter": ([nan, 3, 2, 1, 0.5], dict(patience=2), 5),
    "NaN later is no improvement": ([3, nan, nan, 1], dict(patience=2), 3),
    "only NaN": ([nan, nan, nan, nan], dict(patience=2), 2),
    "max": ([0.1, 0.2, 0.2, 0.3], dict(mode="max", patience=1), 3),
    "start_from_epoch": ([1, 2, 3, 2, 2.5, 2.5], dict(patience=1, start_from_epoch=2), 5),
    "baseline passed": ([3, 0.4, 0.3, 0.3], dict(patience=1, baseline=0.5), 4),
    "baseline not passed": ([3, 2, 1, 0.9], dict(patience=2, baseline=0.5), 4),
}


@pytest.mark.parametrize("name", STORIES)
def test_early_stopping_stops_when_told(name):
    values, arguments, epochs = STORIES[name]
    ran, stopping, _ = told(values, **arguments)
    assert ran == epochs
    assert (stopping.stop_reason is not None) == (stopping.stopped_epoch == epochs - 1)


@pytest.mark.parametrize("name", [n for n in STORIES if "NaN" not in n and "relative" not in n])
def test_early_stopping_without_nan_equals_keras(name):
    values, arguments, epochs = STORIES[name]
    model, story = model_with(), Story("val_loss", values)
    keras_own = keras.callbacks.EarlyStopping("val_loss", **arguments)
    model.fit(X, X, batch_size=6, epochs=len(values), verbose=0, callbacks=[story, keras_own])
    _, ours, _ = told(values, **arguments)
    assert (story.epochs, keras_own.stopped_epoch, keras_own.best_epoch) == (
        epochs,
        ours.stopped_epoch,
        ours.best_epoch,
    )


def test_the_best_weights_come_back():
    assert told([3, 1, 2, 2], patience=5, restore_best_weights=True)[2] == 1
    assert told([3, 1, 2, 2], patience=5)[2] == 3
    assert told([nan, 4, 5, 6], patience=2, restore_best_weights=True)[2] == 1
    assert told([nan, nan, nan], patience=5, restore_best_weights=True)[2] == 2  # nothing to restore


def test_it_says_why_it_stopped(capsys, caplog):
    with caplog.at_level(logging.INFO, "keras_optreg"):
        _, stopping, _ = told([3, 1, 2, 2], patience=2, verbose=1, restore_best_weights=True)
    reason = "val_loss has not improved on 1 (epoch 2) for 2 epochs; last 2"
    assert stopping.stop_reason == reason
    assert reason in capsys.readouterr().out
    assert reason in caplog.text
    assert "best epoch, 2" in caplog.text
    assert "by 0.1 of itself" in told([1, 1], min_delta=0.1, relative=True)[1].stop_reason
    assert "baseline 0.5" in told([3, 2, 1, 1], baseline=0.5, patience=1)[1].stop_reason
    assert "not a number" in told([nan, nan, nan], patience=2)[1].stop_reason


def test_it_may_be_used_again():
    stopping = EarlyStopping("val_loss", patience=1)
    for _ in range(2):
        story = Story("val_loss", [2, 1, 1, 1])
        model_with().fit(X, X, batch_size=6, epochs=4, verbose=0, callbacks=[story, stopping])
        assert story.epochs == 3


def test_early_stopping_goes_on_from_its_state():
    values = [3, 1, 2, 2, 2, 2]
    whole, unbroken, weight = told(values, patience=3, restore_best_weights=True)
    model = model_with()
    first, second = (EarlyStopping("val_loss", patience=3, restore_best_weights=True) for _ in range(2))
    model.fit(X, X, batch_size=6, epochs=3, verbose=0, callbacks=[Story("val_loss", values), first])
    second.load_state_dict(first.state_dict())
    story = Story("val_loss", values)
    model.fit(X, X, batch_size=6, initial_epoch=3, epochs=6, verbose=0, callbacks=[story, second])
    assert 3 + story.epochs == whole == 5
    assert second.stop_reason == unbroken.stop_reason
    assert float(model.get_weights()[0][0, 0]) == weight == 1
    third = EarlyStopping("val_loss", patience=3)
    third.load_state_dict({**second.state_dict(), "best": 9})
    model.fit(X, X, epochs=1, verbose=0, callbacks=[Story("val_loss", [1]), third])
    assert (third.stop_reason, third.stopped_epoch) == (None, 0)
    with pytest.raises(ValueError, match="not the state of EarlyStopping"):
        second.load_state_dict({"best": 1})


def test_a_name_that_is_not_logged_is_an_error_after_the_first_epoch():
    model = model_with(metrics=["mae"])
    for name, hint in (("val_los", "must stand before"), ("val_loss", "validation data"), ("accuracy", "loss, mae")):
        with pytest.raises(ValueError, match="not in the logs") as error:
            model.fit(X, X, batch_size=6, epochs=3, verbose=0, callbacks=[EarlyStopping(name)])
        assert hint in str(error.value)


def test_validation_may_skip_epochs():
    model, stopping = model_with(), EarlyStopping("val_loss", patience=10, start_from_epoch=1)
    history = model.fit(
        X, X, batch_size=6, epochs=5, verbose=0, validation_data=(X, X), validation_freq=2, callbacks=[stopping]
    )
    assert len(history.history["val_loss"]) == 2
    assert stopping.best == pytest.approx(history.history["val_loss"][0])


def test_the_direction_is_that_of_the_metric_logged_under_this_name():
    def in_accuracy(y, p):
        return keras.ops.abs(y - p)

    accuracy, own = keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.MeanMetricWrapper(in_accuracy)
    one = SimpleNamespace(metrics=[keras.metrics.Mean(name="loss"), accuracy, own], output_names=["in"])
    two = SimpleNamespace(metrics=[accuracy, keras.metrics.Mean(name="a_loss")], output_names=["a", "b"])
    found = {name: direction(one, name) for name in ("loss", "val_accuracy", "in_accuracy", "out_accuracy")}
    assert found == {"loss": "min", "val_accuracy": "max", "in_accuracy": None, "out_accuracy": None}
    found = {name: direction(two, name) for name in ("val_a_accuracy", "b_accuracy", "in_accuracy", "a_loss")}
    assert found == {"val_a_accuracy": "max", "b_accuracy": "max", "in_accuracy": None, "a_loss": "min"}


def test_the_direction_comes_from_the_metric():
    model = model_with(
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.MeanAbsoluteError(name="mae")]
    )
    up, down = EarlyStopping("accuracy", patience=9), EarlyStopping("mae", patience=9)
    model.fit(X, X, batch_size=6, epochs=1, verbose=0, callbacks=[up, down])
    assert up._improves(1.0, 0.5)
    assert down._improves(0.5, 1.0)
    with pytest.raises(ValueError, match="mode='max' or mode='min'"):
        told([1, 2], name="something")


@pytest.mark.parametrize("bad", [dict(mode="up"), dict(patience=-1), dict(min_delta=nan), dict(start_from_epoch=-1)])
def test_early_stopping_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        EarlyStopping(**bad)


class Rates(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


def rates_under(optimizer, callback, epochs=3, initial_epoch=0, model=None):
    rates, model = Rates(), model or model_with(optimizer)
    history = model.fit(
        X, X, batch_size=3, epochs=epochs, initial_epoch=initial_epoch, verbose=0, callbacks=[callback, rates]
    )
    return rates.rates, history.history["learning_rate"]


OPTIMIZERS = {"Keras's": keras.optimizers.SGD, "ours": optimizers.SGD}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    "schedule",
    [StepDecay(0.8, 0.5, 1), keras.optimizers.schedules.ExponentialDecay(0.8, 1, 0.5), lambda t: 0.8 * 0.5**t],
)
def test_decay_per_epoch_and_per_batch(kind, schedule):
    per_epoch, logged = rates_under(OPTIMIZERS[kind](0.1), LearningRateDecay(schedule))
    assert per_epoch == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2, 0.2])
    assert logged == pytest.approx([0.8, 0.4, 0.2])
    per_batch, logged = rates_under(OPTIMIZERS[kind](0.1), LearningRateDecay(schedule, every="batch"))
    assert per_batch == pytest.approx([0.8, 0.4, 0.2, 0.1, 0.05, 0.025])
    assert logged == pytest.approx([0.4, 0.1, 0.025])


def test_decay_starts_where_the_initial_epoch_says():
    for every, expected in (("epoch", [0.2, 0.2]), ("batch", [0.05, 0.025])):
        decay = LearningRateDecay(StepDecay(0.8, 0.5, 1), every)
        assert rates_under(optimizers.SGD(0.1), decay, 3, initial_epoch=2)[0] == pytest.approx(expected)


def test_decay_multiplies_a_schedule_of_our_optimizers():
    # The optimizer's own schedule falls by 0.1 a step from 1; read after step t it shows the rate of step t + 1.
    own = PolynomialDecay(1.0, 10, end_learning_rate=0.0)
    factors = StepDecay(0.5, 0.5, 1)  # 1, 1/2, 1/4 relative to its start
    rates, _ = rates_under(optimizers.SGD(own), LearningRateDecay(factors))
    assert rates == pytest.approx([0.9, 0.8, 0.35, 0.3, 0.125, 0.1], rel=1e-5)
    rates, _ = rates_under(optimizers.SGD(own), LearningRateDecay(factors, every="batch"))
    assert rates == pytest.approx([0.9, 0.4, 0.175, 0.075, 0.03125, 0.0125], rel=1e-5)


def test_decay_on_top_of_a_schedule_comes_back_from_zero():
    rates, _ = rates_under(optimizers.SGD(StepDecay(1.0, 1.0, 1)), LearningRateDecay(lambda t: [1.0, 0.0, 0.5][t]))
    assert rates == pytest.approx([1, 1, 0, 0, 0.5, 0.5], rel=1e-5, abs=1e-9)
    rising = optimizers.SGD(PolynomialDecay(0.0, 10, end_learning_rate=1.0))  # its rate is 0 when the factor is set
    rates, _ = rates_under(rising, LearningRateDecay(StepDecay(0.8, 0.5, 1)), epochs=2, initial_epoch=1)
    assert rates == pytest.approx([0.05, 0.1], rel=1e-5)


def test_decay_does_not_add_up_over_fits_and_files(tmp_path):
    own, halves = PolynomialDecay(1.0, 10, end_learning_rate=0.0), StepDecay(0.5, 0.5, 1)  # 1, 1/2, 1/4 of its start
    model, decay = model_with(optimizers.SGD(own)), LearningRateDecay(halves)
    assert rates_under(None, decay, 2, model=model)[0] == pytest.approx([0.9, 0.8, 0.35, 0.3], rel=1e-5)
    model.save(tmp_path / "model.keras")
    assert rates_under(None, decay, 1, model=model)[0] == pytest.approx([0.5, 0.4], rel=1e-5)
    assert rates_under(None, LearningRateDecay(halves), 1, model=model)[0] == pytest.approx([0.3, 0.2], rel=1e-5)

    loaded, rates = keras.models.load_model(tmp_path / "model.keras"), Rates()
    loaded.fit(X, X, batch_size=6, verbose=0, callbacks=[rates])  # without the callback, the last factor stays
    assert rates.rates == pytest.approx([0.25], rel=1e-5)
    rates, _ = rates_under(None, LearningRateDecay(halves), 3, initial_epoch=2, model=loaded)
    assert rates == pytest.approx([0.1, 0.075], rel=1e-5)

    model, decay = model_with(), LearningRateDecay(halves)
    for _ in range(2):  # with a number there is nothing to add up
        assert rates_under(None, decay, 2, model=model)[0] == pytest.approx([0.5, 0.5, 0.25, 0.25])
    rates = Rates()
    model.fit(X, X, batch_size=6, verbose=0, callbacks=[rates])
    assert rates.rates == pytest.approx([0.25])


def test_decay_per_batch_refuses_to_guess_where_it_begins():
    def fit(*callbacks):
        data = (batch for batch in [(X, X)])  # Keras learns its length when it ends, and warns
        model.fit(data, initial_epoch=2, epochs=3, shuffle=False, verbose=0, callbacks=[decay, *callbacks])

    model, story = model_with(), Story("loss", [1, 1, 1])
    decay = LearningRateDecay(StepDecay(0.8, 0.5, 1), every="batch")
    with pytest.raises(ValueError, match="before epoch 2.*Pass steps_per_epoch"):
        fit(story)
    assert (story.epochs, int(model.optimizer.iterations)) == (0, 0)
    decay.load_state_dict({"_step": 3})
    with pytest.warns(UserWarning, match="ran out of data"):
        fit(rates := Rates())
    assert rates.rates == pytest.approx([0.1])
    assert decay.state_dict() == {"_step": 4}


def test_decay_goes_on_from_its_state():
    schedule, own = StepDecay(0.8, 0.5, 1), PolynomialDecay(1.0, 10, end_learning_rate=0.0)
    for every in ("epoch", "batch"):
        whole, _ = rates_under(optimizers.SGD(own), LearningRateDecay(schedule, every))
        first, second, model = (
            LearningRateDecay(schedule, every),
            LearningRateDecay(schedule, every),
            model_with(optimizers.SGD(own)),
        )
        begun, _ = rates_under(None, first, 2, model=model)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        ended, _ = rates_under(None, second, 3, initial_epoch=2, model=model)
        assert begun + ended == pytest.approx(whole, rel=1e-5)


def test_decay_refuses_before_training():
    with pytest.raises(ValueError, match="every='epochs'"):
        LearningRateDecay(StepDecay(0.8, 0.5, 1), every="epochs")
    with pytest.raises(TypeError, match="takes a schedule"):
        LearningRateDecay(0.1)
    story = Story("loss", [1])
    cases = {
        r"keras_optreg\.optimizers": (keras.optimizers.SGD(StepDecay(0.8, 0.5, 1)), StepDecay(0.8, 0.5, 1), TypeError),
        r"schedule\(0\)": (optimizers.SGD(StepDecay(0.8, 0.5, 1)), warmup(0.1, 3), ValueError),
    }
    for message, (optimizer, schedule, error) in cases.items():
        with pytest.raises(error, match=message):
            model_with(optimizer).fit(X, X, verbose=0, callbacks=[LearningRateDecay(schedule), story])
    assert story.epochs == 0
