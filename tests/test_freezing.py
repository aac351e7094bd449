"""GradualUnfreezing and FreezeBatchNorm: they act within `fit`, and the optimizer goes on."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_optreg import optimizers, select
from keras_optreg.callbacks import (
    DataLoss,
    EvaluateAtAverage,
    FreezeBatchNorm,
    GradientNorm,
    GradualUnfreezing,
    MemoryWriter,
    Monitor,
    ParameterSchedule,
    UpdateRatio,
    WeightAveraging,
    WeightNorm,
)
from keras_optreg.regularizers import L1

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]]).astype("float32")
MODES = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])


def two_layers(optimizer, **options):
    keras.utils.set_random_seed(1)
    dense = [layers.Dense(2, use_bias=False, name="lower"), layers.Dense(1, use_bias=False, name="head")]
    dense[0].trainable = False
    model = keras.Sequential([keras.Input((3,)), *dense])
    model.compile(optimizer, "mse", **options)
    return model


def fit(model, epochs, *callbacks, **options):
    return model.fit(X, Y, epochs=epochs, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks), **options)


def momentum(state, g, t):
    state["m"] = 0.9 * state.get("m", 0.0) - 0.1 * g
    return state["m"]


def adam(state, g, t):
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    return -0.1 * state["m"] / (1 - 0.9**t) / (np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-7)


def nadam(state, g, t):
    u = [0.9 * (1 - 0.5 * 0.96**i) for i in range(1, t + 2)]
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    m = u[-1] * state["m"] / (1 - np.prod(u)) + (1 - u[-2]) * g / (1 - np.prod(u[:-1]))
    return -0.1 * m / (np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-7)


HEAD = select.matching("head")
RULES = {
    "ours with momentum": (lambda: optimizers.SGD(0.1, momentum=0.9), momentum, momentum),
    "Keras's with momentum": (lambda: keras.optimizers.SGD(0.1, momentum=0.9), momentum, momentum),
    "our Adam": (lambda: optimizers.Adam(0.1), adam, adam),
    "Keras's Adam": (lambda: keras.optimizers.Adam(0.1), adam, adam),
    "Keras's Nadam, with a running product beside its slots": (lambda: keras.optimizers.Nadam(0.1), nadam, nadam),
    "a part of ours": (
        lambda: optimizers.Partition([(HEAD, optimizers.Adam(0.1))], rest=optimizers.SGD(0.1, momentum=0.9)),
        momentum,
        adam,
    ),
    "under loss scaling": (
        lambda: keras.optimizers.LossScaleOptimizer(optimizers.SGD(0.1, momentum=0.9), initial_scale=4.0),
        momentum,
        momentum,
    ),
}  # fmt: skip


def by_hand(model, rules, epochs, joins):
    """Training in float64 where the lower layer joins in an epoch; its state starts then, the step count goes on."""
    lower, head = (
        np.asarray(w, "float64") for w in (model.layers[0].get_weights()[0], model.layers[1].get_weights()[0])
    )
    states, t = ({}, {}), 0
    for epoch in range(epochs):
        for part in (slice(0, 4), slice(4, 8)):
            t += 1
            hidden = X[part] @ lower
            error = 2 / 4 * (hidden @ head - Y[part])
            of_lower, of_head = X[part].T @ error @ head.T, hidden.T @ error
            head = head + rules[1](states[1], of_head, t)
            if epoch >= joins:
                lower = lower + rules[0](states[0], of_lower, t)
    return lower, head


@pytest.mark.parametrize("name", RULES)
def test_a_layer_that_joins_trains_and_the_others_go_on(name):
    make, *rules = RULES[name]
    model = two_layers(make())
    expected = by_hand(model, rules, 3, joins=1)
    fit(model, 3, GradualUnfreezing())
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 6


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_in_every_mode_and_in_a_second_fit(mode):
    model = two_layers(optimizers.SGD(0.1, momentum=0.9), **mode)
    expected = by_hand(model, (momentum, momentum), 4, joins=2)
    unfreezing = GradualUnfreezing(["^lower$"], first=2)
    fit(model, 1, unfreezing)
    fit(model, 3, unfreezing, initial_epoch=1)
    fit(model, 1)  # without it: what joined trains on
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


def test_groups_join_one_after_another_and_nested_models_are_one():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.Dense(3)], name="inner")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="first"), inner, layers.Dense(1, name="head")])
    inner.trainable = model.layers[0].trainable = False
    model.compile(keras.optimizers.SGD(0.0), "mse")
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((len(self.model.trainable_weights), len(self.model.optimizer._trainable_variables)))

    fit(model, 6, GradualUnfreezing(first=1, every=2), Look())
    assert seen == [(2, 2), (6, 6), (6, 6), (8, 8), (8, 8), (8, 8)]
    inner.trainable = model.layers[0].trainable = False
    model.compile(keras.optimizers.SGD(0.0), "mse")
    seen.clear()
    fit(model, 2, GradualUnfreezing([["first", inner.layers[1]]]), Look())
    assert seen == [(2, 2), (6, 6)]
    assert not inner.layers[0].trainable
    seen.clear()
    fit(model, 2, GradualUnfreezing([inner]), Look())  # which is no longer frozen as a whole
    assert seen == [(6, 6), (8, 8)]


@pytest.mark.usefixtures("run_op_by_op")
def test_averages_and_flags_of_the_weights_that_were_there_are_kept():
    model = two_layers(optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9))
    start = model.layers[0].get_weights()[0]
    fit(model, 1, GradualUnfreezing(first=5))
    average = keras.ops.convert_to_numpy(model.optimizer._model_variables_moving_average[0])

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            found = [keras.ops.convert_to_numpy(v) for v in self.model.optimizer._model_variables_moving_average]
            np.testing.assert_allclose(found[0], start)  # begins at its weight
            np.testing.assert_array_equal(found[1], average)

    fit(model, 1, GradualUnfreezing(first=0), Look())

    model = two_layers(optimizers.ScheduleFreeSGD(0.05))
    flags = []

    class Flags(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            flags.append(keras.ops.convert_to_numpy(self.model.optimizer.state.started).tolist() if epoch else [])

    fit(model, 3, EvaluateAtAverage(), GradualUnfreezing(), Flags())
    assert flags == [[], [0.0, 1.0], [1.0, 1.0]]


@pytest.mark.usefixtures("run_op_by_op")
def test_a_penalty_in_the_update_stays_the_same_object():
    penalty = L1(0.0)
    model = two_layers(optimizers.SGD(0.1, penalties=penalty))
    fit(model, 2, GradualUnfreezing())
    penalty.strength = 1e3
    fit(model, 1)
    assert not np.any(model.layers[0].get_weights()[0])


def test_it_goes_with_a_monitor_and_a_saved_model(tmp_path):
    memory = MemoryWriter()
    model = two_layers(optimizers.SGD(0.1, momentum=0.9))
    fit(model, 2, Monitor([GradientNorm()], [memory], every=1), GradualUnfreezing())
    assert memory.history["gradient_norm"][0] == [1, 2, 3, 4]
    assert len(model.optimizer.variables) == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


@pytest.mark.parametrize(("first", "every"), [(True, 1), (True, "epoch"), (False, "epoch")])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_monitor_watches_a_layer_from_when_it_joins_wherever_it_stands(mode, first, every):
    """Two monitors share the tap in the step; the gradients are those of the plain training, by hand."""

    class Weigh(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(self.model.get_weights())

    def train(monitors):
        model = two_layers(optimizers.SGD(0.1, momentum=0.9), **mode)
        weights[:] = [model.get_weights()]
        fit(model, 3, *(monitors if first else []), GradualUnfreezing(), *([] if first else monitors), Weigh())
        assert not {"apply", "make_train_function", "compute_loss"} & {*vars(model), *vars(model.optimizer)}
        assert len(model.optimizer.variables) == 4
        return list(weights)

    weights, memories = [], [MemoryWriter(), MemoryWriter()]
    probes = [[GradientNorm(), UpdateRatio(), DataLoss()], [GradientNorm(), WeightNorm()]]
    watched = train([Monitor(*each, every) for each in zip(probes, [[m] for m in memories], strict=True)])
    plain = train([])
    norms, moved = {"lower": [], "head": []}, []
    for step, (lower, head) in enumerate(plain[:-1]):
        x, y = (part[4 * (step % 2) : 4 * (step % 2) + 4] for part in (X, Y))
        error = 2 / 4 * (x @ lower @ head - y)
        norms["lower"].append(np.linalg.norm(x.T @ error @ head.T))
        norms["head"].append(np.linalg.norm((x @ lower).T @ error))
        moved.append(np.linalg.norm(plain[step + 1][0] - lower) / np.linalg.norm(lower))
    for memory in memories:
        for layer, begin in (("head", 0), ("lower", 2)):
            steps, found = memory.history[f"gradient_norm/sequential/{layer}/kernel"]
            expected = np.reshape(norms[layer][begin:], (-1, 1 if every == 1 else 2)).mean(axis=1)
            assert steps == list(range(begin + (1 if every == 1 else 2), 7, 1 if every == 1 else 2))
            np.testing.assert_allclose(found, expected, rtol=1e-4)
    if every == 1:
        steps, found = memories[0].history["update_ratio/sequential/lower/kernel"]
        assert steps == [3, 4, 5, 6]
        np.testing.assert_allclose(found, moved[2:], rtol=1e-3)
    for one, other in zip(watched, plain, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_schedule_of_the_momentum_goes_on(mode):
    def scheduled(state, g, t):
        state["m"] = 0.1 * t * state.get("m", 0.0) - 0.1 * g
        return state["m"]

    model = two_layers(optimizers.SGD(0.1, momentum=0.9), **mode)
    expected = by_hand(model, (scheduled, scheduled), 3, joins=1)
    schedule = ParameterSchedule("momentum", lambda t: 0.1 * (t + 1))
    fit(model, 3, GradualUnfreezing(), schedule)
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)
    assert [v.name for v in model.optimizer.variables][2:] == ["sequential_lower_kernel_v", "sequential_head_kernel_v"]


def normalised(optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.BatchNormalization(), layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.usefixtures("run_op_by_op")
def test_frozen_batch_normalisation_is_as_if_it_had_been_frozen_before():
    model, reference = normalised(optimizers.Adam(0.1)), normalised(optimizers.Adam(0.1))
    fit(model, 1)
    before = model.layers[1].get_weights()
    fit(model, 3, FreezeBatchNorm(start=2), initial_epoch=1)
    after = model.layers[1].get_weights()
    assert all(np.any(a != b) for a, b in zip(after, before, strict=True))  # in epoch 1 it was not frozen yet
    fit(reference, 2)
    np.testing.assert_allclose(reference.layers[1].get_weights(), after, rtol=1e-6)
    # The same epoch with Keras alone: everything but the two slots of scale and shift is handed over.
    frozen = normalised(optimizers.Adam(0.1))
    frozen.layers[1].trainable = False
    frozen.compile(optimizers.Adam(0.1), "mse")
    frozen.set_weights(reference.get_weights())
    frozen.optimizer.build(frozen.trainable_variables)
    values = {v.path.split("/")[-1]: v for v in reference.optimizer.variables}
    for variable in frozen.optimizer.variables:
        name = variable.path.split("/")[-1].replace(frozen.name, reference.name)
        for mine, its in zip(frozen.layers, reference.layers, strict=True):
            name = name.replace(f"{mine.name}_", f"{its.name}_")
        variable.assign(values[name])
    fit(frozen, 1)
    for one, other in zip(model.get_weights(), frozen.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("run_op_by_op")
def test_batch_normalisation_that_joins_is_frozen_again():
    model = normalised(keras.optimizers.SGD(0.1))
    model.layers[0].trainable = model.layers[1].trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.layers[1].get_weights()
    first = model.layers[0].get_weights()[0]
    fit(model, 4, GradualUnfreezing(), FreezeBatchNorm())
    assert np.any(model.layers[0].get_weights()[0] != first)
    np.testing.assert_array_equal(np.concatenate(model.layers[1].get_weights()), np.concatenate(before))


class Weights(keras.callbacks.Callback):
    """The weights at the end of each epoch."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.model.get_weights())


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("first", [True, False])
def test_the_average_of_a_layer_begins_when_it_joins(first):
    def fitted(model, epochs, averaging, **options):
        callbacks = [averaging, GradualUnfreezing(["lower"])]
        fit(model, epochs, *(callbacks if first else callbacks[::-1]), **options)

    whole, broken = (two_layers(optimizers.SGD(0.1, momentum=0.9)) for _ in range(2))
    points = [by_hand(whole, (momentum, momentum), n, joins=1) for n in (1, 2, 3)]
    expected = np.mean([lower for lower, _ in points[1:]], axis=0), np.mean([head for _, head in points], axis=0)
    fitted(whole, 3, WeightAveraging())
    averaging, later = WeightAveraging(), WeightAveraging()
    fitted(broken, 1, averaging)
    later.load_state_dict(averaging.state_dict())
    fitted(broken, 3, later, initial_epoch=1)
    for model in (whole, broken):
        for found, wanted in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("first", [True, False])
