"""ReduceLROnPlateau against Keras's own, on schedules, in several optimizers, and resumed."""

import json
from math import inf, nan
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from keras_optreg import optimizers, select
from keras_optreg.callbacks import EarlyStopping, ReduceLROnPlateau, WeightAveraging
from keras_optreg.callbacks.actions.action import outcomes_of
from keras_optreg.optimizers import FullyDecoupled
from keras_optreg.schedules import PolynomialDecay, StepDecay


def model_of(optimizer):
    """What the callbacks ask of a model; its weights are the number of the epoch."""
    model = SimpleNamespace(optimizer=optimizer, metrics=[], weights=-1, stop_training=False)
    model.get_weights = lambda: model.weights
    model.set_weights = lambda weights: setattr(model, "weights", weights)
    return model


def rates(callback, values, optimizer=None, first=0, name="val_loss", model=None):
    """The rate in the logs of each epoch, and the model."""
    model = model or model_of(optimizer or keras.optimizers.SGD(0.1))
    callback.set_model(model)
    callback.on_train_begin()
    found = []
    for epoch in range(first, len(values)):
        callback.on_epoch_begin(epoch)
        model.before, model.weights = model.weights, epoch
        logs = {name: values[epoch]}
        callback.on_epoch_end(epoch, logs)
        found.append(logs["learning_rate"])
    callback.on_train_end()
    return found, model


@pytest.mark.parametrize("seed", range(25))
def test_it_is_keras_own_where_they_overlap(seed):
    rng = np.random.default_rng(seed)
    for _ in range(4):
        values = rng.random(25) / np.arange(1, 26) ** rng.random()
        values[rng.integers(3, 25)] = nan
        arguments = dict(
            monitor="val_loss",
            factor=float(rng.choice([0.1, 0.5, 0.9])),
            patience=int(rng.integers(0, 5)),
            mode=str(rng.choice(["min", "max"])),
            min_delta=float(rng.choice([0, 1e-4, 0.05])),
            cooldown=int(rng.integers(0, 4)),
            min_lr=float(rng.choice([0, 1e-3, 0.05])),
        )
        expected, _ = rates(keras.callbacks.ReduceLROnPlateau(**arguments), values)
        found, _ = rates(ReduceLROnPlateau(**arguments), values)
        assert found == expected, arguments


def test_the_positions_and_defaults_of_its_arguments_are_keras_own():
    ours, theirs = ReduceLROnPlateau(), keras.callbacks.ReduceLROnPlateau()
    names = ("monitor", "factor", "patience", "verbose", "mode", "min_delta", "cooldown", "min_lr")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    given = ("loss", 0.2, 3, 1, "max", 0.5, 2, 0.01)
    ours, theirs = ReduceLROnPlateau(*given), keras.callbacks.ReduceLROnPlateau(*given)
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]


def test_what_is_not_finite_at_first_is_no_best():
    for value in (nan, inf):
        plateau = ReduceLROnPlateau(factor=0.5, patience=2, mode="min")
        found, _ = rates(plateau, [value, 3, 2, 1, 1, 1, 1])
        assert found == pytest.approx([0.1] * 6 + [0.05])
        assert (plateau.best, plateau.best_epoch, plateau.reductions[0][0]) == (1, 3, 5)


def test_relative_improvements():
    values = [100, 97, 94, 91, 88, 80]
    arguments = dict(factor=0.5, patience=2, mode="min", min_delta=0.1)
    assert rates(ReduceLROnPlateau(**arguments), values)[0][-1] == pytest.approx(0.1)
    assert rates(ReduceLROnPlateau(**arguments, relative=True), values)[0] == pytest.approx([0.1] * 3 + [0.05] * 3)


