"""What becomes of an optimizer's state and settings: changed on the way, saved, loaded, finalized."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from stepping import BACKEND, values_of, variables_of

import keras_optreg as kor
from keras_optreg import select
from keras_optreg.optimizers import SGD, Adam, RMSprop

START = [np.array([[1.0, -2.0], [3.0, 0.5]], "float32"), np.array([1.0, -1.0], "float32")]
ONES = [np.ones((2, 2), "float32"), np.ones(2, "float32")]


def step(optimizer, variables, grads=ONES):
    optimizer.apply([ops.convert_to_tensor(g) for g in grads], variables)


def deltas(optimizer, variables, grads=ONES):
    before = values_of(variables)
    step(optimizer, variables, grads)
    return [now - then for now, then in zip(values_of(variables), before, strict=True)]


def small_model(optimizer, seed=3):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2), layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


X, Y = np.ones((4, 2), "float32"), np.zeros((4, 1), "float32")


# ---------------------------------------------------------------- settings changed after the first step


def test_own_arguments_and_clipping_may_change_between_steps():
    variables = variables_of(START)
    optimizer = SGD(1.0, momentum=0.9)
    step(optimizer, variables)  # v = -1
    optimizer.momentum = 0.5
    for change in deltas(optimizer, variables):
        np.testing.assert_allclose(change, -1.5, rtol=1e-6)  # v = 0.5 · -1 - 1
    optimizer.clipvalue = 0.25
    for change in deltas(optimizer, variables):
        np.testing.assert_allclose(change, -1.0, rtol=1e-6)  # v = 0.5 · -1.5 - 0.25


def test_decay_may_be_set_after_the_first_fit():
    model = small_model(SGD(0.0))
    model.fit(X, Y, verbose=0)
    before = model.get_weights()
    model.optimizer.weight_decay = 0.5
    model.optimizer.learning_rate = 0.1
    model.compile(model.optimizer, lambda y, p: 0.0 * ops.sum(p))
    model.fit(X, Y, verbose=0)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(now, then * (1 - 0.1 * 0.5), rtol=1e-6)


def test_a_number_set_outside_its_range_is_refused_at_the_next_step():
    variables = variables_of(START)
    optimizer = Adam(0.1)
    step(optimizer, variables)
    optimizer.beta_1 = 1.5
    with pytest.raises(ValueError, match=r"`beta_1` of Adam must be a number in \[0, 1\)"):
        step(optimizer, variables)


@pytest.mark.parametrize(
    ("make", "change", "named"),
    [
        (lambda: Adam(0.1), {"amsgrad": True}, "slots"),
        (lambda: SGD(0.1), {"momentum": 0.9}, "slots"),
        (lambda: SGD(0.1), {"use_ema": True}, "use_ema"),
        (lambda: SGD(0.1), {"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        (
            lambda: SGD(0.1, gradient_accumulation_steps=2),
            {"gradient_accumulation_steps": 4},
            "gradient_accumulation_steps",
        ),
        (lambda: SGD(0.1, weight_decay=0.1), {"weight_decay_on": select.biases()}, "weight_decay_on"),
    ],
    ids=["amsgrad", "momentum", "use_ema", "accumulation", "accumulation of another length", "weight_decay_on"],
)
def test_what_was_decided_at_build_cannot_change(make, change, named):
    variables = variables_of(START)
    optimizer = make()
    step(optimizer, variables)
    for name, value in change.items():
        setattr(optimizer, name, value)
    with pytest.raises(ValueError, match=f"The `{named}` .* changed from .* after the optimizer was built"):
        step(optimizer, variables)


def test_shared_options_set_outside_their_ranges_are_refused_at_the_next_step():
    for name in ("clipnorm", "weight_decay"):
        variables = variables_of(START)
        optimizer = SGD(0.1)
        step(optimizer, variables)
        setattr(optimizer, name, -1.0)
        with pytest.raises(ValueError, match=f"`{name}` of SGD must be a number"):
            step(optimizer, variables)


def test_a_schedule_can_be_set_before_the_first_step_only():
    """A compiled step goes on reading the number's variable, which would then hold the scale, 1."""
    schedule = kor.schedules.ExponentialDecay(0.5, 1, 0.5)
    optimizer = SGD(0.01)
    optimizer.learning_rate = schedule
    model = small_model(optimizer)
    model.compile(optimizer, lambda y, p: ops.sum(p))
    before = model.layers[-1].bias.numpy() if BACKEND != "torch" else model.get_weights()[-1]
    model.fit(X, Y, batch_size=2, verbose=0)
    np.testing.assert_allclose(model.get_weights()[-1], before - 2 * (0.5 + 0.25), rtol=1e-6)
    with pytest.raises(ValueError, match="cannot become a schedule after the optimizer was built"):
        optimizer.learning_rate = schedule


