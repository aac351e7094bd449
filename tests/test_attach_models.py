"""attach on models of rarer make: stacked cells, wrapped layers, three deep, shared between models, half precision.

The common ones are in test_attach.py.
"""

import keras
import numpy as np
import pytest
from keras import layers
from penalised import STRENGTH, squares, total

from keras_optreg import select
from keras_optreg.regularizers import L2, attach, transfer


@keras.saving.register_keras_serializable("test_attach_models")
class Scaled(keras.Layer):
    """A layer of one's own that takes the argument, and saves it."""

    def __init__(self, kernel_regularizer=None, **kwargs):
        super().__init__(**kwargs)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel", regularizer=self.kernel_regularizer)

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)

    def get_config(self):
        penalty = keras.regularizers.serialize(self.kernel_regularizer) if self.kernel_regularizer else None
        return {**super().get_config(), "kernel_regularizer": penalty}


def stacked_cells():
    cells = layers.StackedRNNCells([layers.LSTMCell(2), layers.GRUCell(2)])
    return keras.Sequential([keras.Input((5, 3)), layers.RNN(cells)])


def convolutional_recurrence():
    return keras.Sequential([keras.Input((3, 4, 4, 2)), layers.ConvLSTM2D(2, 2)])


def wrapped_custom_layer():
    return keras.Sequential([keras.Input((5, 4)), layers.TimeDistributed(Scaled())])


def three_deep():
    x = keras.Input((4,))
    deepest = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="deepest")
    deeper = keras.Sequential([keras.Input((4,)), deepest, layers.Dense(3, name="dense")], name="deeper")
    middle = keras.Sequential([keras.Input((4,)), deeper, layers.Dense(3, name="dense")], name="middle")
    return keras.Model(x, layers.Dense(2, name="dense")(middle(x)))


def several_outputs():
    x, z = keras.Input((4,), name="x"), keras.Input((3,), name="z")
    y = layers.Dense(3)(layers.Concatenate()([x, z]))
    return keras.Model({"x": x, "z": z}, {"one": layers.Dense(1)(y), "two": layers.Dense(2)(y)})


# How to make it, and the shapes of its kernels, by hand: LSTM has four gates and GRU three.
MODELS = [
    (stacked_cells, [(3, 8), (2, 8), (2, 6), (2, 6)]),
    (convolutional_recurrence, [(2, 2, 2, 8), (2, 2, 2, 8)]),
    (wrapped_custom_layer, [(4, 3)]),
    (three_deep, [(4, 3), (3, 3), (3, 3), (3, 2)]),
    (several_outputs, [(7, 3), (3, 1), (3, 2)]),
]


@pytest.mark.parametrize(("make", "shapes"), MODELS)
def test_each_kernel_counts_once_and_survives(make, shapes, tmp_path):
    model = make()
    table = attach(model, L2(STRENGTH))
    penalised = [v for v in model.weights if v.regularizer is not None]
    assert sorted(tuple(v.shape) for v in penalised) == sorted(shapes)
    assert {(row.status, row.survives) for row in table} == {("attached", True)}
    assert len(model.losses) == len(shapes)
    assert total(model) == pytest.approx(squares(penalised), rel=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert total(loaded) == pytest.approx(total(model), rel=1e-5)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert total(clone) == pytest.approx(total(model), rel=1e-5)


def test_a_layer_shared_by_two_models_inside_a_third_counts_once():
    dense, x = layers.Dense(4, name="shared"), keras.Input((4,))
    one, two = (keras.Sequential([keras.Input((4,)), dense, layers.Dense(4, name=name)]) for name in ("one", "two"))
    model = keras.Model(x, two(one(x)))
    attach(model, L2(STRENGTH))
    assert len(model.losses) == 3
    assert total(model) == pytest.approx(squares(select.kernels().of(model)), rel=1e-5)
    assert (len(one.losses), len(two.losses)) == (2, 2)
    assert {row.status for row in attach(one, L2(STRENGTH))} == {"already attached"}


def test_several_losses_and_one_penalty():
    """All kernels are ones and the data 0, so both data losses are 0 and the penalty is in the sum once."""
    model = several_outputs()
    attach(model, L2(STRENGTH))
    for kernel in select.kernels().of(model):
        kernel.assign(np.ones(kernel.shape))
    model.compile("sgd", {"one": "mse", "two": "mse"}, loss_weights={"one": 1.0, "two": 10.0})
    x = {"x": np.zeros((2, 4), "float32"), "z": np.zeros((2, 3), "float32")}
    y = {"one": np.zeros((2, 1), "float32"), "two": np.zeros((2, 2), "float32")}
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] == STRENGTH * (7 * 3 + 3 + 3 * 2)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    finally:
        keras.config.set_dtype_policy("float32")
    attach(model, L2(STRENGTH))
    for kernel in select.kernels().of(model):
        kernel.assign(np.full(kernel.shape, 200.0))  # the largest float16 is 65504
    model.compile(keras.optimizers.SGD(0.25), "mse", auto_scale_loss=False)
    zeros = np.zeros((4, 4), "float32"), np.zeros((4, 2), "float32")
    assert {keras.backend.standardize_dtype(loss.dtype) for loss in model.losses} == {"float32"}
    by_hand = STRENGTH * 200.0**2 * (12 + 6)
    assert model.fit(*zeros, batch_size=4, verbose=0).history["loss"][0] == pytest.approx(by_hand, rel=1e-3)
    for kernel in select.kernels().of(model):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), 200.0 * (1 - 0.25 * 2 * STRENGTH), rtol=1e-3)


def test_transfer_between_models_three_deep():
    model, other = three_deep(), three_deep()
    attach(model, L2(STRENGTH), select.matching("deepest/"))
    rows = transfer(model, other)
    assert len(rows) == 2
    assert all("deepest/" in row.path for row in rows)