def test_it_scales_a_schedule_of_our_optimizers():
    optimizer = optimizers.SGD(PolynomialDecay(1.0, 10, end_learning_rate=0.0))
    optimizer.build([keras.Variable([1.0])])
    plateau = ReduceLROnPlateau(factor=0.5, patience=1, mode="min", min_lr=0.1)
    found = []
    model = model_of(optimizer)
    plateau.set_model(model)
    plateau.on_train_begin()
    for epoch in range(6):
        optimizer.iterations.assign(epoch)
        logs = {"val_loss": 1.0}
        plateau.on_epoch_begin(epoch)
        plateau.on_epoch_end(epoch, logs)
        found.append(logs["learning_rate"])
    # 1 − t/10 times 1, 1, 1/2, 1/4; at t = 3 the rate is 0.175, and half of it would be below 0.1, then it is 0.1/0.7
    # of the schedule, and at 0.6 · 0.1/0.7 below the least.
    assert found == pytest.approx([1.0, 0.9, 0.4, 0.7 / 4, 0.6 / 7, 0.5 / 7], rel=1e-5)
    assert optimizer.rate_scale() == pytest.approx(1 / 7, rel=1e-5)
    assert plateau.reductions == [(epoch, pytest.approx(rate)) for epoch, rate in ((1, 0.45), (2, 0.2), (3, 0.1))]


def test_each_optimizer_of_several_and_the_innermost_one():
    first, second = optimizers.SGD(0.4), keras.optimizers.SGD(0.2, name="other")
    model = model_of(optimizers.Partition([(select.kernels(), first)], rest=second))
    logs, plateau = {"val_loss": 1.0}, ReduceLROnPlateau(factor=0.5, patience=1, mode="min")
    plateau.set_model(model)
    plateau.on_train_begin()
    for epoch in range(2):
        plateau.on_epoch_end(epoch, logs)
    assert [float(ops.convert_to_numpy(o.learning_rate)) for o in (first, second)] == pytest.approx([0.2, 0.1])
    assert logs["learning_rate_other"] == pytest.approx(0.2)
    for outer in (optimizers.Lookahead, keras.optimizers.LossScaleOptimizer):
        optimizer = outer(optimizers.SGD(0.4))
        found, _ = rates(ReduceLROnPlateau(factor=0.5, patience=1, mode="min"), [1, 1, 1], optimizer)
        assert found == pytest.approx([0.4, 0.4, 0.2])


def test_it_goes_back_to_the_best_weights_when_the_next_epoch_begins():
    for first in (True, False):
        model = model_of(keras.optimizers.SGD(0.1))
        plateau = ReduceLROnPlateau(factor=0.5, patience=2, mode="min", restore_best_weights=True)
        stopping = EarlyStopping("other", patience=9, mode="min", restore_best_weights=True)
        callbacks = [plateau, stopping] if first else [stopping, plateau]
        for callback in callbacks:
            callback.set_model(model)
            callback.on_train_begin()
        begun = []
        for epoch, value in enumerate([3, 1, 2, 2, 0.5, 2, 2]):
            for callback in callbacks:
                callback.on_epoch_begin(epoch)
            begun.append(model.weights)
            model.weights = epoch
            for callback in callbacks:
                callback.on_epoch_end(epoch, {"val_loss": value, "other": -epoch})
        assert begun == [-1, 0, 1, 2, 1, 4, 5]
        assert stopping.best_weights == 6  # those of the last epoch, not those that are put back after it
        for callback in callbacks:
            callback.on_train_end()
        assert model.weights == 6


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_resumed_training_is_the_whole_one(cut):
    values = [3, 1, 2, 2, 2, 0.5, 2, 2, 2, 2]

    def make():
        return ReduceLROnPlateau(
            factor=0.5, patience=2, cooldown=1, mode="min", min_delta=0.1, restore_best_weights=True
        )

    whole, one, other = make(), make(), make()
    expected, model = rates(whole, values)
    begun, half = rates(one, values[:cut])
    other.load_state_dict(one.state_dict())
    ended, half = rates(other, values, first=cut, model=half)
    assert begun + ended == expected
    assert half.before == model.before
    assert other.state_dict() == whole.state_dict()
    assert json.loads(json.dumps({k: v for k, v in one.state_dict().items() if k != "best_weights"}))


