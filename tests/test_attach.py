"""attach, detach, transfer, report and to_keras: what counts, what is saved, what is refused."""

import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from cases.regularizers import CASES, Case, both
from keras import layers
from penalised import STRENGTH, reload, squares, total

from keras_optreg import optimizers, select
from keras_optreg.regularizers import L1, L1L2, L2, Sum, attach, detach, report, to_keras, transfer

BACKEND = keras.backend.backend()
ROOT = str(Path(__file__).parents[1])


def sequential():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, "relu"), layers.BatchNormalization(), layers.Dense(2, name="head")]
    )


def functional():
    x = keras.Input((4,))
    y = layers.Dense(3)(x)
    return keras.Model(x, [layers.Dense(2)(y), layers.Dense(1)(layers.Concatenate()([x, y]))])


def nested():
    x, z = keras.Input((4,)), keras.Input((2,))
    inner = keras.Model(z, layers.Dense(3, name="dense")(z))  # the same layer name at two depths
    return keras.Model(x, layers.Dense(2, name="dense")(inner(sequential()(x))))


def shared():
    x, dense = keras.Input((4,)), layers.Dense(4)
    return keras.Model(x, layers.Dense(1)(dense(dense(x))))


def bidirectional():
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(3)),
            layers.RNN([layers.GRUCell(2), layers.SimpleRNNCell(2)]),
        ]
    )


def attention():
    x = keras.Input((5, 4))
    y = layers.MultiHeadAttention(2, 2)(x, x)
    return keras.Model(x, layers.GroupQueryAttention(2, 2, 1)(y, y))


def convolutions():
    stack = [layers.SeparableConv2D(3, 2), layers.DepthwiseConv2D(2), layers.Conv2DTranspose(2, 2), layers.PReLU()]
    return keras.Sequential([keras.Input((6, 6, 2)), *stack])


def embedding():
    return keras.Sequential([keras.Input((5,), dtype="int32"), layers.Embedding(6, 3), layers.Conv1D(2, 2)])


def spectral():
    return keras.Sequential([keras.Input((5,)), layers.SpectralNormalization(layers.Dense(3)), layers.Dense(2)])


def mobilenet():
    # Narrow, so that few of its 53 kernels differ in shape: JAX compiles the initializer of each shape.
    return keras.applications.MobileNetV2(input_shape=(32, 32, 3), alpha=0.05, weights=None, classes=3)


@keras.saving.register_keras_serializable("test_attach")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(3), layers.Dense(2)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 3))

    def call(self, x):
        return self.second(self.first(x))


