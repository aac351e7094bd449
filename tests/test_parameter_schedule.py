"""ParameterSchedule: every number of every optimizer against the number set by hand; and what `fit` makes of it."""

import json

import keras
import numpy as np
import pytest
from cases.optimizers import CASES
from keras import ops
from stepping import values_of, variables_of

import keras_optreg as kor
from keras_optreg import optimizers, select
from keras_optreg.callbacks import GradientNorm, KeepBest, MemoryWriter, Monitor, ParameterSchedule, ReduceLROnPlateau
from keras_optreg.optimizers import SGD, Adam, FullyDecoupled
from keras_optreg.regularizers import L1

BACKEND = keras.backend.backend()
MODES = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])


def numbers_of(optimizer):
    return [name for name, interval in optimizer.bounds.items() if not interval.is_count]


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_number_that_follows_a_schedule_is_the_number_set_at_each_step(case):
    values = {}
    found = []
    for is_live in (True, False):
        optimizer, variables = case.make(0.01, **_decay(case)), variables_of(case.weights)
        optimizer.build(variables)
        names = optimizer.live.candidates()
        first = {name: optimizer.live.number(name) for name in names}
        if is_live:
            for name in names:
                optimizer.live.add(name)
        for t, grads in enumerate(case.gradients[:4]):
            values = {name: value * (1 - 0.1 * t) if name != "alpha" else value + t for name, value in first.items()}
            for name, value in values.items():
                if optimizer.live.number(name) != value:
                    optimizer.live.check(name, value)
                    optimizer.live.set(name, value)
            optimizer.apply([None if g is None else ops.convert_to_tensor(g) for g in grads], variables)
        found.append(values_of(variables))
    assert values
    for live, constant, start in zip(*found, case.weights, strict=True):
        np.testing.assert_allclose(live, constant, rtol=1e-5, atol=2e-4 * np.abs(constant - start).max() + 1e-12)


def _decay(case):
    row = case.make(0.01)
    return {} if row.weight_decay is not None else {"weight_decay": 0.01}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_can_be_scheduled_can_be_traced_and_the_rest_is_refused(case):
    optimizer, variables = case.make(0.01, **_decay(case)), variables_of(case.weights)
    optimizer.build(variables)
    names = optimizer.live.candidates()
    assert {*names, *optimizer.constants} >= {*numbers_of(optimizer), "weight_decay"}
    for name in {*optimizer.bounds} - {*names}:
        with pytest.raises(ValueError, match=f"{type(optimizer).__name__} cannot follow a schedule of '{name}'"):
            optimizer.live.add(name)
    for name in names:
        optimizer.live.add(name)
    grads = [ops.convert_to_tensor(np.ones(v.shape, "float32")) for v in variables]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.function(lambda: optimizer.apply(grads, variables), autograph=False).get_concrete_function()
    elif BACKEND == "jax":
        import jax

        jax.eval_shape(
            optimizer.stateless_apply, [v.value for v in optimizer.variables], grads, [v.value for v in variables]
        )


def test_the_numbers_of_sgd_and_adam_can_be_scheduled():
    built = SGD(0.1, momentum=0.9, weight_decay=0.0), Adam(0.1)
    for optimizer in built:
        optimizer.build([keras.Variable([1.0])])
    assert [o.live.candidates() for o in built] == [
        ["momentum", "dampening", "weight_decay"],
        ["beta_1", "beta_2", "epsilon"],
    ]


# In `fit`: one weight and inputs of 1, the gradient of the loss w·1 − 0 is 1 for `Linear`.

ONES = np.ones((8, 1), "float32")
GROW = (0.5, 0.25, 0.125, 0.75, 0.5, 0.25, 0.5, 0.125)


