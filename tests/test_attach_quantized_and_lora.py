"""attach on weights that quantization and LoRA freeze, replace or make anew, before and after they do."""

import keras
import numpy as np
import pytest
from keras import layers
from penalised import STRENGTH, reload, squares, total

from keras_optreg import select
from keras_optreg.regularizers import L1, L2, attach, detach, report

# Keras's `model.quantize` says it of every layer that has no weights.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method:UserWarning")

KERNELS = select.kernels() | select.embeddings()


def two_layers():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(2, name="head")])


def four_kinds():
    """One of each kind of layer that has `enable_lora`."""
    kinds = [layers.Embedding(6, 3), layers.EinsumDense("abc,cd->abd", (None, 2)), layers.Conv1D(2, 2), layers.Dense(2)]
    return keras.Sequential([keras.Input((5,), dtype="int32"), *kinds])


def enable_lora(model):
    """Factors of which none is zero, as B is at the start."""
    for layer in model.layers:
        layer.enable_lora(1)
    for variable in factors(model):
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))


def factors(model):
    return select.matching("lora_").of(model)


# Quantized.


def test_quantized_kernels_are_skipped_and_that_is_said(tmp_path):
    model = two_layers()
    model.get_layer("first").quantize("int8")
    rows = {row.path.split("/", 1)[1]: row for row in attach(model, L2(STRENGTH))}
    assert rows["first/kernel"].status == rows["first/kernel_scale"].status == "frozen, skipped"
    assert rows["first/kernel"].note == "quantized: it is never trained"
    assert rows["first/kernel_scale"].note == "state of the layer: it is never trained"
    assert rows["head/kernel"].status == "attached"
    assert total(model) == pytest.approx(squares([model.get_layer("head").kernel]), rel=1e-5)
    assert total(reload(model, tmp_path)) == pytest.approx(total(model), rel=1e-5)


def test_a_model_that_is_quantized_throughout_is_refused_without_wrong_advice():
    model = two_layers()
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"all 4 .* frozen.*first/kernel \(quantized: it is never trained\)") as error:
        attach(model, L2(STRENGTH))
    assert "trainable = True" not in str(error.value)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantizing_ends_an_attached_penalty_and_detach_clears_the_layers(mode, tmp_path):
    model = two_layers()
    before = [layer.get_config()["kernel_regularizer"] for layer in model.layers]
    attach(model, L2(STRENGTH))
    model.quantize(mode)
    assert model.losses == []
    assert len(report(model)) == 0
    assert reload(model, tmp_path).losses == []
    assert {row.status for row in detach(model)} == {"detached"}
    assert [layer.get_config()["kernel_regularizer"] for layer in model.layers] == before


def test_float8_trains_kernels_and_its_scales_get_no_penalty():
    model = two_layers()
    model.quantize("float8")
    rows = attach(model, L2(STRENGTH), select.everything())
    attached = [row.path.split("/", 1)[1] for row in rows if row.status == "attached"]
    assert attached == ["first/kernel", "first/bias", "head/kernel", "head/bias"]
    assert {row.note for row in rows if row.status != "attached"} == {"state of the layer: it is never trained"}
    assert total(model) == pytest.approx(squares(select.matching("(kernel|bias)$").of(model)), rel=1e-5)


def test_running_means_are_no_frozen_weights():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="bn")])
    rows = {row.path.rsplit("/", 1)[1]: row for row in attach(model, L2(STRENGTH), select.everything())}
    assert rows["moving_mean"].note == "state of the layer: it is never trained"
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2), layers.Dense(2, trainable=False, name="d")])
    assert attach(model, L2(STRENGTH))[1].note == "frozen: attach again after making it trainable"


# LoRA.


def test_factors_are_penalised_and_frozen_kernels_are_not(tmp_path):
    model = four_kinds()
    enable_lora(model)
    rows = attach(model, L2(STRENGTH), KERNELS)
    assert [row.path for row in rows if row.status == "attached"] == [v.path for v in factors(model)]
    assert [row.status for row in rows].count("frozen, skipped") == 4
    assert len(model.losses) == 8
    assert total(model) == pytest.approx(squares(factors(model)), rel=1e-5)
    assert all(row.survives for row in rows if row.status == "attached")
    # Keras saves W + AB/r as the kernel, and a loaded layer has new factors, B being zero.
    again = reload(model, tmp_path)
    assert len(again.losses) == 8
    assert total(again) == pytest.approx(squares(factors(again)), rel=1e-5)