def test_in_fit_on_a_schedule(tmp_path):
    x = np.ones((6, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(optimizers.SGD(StepDecay(0.5, 1.0, 1)), "mse")
    # The first step solves it: then the loss is 0 for ever.
    plateau = ReduceLROnPlateau("loss", factor=0.5, patience=2, restore_best_weights=True)
    history = model.fit(x, x, batch_size=6, epochs=7, verbose=0, callbacks=[plateau])
    assert history.history["learning_rate"] == pytest.approx([0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125])
    assert outcomes_of(model) == {
        "ReduceLROnPlateau": "the learning rate was reduced to 0.25 (epoch 3), 0.125 (epoch 5), 0.0625 (epoch 7)"
    }
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(ops.convert_to_numpy(loaded.optimizer.learning_rate)) == pytest.approx(0.0625)


@pytest.mark.parametrize("eagerly", [True, False])
def test_decay_that_the_rate_does_not_touch_falls_with_it_when_asked(eagerly):
    x = np.zeros((6, 1), "float32")  # the gradient is 0, and all that moves the weight is the decay
    for scaled in (True, False):
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((1,)), dense])
        model.compile(optimizers.SGD(0.5, weight_decay=FullyDecoupled(0.5)), "mse", run_eagerly=eagerly)
        plateau = ReduceLROnPlateau("loss", factor=0.5, patience=1, scale_weight_decay=scaled)
        model.fit(x, x, batch_size=6, epochs=4, verbose=0, callbacks=[plateau])
        # Reductions after epochs 2, 3 and 4: two steps at 1/2, then at 1/4 and 1/8.
        expected = 0.5 * 0.5 * 0.75 * 0.875 if scaled else 0.5**4
        assert model.get_weights()[0].item() == pytest.approx(expected)
        assert model.optimizer.weight_decay.rate == (0.0625 if scaled else 0.5)
    model.compile(optimizers.SGD(0.5, weight_decay=0.5), "mse")
    with pytest.raises(ValueError, match="scale_weight_decay"):
        model.fit(x, x, verbose=0, callbacks=[ReduceLROnPlateau("loss", scale_weight_decay=True)])


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("first", [True, False])
def test_it_does_not_go_back_beside_an_average(first):
    x = np.ones((6, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizers.SGD(0.1), "mse")

    def train(**options):
        callbacks = [ReduceLROnPlateau("loss", **options), WeightAveraging()]
        model.fit(x, x, verbose=0, callbacks=callbacks if first else callbacks[::-1])

    with pytest.raises(ValueError, match="ReduceLROnPlateau cannot go back .* beside WeightAveraging"):
        train(restore_best_weights=True)
    train()


def test_what_it_refuses():
    for bad in (dict(factor=1.0), dict(factor=0), dict(patience=-1), dict(min_lr=-1), dict(mode="up")):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ReduceLROnPlateau(**bad)
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau monitors 'val_loss'.*There are: .*mse"):
        rates(ReduceLROnPlateau(mode="min"), [1], name="mse")
    with pytest.raises(ValueError, match="ReduceLROnPlateau cannot tell"):
        rates(ReduceLROnPlateau("thing"), [1], name="thing")
    with pytest.raises(TypeError, match=r"keras_optreg\.optimizers"):
        rates(ReduceLROnPlateau(), [1], keras.optimizers.SGD(StepDecay(0.8, 0.5, 1)))
    for optimizer in (optimizers.ScheduleFreeSGD(0.1), optimizers.COCOB(), optimizers.Lookahead(optimizers.SGD(0.1))):
        with pytest.raises(ValueError, match="best weights with"):
            rates(ReduceLROnPlateau(restore_best_weights=True), [1], optimizer)
