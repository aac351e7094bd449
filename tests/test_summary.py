"""`summary` tells what training does to every weight."""

import keras
import pytest
from keras import layers

import keras_optreg as kor
from keras_optreg import select
from keras_optreg.optimizers import AdamW
from keras_optreg.regularizers import L1, L2


def make_model():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="body"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.1, seed=1),
            layers.Dense(2, name="head", kernel_regularizer=keras.regularizers.L1(0.5)),
        ]
    )
    model.get_layer("body").trainable = False
    return model


def test_rows_say_what_each_weight_gets():
    model = make_model()
    optimizer = AdamW(
        0.1,
        weight_decay=0.25,
        weight_decay_on=select.matching("norm"),
        learning_rate_multipliers=[(select.matching("head"), 0.5)],
        penalties=[(select.biases(), L1(0.2)), (select.matching("gamma"), L2(0.1).coupled())],
    )
    model.compile(optimizer, "mse")
    rows = {row.weight.removeprefix("sequential/"): tuple(row)[1:] for row in kor.summary(model)}
    assert rows == {
        "body/kernel": ((3, 4), None, None, None, True),
        "body/bias": ((4,), None, None, None, True),
        "norm/gamma": ((4,), 1, 0.25, "L2(0.1).coupled() in the update", False),
        "norm/beta": ((4,), 1, 0.25, None, False),
        "head/kernel": ((4, 2), 0.5, None, "keras L1(0.5) in the loss", False),
        "head/bias": ((2,), 0.5, None, "L1(0.2) in the update", False),
    }
    assert kor.summary(model).footer == "34 weights in 6 variables, 2 frozen"


@pytest.mark.parametrize("loss_scaling", [False, True])
def test_rows_stay_with_their_weights_when_layers_are_frozen_after_training_began(loss_scaling):
    model = make_model()
    model.get_layer("body").trainable = True
    multipliers = [(select.matching("body"), 0.5)]
    optimizer = AdamW(
        0.1, weight_decay=0.25, weight_decay_on=select.matching("head/kernel"), learning_rate_multipliers=multipliers
    )
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if loss_scaling else optimizer, "mse")
    model.optimizer.build(model.trainable_variables)
    model.get_layer("body").trainable = False
    rows = {row.weight.removeprefix("sequential/"): tuple(row)[2:] for row in kor.summary(model)}
    assert rows == {
        "body/kernel": (None, None, None, True),
        "body/bias": (None, None, None, True),
        "norm/gamma": (1, None, None, False),
        "norm/beta": (1, None, None, False),
        "head/kernel": (1, 0.25, "keras L1(0.5) in the loss", False),
        "head/bias": (1, None, None, False),
    }


@pytest.mark.parametrize("make", [AdamW, keras.optimizers.AdamW])
def test_weights_made_trainable_after_the_optimizer_was_built_are_pointed_out(make):
    model = make_model()
    model.compile(make(weight_decay=0.25), "mse")
    model.optimizer.build(model.trainable_variables)
    model.get_layer("body").trainable = True
    table = kor.summary(model)
    assert [tuple(row)[2:] for row in table[:2]] == [(None, None, None, False)] * 2
    assert [row.decay for row in table[2:]] == [0.25] * 4
    assert "2 made trainable after the optimizer was built: compile with a new optimizer" in table.footer


def test_it_describes_keras_own_optimizers_too():
    model = make_model()
    model.compile(keras.optimizers.AdamW(weight_decay=0.5), "mse")
    assert [row.decay for row in kor.summary(model)] == [None, None, 0.5, 0.5, 0.5, 0.5]


def test_what_it_needs():
    with pytest.raises(ValueError, match="not built"):
        kor.summary(keras.Sequential([layers.Dense(1)]))
    with pytest.raises(ValueError, match="not compiled"):
        kor.summary(make_model())