class Linear(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return y_pred[:, 0]


def one_weight(optimizer, **compile_arguments):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(optimizer, Linear(), **compile_arguments)
    return model


def fit(model, *callbacks, epochs=2, **options):
    options = {"batch_size": 2, "shuffle": False, "verbose": 0, **options}
    return model.fit(ONES, ONES, epochs=epochs, callbacks=list(callbacks), **options).history


def weight(model):
    return model.get_weights()[0].item()


def momentum_by_hand(momenta, lr=0.125):
    w, v = 1.0, 0.0
    for momentum in momenta:
        v = momentum * v - lr
        w += v
    return w


class Functions(keras.callbacks.Callback):
    def __init__(self):
        self.seen = set()

    def on_train_batch_end(self, batch, logs=None):
        self.seen.add(id(self.model.train_function))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_momentum_follows_its_schedule(mode):
    model, functions = one_weight(SGD(0.125, momentum=0.3), **mode), Functions()
    logs = fit(model, ParameterSchedule("momentum", lambda t: GROW[t]), functions)
    assert weight(model) == pytest.approx(momentum_by_hand(GROW), rel=1e-6)
    assert logs["momentum"] == [0.75, 0.125]
    assert model.optimizer.momentum == 0.125
    assert len(functions.seen) == 1
    # It stays, and without the callback another fit has it as a constant.
    fit(model, epochs=1)
    assert weight(model) == pytest.approx(momentum_by_hand([*GROW, *[0.125] * 4]), rel=1e-6)
    model.optimizer.learning_rate = 0.0
    fit(model, ParameterSchedule("momentum", lambda t: 0.5, every="epoch"), epochs=1)
    assert model.optimizer.get_config()["momentum"] == 0.5


def test_it_is_traced_once_a_fit():
    traced = []

    class Seen(SGD):
        rule = staticmethod(lambda *args, **own: traced.append(1) or SGD.rule(*args, **own))

    model = one_weight(Seen(0.125, momentum=0.3))
    fit(model, ParameterSchedule("momentum", lambda t: GROW[t]))
    assert len(traced) <= (2 if BACKEND != "torch" else 8)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_weight_decay_follows_its_schedule(mode):
    for decay, factor in ((0.1, 0.125), (FullyDecoupled(0.1), 1.0)):
        model = one_weight(SGD(0.125, weight_decay=decay), **mode)
        fit(model, ParameterSchedule("weight_decay", lambda t: GROW[t]))
        w = 1.0
        for rate in GROW:
            w = w - factor * rate * w - 0.125
        assert weight(model) == pytest.approx(w, rel=1e-5)
        assert isinstance(model.optimizer.weight_decay, FullyDecoupled) == (factor == 1.0)


def test_per_epoch_and_resumed():
    whole, parts = (one_weight(SGD(0.125, momentum=0.3)) for _ in range(2))
    fit(whole, ParameterSchedule("momentum", lambda t: GROW[t], every="epoch"))
    assert weight(whole) == pytest.approx(momentum_by_hand([0.5] * 4 + [0.25] * 4), rel=1e-6)
    one, other = (ParameterSchedule("momentum", lambda t: GROW[t]) for _ in range(2))
    fit(parts, one, epochs=1)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    fit(parts, other, epochs=1)
    assert weight(parts) == pytest.approx(momentum_by_hand(GROW), rel=1e-6)


def test_under_gradient_accumulation():
    model = one_weight(SGD(0.125, momentum=0.3, gradient_accumulation_steps=2))
    fit(model, ParameterSchedule("momentum", lambda t: GROW[t]))
    assert weight(model) == pytest.approx(momentum_by_hand(GROW[1::2]), rel=1e-6)


def test_under_loss_scaling_and_two_at_once(tmp_path):
    inner = SGD(0.125, momentum=0.3, weight_decay=0.0)
    model = one_weight(keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0))
    schedules = [ParameterSchedule("momentum", lambda t: GROW[t]), ParameterSchedule("weight_decay", lambda t: 0.5)]
    keep = KeepBest(tmp_path / "{epoch}.keras", 1, "loss")
    fit(model, *schedules, keep)
    w, v = 1.0, 0.0
    for momentum in GROW:
        v = momentum * v - 0.125
        w = w - 0.125 * 0.5 * w + v
    assert weight(model) == pytest.approx(w, rel=1e-5)
    loaded = keras.saving.load_model(keep.best_path, custom_objects={"Linear": Linear})
    assert loaded.optimizer.inner_optimizer.momentum == 0.125
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    np.testing.assert_allclose(
        ops.convert_to_numpy(loaded.optimizer.inner_optimizer.variables[-1]),
        ops.convert_to_numpy(inner.variables[-1]),
    )


def test_files_are_the_same_with_and_without(tmp_path):
    model = one_weight(SGD(0.125, momentum=0.3))
    keep = KeepBest(tmp_path / "{epoch}.keras", 1, "loss")
    fit(model, ParameterSchedule("momentum", lambda t: GROW[t]), keep)
    loaded = keras.saving.load_model(keep.best_path, custom_objects={"Linear": Linear})
    assert weight(loaded) == weight(model)
    assert loaded.optimizer.momentum == 0.125
    assert len(loaded.optimizer.variables) == 3  # iteration, rate, velocity
    fit(loaded, epochs=1)
    assert weight(loaded) == pytest.approx(momentum_by_hand([*GROW, *[0.125] * 4]), rel=1e-6)


