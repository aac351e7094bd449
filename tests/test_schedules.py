"""Schedules: their formulas in float64, Keras's peers, compiled code, configs, and use in an optimizer."""

import inspect
import json
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from cases.schedules import CASES, K, restarts
from keras import ops

from keras_optreg import schedules
from keras_optreg.optimizers import SGD
from keras_optreg.schedules import CosineDecay, FunctionSchedule, StepDecay, join, scale, shapes, warmup

BACKEND = keras.backend.backend()
STEPS = range(100)


def number(value):
    return float(ops.convert_to_numpy(value))


def compiled(function):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function  # torch runs step by step


def without_compilation():
    if BACKEND == "jax":
        import jax

        return jax.disable_jit()
    return nullcontext()


@pytest.fixture(scope="module")
def compiled_rates():
    """The rates of all rows at all steps from one compiled function: rows are many, and compiling is slow."""
    rows = [case.make() for case in CASES]
    inside = compiled(lambda step: ops.stack([schedule(step) for schedule in rows]))
    rates = [ops.convert_to_numpy(inside(ops.convert_to_tensor(t, "int32"))) for t in STEPS]
    return dict(zip([case.name for case in CASES], np.transpose(rates), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_its_formula_by_hand_and_compiled(case, compiled_rates):
    schedule, expected = case.make(), [case.reference(t) for t in STEPS]
    np.testing.assert_allclose([number(schedule(t)) for t in STEPS], expected, rtol=2e-6, atol=3e-7)
    np.testing.assert_allclose(compiled_rates[case.name], expected, rtol=2e-6, atol=3e-7)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps_need_not_be_whole_numbers(case):
    schedule, steps = case.make(), (0.25, 6.5, 13.75, 20.125, 44.5)
    np.testing.assert_allclose(
        [number(schedule(t)) for t in steps], [case.reference(t) for t in steps], rtol=2e-6, atol=3e-7
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_warmup_goes_in_front_of_every_schedule(case):
    schedule, first = warmup(case.make(), 8), case.reference(0)
    steps = (0, 3, 7, 8, 9, 20, 33, 60)
    expected = [first * t / 8 if t < 8 else case.reference(t - 8) for t in steps]
    np.testing.assert_allclose([number(schedule(t)) for t in steps], expected, rtol=2e-6, atol=3e-7)


def test_shapes_begin_and_end_exactly():
    """Also where XLA divides by a constant through its reciprocal."""
    rows = [
        schedules.Interpolation([0, 49, 98, 103], [0.1, 0.7, 1e-7, 0.3], shape)
        for shape in (getattr(shapes, name) for name in shapes.__all__)
    ]
    inside = compiled(lambda t: ops.stack([schedule(t) for schedule in rows]))
    for step, value in ((0, 0.1), (49, 0.7), (98, 1e-7), (103, 0.3), (10**9, 0.3)):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(inside(ops.convert_to_tensor(step, "int32"))), np.float32(value)
        )


def test_a_factor_close_to_one_keeps_its_digits():
    """γ = 0.99994 is the usual one; in float32 its error would be 1 % after 200,000 steps."""
    schedule = schedules.Cyclical(0.0, 1.0, 1000, step_factor=0.99994)
    for t in (101_000, 201_000):
        assert number(schedule(t)) == pytest.approx(0.99994**t, rel=5e-6)


def test_jumps_fall_on_their_step_also_compiled():
    """XLA divides by a constant through its reciprocal, which puts some multiples just below a whole number."""
    periods = (41, 47, 55, 61, 82, 83, 109, 115, 121, 122, 123, 164)
    reciprocals = np.float32(1) / np.float32(periods)
    assert np.all(np.float32(periods) * reciprocals < 1)  # those of which 1 × period is one
    rows = [StepDecay(1.0, drop=0.5, every=period) for period in periods]
    inside = compiled(lambda k: ops.stack([schedule(k * p) for schedule, p in zip(rows, periods, strict=True)]))
    for k in (1, 3, 7):
        np.testing.assert_array_equal(ops.convert_to_numpy(inside(ops.convert_to_tensor(k, "int32"))), 0.5**k)


def test_cycles_that_hardly_grow_keep_their_phase():
    """t_mul − 1 and the logarithm of t_mul keep no digits in float32."""
    schedule = schedules.CosineRestarts(1.0, first_decay_steps=10, t_mul=1.0001)
    steps = range(1, 4000, 37)
    expected = [restarts(t, 1.0, 10, 1.0001, 1, 0.0) for t in steps]
    np.testing.assert_allclose([number(schedule(t)) for t in steps], expected, atol=2e-3)


@pytest.mark.parametrize("case", [case for case in CASES if case.keras_peer], ids=str)
def test_equals_keras(case):
    # Not compiled: there XLA's reciprocal puts Keras's polynomial beyond its end. JAX compiles conditions unless told.
    ours, peer = case.make(), case.keras_peer()
    steps = [t for t in STEPS if t not in case.differs_at]
    with without_compilation():
        theirs = [number(peer(ops.convert_to_tensor(t, "int32"))) for t in steps]
    np.testing.assert_allclose([number(ours(t)) for t in steps], theirs, rtol=2e-6, atol=1e-6)


def test_takes_every_argument_of_keras_under_the_same_name():
    pairs = {"PiecewiseConstant": "PiecewiseConstantDecay", "CosineRestarts": "CosineDecayRestarts"}
    for name in ("ExponentialDecay", "InverseTimeDecay", "PolynomialDecay", "CosineDecay", *pairs):
        peer = inspect.signature(getattr(keras.optimizers.schedules, pairs.get(name, name))).parameters
        ours = inspect.signature(getattr(schedules, name)).parameters
        assert list(ours) == list(peer), name
        defaults = {n: p.default for n, p in peer.items() if n != "name"}  # ours is None, and becomes the class's name
        assert {n: p.default for n, p in ours.items() if n != "name"} == defaults, name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_config_goes_through_json(case):
    schedule = case.make()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    assert json.loads(json.dumps(schedule.get_config())) == config["config"]
    again = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert type(again) is type(schedule)
    assert repr(again) == repr(schedule) or "object at" in repr(schedule)
    assert [number(again(t)) for t in STEPS[::9]] == [number(schedule(t)) for t in STEPS[::9]]


@pytest.mark.parametrize(
    ("case", "bad"), [(case, bad) for case in CASES for bad in case.bad], ids=lambda value: str(value)
)
def test_refuses_numbers_outside_their_range(case, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        case.make(**bad)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_first_step_and_very_late_ones_are_sane(case):
    schedule = case.make()
    late = [2**24 + 1, 2**30]
    for t in (0, *late):
        value = number(schedule(t))
        assert np.isfinite(value)
        assert -1e-7 <= value <= 1.0
    if not case.repeats:
        np.testing.assert_allclose(number(schedule(late[1])), case.reference(late[1]), atol=1e-6)


def test_numpy_numbers_make_a_json_config():
    schedule = StepDecay(np.float32(0.5), drop=np.float64(0.5), every=np.int64(3))
    assert json.loads(json.dumps(schedule.get_config()))["every"] == 3


def test_a_shape_is_a_function_that_can_be_saved():
    for shape in ("cosine", lambda fraction: 1 - fraction, shapes.between):
        for make in (
            lambda shape: schedules.OneCycle(0.1, 10, shape=shape),
            lambda shape: schedules.Interpolation([0], [0.1], shape),
            lambda shape: schedules.WarmupStableDecay(0.1, 1, 1, 1, shape=shape),
        ):
            with pytest.raises(TypeError, match="one of keras_optreg.schedules.shapes .*registered with"):
                make(shape)


def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="decay_step"):
        CosineDecay(0.1, decay_step=3)


def test_parts_must_be_schedules_or_numbers():
    with pytest.raises(TypeError, match="a subclass of keras_optreg"):
        join([0.1, lambda t: 0.1], [3])
    with pytest.raises(TypeError, match="numbers >= 0"):
        warmup("cosine", 3)
    with pytest.raises(TypeError, match="scale takes"):
        scale(0.1, -1.0)
    with pytest.raises(ValueError, match="one more of `schedules`"):
        join([0.1, 0.2], [3, 4])
    with pytest.raises(ValueError, match="`steps` of warmup"):
        warmup(0.1, 0)


def test_a_schedule_of_ones_own_needs_only_the_formula():
    class Halving(FunctionSchedule):
        def __init__(self, start, name=None):
            super().__init__(name, start=start)

        def at(self, step):
            return self.start / (1.0 + step)

    schedule = Halving(0.8)
    assert [number(schedule(t)) for t in (0, 1, 3)] == pytest.approx([0.8, 0.4, 0.2])
    assert schedule.get_config() == {"start": 0.8, "name": "Halving"}


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, SGD], ids=["keras", "ours"])
def test_parts_and_shapes_are_saved_with_an_optimizer(optimizer):
    one_cycle = schedules.OneCycle(0.8, 20, shape=shapes.linear)
    schedule = warmup(scale(one_cycle, K.ExponentialDecay(1.0, 5, 0.5)), 4)
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer(schedule))))
    again = keras.optimizers.deserialize(config)._learning_rate
    assert [number(again(t)) for t in range(24)] == [number(schedule(t)) for t in range(24)]


def test_drives_an_optimizer_step_by_step():
    schedule = warmup(StepDecay(0.4, drop=0.5, every=2), 2)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(schedule), lambda y, p: ops.mean(p))  # the gradient is 1
    model.fit(np.ones((6, 1)), np.ones((6, 1)), batch_size=1, verbose=0)
    rates = [0.0, 0.2, 0.4, 0.4, 0.2, 0.2]
    assert number(model.layers[0].kernel[0, 0]) == pytest.approx(-sum(rates), abs=1e-6)