@keras.saving.register_keras_serializable("test_attach")
class NoArgument(keras.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


def subclassed():
    model = Subclassed()
    model.build((None, 4))
    return model


def custom_layer():
    return keras.Sequential([keras.Input((4,)), NoArgument(), layers.Dense(2)])


def clone(model, tmp_path):
    return keras.models.clone_model(model)


def from_config(model, tmp_path):
    config = json.loads(json.dumps(model.get_config()))
    return type(model).from_config(config)


SURVIVING = [
    sequential,
    functional,
    nested,
    shared,
    bidirectional,
    attention,
    convolutions,
    embedding,
    spectral,
]


BOTH = [(make, on) for make in SURVIVING for on in (select.kernels(), select.everything())]


@pytest.mark.parametrize(("make", "on"), [*BOTH, (mobilenet, select.kernels())])
def test_attached_counts_once_and_survives_save_clone_and_config(make, on, tmp_path):
    model, penalty = make(), L2(STRENGTH)
    table = attach(model, penalty, on)
    chosen = on.of(model.trainable_variables)
    assert total(model) == pytest.approx(squares(chosen), rel=1e-5)
    assert len(model.losses) == len(chosen)
    assert all(variable.regularizer is penalty for variable in chosen)
    assert [row.path for row in table] == [v.path for v in on.of(model.weights)]
    assert all(row.survives for row in table if row.status == "attached")
    for again in (reload, clone, from_config):
        other = again(model, tmp_path)
        other.set_weights(model.get_weights())
        assert total(other) == pytest.approx(total(model), rel=1e-5), again.__name__
        assert len(other.losses) == len(model.losses)
        assert {row.status for row in attach(other, penalty, on)} <= {"already attached", "frozen, skipped"}


@pytest.mark.parametrize(("make", "lost"), [(subclassed, 2), (custom_layer, 1)])
def test_what_does_not_survive_is_said_and_transfer_brings_it_back(make, lost, tmp_path):
    model = make()
    table = attach(model, L2(STRENGTH))
    assert [row.survives for row in table].count(False) == lost
    assert all(row.note for row in table if row.survives is False)
    assert "would be lost" in str(table)
    other = reload(model, tmp_path)
    assert len(other.losses) == len(model.losses) - lost
    table = transfer(model, other)
    assert [row.status for row in table].count("attached") == lost
    assert total(other) == pytest.approx(squares(select.kernels().of(model)), rel=1e-5)


def test_attention_keeps_one_penalty_for_its_four_projections(tmp_path):
    x = keras.Input((5, 4))
    model = keras.Model(x, layers.MultiHeadAttention(2, 2, name="mha")(x, x))
    query, rest = select.matching("query/kernel"), select.matching("(key|value|output)/kernel")
    row = attach(model, L2(STRENGTH), query)[0]
    assert row.survives is False
    assert "MultiHeadAttention saves one kernel_regularizer" in row.note
    assert reload(model, tmp_path).losses == []
    assert all(row.survives for row in attach(model, L2(STRENGTH), rest))
    assert len(reload(model, tmp_path).losses) == 4
    assert all(row.survives is False for row in attach(model, L1(STRENGTH), query, existing="replace"))
    assert reload(model, tmp_path).losses == []


def test_lora_factors_get_the_penalty_and_the_frozen_kernel_none(tmp_path):
    model = sequential()
    model.layers[0].enable_lora(2)
    table = {
        row.path.split("/")[-1]: row for row in attach(model, L2(STRENGTH), select.matching("sequential/dense/"))[:]
    }
    assert table["kernel"].status == "frozen, skipped"
    assert table["lora_kernel_a"].survives
    assert len(reload(model, tmp_path).losses) == len(model.losses) == 3  # two factors and the bias


def test_layer_attribute_is_the_user_s_object():
    model, penalty = sequential(), L2(STRENGTH)
    attach(model, penalty)
    assert model.layers[0].kernel_regularizer is penalty
    assert model.layers[0].kernel.regularizer is penalty
    assert model.layers[0].bias_regularizer is None


def test_keras_s_own_penalties_are_taken(tmp_path):
    model = sequential()
    assert all(row.survives for row in attach(model, keras.regularizers.L2(STRENGTH)))
    assert total(reload(model, tmp_path)) == pytest.approx(squares(select.kernels().of(model)), rel=1e-5)
    assert {row.status for row in attach(model, keras.regularizers.L2(STRENGTH))} == {"already attached"}


def test_a_selector_chooses_and_frozen_weights_are_skipped():
    model = sequential()
    model.layers[0].trainable = False
    table = attach(model, L2(STRENGTH))
    assert [(row.status, row.survives) for row in table] == [("frozen, skipped", None), ("attached", True)]
    assert total(model) == pytest.approx(squares([model.get_layer("head").kernel]), rel=1e-5)
    model = sequential()
    assert [row.path for row in attach(model, L2(STRENGTH), select.matching("head/bias"))] == ["sequential_1/head/bias"]


# An attached penalty in the loss of a model that has been trained: the data loss is 0, so the loss is the penalty.


def one_weight(**compile_arguments):
    dense = layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(2.0))
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(keras.optimizers.SGD(0.25), "mse", **compile_arguments)
    return model


def fit(model):
    zeros = np.zeros((4, 1), "float32")
    loss = model.fit(zeros, zeros, batch_size=4, verbose=0).history["loss"][0]
    return loss, model.evaluate(zeros, zeros, verbose=0)