def test_in_one_of_several_optimizers():
    first, second = SGD(0.125, momentum=0.3), SGD(0.25, momentum=0.3)
    layers = [keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=name) for name in ("a", "b")]
    model = keras.Sequential([keras.Input((1,)), *layers])
    partition = optimizers.Partition([(select.matching("a/"), first)], rest=second)
    model.compile(partition, Linear())
    fit(model, ParameterSchedule("momentum", lambda t: 0.75, optimizer=second), epochs=1)
    assert (first.momentum, second.momentum) == (0.3, 0.75)
    fit(model, ParameterSchedule("momentum", lambda t: 0.5), epochs=1)
    assert (first.momentum, second.momentum) == (0.5, 0.5)
    with pytest.raises(ValueError, match="does not train the model"):
        fit(model, ParameterSchedule("momentum", lambda t: 0.75, optimizer=SGD()))


def test_beside_probes_of_the_gradient_and_in_check(tmp_path):
    plain, watched = (one_weight(SGD(0.125, momentum=0.3, weight_decay=0.0)) for _ in range(2))
    memory = MemoryWriter()
    callbacks = [
        ParameterSchedule("momentum", lambda t: GROW[t]),
        Monitor([GradientNorm()], [memory], every=1),
        KeepBest(tmp_path / "{epoch}.keras", 1, "loss"),
        ParameterSchedule("weight_decay", lambda t: 0.0),
    ]
    assert not kor.check(watched, ONES, ONES, callbacks=callbacks, validation_data=False).problems
    assert not list(tmp_path.iterdir())
    for model, given in ((plain, callbacks[:1]), (watched, callbacks)):
        fit(model, *given)
        assert weight(model) == pytest.approx(momentum_by_hand(GROW), rel=1e-6)
    assert memory.history["gradient_norm"][1] == pytest.approx([1.0] * 8)
    assert len(watched.optimizer.variables) == 3
    loaded = keras.saving.load_model(callbacks[2].best_path, custom_objects={"Linear": Linear})
    assert len(loaded.optimizer.variables) == 3


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


def test_after_a_fit_that_was_interrupted():
    model = one_weight(SGD(0.125, momentum=0.3))
    with pytest.raises(KeyboardInterrupt):
        fit(model, ParameterSchedule("momentum", lambda t: GROW[t]), Interrupt())
    start = weight(model)
    model.optimizer.variables[2].assign(ops.zeros((1, 1)))
    fit(model, ParameterSchedule("momentum", lambda t: GROW[t]))
    assert weight(model) - start == pytest.approx(momentum_by_hand(GROW) - 1, rel=1e-5)
    assert len(model.optimizer.variables) == 3


def test_what_it_refuses():
    def refused(error, match, optimizer, name="momentum", schedule=lambda t: 0.5, *more):
        with pytest.raises(error, match=match):
            fit(one_weight(optimizer), ParameterSchedule(name, schedule), *more, epochs=1)

    refused(TypeError, "keras_optreg.optimizers", keras.optimizers.SGD(0.1, momentum=0.9))
    refused(ValueError, "LearningRateDecay", SGD(0.1), "learning_rate")
    refused(ValueError, "no number of its rule. It can of: momentum", SGD(0.1), "beta_1")
    refused(ValueError, "needs it as a fixed number", optimizers.RAdam(), "beta_2")
    refused(ValueError, r"give weight_decay=0\.0", SGD(0.1), "weight_decay")
    refused(ValueError, r"`momentum` of SGD must be a number in \[0, 1\]", SGD(0.1, momentum=0.9), schedule=lambda t: 2)
    refused(ValueError, "cannot change from 0 to 0.5", SGD(0.1))
    refused(ValueError, "cannot change from 0.9 to 0 while", SGD(0.1, momentum=0.9), schedule=lambda t: 0)
    sparse = SGD(0.1, momentum=0.9, penalties=L1(0.1))
    refused(ValueError, "proximal penalties", sparse, schedule=lambda t: 1.0)
    twice = ParameterSchedule("momentum", lambda t: 0.1)
    refused(ValueError, "two schedules set 'momentum'", SGD(0.1, momentum=0.9), "momentum", lambda t: 0.5, twice)
    with pytest.raises(TypeError, match="takes a schedule"):
        ParameterSchedule("momentum", 0.5)


def test_two_callbacks_that_set_one_number_are_refused():
    model = one_weight(SGD(0.1, weight_decay=FullyDecoupled(0.01)))
    both = [ReduceLROnPlateau("loss", scale_weight_decay=True) for _ in range(2)]
    with pytest.raises(ValueError, match="Two callbacks set the 'weight_decay' of SGD in one fit"):
        fit(model, *both)
    fit(model, both[0])  # the first is not in the way of the next fit
