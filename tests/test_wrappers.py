"""Lookahead and Partition: around and beside other optimizers, ours and Keras's."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from stepping import BACKEND, MODES, problem, stepper, values_of, variables_of
from test_addons_numbers import GRADIENTS as ADDONS_GRADIENTS
from test_addons_numbers import START as ADDONS_START

import keras_optreg as kor
from keras_optreg import select
from keras_optreg.optimizers import SGD, Adam, AdamW, Lookahead, Partition, RAdam, ScheduleFreeSGD
from keras_optreg.regularizers import L1

WEIGHTS, STEPS = problem(9)
op_by_op = pytest.mark.usefixtures("run_op_by_op")


def after(optimizer, gradients=STEPS, weights=WEIGHTS, mode="eager"):
    variables = variables_of(weights)
    step = stepper(optimizer, variables, mode)
    for grads in gradients:
        step(grads)
    return values_of(variables)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)


# ---------------------------------------------------------------- Lookahead


def lookahead(step, k, alpha):
    """Algorithm 1 of Zhang et al. 2019 in float64; `step(g, w, t)` is the inner optimizer."""
    out = [np.asarray(w, "float64") for w in WEIGHTS]
    slow = list(out)
    for t, grads in enumerate(STEPS, 1):
        out = [step(g, w) for g, w in zip(grads, out, strict=True)]
        if t % k == 0:
            slow = [s + alpha * (w - s) for s, w in zip(slow, out, strict=True)]
            out = list(slow)
    return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inner", [SGD, keras.optimizers.SGD], ids=["ours", "keras"])
def test_lookahead_agrees_with_the_paper(inner, mode):
    expected = lookahead(lambda g, w: w - 0.05 * g, 4, 0.3)
    assert_close(after(Lookahead(inner(0.05), 4, 0.3), mode=mode), expected)


@op_by_op
def test_lookahead_of_every_step_and_the_whole_way_is_the_inner_optimizer():
    for kind in (AdamW, keras.optimizers.AdamW):
        np.testing.assert_array_equal(after(Lookahead(kind(0.05), 1, 1.0))[0], after(kind(0.05))[0])


@op_by_op
def test_lookahead_agrees_with_the_numbers_that_addons_published():
    gradients = [[np.array(g, "float32") for g in ADDONS_GRADIENTS]] * 100
    found = after(
        Lookahead(RAdam(1e-3, beta_1=0.95), 6, 0.45), gradients, [np.array(w, "float32") for w in ADDONS_START]
    )
    for ours, theirs in zip(found, [[0.993126, 1.992901], [2.993283, 3.993261]], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


@op_by_op
def test_lookahead_counts_updates_and_not_micro_batches():
    twice = [g for g in STEPS for _ in range(2)]
    plain = after(Lookahead(SGD(0.05), 2))
    for kind in (SGD, keras.optimizers.SGD):
        assert_close(after(Lookahead(kind(0.05, gradient_accumulation_steps=2), 2), twice), plain)


@op_by_op
def test_lookahead_keeps_constraints_and_says_what_it_cannot_keep():
    variables = variables_of(WEIGHTS[:1], constraint=keras.constraints.UnitNorm(axis=0))
    optimizer = Lookahead(SGD(0.05), 1)
    optimizer.apply([ops.convert_to_tensor(STEPS[0][0])], variables)
    np.testing.assert_allclose(np.linalg.norm(values_of(variables)[0], axis=0), 1, rtol=1e-5)
    with pytest.warns(UserWarning, match="they are exact only where"):
        Lookahead(SGD(0.1, penalties=L1(0.1)))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Lookahead(SGD(0.1), 0), ValueError, "The `sync_period` of Lookahead"),
        (lambda: Lookahead(SGD(0.1), 2, 1.5), ValueError, "The `slow_step_size` of Lookahead"),
        (lambda: Lookahead(ScheduleFreeSGD(0.1)), ValueError, "cannot wrap this ScheduleFreeSGD"),
        (lambda: Lookahead(SGD(0.1, use_ema=True)), ValueError, "cannot wrap this SGD"),
        (lambda: Lookahead(kor.optimizers.MADGRAD(0.1)), ValueError, "cannot wrap this MADGRAD"),
        (lambda: Lookahead(keras.optimizers.LossScaleOptimizer(SGD(0.1))), ValueError, "goes inside loss scaling"),
        (lambda: Partition([]), ValueError, "no parts"),
        (lambda: Partition([("kernel", SGD(0.1))]), TypeError, "selector"),
        (lambda: Partition([(select.kernels(), 0.1)]), TypeError, "Partition takes optimizers"),
        (lambda: Partition([(select.kernels(), o := SGD(0.1))], rest=o), ValueError, "one optimizer twice"),
        (
            lambda: Partition([(select.kernels(), SGD(0.1, gradient_accumulation_steps=2))], rest=SGD(0.1)),
            ValueError,
            "the same `gradient_accumulation_steps`",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(make, error, text):
    with pytest.raises(error, match=text):
        make()


# ---------------------------------------------------------------- Partition


def parts(**options):
    return Partition([(select.matching("bias"), SGD(0.05, **options))], rest=AdamW(0.01, **options))


@pytest.mark.parametrize("mode", sorted({MODES[0], MODES[-1]}))
def test_each_weight_gets_its_optimizer_alone(mode):
    found = after(parts(), mode=mode)
    assert_close(found[:1], after(AdamW(0.01), [g[:1] for g in STEPS], WEIGHTS[:1], mode))
    assert_close(found[1:], after(SGD(0.05), [g[1:] for g in STEPS], WEIGHTS[1:], mode))


@op_by_op
def test_the_first_match_wins_and_nobody_is_left_out():
    everything = Partition([(select.matching("bias"), SGD(0.0)), (select.everything(), SGD(0.05))])
    found = after(everything)
    np.testing.assert_array_equal(found[1], WEIGHTS[1])
    assert np.abs(found[0] - WEIGHTS[0]).max() > 0.1
    with pytest.raises(ValueError, match="no optimizer for w0_kernel"):
        Partition([(select.matching("bias"), SGD(0.1))]).build(variables_of(WEIGHTS))
    with pytest.raises(ValueError, match="have an optimizer already"):
        Partition([(select.everything(), SGD(0.1)), (select.biases(), SGD(0.1))]).build(variables_of(WEIGHTS))
    with pytest.raises(ValueError, match="matches none"):
        Partition([(select.matching("no such"), SGD(0.1))], rest=SGD(0.1)).build(variables_of(WEIGHTS))


@op_by_op
def test_a_part_without_gradients_waits():
    variables = variables_of(WEIGHTS)
    optimizer = parts()
    optimizer.apply([ops.convert_to_tensor(STEPS[0][0]), None], variables)
    np.testing.assert_array_equal(values_of(variables)[1], WEIGHTS[1])
    assert np.abs(values_of(variables)[0] - WEIGHTS[0]).max() > 1e-3
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        optimizer.apply([None, None], variables)


def test_the_rates_move_together():
    optimizer = parts()
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(0.05)
    optimizer.learning_rate = 0.005
    assert [float(ops.convert_to_numpy(o.learning_rate)) for o in optimizer.optimizers] == pytest.approx([5e-3, 1e-3])
    optimizer.learning_rate = 0.0
    with pytest.raises(ValueError, match="cannot follow"):
        optimizer.learning_rate = 0.1


# ---------------------------------------------------------------- both, in models

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def model_with(optimizer):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="body"), layers.Dense(1, name="head")])
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs=1, **options):
    return model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **options)


MADE = {
    "Lookahead": lambda: Lookahead(Adam(0.05, weight_decay=0.1, weight_decay_on=select.kernels()), 3),
    "Lookahead of Keras's": lambda: Lookahead(keras.optimizers.Adam(0.05), 3),
    "Partition": lambda: Partition(
        [(select.matching("head"), keras.optimizers.SGD(0.05))], rest=Adam(0.05, weight_decay=0.1)
    ),
    "Lookahead of Partition": lambda: Lookahead(Partition([(select.biases(), SGD(0.05))], rest=Adam(0.05)), 3),
    "Partition of Lookahead": lambda: Partition([(select.biases(), SGD(0.05))], rest=Lookahead(Adam(0.05), 3)),
}


@op_by_op
@pytest.mark.filterwarnings("ignore:.*what is being saved holds the weights at which")
@pytest.mark.parametrize("name", MADE)
def test_saved_and_loaded_it_goes_on_as_if_never_stopped(name, tmp_path):
    average = [kor.callbacks.EvaluateAtAverage()] if "Lookahead" in name else []
    unbroken, stopped = model_with(MADE[name]()), model_with(MADE[name]())
    for _ in range(4):
        unbroken.train_on_batch(X[:4], Y[:4])
        unbroken.train_on_batch(X[4:8], Y[4:8])
    for _ in range(2):
        stopped.train_on_batch(X[:4], Y[:4])
        stopped.train_on_batch(X[4:8], Y[4:8])
    stopped.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    json.dumps(loaded.optimizer.get_config())
    for _ in range(2):
        loaded.train_on_batch(X[:4], Y[:4])
        loaded.train_on_batch(X[4:8], Y[4:8])
    assert_close(loaded.get_weights(), unbroken.get_weights(), rtol=1e-6, atol=1e-7)
    fit(loaded, callbacks=average)


@op_by_op
@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras's mixed precision is the same code elsewhere")
@pytest.mark.parametrize("name", ["Lookahead", "Partition"])
def test_under_loss_scaling_numbers_stay(name):
    """With one of the scales that overflow nothing: the same weights as without."""
    scaled = model_with(keras.optimizers.LossScaleOptimizer(MADE[name](), initial_scale=8.0))
    plain = model_with(MADE[name]())
    for model in (scaled, plain):
        for i in (0, 4, 8, 12):
            model.train_on_batch(X[i : i + 4], Y[i : i + 4])
    assert_close(scaled.get_weights(), plain.get_weights())


def test_callbacks_and_tables_see_through_them():
    model = model_with(MADE["Partition"]())
    table = kor.summary(model)
    decays = {row[0].split("/")[-2]: row[3] for row in table.rows}
    assert decays == {"body": 0.1, "head": None}
    memory = kor.callbacks.MemoryWriter()
    watch = kor.callbacks.Monitor([kor.callbacks.GradientNorm(), kor.callbacks.LearningRate()], [memory])
    decay = kor.callbacks.LearningRateDecay(kor.schedules.StepDecay(0.05, 0.5, 1))
    fit(model, 2, callbacks=[watch, decay])
    rates = [float(ops.convert_to_numpy(o.learning_rate)) for o in model.optimizer.optimizers]
    assert rates == pytest.approx([0.025, 0.025])
    assert all(np.isfinite(memory.history["gradient_norm"][1]))
    model = model_with(MADE["Lookahead"]())
    assert {row[0].split("/")[-1]: row[3] for row in kor.summary(model).rows} == {"kernel": 0.1, "bias": None}
    fit(model, 2, callbacks=[watch, keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=1e9),
                             kor.callbacks.EvaluateAtAverage()])  # fmt: skip
    assert float(ops.convert_to_numpy(model.optimizer.inner_optimizer.learning_rate)) < 0.05