def test_a_layer_that_is_frozen_is_in_the_average_as_it_was(first):
    plain, model, trained = normalised(optimizers.SGD(0.1)), normalised(optimizers.SGD(0.1)), Weights()
    fit(plain, 4, FreezeBatchNorm(start=2), trained)
    callbacks = [WeightAveraging(batch_norm_data=X), FreezeBatchNorm(start=2)]
    fit(model, 4, *(callbacks if first else callbacks[::-1]), validation_data=(X, Y))
    mean = [np.mean(each, axis=0) for each in zip(*trained.seen, strict=True)]
    expected = [*mean[:2], *trained.seen[-1][2:6], *mean[6:]]  # batch normalisation: gamma, beta and the statistics
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def deep():
    keras.utils.set_random_seed(1)
    dense = [layers.Dense(2, name=f"l{i}", trainable=False) for i in range(3)]
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization(name="norm"), *dense, layers.Dense(1)])
    model.compile(optimizers.SGD(0.01), "mse")
    return model


class Training(keras.callbacks.Callback):
    """The layers of a deep model that train in each epoch."""

    def __init__(self):
        self.layers = []

    def on_epoch_end(self, epoch, logs=None):
        self.layers.append([i for i in range(3) if self.model.get_layer(f"l{i}").trainable])


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("resume", ["the same callback", "its state", "its state, in a loaded model"])
def test_default_groups_are_those_of_an_unbroken_run(resume, tmp_path):
    model, unfreezing, seen = deep(), GradualUnfreezing(), Training()
    fit(model, 2, unfreezing, FreezeBatchNorm(), seen)  # which makes one frozen layer more
    if resume != "the same callback":
        state, unfreezing = unfreezing.state_dict(), GradualUnfreezing()
        unfreezing.load_state_dict(state)
    if "loaded" in resume:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    fit(model, 5, unfreezing, FreezeBatchNorm(), seen, initial_epoch=2)
    assert seen.layers == [[], [2], [1, 2], [0, 1, 2], [0, 1, 2]]
    fit(model, 1, unfreezing, seen)
    assert seen.layers[-1] == [0, 1, 2]
    assert not model.get_layer("norm").trainable  # was none of the groups


