"""insert_dropout: the same weights, dropout in training only."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optreg import optimizers, select
from keras_optreg.regularizers import L2, attach, insert_dropout

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def sequential():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16, "relu", name="first"),
            layers.Dense(16, name="linear"),
            layers.Dense(16, "tanh", name="second"),
            layers.Dense(2, "softmax", name="head"),
        ]
    )


def functional():
    """One layer used twice, one nested model, two outputs."""
    x, inside = keras.Input((4,)), keras.Input((8,))
    nested = keras.Model(inside, layers.Dense(8, "relu", name="deep")(inside), name="nested")
    first, shared = layers.Dense(8, "relu", name="first"), layers.Dense(8, "relu", name="shared")
    y = shared(nested(shared(first(x))))
    y = layers.Concatenate()([y, x]) * 2.0
    return keras.Model(x, [layers.Dense(2, "softmax", name="a")(y), layers.Dense(1, "relu", name="b")(y)])


def names(model):
    return [layer.name for layer in model.layers if isinstance(layer, layers.Dropout)]


def arrays(outputs):
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs)]


@pytest.mark.parametrize("make", [sequential, functional])
def test_weights_are_the_same_and_inference_is_unchanged(make):
    model = make()
    new = insert_dropout(model, 0.5)
    assert all(any(v is w for w in model.weights) for v in new.weights)
    assert len(new.weights) == len(model.weights)
    for ours, theirs in zip(arrays(new(X)), arrays(model(X)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(arrays(new(X, training=True)), arrays(model(X, training=True)), strict=True):
        assert np.abs(ours - theirs).max() > 0
    assert names(model) == []


@pytest.mark.parametrize("make", [sequential, functional])
def test_rate_0_changes_nothing(make):
    model = make()
    new = insert_dropout(model, 0)
    assert names(new)
    for ours, theirs in zip(arrays(new(X, training=True)), arrays(model(X)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_training_zeroes_the_fraction_and_scales_the_rest():
    inputs = keras.Input((1000,))
    identity = layers.Dense(1000, "relu", use_bias=False, kernel_initializer="identity")
    model = keras.Model(inputs, layers.Reshape((1000,))(identity(inputs)))
    y = arrays(insert_dropout(model, 0.25, seed=3)(np.ones((50, 1000), "float32"), training=True))[0]
    assert set(np.unique(y.round(5))) == {0.0, np.float32(1 / 0.75).round(5)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)  # 5 standard deviations


def test_default_is_dense_and_convolutions_with_an_activation_but_no_output():
    assert names(insert_dropout(sequential(), 0.5)) == ["first_dropout", "second_dropout"]
    assert sorted(names(insert_dropout(functional(), 0.5))) == ["first_dropout", "shared_dropout", "shared_dropout_1"]
    images = [
        layers.Conv2D(2, 2, activation="relu", name="c"),
        layers.SeparableConv2D(2, 2, name="s"),
        layers.Flatten(),
    ]
    model = keras.Sequential([keras.Input((5, 5, 1)), *images, layers.Dense(2)])
    assert names(insert_dropout(model, 0.5)) == ["c_dropout"]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (layers.Dense, ["first_dropout", "linear_dropout", "second_dropout"]),
        ((layers.Dense, layers.Conv2D), ["first_dropout", "linear_dropout", "second_dropout"]),
        ("^(first|head)$", ["first_dropout"]),
        (["linear", "head"], ["linear_dropout", "head_dropout"]),
        (lambda layer: layer.name.startswith("s"), ["second_dropout"]),
    ],
    ids=["class", "classes", "regex", "names", "function"],
)
def test_after_chooses(after, expected):
    assert names(insert_dropout(sequential(), 0.5, after)) == expected


def test_after_takes_layers_and_nested_models():
    model = sequential()
    assert names(insert_dropout(model, 0.5, after=[model.layers[1]])) == ["linear_dropout"]
    assert names(insert_dropout(functional(), 0.5, after=["nested"])) == ["nested_dropout"]


@pytest.mark.parametrize("make", [sequential, functional])
def test_survives_save_and_load(make, tmp_path):
    new = insert_dropout(make(), 0.5, seed=1)
    new.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert sorted(names(again)) == sorted(names(new))
    assert {layer.rate for layer in again.layers if isinstance(layer, layers.Dropout)} == {0.5}
    for ours, theirs in zip(arrays(again(X)), arrays(new(X)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_seed_reproduces_the_masks_and_layers_draw_differently():
    model = sequential()
    once, twice, other = (arrays(insert_dropout(model, 0.5, seed=s)(X, training=True))[0] for s in (7, 7, 8))
    np.testing.assert_array_equal(once, twice)
    assert np.abs(once - other).max() > 0
    seeds = [layer.seed for layer in insert_dropout(model, 0.5, seed=7).layers if isinstance(layer, layers.Dropout)]
    assert seeds == [7, 8]


def test_training_the_new_model_trains_the_given_one_and_keeps_penalties():
    model = sequential()
    attach(model, L2(0.5))
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = [w.copy() for w in model.get_weights()]
    new = insert_dropout(model, 0.5)
    assert len(new.losses) == len(model.losses) == 4
    new.fit(X, np.zeros(6, "int32"), verbose=0)  # compiled as the given model was
    for old, now, shared in zip(before, model.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_array_equal(now, shared)
        assert np.abs(now - old).max() > 0


@pytest.mark.parametrize("make", [sequential, functional])
def test_live_losses_and_metrics_are_kept_and_the_optimizer_is_new(make):
    """A lambda could not be made again from a config."""
    model = make()
    several = len(model.outputs)
    losses = [lambda y, p: ops.mean((y - p) ** 2) for _ in range(several)]
    metrics = [[keras.metrics.MeanSquaredError(name="error"), lambda y, p: ops.mean(p)] for _ in range(several)]
    model.compile(optimizers.Adam(0.25), losses, metrics=metrics)
    model.optimizer.build(model.trainable_variables)
    new = insert_dropout(model, 0.5)
    assert all(now is given for now, given in zip(new.loss, losses, strict=True))
    assert new.optimizer is not model.optimizer
    assert not new.optimizer.built
    assert new.optimizer.get_config()["learning_rate"] == 0.25
    targets = [np.zeros((6, *y.shape[1:]), "float32") for y in model.outputs]
    logs = new.fit(X, targets, verbose=0).history
    assert sum(name.endswith("error") for name in logs) == several
    assert int(new.optimizer.iterations) == 1
    assert int(model.optimizer.iterations) == 0


def test_selectors_of_the_optimizer_look_anew_where_the_order_of_weights_changes():
    x, a, b, c = keras.Input((4,)), *(layers.Dense(4, name=name) for name in "abc")
    model = keras.Model(x, layers.Dense(4, name="d")(layers.Add()([c(b(x)), a(x)])))
    model.compile(optimizers.SGD(1.0, learning_rate_multipliers=[(select.matching("^c/"), 0.0)]), "mse")
    model.optimizer.build(model.trainable_variables)
    new = insert_dropout(model, 0.5, after=["a"])
    assert [v.path for v in new.trainable_variables] != [v.path for v in model.trainable_variables]
    before = {v.path: ops.convert_to_numpy(v) for v in model.trainable_variables}
    new.fit(X, np.ones((6, 4), "float32"), verbose=0)
    still = {v.path for v in model.trainable_variables if (ops.convert_to_numpy(v) == before[v.path]).all()}
    assert still == {"c/kernel", "c/bias"}


class OwnSequentialStep(keras.Sequential):
    steps = 0

    def train_step(self, *arguments):
        type(self).steps += 1
        return super().train_step(*arguments)


class OwnStep(keras.Model):
    steps = 0

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)

    def train_step(self, *arguments):
        type(self).steps += 1
        return super().train_step(*arguments)


def functional_with_own_step():
    x = keras.Input((4,), name="x")
    return OwnStep({"x": x}, layers.Dense(1)(layers.Dense(4, "relu")(x)))


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (lambda: OwnSequentialStep([keras.Input((4,)), layers.Dense(4, "relu"), layers.Dense(1)]), X),
        (functional_with_own_step, {"x": X}),
    ],
    ids=["sequential", "functional"],
)
def test_a_train_step_of_one_s_own_is_kept(make, data):
    model = make()
    model.compile("sgd", "mse")
    new = insert_dropout(model, 0.5)
    assert type(new) is type(model)
    assert len(names(new)) == 1
    new.fit(data, np.zeros((6, 1), "float32"), verbose=0)
    assert type(new).steps > 0


class OwnConstructor(keras.Sequential):
    def __init__(self, units):
        super().__init__([keras.Input((4,)), layers.Dense(units, "relu"), layers.Dense(1)])


class OwnFunctionalConstructor(keras.Model):
    def __init__(self, units):
        x = keras.Input((4,))
        super().__init__(x, layers.Dense(1)(layers.Dense(units, "relu")(x)))


@pytest.mark.parametrize("make", [OwnConstructor, OwnFunctionalConstructor])
def test_a_class_that_cannot_be_made_from_layers_is_refused_with_a_way_out(make):
    model = make(3)
    with pytest.raises(ValueError, match="its constructor is not that of") as refused:
        insert_dropout(model, 0.5)
    plain = eval(str(refused.value).split("layers, ")[-1].rstrip("."), {"keras": keras, "model": model})
    new = insert_dropout(plain, 0.5)
    assert len(names(new)) == 1
    np.testing.assert_array_equal(arrays(new(X))[0], arrays(model(X))[0])


@keras.saving.register_keras_serializable("test_dropout_insertion")
class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize("rate", [1.0, -0.1, "0.5", None, float("nan")])
def test_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"`rate` of insert_dropout must be a number in \[0, 1\)"):
        insert_dropout(sequential(), rate)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"Subclassed subclasses keras.Model.*add keras.layers.Dropout"):
        insert_dropout(Subclassed(), 0.5)
    with pytest.raises(TypeError, match="takes a Keras model"):
        insert_dropout("model", 0.5)
    with pytest.raises(ValueError, match="not built"):
        insert_dropout(keras.Sequential([layers.Dense(2, "relu")]), 0.5)
    with pytest.raises(ValueError, match=r"no layer matches.*first, linear, second, head"):
        insert_dropout(sequential(), 0.5, after=layers.Conv2D)
    with pytest.raises(ValueError, match=r"\['third'\] is not among"):
        insert_dropout(sequential(), 0.5, after=["first", "third"])
    with pytest.raises(TypeError, match="must be a layer class"):
        insert_dropout(sequential(), 0.5, after=3)
    x = keras.Input((5, 2))
    states = keras.Model(x, layers.Dense(1)(layers.LSTM(2, return_state=True, name="lstm")(x)[0]))
    with pytest.raises(ValueError, match="output of 'lstm' is not one tensor"):
        insert_dropout(states, 0.5, after="lstm")
