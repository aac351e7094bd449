"""PenaltySchedule and DropoutSchedule: what is set, when it acts, and that nothing is traced again."""

import keras
import numpy as np
import pytest

from keras_optreg import select
from keras_optreg.callbacks import DropoutSchedule, PenaltySchedule
from keras_optreg.optimizers import SGD
from keras_optreg.regularizers import L1, L1L2, L2, L2SP, KLSparsity, Sum, attach, attach_activity
from keras_optreg.schedules import PolynomialDecay

BACKEND = keras.backend.backend()
ZEROS, ONES = np.zeros((8, 1), "float32"), np.ones((8, 1), "float32")
MODES = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])
RAMP = PolynomialDecay(0.0, 8, end_learning_rate=2.0)  # 0, ¼, ½, ...


def one_weight(optimizer=None, **compile_arguments):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(optimizer or keras.optimizers.SGD(0.0), "mse", **compile_arguments)
    return model


class Batches(keras.callbacks.Callback):
    """The loss of each batch, from the running means that Keras shows; and how many functions there were."""

    def __init__(self):
        self.losses, self.functions = [], set()

    def on_train_batch_end(self, batch, logs=None):
        total = 0.0 if batch == 0 else self.mean * batch
        self.mean = logs["loss"]
        self.losses.append(self.mean * (batch + 1) - total)
        self.functions.add(id(self.model.train_function))


def fit(model, *callbacks, x=ZEROS, **kwargs):
    batches = Batches()
    history = model.fit(x, x, batch_size=2, shuffle=False, verbose=0, callbacks=[*callbacks, batches], **kwargs)
    assert len(batches.functions) == 1
    return batches.losses, history.history


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_strength_in_the_loss_follows_its_schedule(mode):
    penalty, model = L2(9.0), one_weight(**mode)
    attach(model, penalty)
    losses, logs = fit(model, PenaltySchedule(penalty, RAMP), epochs=2)
    assert losses == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75], abs=1e-6)
    assert logs["strength"] == [0.75, 1.75]
    assert penalty.strength == 1.75
    losses, _ = fit(model, PenaltySchedule(penalty, lambda t: float(t), every="epoch"), epochs=2)
    assert losses == pytest.approx([0] * 4 + [1] * 4)
    losses, _ = fit(model, PenaltySchedule(penalty, RAMP), epochs=2, initial_epoch=1)
    assert losses == pytest.approx([1, 1.25, 1.5, 1.75])


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_strength_in_the_update_follows_its_schedule(mode):
    penalty = L1(0.0)
    model = one_weight(SGD(0.125, penalties=penalty), **mode)
    fit(model, PenaltySchedule(penalty, RAMP))
    assert model.get_weights()[0].item() == pytest.approx(1 - 0.125 * (0.25 + 0.5 + 0.75))


def test_it_goes_on_from_its_state():
    penalty, model = L2(0.0), one_weight()
    attach(model, penalty)
    first, second = PenaltySchedule(penalty, RAMP), PenaltySchedule(penalty, RAMP)
    fit(model, first)
    second.load_state_dict(first.state_dict())
    assert fit(model, second)[0] == pytest.approx([1, 1.25, 1.5, 1.75])


def test_the_penalties_of_a_loaded_model_are_found_by_a_selector(tmp_path):
    layers = [keras.layers.Dense(1, use_bias=False, kernel_initializer="ones") for _ in range(2)]
    model, penalty = keras.Sequential([keras.Input((1,)), *layers]), L2(0.5)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    attach(model, penalty)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"L2\(0.5\) acts nowhere.*a selector"):
        fit(loaded, PenaltySchedule(penalty, RAMP))
    losses, _ = fit(loaded, PenaltySchedule(select.kernels(), RAMP))
    assert losses == pytest.approx([0, 0.5, 1, 1.5], abs=1e-6)
    one = loaded.layers[0].kernel.regularizer
    losses, _ = fit(loaded, PenaltySchedule(select.matching("dense_1/|dense_3/|dense/"), lambda t: 1.0))
    assert one.strength in (1.0, 1.5)


@pytest.mark.parametrize("kind", ["part of a sum", "distance to the start", "of an activity", "one of several"])
def test_wherever_a_penalty_stands(kind):
    model, name, x = one_weight(), None, ZEROS
    if kind == "part of a sum":
        penalty, factor = L2(0.0), 1.0
        attach(model, Sum(L1(0.0), penalty))
    elif kind == "distance to the start":
        penalty, factor = L2SP(0.0), 4.0
        attach(model, penalty)
        model.set_weights([np.array([[3.0]])])
    elif kind == "of an activity":
        penalty, factor, x = L2(0.0), 1.0, ONES  # predicted and wanted are 1
        attach_activity(model, penalty, keras.layers.Dense)
    else:
        penalty, name, factor = L1L2(0.0, 0.0), "l2", 1.0
        attach(model, penalty)
    losses, logs = fit(model, PenaltySchedule(penalty, RAMP, name=name), x=x)
    assert losses == pytest.approx([factor * rate for rate in (0, 0.25, 0.5, 0.75)], abs=1e-5)
    assert logs[name or "strength"] == [0.75]