@pytest.mark.usefixtures("run_op_by_op")
def test_default_groups_of_another_model_are_its_own():
    unfreezing, other = GradualUnfreezing(), two_layers(keras.optimizers.SGD(0.1))
    fit(deep(), 1, unfreezing)
    assert unfreezing.state_dict() == {"found_frozen": ["l2", "l1", "l0"]}
    state = unfreezing.state_dict()
    fit(other, 2, unfreezing)
    fit(other, 1, unfreezing)  # nothing is frozen any more
    assert unfreezing.found_frozen == ["lower"]
    unfreezing.load_state_dict(state)
    with pytest.raises(ValueError, match="a model with the layers l2, l1, l0, .* There are: lower, head"):
        fit(other, 1, unfreezing)


def test_what_they_refuse():
    model = two_layers(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="GradualUnfreezing.*first"):
        GradualUnfreezing(first=-1)
    with pytest.raises(TypeError, match=r"a list of groups.*\['lower'\]"):
        GradualUnfreezing("lower")
    with pytest.raises(ValueError, match="'block5' is none of the layers with weights. There are: lower, head"):
        fit(model, 1, GradualUnfreezing(["block5"]))
    model.layers[0].trainable = True
    with pytest.raises(ValueError, match="no layer of the model is frozen"):
        fit(model, 1, GradualUnfreezing())
    with pytest.raises(ValueError, match="FreezeBatchNorm.*start"):
        FreezeBatchNorm(start=0.5)
    with pytest.raises(TypeError, match="FreezeBatchNorm takes BatchNormalization layers"):
        FreezeBatchNorm(layers=[layers.Dense(1)])
    with pytest.raises(ValueError, match="has no BatchNormalization layer"):
        fit(model, 1, FreezeBatchNorm())
