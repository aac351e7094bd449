"""A strength that is set acts in the next step: in compiled functions, on every backend, in the loss and the update."""

import copy
import pickle

import keras
import numpy as np
import pytest

from keras_optreg import select
from keras_optreg.callbacks import EvaluateAtAverage
from keras_optreg.optimizers import SGD, Adam, AdamW, Lookahead, Partition
from keras_optreg.regularizers import L1, L1L2, L2, Sum, attach

BACKEND = keras.backend.backend()
ZEROS = np.zeros((8, 1), "float32")
MODES = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])


def one_weight(optimizer=None, regularizer=None, **compile_arguments):
    """w = 1, the data loss is 0, and a rate of 0 keeps it so: the loss is the penalty."""
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer=regularizer)
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(optimizer or keras.optimizers.SGD(0.0), "mse", **compile_arguments)
    return model


def losses(model, **kwargs):
    return model.fit(ZEROS, ZEROS, batch_size=2, verbose=0, **kwargs).history["loss"]


def weight(model):
    return model.get_weights()[0].item()


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "from the constructor"])
def test_in_the_loss(mode, is_attached):
    penalty = L2(0.5)
    model = one_weight(regularizer=None if is_attached else penalty, **mode)
    if is_attached:
        attach(model, penalty)
    assert losses(model) == [0.5]
    function = model.train_function
    penalty.strength = 0.25
    assert losses(model) == [0.25]
    assert model.evaluate(ZEROS, ZEROS, verbose=0) == 0.25
    assert model.train_function is function

    class Annealed(keras.callbacks.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_begin(self, batch, logs=None):
            assert self.model.optimizer is not None
            penalty.l2 = 2.0**-batch

        def on_train_batch_end(self, batch, logs=None):
            self.seen.append(logs["loss"])

    annealed = Annealed()
    losses(model, callbacks=[annealed])
    assert annealed.seen == pytest.approx([1, 1.5 / 2, 1.75 / 3, 1.875 / 4])  # Keras shows running means
    assert model.train_function is function


@keras.saving.register_keras_serializable("test_strengths")
class Custom(keras.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(1, 1), initializer="ones", name="kernel")

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


class Holding(keras.Model):
    """A model with the penalty as an attribute of its own, beside the layer's."""

    def __init__(self, penalty):
        super().__init__()
        self.penalty = penalty
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer=penalty)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


def test_in_layers_without_an_argument_for_it():
    penalty, model = L2(0.5), keras.Sequential([keras.Input((1,)), Custom()])
    attach(model, penalty)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert losses(model) == [0.5]
    penalty.strength = 0.25
    assert losses(model) == [0.25]


def test_in_a_model_that_holds_it_too():
    penalty = L2(0.5)
    model = Holding(penalty)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert losses(model, epochs=2) == [0.5, 0.5]
    penalty.strength = 0.25
    assert losses(model, epochs=2) == [0.25, 0.25]


def test_of_the_parts_of_a_sum():
    one, other = L1(0.5), L2(0.25)
    model = one_weight(regularizer=Sum(one, other, keras.regularizers.L2(0.125)))
    assert losses(model) == [0.875]
    one.strength, other.strength = 1.0, 2.0
    assert losses(model) == [3.125]


def test_of_one_object_in_two_models():
    penalty = L2(0.5)
    models = [one_weight(regularizer=penalty), one_weight(regularizer=penalty)]
    assert [losses(model) for model in models] == [[0.5], [0.5]]
    penalty.strength = 1.0
    assert [losses(model) for model in models] == [[1.0], [1.0]]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("is_coupled", [False, True], ids=["proximal", "coupled"])
def test_in_the_update(mode, is_coupled):
    penalty = L1(1.0).coupled() if is_coupled else L1(1.0)
    model = one_weight(SGD(2.0**-6, penalties=penalty), **mode)
    losses(model)  # four steps, each by the rate times the strength
    assert weight(model) == 1 - 4 * 2.0**-6
    function = model.train_function
    penalty.strength = 2.0
    losses(model)
    assert weight(model) == 1 - 12 * 2.0**-6
    assert model.train_function is function


@pytest.mark.parametrize(
    "wrap",
    [
        lambda p: Partition(
            [(select.kernels(), SGD(2.0**-6, penalties=p))], rest=SGD(penalties=[(select.biases(), p)])
        ),
        lambda p: Lookahead(SGD(2.0**-6, penalties=p.coupled()), sync_period=1, slow_step_size=1.0),
        lambda p: keras.optimizers.LossScaleOptimizer(SGD(2.0**-6, penalties=p), initial_scale=8.0),
        lambda p: SGD(2.0**-6, penalties=[(select.kernels(), p), (select.biases(), p)]),
    ],
    ids=["Partition", "Lookahead", "LossScaleOptimizer", "given twice"],
)
def test_in_the_update_of_wrapped_optimizers(wrap):
    penalty = L1(1.0)
    dense = keras.layers.Dense(1, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((1,)), dense])
    optimizer = wrap(penalty)
    model.compile(optimizer, "mse")
    is_averaged = isinstance(optimizer, Lookahead)
    callbacks = [EvaluateAtAverage()] if is_averaged else []
    losses(model, callbacks=callbacks)
    before = weight(model)
    if is_averaged:
        [(_, penalty)] = optimizer.inner_optimizer.penalties
    penalty.strength = 2.0
    losses(model, callbacks=callbacks)
    assert 1 - before == 4 * 2.0**-6
    assert before - weight(model) == 8 * 2.0**-6