@keras.saving.register_keras_serializable("test_scheduled_numbers")
class Own(keras.Layer):
    """A layer that gives its weight the penalty and does not keep it."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(1, 1), initializer="ones", regularizer=L2(0.0))

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


def test_where_no_layer_has_the_penalty_as_an_attribute():
    model = keras.Sequential([keras.Input((1,)), Own()])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    losses, _ = fit(model, PenaltySchedule(select.everything(), RAMP))
    assert losses == pytest.approx([0, 0.25, 0.5, 0.75], abs=1e-6)


def test_the_weights_of_a_loaded_optimizer_are_those_it_had(tmp_path):
    inner = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="d")], name="first")
    model = keras.Sequential([keras.Input((1,)), inner, keras.layers.Dense(1, name="e")])
    model.compile(SGD(0.125, penalties=[(select.matching("^first/d/kernel|^d/kernel"), L1(0.5))]), "mse")
    model.fit(ZEROS, ZEROS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(loaded, PenaltySchedule(select.kernels(), RAMP))
    assert [penalty.strength for _, penalty in loaded.optimizer.penalties] == [0.75]


def test_what_penalty_schedule_refuses():
    with pytest.raises(ValueError, match=r"which strength of L1L2.*\['l1', 'l2'\]"):
        PenaltySchedule(L1L2(0.1, 0.1), RAMP)
    with pytest.raises(ValueError, match="name='l3'"):
        PenaltySchedule(L2(0.1), RAMP, name="l3")
    with pytest.raises(TypeError, match="takes a penalty object"):
        PenaltySchedule(keras.regularizers.L2(0.1), RAMP)
    with pytest.raises(TypeError, match="takes a schedule"):
        PenaltySchedule(L2(0.1), 0.5)
    with pytest.raises(ValueError, match="'epoch' or 'batch'"):
        PenaltySchedule(L2(0.1), RAMP, every="step")
    penalty, model = L2(0.1), one_weight()
    with pytest.raises(ValueError, match="acts nowhere"):
        fit(model, PenaltySchedule(penalty, RAMP))
    attach(model, penalty)
    with pytest.raises(ValueError, match="must be a number in"):
        fit(model, PenaltySchedule(penalty, lambda t: -1.0))


# Dropout. With inputs of 1 and weights of the identity the outputs are 0 or 1/(1 − rate).

WIDE = np.ones((64, 500), "float32")


class Outputs(keras.losses.Loss):
    """The mean of (y − 1)², which for inverted dropout of ones is rate/(1 − rate)."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_pred - 1), axis=-1)


def dropping(rate=0.3, layer=keras.layers.Dropout, shape=(500,), **compile_arguments):
    identity = keras.layers.Dense(shape[-1], kernel_initializer="identity")
    model = keras.Sequential([keras.Input(shape), identity, layer(rate, seed=1)])
    model.compile(keras.optimizers.SGD(0.0), Outputs(), **compile_arguments)
    return model


def rates(losses):
    return [loss / (1 + loss) for loss in losses]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("initial", [0.0, 0.3])
def test_dropout_follows_its_schedule(mode, initial):
    model = dropping(initial, **mode)
    model.fit(WIDE, WIDE, verbose=0)  # traced already
    batches = Batches()
    schedule = DropoutSchedule(lambda t: (0.0, 0.5, 0.2, 0.8)[t], every="batch")
    logs = model.fit(WIDE, WIDE, batch_size=16, verbose=0, callbacks=[schedule, batches]).history
    assert rates(batches.losses) == pytest.approx([0.0, 0.5, 0.2, 0.8], abs=0.03)
    assert batches.losses[0] == 0
    assert logs["dropout_rate"] == [0.8]
    assert model.layers[1].rate == 0.8
    assert len(batches.functions) == 1
    np.testing.assert_array_equal(model.predict(WIDE, verbose=0), WIDE)
    after = model.fit(WIDE, WIDE, verbose=0).history["loss"][0]
    assert rates([after]) == pytest.approx([0.8], abs=0.03)
    function = model.train_function
    again = model.fit(WIDE, WIDE, verbose=0, callbacks=[DropoutSchedule(lambda t: 0.2)]).history["loss"][0]
    assert rates([again]) == pytest.approx([0.2], abs=0.03)
    assert model.train_function is function
    states = len(model.non_trainable_variables)
    model.fit(WIDE, WIDE, verbose=0, callbacks=[DropoutSchedule(lambda t: 0.2)])
    assert len(model.non_trainable_variables) == states
    del function  # while it lives, JAX gives the same trace for the model's next function too, whatever has changed
    model.layers[1].rate = 0.6  # as with Keras's own, by a `compile` after it
    model.compile(keras.optimizers.SGD(0.0), Outputs(), **mode)
    assert rates(model.fit(WIDE, WIDE, verbose=0).history["loss"]) == pytest.approx([0.6], abs=0.03)


