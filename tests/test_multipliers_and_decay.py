"""What bends the rate and the decay: multipliers set while training, layer-wise decay, fully decoupled decay."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from stepping import MODES, stepper, values_of, variables_of

import keras_optreg as kor
from keras_optreg import select
from keras_optreg.optimizers import LAMB, SGD, Adam, AdamW, FullyDecoupled, layerwise_decay

START = [np.array([[1.0, -2.0]], "float32"), np.array([4.0], "float32")]
ONES = [np.ones((1, 2), "float32"), np.ones(1, "float32")]
X, Y = np.ones((4, 2), "float32"), np.zeros((4, 1), "float32")


def moves(optimizer, grads, mode="eager"):
    variables = variables_of(START)
    step = stepper(optimizer, variables, mode)
    found = []
    for g in grads:
        before = values_of(variables)
        step(g)
        found.append([now - then for now, then in zip(values_of(variables), before, strict=True)])
    return found


# ---------------------------------------------------------------- fully decoupled decay


@pytest.mark.parametrize("mode", sorted({MODES[0], MODES[-1]}))
def test_fully_decoupled_decay_takes_its_fraction_whatever_the_rate(mode):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.5])
    for rate, fractions in ((0.25, [0.25, 0.25]), (schedule, [0.1, 0.5])):
        w = [np.asarray(s, "float64") for s in START]
        optimizer = SGD(0.01, weight_decay=FullyDecoupled(rate), learning_rate_multipliers=[(select.biases(), 0.0)])
        variables = variables_of(START)
        step = stepper(optimizer, variables, mode)
        for fraction in fractions:
            step(ONES)
            w = [v * (1 - fraction) - 0.01 * factor for v, factor in zip(w, (1, 0), strict=True)]
            for a, e in zip(values_of(variables), w, strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-6)


def test_the_rule_sees_the_decayed_weight_as_with_a_number():
    """Addons' AdamW decays first and then updates; with a rate of 1 both kinds of decay are the same."""
    for a, e in zip(
        moves(AdamW(1.0, weight_decay=FullyDecoupled(0.1)), [ONES, ONES]),
        moves(AdamW(1.0, weight_decay=0.1), [ONES, ONES]),
        strict=True,
    ):
        for one, other in zip(a, e, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_fully_decoupled_decay_is_saved_shown_and_refused_where_the_rule_takes_the_decay():
    optimizer = Adam(0.1, weight_decay=FullyDecoupled(keras.optimizers.schedules.CosineDecay(0.1, 10)))
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    again = keras.optimizers.deserialize(config)
    assert float(ops.convert_to_numpy(again.weight_decay(5))) == pytest.approx(0.05)
    assert again.get_config() == optimizer.get_config()
    with pytest.raises(ValueError, match="LAMB takes the weight decay inside its rule"):
        LAMB(0.1, weight_decay=FullyDecoupled(0.1))
    with pytest.raises(ValueError, match="The `rate` of FullyDecoupled"):
        FullyDecoupled(-0.1)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(SGD(0.1, weight_decay=FullyDecoupled(0.01), weight_decay_on=select.kernels()), "mse")
    assert [row[3] for row in kor.summary(model).rows] == ["FullyDecoupled(0.01)", None]


# ---------------------------------------------------------------- multipliers


def model_with(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="body"), layers.Dense(1, name="head")])
    model.compile(optimizer, lambda y, p: ops.sum(p))
    return model


class Thaw(keras.callbacks.Callback):
    """Gives the body the whole rate from the second epoch on."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            optimizer = self.model.optimizer
            [(selector, factor)] = optimizer.learning_rate_multipliers
            assert factor == 0.0
            optimizer.learning_rate_multipliers = [(selector, 1.0)]


def test_multipliers_are_read_and_set_while_training(tmp_path):
    model = model_with(SGD(0.1, learning_rate_multipliers=[(select.matching("^body|/body"), 0.0)]))
    start = model.get_weights()
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[Thaw()])
    np.testing.assert_array_equal(model.get_weights()[0], start[0])
    assert np.abs(model.get_weights()[2] - start[2]).max() > 1e-3
    model.fit(X, Y, epochs=2, initial_epoch=1, verbose=0, callbacks=[Thaw()])
    assert np.abs(model.get_weights()[0] - start[0]).max() > 1e-3
    multipliers = {row[0].split("/")[-2]: row[2] for row in kor.summary(model).rows}
    assert multipliers == {"body": 1, "head": 1}
    model.optimizer.learning_rate_multipliers = [(select.matching("head"), 0.5)]
    loss = model.loss
    model.compile(model.optimizer, "mse")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert [factor for _, factor in loaded.optimizer.learning_rate_multipliers] == [0.5]
    multipliers = {row[0].split("/")[-2]: row[2] for row in kor.summary(loaded).rows}
    assert multipliers == {"body": 1, "head": 0.5}
    before = loaded.get_weights()
    loaded.compile(loaded.optimizer, loss)
    loaded.fit(X, Y, verbose=0, batch_size=4)
    # The gradient of head/bias is 4 with a batch of 4, half the rate; Keras takes the mean over the batch of a scalar.
    moved = [now - then for now, then in zip(loaded.get_weights(), before, strict=True)]
    assert moved[3] == pytest.approx(-0.1 * 0.5 * 4, rel=1e-5)


def test_multipliers_need_a_place():
    optimizer = SGD(0.1)
    optimizer.learning_rate_multipliers = [(select.biases(), 0.5)]  # before it is built
    assert moves(optimizer, [ONES])[0][1] == pytest.approx(-0.05)
    optimizer = SGD(0.1)
    optimizer.build(variables_of(START))
    with pytest.raises(ValueError, match="was built without learning_rate_multipliers"):
        optimizer.learning_rate_multipliers = [(select.biases(), 0.5)]


# ---------------------------------------------------------------- layer by layer


def test_the_rate_falls_from_the_output_to_the_input(tmp_path):
    inner = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(2, name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="b"),
        ],
        name="inner",
    )
    model = keras.Sequential([keras.Input((2,)), inner, layers.Dropout(0.1), layers.Dense(1, name="head")])
    model.compile(SGD(0.1, learning_rate_multipliers=layerwise_decay(model, 0.5)), "mse")
    expected = {"a": 0.25, "norm": 0.25, "b": 0.5, "head": 1}
    assert {row[0].split("/")[-2]: row[2] for row in kor.summary(model).rows if not row[5]} == expected
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    loaded.fit(X, Y, verbose=0)
    assert {row[0].split("/")[-2]: row[2] for row in kor.summary(loaded).rows if not row[5]} == expected


def test_levels_may_be_given():
    model = model_with("sgd")
    pairs = layerwise_decay(model, 0.5, [select.matching("body"), select.matching("head")])
    assert [factor for _, factor in pairs] == [0.5, 1]
    with pytest.raises(ValueError, match="needs a model with weights"):
        layerwise_decay(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="found no level"):
        layerwise_decay(model, groups=[])
    with pytest.raises(ValueError, match="The `decay` of layerwise_decay"):
        layerwise_decay(model, 0)