def test_of_one_object_in_the_loss_and_in_the_update():
    penalty = L1(1.0)
    model = one_weight(SGD(2.0**-6, penalties=penalty))
    attach(model, penalty)
    losses(model)
    assert weight(model) == 1 - 8 * 2.0**-6
    penalty.strength = 2.0
    losses(model)
    assert weight(model) == 1 - 24 * 2.0**-6


def test_no_step_is_compiled_again(run_op_by_op):
    penalty, w = L1(1.0), keras.Variable([1.0], name="kernel")
    optimizer = Adam(0.25, penalties=penalty)
    for strength in (0.0, 1.0, 0.5, 0.0):
        penalty.strength = strength
        optimizer.apply([keras.ops.zeros(1)], [w])
    assert len(optimizer._runner._compiled) <= 1


def test_in_a_float64_update():
    if BACKEND == "jax":
        pytest.skip("JAX has no float64 unless it is switched on for the whole process")
    w = keras.Variable(np.array([1.0]), dtype="float64", name="kernel")
    optimizer = SGD(0.25, penalties=L2(0.5))
    optimizer.apply([keras.ops.zeros(1, "float64")], [w])
    assert keras.ops.convert_to_numpy(w).item() == pytest.approx(1 / 1.25, abs=1e-7)


def test_a_loaded_state_does_not_bring_back_an_old_strength(tmp_path):
    penalty = L1(1.0)
    model = one_weight(SGD(2.0**-6, penalties=penalty))
    losses(model)
    model.save(tmp_path / "model.keras")
    penalty.strength = 2.0
    model.load_weights(tmp_path / "model.keras")
    losses(model)
    assert weight(model) == 1 - 12 * 2.0**-6
    loaded = keras.models.load_model(tmp_path / "model.keras")
    losses(loaded)
    assert weight(loaded) == 1 - 8 * 2.0**-6


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere it acts at once")
def test_on_jax_a_strength_that_would_be_lost_is_refused():
    penalty = L2(0.5)
    model = one_weight(regularizer=penalty)

    class Unsynced(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with pytest.raises(RuntimeError, match=r"look at `self.model` first"):
                penalty.strength = 1.0

    assert losses(model, callbacks=[Unsynced()]) == [0.5]
    assert penalty.strength == 0.5
    penalty.strength = 1.0
    assert losses(model) == [1.0]


@pytest.mark.parametrize("penalty", [L1(0.1), L1L2(0.1, 0.2), Sum(L1(0.1), L2(0.2)), L2(0.5).coupled()], ids=repr)
def test_copies_are_others(penalty):
    for again in (copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        assert again == penalty
        assert again.state is not penalty.state


def test_numbers_are_floats_where_formulas_have_tensors():
    class Looking(L2):
        seen = []

        def penalty(self, x):
            self.seen.append((type(self.strength), type(self.numbers["strength"]), repr(self), self.is_quadratic))
            return super().penalty(x)

    penalty = Looking(0.5)
    model = one_weight(AdamW(0.0, weight_decay=0.0), regularizer=penalty)
    assert losses(model) == [0.5]
    for strength, number, text, _ in Looking.seen:
        assert strength is not float
        assert number is float
        assert text == "Looking(0.5)"
    assert isinstance(penalty.strength, float)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_under_other_dtype_policies(policy):
    penalty = L2(0.5)
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer=penalty, dtype=policy)
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert losses(model) == [0.5]
    penalty.strength = 1.0
    assert losses(model) == [1.0]


class Late(keras.Layer):
    """Makes a penalty, and a layer with one, when it is built: in the first step of `fit`."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(1, 1), initializer="ones", regularizer=L2(0.5))
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer=L2(0.25))
        self.dense.build(shape)

    def call(self, x):
        return self.dense(keras.ops.matmul(x, self.kernel))


def test_of_penalties_made_within_fit():
    model = keras.Sequential([Late()])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert losses(model) == [0.75]
    model.layers[0].dense.kernel_regularizer.strength = 1.0
    assert losses(model) == [1.5]


class Capped(L1):
    """Its gradient is not proportional to the strength, as L1's is."""

    def penalty(self, x):
        return keras.ops.sum(keras.ops.minimum(self.strength * keras.ops.abs(x), 1.0))

    def gradient(self, w):
        return keras.ops.where(self.strength * keras.ops.abs(w) < 1, self.strength * keras.ops.sign(w), 0.0)


def test_a_subclass_has_the_gradient_of_its_own_under_loss_scaling():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.25), initial_scale=128.0)
    model = one_weight(optimizer, Capped(0.5))
    model.train_on_batch(ZEROS, ZEROS)
    assert weight(model) == 1 - 0.25 * 0.5


def test_a_state_without_penalties_goes_on_with_one(tmp_path):
    model = one_weight(Adam(0.125))
    losses(model)
    model.save(tmp_path / "model.keras")
    for penalties in (None, L1(0.5)):
        again = one_weight(Adam(0.125, penalties=penalties))
        again.optimizer.build(again.trainable_variables)
        again.load_weights(tmp_path / "model.keras")
        assert int(keras.ops.convert_to_numpy(again.optimizer.iterations)) == 4
    again.save(tmp_path / "again.keras")
    model.load_weights(tmp_path / "again.keras")
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 4


@pytest.mark.skipif(BACKEND != "jax", reason="the others have no forward mode here")
def test_forward_mode_on_jax():
    import jax

    x = keras.ops.array([1.0, -2.0])
    for penalty in (L1(0.5), L2(0.5), Sum(L1(0.5), L2(0.25))):
        value, slope = jax.jvp(penalty, (x,), (keras.ops.ones(2),))
        assert float(value) == float(penalty(x))
        assert float(slope) == float(penalty.gradient(x).sum())