def test_numpy_numbers_are_numbers():
    variables, plain = variables_of(START), variables_of(START)
    step(RMSprop(np.float32(0.5), rho=np.float64(0.75), clipnorm=np.float64(0.5)), variables)
    step(RMSprop(0.5, rho=0.75, clipnorm=0.5), plain)
    for a, b in zip(values_of(variables), values_of(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    json.dumps(SGD(0.1, momentum=np.float32(0.5), weight_decay=np.float64(0.1)).get_config())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema_overwrite_frequency": 5}, "without use_ema=True"),
        ({"ema_momentum": 7}, r"`ema_momentum` of SGD must be a number in \[0, 1\]"),
        ({"gradient_accumulation_steps": 2.5}, "is an integer >= 2"),
        ({"gradient_accumulation_steps": 1}, "is an integer >= 2"),
    ],
)
def test_shared_options_outside_their_ranges(options, message):
    with pytest.raises(ValueError, match=message):
        SGD(0.1, **options)


# ---------------------------------------------------------------- the moving average at the end of training


def test_without_an_update_there_is_no_average_to_end_with():
    model = small_model(SGD(0.1, use_ema=True, gradient_accumulation_steps=8))
    before = model.get_weights()
    model.fit(X, Y, batch_size=1, verbose=0)  # four micro-batches
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX, Keras refuses to train fewer weights with the same optimizer")
def test_the_average_finds_its_weights_when_a_layer_was_frozen_meanwhile():
    model = small_model(SGD(0.1, use_ema=True, ema_momentum=0.5))
    model.fit(X, Y, verbose=0)
    model.layers[0].trainable = False
    model.compile(model.optimizer, "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    averages = model.optimizer._model_variables_moving_average
    for variable, average in zip(model.layers[1].trainable_variables, averages[2:], strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), ops.convert_to_numpy(average))


# ---------------------------------------------------------------- checkpoints


def stored(optimizer):
    store = {}
    optimizer.save_own_variables(store)
    return store


def built(optimizer, steps=0):
    variables = variables_of(START)
    optimizer.build(variables)
    for _ in range(steps):
        step(optimizer, variables)
    return optimizer


