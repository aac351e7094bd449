"""attach_activity and KLSparsity: equal to Keras's constructor argument, to the formula, in and out of the file."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optreg.regularizers import L1, L2, KLSparsity, attach, attach_activity

BACKEND = keras.backend.backend()
MODES = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])
X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")


def number(scalar):
    return float(ops.convert_to_numpy(scalar))


def loss_of(model, x=X):
    """What a call of the model adds to the loss."""
    model(ops.convert_to_tensor(x))
    return sum(number(loss) for loss in model.losses)


def autoencoder(**arguments):
    code = layers.Dense(4, "sigmoid", name="code", **arguments)
    return keras.Sequential([keras.Input((3,)), code, layers.Dense(3, name="out")])


def code_of(model, x=X):
    """The outputs of `code` in float64 NumPy."""
    w, b = (ops.convert_to_numpy(v).astype("float64") for v in model.get_layer("code").weights)
    return 1 / (1 + np.exp(-(x.astype("float64") @ w + b)))


def divergence(activity, strength, rho):
    """Ω of the lecture notes: the divergence of two Bernoulli distributions, summed over units."""
    mean = activity.reshape(-1, activity.shape[-1]).mean(axis=0)
    return strength * (rho * np.log(rho / mean) + (1 - rho) * np.log((1 - rho) / (1 - mean))).sum()


def test_it_equals_the_constructor_argument_and_is_divided_by_the_batch():
    model, twin = autoencoder(), autoencoder(activity_regularizer=keras.regularizers.L2(0.5))
    twin.set_weights(model.get_weights())
    row = attach_activity(model, L2(0.5), on="code")[0]
    assert (row.layer, row.penalty, row.before) == ("code", L2(0.5), None)
    assert loss_of(model) == pytest.approx(0.5 * (code_of(model) ** 2).sum() / len(X), rel=1e-5)
    assert loss_of(model) == pytest.approx(loss_of(twin), rel=1e-6)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_it_acts_on_a_model_that_is_trained_already_and_none_takes_it_away(mode):
    model = autoencoder()
    model.compile(keras.optimizers.SGD(0.0), "mse", **mode)

    def losses():
        fitted = model.fit(X, X, batch_size=6, verbose=0).history["loss"][0]
        return fitted, model.evaluate(X, X, batch_size=6, verbose=0)

    data = losses()
    penalty = L1(0.5)
    attach_activity(model, penalty, on="code")
    by_hand = np.abs(code_of(model)).sum() / len(X)
    assert losses() == pytest.approx([loss + 0.5 * by_hand for loss in data], rel=1e-5)
    penalty.strength = 2.0
    assert losses() == pytest.approx([loss + 2.0 * by_hand for loss in data], rel=1e-5)
    row = attach_activity(model, None, on="code")[0]
    assert (row.penalty, row.before) == (None, L1(2.0))
    assert losses() == pytest.approx(data, rel=1e-6)


def test_layers_of_nested_models_and_by_class():
    inner = autoencoder()
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2, name="head")(keras.Sequential([inner])(x)))
    attach_activity(model, L2(0.5), on="code")
    assert loss_of(model) == pytest.approx(0.5 * (code_of(inner) ** 2).sum() / len(X), rel=1e-5)
    assert {row.layer for row in attach_activity(model, L2(0.5), on=layers.Dense)} == {"code", "out", "head"}


def test_it_is_saved_with_the_layer(tmp_path):
    model = autoencoder()
    attach_activity(model, KLSparsity(0.5, target=0.25), on="code")
    model.save(tmp_path / "model.keras")
    for other in (keras.models.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)):
        other.set_weights(model.get_weights())
        assert other.get_layer("code").activity_regularizer == KLSparsity(0.5, target=0.25)
        assert loss_of(other) == pytest.approx(loss_of(model), rel=1e-6)
    attach_activity(model, None, on="code")
    assert keras.models.clone_model(model).get_layer("code").activity_regularizer is None


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_it_is_float32_under_mixed_precision(policy):
    dense = layers.Dense(4, use_bias=False, kernel_initializer="ones", dtype=policy)
    model = keras.Sequential([keras.Input((3,)), dense])
    attach_activity(model, L2(1.0), on=[dense])
    # Twenty-four times 300²: the largest float16 is 65504.
    assert loss_of(model, np.full((6, 3), 100.0, "float32")) == pytest.approx(4 * 300.0**2, rel=1e-3)


def test_another_penalty_is_refused_and_the_same_is_not():
    model = autoencoder(activity_regularizer=L1(0.5))
    with pytest.raises(ValueError, match=r"another penalty stands on code \(L1\(0.5\)\).*attach_activity\(model, None"):
        attach_activity(model, L2(0.5), on=layers.Dense)
    assert model.get_layer("out").activity_regularizer is None
    attach_activity(model, L1(0.5), on=layers.Dense)
    assert model.get_layer("out").activity_regularizer == L1(0.5)


@pytest.mark.parametrize(
    ("penalty", "on", "error", "message"),
    [
        ("l2", "code", TypeError, "takes a penalty of keras_optreg"),
        (keras.regularizers.L2(0.1), "code", TypeError, "takes a penalty of keras_optreg"),
        (L2(0.1), "cod[^e]", ValueError, "no layer matches.*code, out"),
        (L2(0.1), 3, TypeError, "must be a layer class"),
        (L2(0.1), ["encoder"], ValueError, "is not among the model's layers"),
    ],
)
def test_mistakes_are_refused(penalty, on, error, message):
    with pytest.raises(error, match=message):
        attach_activity(autoencoder(), penalty, on)


def test_time_distributed_takes_it_and_its_inner_layer_is_refused():
    inner = layers.Dense(4, name="inner", use_bias=False)
    model = keras.Sequential([keras.Input((5, 3)), layers.TimeDistributed(inner, name="each")])
    with pytest.raises(ValueError, match="inner is inside TimeDistributed.*Choose the TimeDistributed layer itself"):
        attach_activity(model, L2(0.5), on="inner")
    attach_activity(model, L2(0.5), on="each")
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype("float32")
    outputs = x.astype("float64") @ ops.convert_to_numpy(inner.kernel).astype("float64")
    assert loss_of(model, x) == pytest.approx(0.5 * (outputs**2).sum() / 2, rel=1e-5)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert model.evaluate(x, outputs, verbose=0) == pytest.approx(0.5 * (outputs**2).sum() / 2, rel=1e-5)


# KLSparsity: Keras divides by the batch size, and that is undone.


@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 4)], ids=str)
def test_kl_sparsity_in_a_layer_is_the_formula(shape):
    x = np.random.default_rng(2).normal(size=shape).astype("float32")
    layer = layers.Activation("sigmoid")
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    attach_activity(model, KLSparsity(0.5, target=0.25), on=[layer])
    assert loss_of(model, x) == pytest.approx(divergence(1 / (1 + np.exp(-x.astype("float64"))), 0.5, 0.25), rel=1e-5)


def test_kl_sparsity_in_training_is_the_formula_and_its_slope():
    """The step of SGD on the bias against central differences of the formula in float64."""
    model = autoencoder()
    model.get_layer("out").set_weights([np.zeros((4, 3)), np.zeros(3)])
    model.get_layer("out").trainable = False
    attach_activity(model, KLSparsity(0.5, target=0.25), on="code")
    bias, before, h = model.get_layer("code").bias, code_of(model), 1e-5
    logits = np.log(before / (1 - before))

    def omega(shift):
        return divergence(1 / (1 + np.exp(-(logits + shift))), 0.5, 0.25)

    slope = [(omega(h * e) - omega(-h * e)) / (2 * h) for e in np.eye(4)]
    model.compile(keras.optimizers.SGD(1.0), "mse")
    loss = model.fit(X, np.zeros_like(X), batch_size=6, verbose=0).history["loss"][0]
    assert loss == pytest.approx(omega(0.0), rel=1e-5)  # the data loss is 0: all outputs are
    np.testing.assert_allclose(-ops.convert_to_numpy(bias), slope, rtol=1e-4)


def test_kl_sparsity_stays_finite_for_units_that_are_always_off_or_on():
    outputs = np.array([[0.0, 1.0], [0.0, 1.0]], "float32")
    layer = layers.Activation("linear", activity_regularizer=KLSparsity(1.0, target=0.5))
    model = keras.Sequential([keras.Input((2,)), layer])
    expected = 2 * (0.5 * np.log(0.5 / 1e-6) + 0.5 * np.log(0.5 / (1 - 1e-6)))
    assert loss_of(model, outputs) == pytest.approx(expected, rel=1e-2)


def test_taking_it_away_leaves_nothing_behind_and_it_is_not_for_weights():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, "sigmoid", name="code")])
    states = len(model.variables)
    for _ in range(3):
        attach_activity(model, L2(0.1), on="code")
        attach_activity(model, None, on="code")
    assert len(model.variables) == states
    with pytest.raises(ValueError, match=r"attach_activity\(model, KLSparsity"):
        attach(model, KLSparsity(0.1))