MODES = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_attach_and_detach_act_on_functions_that_are_already_traced(mode):
    model = one_weight(**mode)
    assert fit(model) == (0.0, 0.0)
    attach(model, L2(STRENGTH))
    # Ω = ½·2² = 2; the step of SGD is −¼·2·½·2 = −½, and after it Ω = ½·1.5².
    assert fit(model) == pytest.approx((2.0, 0.5 * 1.5**2))
    detach(model)
    assert fit(model) == (0.0, 0.0)
    assert model.get_weights()[0].item() == pytest.approx(1.5)


@keras.saving.register_keras_serializable("test_attach")
class Scaled(keras.Layer):
    """A kernel of any shape, and a data loss that depends on it."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def build(self, _):
        self.kernel = self.add_weight(shape=self.shape, name="kernel")

    def call(self, x):
        return x * keras.ops.mean(self.kernel)

    def get_config(self):
        return {**super().get_config(), "shape": self.shape}


SUM = Case("Sum", lambda: Sum(L1(0.3), L2(0.2)), **both(0.3, 0.2))


@pytest.mark.parametrize("case", [SUM, *(case for case in CASES if case.make().has_gradient)], ids=str)
def test_the_first_step_differs_by_minus_lr_times_the_gradient(case):
    lr, x, w = 0.5, np.random.default_rng(0).normal(size=(8, 3)).astype("float32"), case.tensors[0]
    w = np.where(w == 0, 0.5, w).astype("float32")
    plain = keras.Sequential([keras.Input((3,)), Scaled(w.shape)])
    plain.set_weights([w])
    model = keras.models.clone_model(plain)
    model.set_weights([w])
    attach(model, case.make())
    for one in (plain, model):
        one.compile(keras.optimizers.SGD(lr), "mse")
        one.train_on_batch(x, np.zeros((8, 3), "float32"))
    expected = -lr * case.gradient(w.astype("float64"))
    rounding = 2e-7 * np.abs(w).max() + lr * 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model.get_weights()[0] - plain.get_weights()[0], expected, rtol=1e-4, atol=rounding)


def test_attach_says_when_a_built_optimizer_decays_the_same_weight():
    model = sequential()
    model.compile(optimizers.AdamW(weight_decay=0.1, weight_decay_on=select.matching("head/kernel")), "mse")
    model.optimizer.build(model.trainable_variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(model, L1(STRENGTH))
        attach(model, L2(STRENGTH), select.matching("dense/kernel"), existing="add")
    with pytest.warns(UserWarning, match=r"Both weight decay .* shrink sequential/head/kernel\."):
        attach(model, L2(STRENGTH), existing="add")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(model, L2(STRENGTH), existing="add")


# Weights that already have a penalty.


def test_the_same_penalty_again_is_nothing():
    model, penalty = sequential(), L2(STRENGTH)
    attach(model, penalty)
    for existing in (None, "add", "replace"):
        assert {row.status for row in attach(model, L2(STRENGTH), existing=existing)} == {"already attached"}
    assert model.layers[0].kernel.regularizer is penalty


def test_another_penalty_is_an_error_that_changes_nothing():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2, kernel_regularizer=L1(1.0))])
    with pytest.raises(ValueError, match=r"dense_1/kernel \(L1\(1.0\)\).*existing='add'.*Nothing was changed"):
        attach(model, L2(STRENGTH))
    assert len(model.losses) == 1
    assert model.layers[0].kernel_regularizer is None
    with pytest.raises(ValueError, match="'add', 'replace' or None"):
        attach(model, L2(STRENGTH), existing="sum")


def test_add_composes_and_saves(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, kernel_regularizer=L1(0.25), name="d")])
    assert attach(model, L2(STRENGTH), existing="add")[0].survives
    w = model.get_weights()[0].astype("float64")
    assert model.layers[0].kernel.regularizer == Sum(L1(0.25), L2(STRENGTH))
    assert total(model) == pytest.approx(0.25 * np.abs(w).sum() + STRENGTH * (w**2).sum(), rel=1e-5)
    assert total(reload(model, tmp_path)) == pytest.approx(total(model), rel=1e-6)
    assert attach(model, L1(0.25))[0].status == "already attached"
    attach(model, Sum(L2(STRENGTH), L2(0.125)), existing="add")
    assert model.layers[0].kernel.regularizer == Sum(L1(0.25), L2(STRENGTH), L2(0.125))
    detach(model)
    assert model.layers[0].kernel.regularizer == model.layers[0].kernel_regularizer == L1(0.25)


def test_replace_takes_the_place(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, kernel_regularizer=keras.regularizers.L1(0.25))])
    attach(model, L2(STRENGTH), existing="replace")
    assert total(reload(model, tmp_path)) == pytest.approx(squares([model.layers[0].kernel]), rel=1e-5)
    assert detach(model)[0].penalty.get_config()["l1"] == 0.25


def test_a_penalty_set_on_a_built_layer_alone_is_found():
    """`layer.kernel_regularizer = ...` after build does nothing, until a reload brings it to life."""
    model = sequential()
    model.layers[0].kernel_regularizer = keras.regularizers.L2(STRENGTH)
    assert model.losses == []
    with pytest.raises(ValueError, match="another penalty"):
        attach(model, L1(STRENGTH))
    attach(model, keras.regularizers.L2(STRENGTH))
    assert len(model.losses) == 2
    detach(model)
    assert model.losses == []
    assert model.layers[0].kernel_regularizer.get_config() == {"l2": STRENGTH}


def test_one_of_this_package_s_cannot_be_set_on_a_built_layer_alone():
    """It is state of the layer, to which Keras takes none once it is built: an error, and not silence."""
    model = sequential()
    with pytest.raises(ValueError, match="already built"):
        model.layers[0].kernel_regularizer = L2(STRENGTH)
    assert model.layers[0].kernel_regularizer is None


@pytest.mark.parametrize("make", [sequential, attention, custom_layer, subclassed])
def test_strengths_are_no_weights_and_leave_with_the_penalty(make, tmp_path):
    model = make()
    before, kinds = model.count_params(), [v.path for v in model.variables]
    model.save_weights(tmp_path / "plain.weights.h5")
    penalty = L2(STRENGTH)
    attach(model, penalty)
    assert model.count_params() == before
    assert [v for v in model.variables if v is penalty.state] != []
    model.load_weights(tmp_path / "plain.weights.h5")  # neither file knows of the strength
    model.save_weights(tmp_path / "penalised.weights.h5")
    detach(model)
    assert [v.path for v in model.variables] == kinds
    model.load_weights(tmp_path / "penalised.weights.h5")


# Mistakes.


def test_compile_takes_no_penalty_and_attach_does():
    model = sequential()
    with pytest.raises(TypeError, match="kernel_regularizer"):
        model.compile("sgd", "mse", kernel_regularizer=L2(STRENGTH))
    attach(model, L2(STRENGTH))
    model.compile("sgd", "mse")
    zeros = np.zeros((2, 4), "float32"), np.zeros((2, 2), "float32")
    expected = squares(select.kernels().of(model))
    assert model.evaluate(*zeros, verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        ("l2", r"write for example regularizers.L2\(0.01\)"),
        (0.01, r"write regularizers.L2\(0.01\)"),
        (L2, r"make an object of it: L2\(1e-4\)"),
        (None, "takes a penalty object"),
        (lambda w: 0.0, "takes a penalty object"),
    ],
    ids=["string", "number", "class", "none", "function"],
)
def test_what_is_no_penalty_object_is_refused(penalty, message):
    with pytest.raises(TypeError, match=message):
        attach(sequential(), penalty)


def test_unbuilt_models_and_selectors_without_a_match_are_refused():
    with pytest.raises(ValueError, match=r"not built.*keras.Input"):
        attach(keras.Sequential([layers.Dense(2)]), L2(STRENGTH))
    with pytest.raises(TypeError, match="takes a Keras model"):
        attach([1, 2], L2(STRENGTH))
    with pytest.raises(ValueError, match=r"matches none of the weights.*head/kernel"):
        attach(sequential(), L2(STRENGTH), select.embeddings())
    with pytest.raises(TypeError, match=r"select.matching\('head'\)"):
        attach(sequential(), L2(STRENGTH), "head")
    model = sequential()
    model.trainable = False
    with pytest.raises(ValueError, match="all 2 weights that match are frozen"):
        attach(model, L2(STRENGTH))


def test_a_penalty_that_cannot_be_saved_acts_but_the_model_still_saves(tmp_path):
    class Unsaved(keras.regularizers.Regularizer):
        def __call__(self, x):
            return keras.ops.sum(x)

    model = sequential()
    row = attach(model, Unsaved())[0]
    assert row.survives is False
    assert "get_config" in row.note
    assert len(model.losses) == 2
    assert reload(model, tmp_path).losses == []


# Back.


@pytest.mark.parametrize("make", [sequential, nested, bidirectional, attention, convolutions, custom_layer])
def test_detach_restores_weights_and_layers(make, tmp_path):
    model = make()
    before = json.dumps(model.get_config())
    attach(model, L2(STRENGTH), select.everything())
    assert json.dumps(model.get_config()) != before
    attach(model, L1(STRENGTH), existing="replace")
    table = detach(model)
    assert {row.status for row in table} == {"detached"}
    assert model.losses == []
    assert json.dumps(model.get_config()) == before
    with pytest.raises(ValueError, match="remove_all=True"):
        detach(model)


def test_detach_of_a_part():
    x = keras.Input((5, 4))
    model = keras.Model(x, layers.MultiHeadAttention(2, 2, kernel_regularizer=L1(1.0))(x, x))
    attach(model, L2(STRENGTH), existing="replace")
    assert len(detach(model, select.matching("query"))) == 1
    assert [type(v.regularizer).__name__ for v in select.kernels().of(model)] == ["L1", "L2", "L2", "L2"]
    detach(model)
    assert {repr(v.regularizer) for v in select.kernels().of(model)} == {"L1(1.0)"}
    assert model.layers[1]._kernel_regularizer == L1(1.0)


def test_detach_remove_all_takes_what_came_with_the_model(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, kernel_regularizer=L1(0.25))])
    with pytest.raises(ValueError, match="constructor or a loaded file"):
        detach(model)
    other = reload(model, tmp_path)
    assert [row.status for row in detach(other, remove_all=True)] == ["detached"]
    assert other.losses == []
    assert reload(other, tmp_path).losses == []


# To another model.


def test_transfer_checks_that_the_models_correspond():
    model = sequential()
    with pytest.raises(ValueError, match=r"no weight of .* has a penalty"):
        transfer(model, sequential())
    attach(model, L2(STRENGTH))
    with pytest.raises(ValueError, match=r"has 8 and .* has 4"):
        transfer(model, functional_of_four_weights())
    other = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.Dense(5, name="head")]
    )
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*\(3, 5\)"):
        transfer(model, other)
    assert other.losses == []
    third = sequential()
    third.set_weights(model.get_weights())
    assert [row.status for row in transfer(model, third)] == ["attached", "attached"]
    assert total(third) == pytest.approx(total(model), rel=1e-6)


def functional_of_four_weights():
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(1)(layers.Dense(2)(x)))


# Looking.


def test_report_is_the_hand_sum():
    model = shared()
    attach(model, L2(STRENGTH))
    kernels = select.kernels().of(model)
    table = report(model, loss=10.0)
    assert [row.path for row in table] == [v.path for v in kernels]
    for row, kernel in zip(table, kernels, strict=True):
        assert row.value == pytest.approx(squares([kernel]), rel=1e-5)
        assert row.share == pytest.approx(squares([kernel]) / squares(kernels), rel=1e-5)
        assert row.share_of_loss == pytest.approx(squares([kernel]) / 10, rel=1e-5)
    assert sum(row.value for row in report(model)) == pytest.approx(total(model), rel=1e-6)
    assert f"total penalty {sum(row.value for row in table):.6g} of a loss of 10" in str(table)
    assert not hasattr(report(model)[0], "share_of_loss")


def test_report_leaves_frozen_weights_out_and_says_so():
    model = sequential()
    attach(model, L2(STRENGTH))
    model.layers[0].trainable = False
    assert [row.path.split("/")[-2] for row in report(model)] == ["head"]
    assert "1 frozen" in str(report(model))
    assert len(report(functional_of_four_weights())) == 0


# Without this package.


def test_to_keras_gives_the_same_loss():
    x = keras.Input((5, 4))
    y = layers.MultiHeadAttention(2, 2, kernel_regularizer=L1(0.1))(x, x)
    y = layers.Bidirectional(layers.LSTM(2, recurrent_regularizer=L2(0.2)))(y)
    y = layers.Dense(3, kernel_regularizer=Sum(L1(0.1), L2(0.2)), activity_regularizer=L1L2(0.1, 0.2), name="d")(y)
    model = keras.Model(x, y)
    data = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    model(data)
    before = total(model)
    table = to_keras(model)
    assert {type(row.now).__module__.split(".")[0] for row in table} == {"keras"}
    assert "d.activity_regularizer" in [row.path for row in table]
    model(data)
    assert total(model) == pytest.approx(before, rel=1e-6)
    assert "keras_optreg" not in json.dumps(model.get_config())


def test_to_keras_says_that_the_optimizer_is_saved_too(tmp_path):
    def names_this_package():
        model.save(tmp_path / "model.keras")
        return b"keras_optreg" in zipfile.ZipFile(tmp_path / "model.keras").read("config.json")

    model = sequential()
    attach(model, L2(STRENGTH))
    model.compile(optimizers.Adam(), "mse")
    assert "compile with one of Keras's own" in to_keras(model).footer
    assert names_this_package()
    model.compile(keras.optimizers.Adam(), "mse")
    assert to_keras(model).footer == ""
    assert not names_this_package()


def test_to_keras_lists_what_keras_does_not_have():
    class L3(L2):
        """A subclass has another formula, so Keras's L2 is not its equal."""

    model = sequential()
    attach(model, L2(STRENGTH), select.matching("head"))
    attach(model, L3(STRENGTH), select.matching("sequential/dense/kernel"))
    with pytest.raises(ValueError, match=r"sequential/dense/kernel \(L3\(0.5\)\).*Nothing was changed"):
        to_keras(model)
    assert type(model.get_layer("head").kernel.regularizer) is L2


