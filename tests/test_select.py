"""Selectors: what they name, how they combine, and what a wrong one says."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from keras_optreg import select
from keras_optreg.bounds import FRACTION, NON_NEGATIVE, check
from keras_optreg.table import Table


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((6,), name="tokens")
    x = layers.Embedding(10, 4, name="table")(inputs)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(x)
    x = layers.SeparableConv1D(4, 2, name="separable")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.PReLU(name="prelu")(x)
    x = layers.Dense(2, name="head")(layers.Flatten()(x))
    return keras.Model(inputs, x)


def names(selector, model):
    return {v.path for v in selector.of(model)}


def test_kernels_are_matrices_and_filters_and_nothing_else(model):
    found = names(select.kernels(), model)
    assert {p.rsplit("/", 1)[-1] for p in found} == {
        "kernel",
        "recurrent_kernel",
        "depthwise_kernel",
        "pointwise_kernel",
    }
    assert len([p for p in found if "attention" in p]) == 4
    assert len([p for p in found if "both" in p]) == 4
    assert not names(select.kernels(), model) & names(select.embeddings() | select.biases(), model)


def test_lora_factors_are_kernels():
    dense = layers.Dense(3)
    dense.build((None, 4))
    dense.enable_lora(2)
    assert [v.name for v in select.kernels().of(dense.weights)] == ["kernel", "lora_kernel_a", "lora_kernel_b"]


def test_embeddings_biases_ndim_and_everything(model):
    assert [v.path for v in select.embeddings().of(model)] == ["table/embeddings"]
    assert all(p.endswith("bias") for p in names(select.biases(), model))
    assert {len(v.shape) for v in select.ndim(1).of(model)} == {1}
    assert select.everything().of(model) == model.weights


def test_combinations_are_set_operations(model):
    head, kernels = select.matching("^head/"), select.kernels()
    assert names(kernels & ~head, model) == names(kernels, model) - names(head, model)
    assert names(kernels | head, model) == names(kernels, model) | names(head, model)
    assert names(select.variables(model.weights[:2]), model) == {v.path for v in model.weights[:2]}


def test_json_keeps_the_meaning(model):
    selector = (select.kernels() & ~select.matching("^head")) | select.ndim(1) | select.variables(model.weights[:1])
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(selector)))
    restored = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert restored == selector
    assert names(restored, model) == names(selector, model)


def test_saved_variables_are_found_again_by_the_path_that_differs_least():
    paths = ["dense/kernel", "encoder/dense/kernel", "decoder/dense/kernel"]
    saved = select.variables([keras.Variable(np.ones(2), name="x")]).get_config()

    def found(path, now):
        selector = type(select.variables([])).from_config({**saved, "paths": [path]})
        variables = [SimpleNamespace(path=p, name="kernel", shape=(2,)) for p in now]
        rest = {v.path for v in variables} - {v.path for v in selector.of(variables)}
        assert {v.path for v in (~selector & ~select.biases()).of(variables)} == rest
        return [v.path for v in selector.of(variables)]

    for path in paths:
        assert found(path, paths) == [path]
        assert found(f"model/{path}", paths) == [path]
        assert found(path, [f"model/{p}" for p in paths]) == [f"model/{path}"]
    assert found("other/kernel", paths) == []


def test_resolve_names_what_exists_when_nothing_matches(model):
    assert select.matching("^head").resolve(model.weights, "x") == (len(model.weights) - 2, len(model.weights) - 1)
    with pytest.raises(
        ValueError, match=r"`penalties`: matching\('haed'\) matches none of the weights.*table/embeddings"
    ):
        select.matching("haed").resolve(model.weights, "`penalties`")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("kernel", r"Write select.matching\('kernel'\)"),
        (select.kernels, r"Call it: select.kernels\(\)"),
        (3, "Expected a selector"),
    ],
)
def test_what_is_no_selector_is_told_how_to_become_one(value, hint):
    with pytest.raises(TypeError, match=hint):
        select.as_selector(value)


def test_and_or_not_are_refused():
    with pytest.raises(TypeError, match="Use `&`, `|` and `~`"):
        _ = select.kernels() and select.biases()
    with pytest.raises(TypeError, match="Use `&`, `|` and `~`"):
        _ = not select.kernels()


@pytest.mark.parametrize("make", [lambda: select.matching("("), lambda: select.ndim(-1), lambda: select.ndim(True)])
def test_wrong_arguments_are_refused(make):
    with pytest.raises(ValueError, match=r"select\.(matching|ndim)"):
        make()


def test_bounds_take_numbers_only():
    check("X", {"a": 0, "b": np.float32(0.5)}, {"a": NON_NEGATIVE, "b": FRACTION})
    for bad in (1, -0.1, float("nan"), float("inf"), "0.5", None, True):
        with pytest.raises(ValueError, match=r"The `b` of X must be a number in \[0, 1\). Received: b="):
            check("X", {"b": bad}, {"b": FRACTION})


def test_table_prints_aligned_and_indexes():
    table = Table(("path", "value", "frozen"), [("a/kernel", 0.125, True), ("b", None, False)], footer="2 weights")
    lines = ["path      value  frozen", "a/kernel  0.125  yes", "b         -      no", "2 weights"]
    assert str(table).splitlines() == lines
    assert (table[0].value, len(table), [row.frozen for row in table]) == (0.125, 2, [True, False])
    assert "<td>a/kernel</td>" in table._repr_html_()


def test_an_exception_that_excepts_nothing_is_said(model):
    """`^head/` finds nothing where paths begin with the model's name, and then the head is among the others."""
    chosen = select.kernels() & ~select.matching("no such layer")
    with pytest.warns(UserWarning, match=r"~matching\('no such layer'\) leaves nothing out"):
        found = chosen.resolve(model.trainable_variables, "`parts`")
    assert found == select.kernels().positions(model.trainable_variables)
    (select.kernels() & ~select.matching("attention")).resolve(model.trainable_variables, "`parts`")  # no warning