class Look(keras.callbacks.Callback):
    """What the model makes of ones while it trains, once a batch."""

    def __init__(self, x):
        self.x, self.outputs = x, []

    def on_train_batch_end(self, batch, logs=None):
        self.outputs.append(keras.ops.convert_to_numpy(self.model(self.x, training=True)))


def test_masks_differ_from_batch_to_batch_and_are_scaled():
    look = Look(WIDE)
    dropping().fit(WIDE, WIDE, batch_size=32, verbose=0, callbacks=[DropoutSchedule(lambda t: 0.5), look])
    assert set(np.unique(look.outputs)) == {0.0, 2.0}
    assert (look.outputs[0] != look.outputs[1]).mean() == pytest.approx(0.5, abs=0.02)


def test_spatial_dropout_drops_whole_channels():
    x = np.ones((8, 10, 50), "float32")
    look, model = Look(x), dropping(0.0, keras.layers.SpatialDropout1D, (10, 50))
    model.fit(x, x, batch_size=8, verbose=0, callbacks=[DropoutSchedule(lambda t: 0.5), look])
    [y] = look.outputs
    assert (y == y[:, :1]).all()
    assert 0.35 < (y == 0).mean() < 0.65


def test_early_late_and_linear():
    def seen(schedule, epochs=5):
        model = dropping(0.3)
        return model.fit(WIDE, WIDE, epochs=epochs, verbose=0, callbacks=[schedule]).history["dropout_rate"]

    assert seen(DropoutSchedule.early(0.5, until=2)) == [0.5, 0.5, 0, 0, 0]
    assert seen(DropoutSchedule.late(0.5, start=2)) == [0, 0, 0.5, 0.5, 0.5]
    assert seen(DropoutSchedule.linear(0.5, until=2)) == [0.5, 0.25, 0, 0, 0]
    assert seen(DropoutSchedule.linear(0.0, until=4, end_rate=0.4)) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_only_the_layers_it_was_given_and_nested_ones(tmp_path):
    inner = keras.Sequential([keras.Input((500,)), keras.layers.Dropout(0.1, name="inner")])
    identity = keras.layers.Dense(500, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((500,)), keras.layers.Dropout(0.2), identity, inner])
    model.compile(keras.optimizers.SGD(0.0), Outputs())
    one, other = model.layers[0], inner.layers[0]
    model.fit(WIDE, WIDE, verbose=0, callbacks=[DropoutSchedule(lambda t: 0.0, layers=[other])])
    assert (one.rate, other.rate) == (0.2, 0.0)
    save = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
    logs = model.fit(WIDE, WIDE, verbose=0, callbacks=[DropoutSchedule(lambda t: 0.0), save]).history
    assert logs["loss"] == [0.0]
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Outputs": Outputs})
    assert type(loaded.layers[0]) is keras.layers.Dropout
    assert loaded.layers[0].rate == 0.0


def test_the_dropout_of_attention_is_left_alone():
    x = keras.Input((5, 4))
    attention = keras.layers.MultiHeadAttention(2, 2, dropout=0.1)
    model = keras.Model(x, attention(x, x))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    with pytest.raises(ValueError, match="no dropout layer"):
        model.fit(np.ones((2, 5, 4)), np.ones((2, 5, 4)), verbose=0, callbacks=[DropoutSchedule.early(0.5, until=1)])


def test_what_dropout_schedule_refuses():
    with pytest.raises(TypeError, match="takes Dropout"):
        DropoutSchedule(lambda t: 0.1, layers=[keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"insert_dropout"):
        fit(one_weight(), DropoutSchedule.early(0.1, until=1))
    with pytest.raises(ValueError, match="`rate` of DropoutSchedule must be a number in"):
        dropping().fit(WIDE, WIDE, verbose=0, callbacks=[DropoutSchedule(lambda t: 1.0)])
    with pytest.raises(ValueError, match="`rate` of DropoutSchedule.late"):
        DropoutSchedule.late(1.0, start=3)


def test_kl_sparsity_can_be_annealed():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    penalty = KLSparsity(0.0, target=0.25)
    attach_activity(model, penalty, "dense")
    losses, _ = fit(model, PenaltySchedule(penalty, RAMP))
    divergence = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert losses == pytest.approx([0.25 + rate * divergence for rate in (0, 0.25, 0.5, 0.75)], rel=1e-5)