LOAD_ELSEWHERE = """
import sys
import keras

def penalty(path):
    return float(keras.ops.convert_to_numpy(sum(keras.models.load_model(path).losses)))

ours, with_keras, detached, compiled = sys.argv[1:]
print(penalty(with_keras), len(keras.models.load_model(detached).losses))
keras.models.load_model(compiled, compile=False)
assert not any(name.startswith("keras_optreg") for name in sys.modules)
import keras_optreg.regularizers
print(penalty(ours))
"""


def test_saved_models_load_in_another_process(tmp_path):
    """After to_keras or detach with Keras alone; with our penalties after an import of this package."""
    files = [tmp_path / name for name in ("ours.keras", "with_keras.keras", "detached.keras", "compiled.keras")]
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    attach(model, L2(STRENGTH))
    attach(model, L1(STRENGTH), select.matching("dense_1/kernel"), existing="add")
    expected = total(model)
    model.save(files[0])
    to_keras(model)
    model.save(files[1])
    detach(model)
    model.save(files[2])
    model.compile(optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(files[3])
    command = [sys.executable, "-c", LOAD_ELSEWHERE, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": ROOT})
    assert done.returncode == 0, done.stderr
    assert [float(word) for word in done.stdout.split()] == pytest.approx([expected, 0, expected], rel=1e-5)


WITHOUT_TENSORFLOW = """
import sys
import keras
from keras import layers
from keras_optreg import regularizers as r

model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "relu"), layers.Dense(2)])
model.compile("sgd", "mse")
r.attach(model, r.Sum(r.L1(0.1), r.L2(0.1)))
r.attach(model, r.L2(0.5), existing="add")
r.report(model)
r.transfer(model, r.insert_dropout(model, 0.5))
r.to_keras(model)
r.detach(model)
assert "tensorflow" not in sys.modules
"""


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow is the backend")
def test_tensorflow_is_not_imported_under_another_backend():
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": ROOT})
    assert done.returncode == 0, done.stderr