def test_factors_made_after_attach_take_over_its_penalty(tmp_path):
    model, penalty = four_kinds(), L2(STRENGTH)
    configs = [layer.get_config() for layer in model.layers]
    attach(model, penalty, KERNELS)
    enable_lora(model)
    assert all(v.regularizer is penalty for v in factors(model))
    assert len(model.losses) == 8
    assert total(model) == pytest.approx(squares(factors(model)), rel=1e-5)
    rows = attach(model, L2(STRENGTH), KERNELS)
    assert {row.status for row in rows} == {"already attached", "frozen, skipped"}
    penalty.strength = 2 * STRENGTH
    assert total(model) == pytest.approx(2 * squares(factors(model)), rel=1e-5)
    assert len(reload(model, tmp_path).losses) == 8
    assert len(detach(model)) == 12
    assert model.losses == []
    for layer, config in zip(model.layers, configs, strict=True):
        name = "embeddings_regularizer" if isinstance(layer, layers.Embedding) else "kernel_regularizer"
        assert layer.get_config()[name] == config[name] is None


def test_factors_made_after_attach_get_back_what_their_layer_had():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=L1(1.0))])
    attach(model, L2(STRENGTH), existing="replace")
    enable_lora(model)
    detach(model, select.matching("lora_kernel_a"))
    assert [v.regularizer for v in factors(model)] == [L1(1.0), L2(STRENGTH)]
    detach(model)
    assert [v.regularizer for v in factors(model)] == [L1(1.0), L1(1.0)]
    assert model.layers[0].kernel_regularizer == L1(1.0)


def test_factors_of_a_quantized_layer_are_penalised(tmp_path):
    model = two_layers()
    enable_lora(model)
    model.quantize("int8")
    rows = attach(model, L2(STRENGTH))
    assert [row.path for row in rows if row.status == "attached"] == [v.path for v in factors(model)]
    assert total(model) == pytest.approx(squares(factors(model)), rel=1e-5)
    assert len(reload(model, tmp_path).losses) == 4


def test_factors_in_attention_get_a_penalty_when_attached_again():
    """Attention gives the kernels of its projections its penalty when they are built; factors made later ask them."""
    x, attention = keras.Input((5, 4)), layers.MultiHeadAttention(2, 2)
    model = keras.Model(x, attention(x, x))
    attach(model, L2(STRENGTH))
    attention.query_dense.enable_lora(1)
    assert len(model.losses) == 3
    rows = {row.path.split("/", 1)[1]: row.status for row in attach(model, L2(STRENGTH))}
    assert rows["query/lora_kernel_a"] == rows["query/lora_kernel_b"] == "attached"
    assert rows["query/kernel"] == "frozen, skipped"
    assert len(model.losses) == 5


# Trained, the penalty being all of the loss.


@pytest.mark.parametrize("is_before", [True, False], ids=["attach, enable_lora", "enable_lora, attach"])
def test_a_step_shrinks_the_factors_by_their_gradient(is_before):
    model = two_layers()
    if is_before:
        attach(model, L2(STRENGTH))
    enable_lora(model)
    if not is_before:
        attach(model, L2(STRENGTH))
    before = [keras.ops.convert_to_numpy(v).copy() for v in factors(model)]
    kernels = [keras.ops.convert_to_numpy(layer._kernel).copy() for layer in model.layers]
    model.compile(keras.optimizers.SGD(0.25), "mse")
    zeros = np.zeros((4, 4), "float32"), np.zeros((4, 2), "float32")
    loss = model.fit(*zeros, batch_size=4, verbose=0).history["loss"][0]
    assert loss == pytest.approx(STRENGTH * sum((v.astype("float64") ** 2).sum() for v in before), rel=1e-5)
    for factor, w in zip(factors(model), before, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(factor), w - 0.25 * 2 * STRENGTH * w, rtol=1e-5)
    for layer, w in zip(model.layers, kernels, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer._kernel), w)