@pytest.mark.usefixtures("run_op_by_op")
def test_a_checkpoint_of_the_same_optimizer_is_restored_to_the_bit():
    saved, fresh = built(Adam(0.1, use_ema=True), steps=3), built(Adam(0.2, use_ema=True))
    fresh.load_own_variables(stored(saved))
    for a, b in zip(saved.variables, fresh.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    assert int(ops.convert_to_numpy(fresh.iterations)) == 3


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_rate_and_a_schedule_do_not_exchange_their_numbers(scheduled):
    schedule = kor.schedules.StepDecay(0.25, drop=0.5, every=100)
    rates = [schedule, 0.125] if scheduled else [0.125, schedule]
    saved, fresh = (built(SGD(rate, momentum=0.9), steps=2) for rate in rates)
    with pytest.warns(UserWarning, match="keeps its own learning rate"):
        fresh.load_own_variables(stored(saved))
    assert float(ops.convert_to_numpy(fresh.learning_rate)) == (0.125 if scheduled else 0.25)
    for a, b in zip(saved.state.slots["v"], fresh.state.slots["v"], strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


@pytest.mark.usefixtures("run_op_by_op")
def test_another_optimizers_state_is_left_alone_with_a_warning_that_names_both():
    saved, other = built(Adam(0.1), steps=2), built(RMSprop(0.3, momentum=0.9), steps=1)
    assert len(saved.variables) == len(other.variables)
    before = [ops.convert_to_numpy(v).copy() for v in other.variables]
    with pytest.warns(UserWarning, match="Saved: iteration, learning_rate, 2 m, 2 v. Here: .*2 u"):
        other.load_own_variables(stored(saved))
    for now, then in zip(other.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(now), then)
    with pytest.warns(UserWarning, match="It is not built: train, or call"):
        Adam(0.1).load_own_variables(stored(saved))


@pytest.mark.usefixtures("run_op_by_op")
def test_keras_own_checkpoint_of_the_same_method_is_restored():
    keras_s = keras.optimizers.Adam(0.1)
    variables = variables_of(START)
    keras_s.build(variables)
    step(keras_s, variables)
    store = {}
    keras_s.save_own_variables(store)
    ours = built(Adam(0.3))
    ours.load_own_variables(store)
    for a, b in zip(keras_s.variables, ours.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


@pytest.mark.usefixtures("run_op_by_op")
def test_kerass_rate_is_not_taken_for_the_scale_of_a_schedule():
    kerass = keras.optimizers.Adam(1e-3)
    kerass.build(variables_of(START))
    ours = built(Adam(kor.schedules.StepDecay(0.25, drop=0.5, every=100)))
    with pytest.warns(UserWarning, match="keeps its own learning rate"):
        ours.load_own_variables(stored(kerass))
    assert float(ops.convert_to_numpy(ours.learning_rate)) == 0.25


@pytest.mark.usefixtures("run_op_by_op")
def test_accumulation_of_another_length_is_another_state():
    """`iterations` is derived from the number of micro-batches."""
    saved = built(SGD(0.1, gradient_accumulation_steps=2), steps=3)
    with pytest.warns(UserWarning, match="2 accumulated over 2. Here: .*2 accumulated over 4"):
        built(SGD(0.1, gradient_accumulation_steps=4)).load_own_variables(stored(saved))


def test_under_loss_scaling_another_optimizers_state_is_refused(tmp_path):
    """There Keras has assigned it by count before anyone could look."""
    model = small_model(keras.optimizers.LossScaleOptimizer(Adam(0.1)))
    model.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / "same.weights.h5")
    model.load_weights(tmp_path / "same.weights.h5")
    for other in (RMSprop(0.3, momentum=0.9), Adam(kor.schedules.CosineDecay(0.1, 10))):
        fresh = small_model(keras.optimizers.LossScaleOptimizer(other))
        fresh.optimizer.build(fresh.trainable_variables)
        with pytest.raises(ValueError, match="that of another optimizer than .* Compile the model again"):
            fresh.load_weights(tmp_path / "same.weights.h5")


@pytest.mark.usefixtures("run_op_by_op")
def test_a_scaled_schedule_keeps_its_scale_in_the_config():
    optimizer = SGD(kor.schedules.StepDecay(0.5, drop=0.5, every=100))
    optimizer.learning_rate = 0.125
    again = SGD.from_config(json.loads(json.dumps(optimizer.get_config())))
    assert float(ops.convert_to_numpy(again.learning_rate)) == 0.125


# ---------------------------------------------------------------- selectors in a config


def test_an_edited_config_is_obeyed():
    make = {"learning_rate": 0.5, "weight_decay": 0.5, "name": "sgd"}
    config = built(SGD(**make, weight_decay_on=select.kernels()), steps=1).get_config()
    config["weight_decay_on"] = keras.saving.serialize_keras_object(select.biases())
    assert built(SGD.from_config(config)).state.plan.decays == [False, True]
    later = SGD.from_config(built(SGD(**make, weight_decay_on=select.everything()), steps=1).get_config())
    later.exclude_from_weight_decay(var_names=["kernel"])
    assert built(later).state.plan.decays == [False, True]


def test_excluded_names_come_in_a_list():
    with pytest.raises(TypeError, match=r"Write var_names=\['bias'\]"):
        SGD(0.1, weight_decay=0.5).exclude_from_weight_decay(var_names="bias")


def test_variables_excluded_before_the_first_step_stay_so_in_a_saved_model(tmp_path):
    optimizer = SGD(0.1, weight_decay=0.5)
    model = small_model(optimizer)
    optimizer.exclude_from_weight_decay(var_list=[model.layers[1].kernel])
    optimizer_2 = SGD(0.1, learning_rate_multipliers=[(select.variables([model.layers[0].kernel]), 0.5)])
    model.save(tmp_path / "excluded.keras")
    model.compile(optimizer_2, "mse")
    model.save(tmp_path / "multiplied.keras")

    def plan(name):
        loaded = keras.models.load_model(tmp_path / name)
        return loaded.optimizer.plan_for(loaded.trainable_variables)

    assert plan("excluded.keras").decays == [True, True, False, True]
    assert plan("multiplied.keras").multipliers == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.skipif(BACKEND == "jax", reason="JAX computes in float64 only where it was told to before it began")
def test_rates_are_not_rounded_in_float64():
    keras.config.set_floatx("float64")
    try:
        variables = variables_of([np.array([1.0])], dtype="float64")
        step(SGD(0.1), variables, [np.array([1.0])])
        np.testing.assert_allclose(values_of(variables)[0], 0.9, rtol=1e-12)
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.usefixtures("run_op_by_op")
def test_a_state_from_before_the_first_step_is_not_mixed_into_a_trained_one():
    fresh, store = Adam(0.5), {}
    fresh.save_own_variables(store)
    variables = variables_of(START)
    trained = Adam(0.1)
    step(trained, variables)
    before = [ops.convert_to_numpy(v).copy() for v in trained.variables]
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        trained.load_own_variables(store)
    for v, value in zip(trained.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(v), value)
    new = Adam(0.1)
    new.build(variables)
    new.load_own_variables(store)  # before its first step there is nothing to mix
    assert float(ops.convert_to_numpy(new.learning_rate)) == pytest.approx(0.5)
