"""L2SP on real models: from which weights it measures, when they are taken, what is saved, what is refused."""

import keras
import numpy as np
import pytest
from keras import layers
from penalised import STRENGTH, total

from keras_optreg import select
from keras_optreg.optimizers import SGD
from keras_optreg.regularizers import L2, L2SP, Sum, attach, detach, transfer

BACKEND = keras.backend.backend()
MODES = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])


def value(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def kernels(model):
    return [value(v) for v in select.kernels().of(model)]


def squares(ws, starts):
    """λΣ(w − w⁰)² by hand."""
    return STRENGTH * sum(((w - start) ** 2).sum() for w, start in zip(ws, starts, strict=True))


def two_layers():
    """Two kernels of equal shape."""
    return keras.Sequential([keras.Input((3,)), layers.Dense(3, name="one"), layers.Dense(3, name="two")])


def move(model, seed=0):
    """New weights, other ones than the model was made with."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.get_weights()])


def test_it_measures_from_the_weights_at_attach_each_from_its_own():
    model = two_layers()
    move(model, seed=1)
    starts = kernels(model)
    attach(model, L2SP(STRENGTH))
    assert [float(keras.ops.convert_to_numpy(loss)) for loss in model.losses] == [0.0, 0.0]
    move(model)
    found = [float(keras.ops.convert_to_numpy(loss)) for loss in model.losses]
    assert found == pytest.approx([squares([w], [s]) for w, s in zip(kernels(model), starts, strict=True)], rel=1e-5)


def test_attached_again_it_keeps_its_start_and_after_detach_it_starts_anew():
    model = two_layers()
    starts = kernels(model)
    attach(model, L2SP(STRENGTH))
    move(model)
    for existing in (None, "add"):
        rows = attach(model, L2SP(STRENGTH), existing=existing)
        assert {row.status for row in rows} == {"already attached"}
    assert total(model) == pytest.approx(squares(kernels(model), starts), rel=1e-5)
    detach(model)
    assert model.losses == []
    attach(model, L2SP(STRENGTH))
    assert total(model) == 0.0
    starts = kernels(model)
    move(model, seed=2)
    assert total(model) == pytest.approx(squares(kernels(model), starts), rel=1e-5)


@pytest.mark.parametrize("is_first", [True, False], ids=["L2SP, then L2", "L2, then L2SP"])
def test_added_to_l2(is_first):
    model, both = two_layers(), [L2SP(STRENGTH), L2(0.25)]
    starts = kernels(model)
    first, second = both if is_first else both[::-1]
    attach(model, first)
    with pytest.raises(ValueError, match="another penalty stands"):
        attach(model, second)
    rows = attach(model, second, existing="add")
    assert {(row.status, row.survives) for row in rows} == {("attached", False)}
    move(model)
    ws = kernels(model)
    expected = squares(ws, starts) + 0.25 * sum((w**2).sum() for w in ws)
    assert total(model) == pytest.approx(expected, rel=1e-5)
    again = attach(model, L2SP(STRENGTH), existing="add")
    assert {row.status for row in again} == {"already attached"}
    assert total(model) == pytest.approx(expected, rel=1e-5)


def test_it_is_not_saved_says_so_and_transfer_brings_the_old_start(tmp_path):
    model = two_layers()
    starts = kernels(model)
    table = attach(model, L2SP(STRENGTH))
    assert {row.survives for row in table} == {False}
    assert {row.note for row in table} == {
        "the weights that L2SP starts from are not saved: use transfer after loading"
    }
    assert "2 of 2 would be lost" in str(table)
    assert "L2SP(0.5)" in str(table)
    move(model)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    for other in (keras.models.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)):
        assert other.losses == []
        other.set_weights(model.get_weights())
        assert {row.status for row in transfer(model, other)} == {"attached"}
        assert total(other) == pytest.approx(squares(kernels(model), starts), rel=1e-5)
    model.load_weights(tmp_path / "model.weights.h5")
    assert total(model) == pytest.approx(squares(kernels(model), starts), rel=1e-5)


def test_frozen_weights_are_skipped():
    model = two_layers()
    model.get_layer("one").trainable = False
    assert [row.status for row in attach(model, L2SP(STRENGTH))] == ["frozen, skipped", "attached"]
    start = kernels(model)[1]
    move(model)
    assert total(model) == pytest.approx(squares(kernels(model)[1:], [start]), rel=1e-5)


def test_it_is_refused_where_it_cannot_know_the_start():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, kernel_regularizer=L2SP(STRENGTH))])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"L2SP is called without the weights to start from.*attach\(model"):
        model.fit(np.zeros((2, 3)), np.zeros((2, 2)), verbose=0)
    for penalty in (L2SP(STRENGTH), L2SP(STRENGTH).coupled()):
        with pytest.raises(ValueError, match="L2SP.*attach"):
            SGD(0.1, penalties=penalty)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_step_of_fine_tuning_equals_numpy(mode):
    """A trained function, attach, two steps and another strength: gradient of mse plus 2λ(w − w⁰), in float64."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 2)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, use_bias=False)])
    rate, penalty = 0.1, L2SP(STRENGTH)
    model.compile(keras.optimizers.SGD(rate), "mse", **mode)
    model.fit(x, y, batch_size=8, verbose=0)
    start = w = kernels(model)[0]
    attach(model, penalty)
    for strength in (STRENGTH, STRENGTH, 2.0):
        penalty.strength = strength
        residual = x.astype("float64") @ w - y
        expected = (residual**2).mean() + strength * ((w - start) ** 2).sum()
        assert model.fit(x, y, batch_size=8, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-5)
        w = w - rate * (2 * x.astype("float64").T @ residual / residual.size + 2 * strength * (w - start))
        np.testing.assert_allclose(kernels(model)[0], w, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_the_distance_is_float32_under_other_dtype_policies(policy):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype=policy)])
    start = kernels(model)[0]
    attach(model, L2SP(STRENGTH))
    model.layers[0].kernel.assign(np.full((3, 2), 300.0))  # 6·300² is more than the largest float16
    assert keras.backend.standardize_dtype(model.losses[0].dtype) == "float32"
    assert total(model) == pytest.approx(STRENGTH * ((300.0 - start) ** 2).sum(), rel=1e-3)


def test_replacing_it_and_transfer_over_it_are_not_nothing():
    model, other = two_layers(), two_layers()
    starts = kernels(model)
    attach(model, L2SP(STRENGTH))
    attach(other, L2SP(STRENGTH))
    with pytest.raises(ValueError, match="another penalty stands"):
        transfer(model, other)
    assert {row.status for row in transfer(model, other, existing="replace")} == {"attached"}
    assert total(other) == pytest.approx(squares(kernels(other), starts), rel=1e-5)
    move(model)
    assert total(model) > 0
    attach(model, L2SP(STRENGTH), existing="replace")
    assert total(model) == 0


def test_a_sum_with_it_again_is_nothing():
    model = two_layers()
    attach(model, Sum(L2SP(STRENGTH), L2(0.1)))
    assert {row.status for row in attach(model, Sum(L2SP(STRENGTH), L2(0.1)))} == {"already attached"}
