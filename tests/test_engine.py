"""What all optimizers share, tested once: each option of the engine against arithmetic done by hand."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from stepping import BACKEND, MODES, problem, run, run_reference, stepper, values_of, variables_of

import keras_optreg as kor
from keras_optreg import select
from keras_optreg.optimizers import SGD, WEIGHT, ZEROS, Adam, Adamax, AdamW, Nadam, RMSprop, RuleOptimizer, Step
from keras_optreg.regularizers import L1, L1L2, L2, Sum

LR = 0.1
WEIGHTS, GRADIENTS = problem(8)
KERNEL, BIAS = 0, 1  # positions, after the names that `variables_of` gives


def sgd(g, w, s, t, lr):
    return w - lr * g


def assert_close(actual, expected, rtol=2e-5, atol=2e-6):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)


def by_hand(update, steps=8):
    """Float64 weights after `update(i, w, g, t)` for every weight i and step t."""
    out = [w.astype("float64") for w in WEIGHTS]
    for t, grads in enumerate(GRADIENTS[:steps], 1):
        out = [update(i, w, g.astype("float64"), t) for i, (w, g) in enumerate(zip(out, grads, strict=True))]
    return out


# ---------------------------------------------------------------- weight decay, multipliers, clipping


@pytest.mark.parametrize("mode", MODES)
def test_weight_decay_on_a_selector(mode):
    actual, _ = run(lambda: SGD(LR, weight_decay=0.3, weight_decay_on=select.kernels()), WEIGHTS, GRADIENTS, mode)
    assert_close(actual, by_hand(lambda i, w, g, t: w - LR * 0.3 * w * (i == KERNEL) - LR * g))


@pytest.mark.usefixtures("run_op_by_op")
def test_weight_decay_follows_a_schedule_of_real_updates():
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.3, 1, 1.0)
    actual, optimizer = run(lambda: SGD(LR, weight_decay=schedule), WEIGHTS, GRADIENTS)
    assert_close(actual, by_hand(lambda i, w, g, t: w - LR * (0.3 / t) * w - LR * g))
    restored = SGD.from_config(json.loads(json.dumps(optimizer.get_config())))
    assert_close(run(lambda: restored, WEIGHTS, GRADIENTS)[0], actual, rtol=0, atol=0)


@pytest.mark.usefixtures("run_op_by_op")
def test_exclude_from_weight_decay_works_by_path_and_is_saved():
    def make():
        optimizer = SGD(LR, weight_decay=0.3)
        optimizer.exclude_from_weight_decay(var_names=["_bias$"])
        return optimizer

    expected = by_hand(lambda i, w, g, t: w - LR * 0.3 * w * (i == KERNEL) - LR * g)
    actual, optimizer = run(make, WEIGHTS, GRADIENTS)
    assert_close(actual, expected)
    for config in (make().get_config(), optimizer.get_config()):
        restored = SGD.from_config(json.loads(json.dumps(config)))
        assert_close(run(lambda r=restored: r, WEIGHTS, GRADIENTS)[0], expected)
    with pytest.raises(ValueError, match="after the optimizer was built"):
        optimizer.exclude_from_weight_decay(var_names=["x"])


@pytest.mark.usefixtures("run_op_by_op")
def test_exclude_from_weight_decay_by_variable_and_of_everything():
    variables = variables_of(WEIGHTS)
    optimizer = SGD(LR, weight_decay=0.3)
    optimizer.exclude_from_weight_decay(var_list=[variables[BIAS]], var_names=["kernel"])
    step = stepper(optimizer, variables)
    for grads in GRADIENTS:
        step(grads)
    assert_close(values_of(variables), by_hand(lambda i, w, g, t: w - LR * g))


@pytest.mark.usefixtures("run_op_by_op")
def test_learning_rate_multipliers_multiply_and_reach_the_decay():
    groups = [(select.kernels(), 0.5), (select.everything(), 0.1), (select.biases(), 0)]
    actual, _ = run(lambda: SGD(LR, weight_decay=0.3, learning_rate_multipliers=groups), WEIGHTS, GRADIENTS)
    assert_close(actual, by_hand(lambda i, w, g, t: w - LR * [0.05, 0.0][i] * (0.3 * w + g)))


@pytest.mark.usefixtures("run_op_by_op")
def test_a_multiplier_reaches_the_rule_and_not_its_delta():
    """Adam's step does not depend on the scale of the gradient, so a multiplied gradient would change nothing."""
    actual, _ = run(lambda: Adam(LR, learning_rate_multipliers=[(select.kernels(), 0.5)]), WEIGHTS, GRADIENTS)
    half, _ = run(lambda: Adam(LR / 2), WEIGHTS, GRADIENTS)
    full, _ = run(lambda: Adam(LR), WEIGHTS, GRADIENTS)
    assert_close(actual, [half[KERNEL], full[BIAS]], rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("run_op_by_op")
def test_clipping_each_way():
    def norm(x):
        return np.sqrt(np.sum(np.square(x)))

    total = [norm([norm(g) for g in grads]) for grads in GRADIENTS]
    expected = {
        "clipnorm": by_hand(lambda i, w, g, t: w - LR * g * min(1, 0.7 / max(norm(g), 1e-30))),
        "clipvalue": by_hand(lambda i, w, g, t: w - LR * np.clip(g, -0.7, 0.7)),
        "global_clipnorm": by_hand(lambda i, w, g, t: w - LR * g * min(1, 0.7 / total[t - 1])),
    }
    for name, weights in expected.items():
        assert_close(run(lambda n=name: SGD(LR, **{n: 0.7}), WEIGHTS, GRADIENTS)[0], weights)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has IndexedSlices")
def test_norm_of_a_sparse_gradient_counts_repeated_rows_once():
    import tensorflow as tf

    variable = keras.Variable(np.zeros((4, 1), "float32"))
    rows = tf.IndexedSlices(tf.constant([[3.0], [4.0], [3.0]]), tf.constant([1, 2, 1]), tf.constant([4, 1]))
    SGD(1.0, global_clipnorm=1.0).apply([rows], [variable])
    dense = np.array([0.0, 6.0, 4.0, 0.0])
    np.testing.assert_allclose(ops.convert_to_numpy(variable)[:, 0], -dense / np.sqrt(52), rtol=1e-6)


# ---------------------------------------------------------------- penalties in the update


def soft(w, threshold):
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_single_penalty_is_proximal_and_acts_on_kernels(mode):
    actual, _ = run(lambda: SGD(LR, penalties=L1(0.8)), WEIGHTS, GRADIENTS, mode)
    expected = by_hand(lambda i, w, g, t: soft(w - LR * g, LR * 0.8 * (i == KERNEL)))
    assert_close(actual, expected)
    assert np.count_nonzero(expected[KERNEL] == 0) > 0
    np.testing.assert_array_equal(actual[KERNEL] == 0, expected[KERNEL] == 0)


@pytest.mark.usefixtures("run_op_by_op")
def test_each_way_a_penalty_acts():
    cases = {
        "coupled L1": (L1(0.4).coupled(), lambda w, g: w - LR * (g + 0.4 * np.sign(w))),
        "coupled L2": (L2(0.4).coupled(), lambda w, g: w - LR * (g + 0.8 * w)),
        "proximal L2": (L2(0.4), lambda w, g: (w - LR * g) / (1 + 0.8 * LR)),
        "proximal L1L2": (L1L2(0.4, 0.2), lambda w, g: soft(w - LR * g, LR * 0.4) / (1 + 0.4 * LR)),
    }
    for penalty, update in cases.values():
        actual, _ = run(lambda p=penalty: SGD(LR, penalties=[(select.everything(), p)]), WEIGHTS, GRADIENTS)
        assert_close(actual, by_hand(lambda i, w, g, t, u=update: u(w, g)))


@pytest.mark.usefixtures("run_op_by_op")
def test_the_proximal_step_is_adams_metric():
    def adam_then_soft(g, w, s, t, lr):
        s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
        s["v"] = 0.999 * s.get("v", 0.0) + 0.001 * g * g
        v_hat, m_hat = s["v"] / (1 - 0.999**t), s["m"] / (1 - 0.9**t)
        epsilon_hat = 1e-7 / np.sqrt(1 - 0.999**t)
        metric = lr / (np.sqrt(v_hat) + epsilon_hat)
        return soft(w - metric * m_hat, np.minimum(0.3 * metric, 2 * lr))

    assert any((g == 0).any() for g in GRADIENTS[0])  # there √v̂ = 0, and the metric is α/ε
    actual, _ = run(lambda: Adam(LR, penalties=[(select.everything(), L1(0.3))]), WEIGHTS, GRADIENTS)
    assert_close(actual, run_reference(adam_then_soft, WEIGHTS, GRADIENTS, LR), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("run_op_by_op")
def test_a_weight_that_never_had_a_gradient_shrinks_by_twice_the_rate_at_most():
    """By the metric alone, α/ε, it would be zero at once."""
    w = np.array([[1.0, -2.0, 0.5]], "float32")
    zero, optimizers = [[np.zeros_like(w)]] * 4, (Adam, Adamax, Nadam, RMSprop)
    for optimizer in optimizers:
        for penalty in (L1(1e-2), L2(1e-1)):
            [shrunk], _ = run(lambda o=optimizer, p=penalty: o(0.01, penalties=p), [w], zero)
            np.testing.assert_allclose(shrunk, w - np.sign(w) * 4 * 0.02, rtol=1e-5)


def test_an_average_of_weights_loses_exact_zeros_and_says_so():
    with pytest.warns(UserWarning, match="overwrites w0_kernel with averages"):
        SGD(LR, use_ema=True, penalties=L1(0.1)).build(variables_of(WEIGHTS))
    SGD(LR, use_ema=True, penalties=L1(0.1).coupled()).build(variables_of(WEIGHTS))  # no zeros: no warning


def test_wrong_penalties_are_refused_before_training():
    with pytest.raises(TypeError, match=r"penalty objects of keras_optreg.regularizers.*Received: 'l1'"):
        SGD(penalties="l1")
    with pytest.raises(TypeError, match=r"keras_optreg.attach"):
        SGD(penalties=keras.regularizers.L1(0.1))
    with pytest.raises(TypeError, match="list of \\(selector, value\\) pairs"):
        SGD(penalties=[L1(0.1)])
    with pytest.raises(ValueError, match=r"L1L2.*\.coupled\(\)"):
        SGD(penalties=Sum(L1(1.0), L2(0.01)))
    SGD(penalties=Sum(L1(1.0), L2(0.01)).coupled())
    with pytest.raises(ValueError, match="Two proximal penalties on w0_kernel"):
        SGD(penalties=[(select.kernels(), L1(0.1)), (select.everything(), L2(0.1))]).build(variables_of(WEIGHTS))
    with pytest.raises(ValueError, match="matches none of the weights"):
        SGD(penalties=[(select.matching("haed"), L1(0.1))]).build(variables_of(WEIGHTS))
    with pytest.raises(ValueError, match=r"SGD cannot apply L1\(0.1\) as a proximal penalty.*L1\(0.1\).coupled\(\)"):
        SGD(momentum=1.0, penalties=L1(0.1))


def test_decay_and_l2_on_the_same_weight_are_reported_once_with_paths():
    with pytest.warns(UserWarning, match="Both weight decay and an L2 penalty in the update shrink w0_kernel"):
        AdamW(LR, penalties=L2(0.1)).build(variables_of(WEIGHTS))
    dense = layers.Dense(2, kernel_regularizer=L2(0.1), name="d")
    dense.build((None, 3))
    with pytest.warns(UserWarning, match="Both weight decay and an L2 penalty in the loss shrink d/kernel"):
        AdamW(LR).build(dense.trainable_variables)
    with pytest.warns(
        UserWarning, match="Both an L2 penalty in the loss and an L2 penalty in the update shrink d/kernel"
    ):
        Adam(LR, penalties=L2(0.1)).build(dense.trainable_variables)
    AdamW(LR, weight_decay_on=select.biases()).build(dense.trainable_variables)  # apart: no warning, or this errors


# ---------------------------------------------------------------- averages, constraints, scales, accumulation


@pytest.mark.parametrize("mode", MODES)
def test_ema_averages_the_constrained_weights_on_real_updates(mode):
    def make():
        return SGD(LR, use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=2)

    variables = variables_of(WEIGHTS, constraint=keras.constraints.NonNeg())
    optimizer = make()
    step = stepper(optimizer, variables, mode)
    for grads in GRADIENTS:
        step(grads)
    w, average = [x.astype("float64") for x in WEIGHTS], [None, None]
    for b in range(len(GRADIENTS) // 2):
        for i in range(2):
            g = (GRADIENTS[2 * b][i].astype("float64") + GRADIENTS[2 * b + 1][i]) / 2
            w[i] = np.maximum(w[i] - LR * g, 0)
            average[i] = w[i] if b == 0 else 0.5 * average[i] + 0.5 * w[i]
    assert_close(values_of(variables), w)
    optimizer.finalize_variable_values(variables)
    assert_close(values_of(variables), average)


@pytest.mark.usefixtures("run_op_by_op")
def test_ema_overwrites_every_k_updates():
    actual, _ = run(lambda: SGD(LR, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3), WEIGHTS, GRADIENTS)
    w, average = [x.astype("float64") for x in WEIGHTS], [0.0, 0.0]
    for t, grads in enumerate(GRADIENTS, 1):
        for i in range(2):
            w[i] = w[i] - LR * grads[i]
            average[i] = w[i] if t == 1 else 0.5 * average[i] + 0.5 * w[i]
            w[i] = average[i] if t % 3 == 0 else w[i]
    assert_close(actual, w)


@pytest.mark.usefixtures("run_op_by_op")
def test_a_constraint_acts_once_as_in_keras():
    """MinMaxNorm with rate < 1 is not idempotent, so applying it twice would show."""

    def make_variables():
        return variables_of(WEIGHTS[:1], constraint=keras.constraints.MinMaxNorm(0.1, 0.2, rate=0.5))

    ours, theirs = make_variables(), make_variables()
    mine, peer = SGD(LR), keras.optimizers.SGD(LR)
    for grads in GRADIENTS:
        mine.apply([ops.convert_to_tensor(grads[0])], ours)
        peer.apply([ops.convert_to_tensor(grads[0])], theirs)
    assert_close(values_of(ours), values_of(theirs), rtol=1e-5)


@pytest.mark.usefixtures("run_op_by_op")
def test_loss_scale_factor_is_divided_out():
    optimizer = SGD(LR, loss_scale_factor=8.0)
    assert float(optimizer.scale_loss(2.0)) == 16.0
    scaled = [[8 * g for g in grads] for grads in GRADIENTS]
    assert_close(run(lambda: optimizer, WEIGHTS, scaled)[0], by_hand(lambda i, w, g, t: w - LR * g))


@pytest.mark.usefixtures("run_op_by_op")
def test_accumulation_holds_weights_and_everything_else_between_updates():
    variables = variables_of(WEIGHTS)
    optimizer = Adam(LR, gradient_accumulation_steps=3, weight_decay=0.1, use_ema=True)
    step = stepper(optimizer, variables)
    step(GRADIENTS[0])
    step(GRADIENTS[1])
    assert_close(values_of(variables), WEIGHTS, rtol=0, atol=0)
    assert int(optimizer.iterations) == 0
    step(GRADIENTS[2])
    assert int(optimizer.iterations) == 1
    assert all(np.all(ops.convert_to_numpy(a) == 0) for a in optimizer._accumulated_gradients)
    assert np.abs(values_of(variables)[0] - WEIGHTS[0]).max() > 0


# ---------------------------------------------------------------- learning rate


def test_setting_the_rate_scales_a_schedule_from_here_on():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.8, 4, 0.0)
    optimizer = SGD(schedule)
    variables = variables_of([np.zeros(1, "float32")])
    rates = []
    for t in range(4):
        if t == 1:
            optimizer.learning_rate = 0.3  # half of the schedule's 0.6
        before = values_of(variables)[0]
        optimizer.apply([ops.ones(1)], variables)
        rates.append(float((before - values_of(variables)[0])[0]))
    np.testing.assert_allclose(rates, [0.8, 0.3, 0.2, 0.1], rtol=1e-6)
    with pytest.raises(ValueError, match="no scaling of it gives"):
        optimizer.learning_rate = 0.1


def test_rate_and_scale_share_a_place_in_the_checkpoint():
    number, schedule = SGD(0.1), SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9))
    assert [len(o.variables) for o in (number, schedule)] == [2, 2]
    number.learning_rate = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    assert len(number.variables) == 2
    assert float(ops.convert_to_numpy(number.learning_rate)) == 0.5
    number.learning_rate = 2
    assert float(ops.convert_to_numpy(number.learning_rate)) == 2.0


@pytest.mark.parametrize(
    "schedule", [lambda: 0.25, keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])]
)
def test_callable_and_schedule_rates_reach_every_mode(schedule):
    for mode in MODES:
        actual, _ = run(lambda: SGD(schedule), WEIGHTS, GRADIENTS[:3], mode)
        rates = [0.25, 0.25, 0.25] if not hasattr(schedule, "boundaries") else [0.5, 0.5, 0.25]
        assert_close(actual, by_hand(lambda i, w, g, t, r=rates: w - r[t - 1] * g, steps=3))


# ---------------------------------------------------------------- rules with state of their own kinds


def schedule_free_sgd(g, w, state, *, lr, t, shared, wd, beta_1):
    """Defazio et al. 2024: the weights are y; z is the raw iterate, x the average, which is not stored."""
    y, z = w, state["z"]
    x = (y - (1 - beta_1) * z) / beta_1
    z = z - lr * (g + wd * y)
    c = shared["c"]
    x = (1 - c) * x + c * z
    return Step((1 - beta_1) * z + beta_1 * x - y, {"z": z})


class ScheduleFree(RuleOptimizer):
    slots = {"z": WEIGHT}
    shared_slots = {"sum": 0.0, "c": 0.0}
    share = staticmethod(
        lambda old, sums, *, lr, t, beta_1: {"sum": old["sum"] + lr**2, "c": lr**2 / (old["sum"] + lr**2)}
    )
    rule = staticmethod(schedule_free_sgd)
    bounds = {"beta_1": kor.bounds.FRACTION}
    owns_iterate = True

    def __init__(self, learning_rate=0.1, beta_1=0.9, **options):
        super().__init__(learning_rate, own={"beta_1": beta_1}, **options)


def schedule_free_reference(gradients, lr, beta, wd):
    out = []
    for i in range(2):
        z, x, total, y = WEIGHTS[i].astype("float64"), None, 0.0, None
        for grads in gradients:
            total += lr**2
            if grads[i] is None:
                continue
            x = z.copy() if x is None else x
            y = (1 - beta) * z + beta * x
            z = z - lr * (grads[i] + wd * y)
            x = (1 - lr**2 / total) * x + lr**2 / total * z
        out.append(WEIGHTS[i] if x is None else (1 - beta) * z + beta * x)
    return out


@pytest.mark.parametrize("mode", MODES)
def test_a_slot_that_starts_as_the_weight_and_a_rule_that_owns_its_iterate(mode):
    actual, _ = run(lambda: ScheduleFree(LR, weight_decay=0.2), WEIGHTS, GRADIENTS, mode)
    assert_close(actual, schedule_free_reference(GRADIENTS, LR, 0.9, 0.2))


@pytest.mark.usefixtures("run_op_by_op")
def test_such_a_slot_starts_at_the_first_gradient_of_its_weight():
    gradients = [[GRADIENTS[0][0], None], [GRADIENTS[1][0], None], *GRADIENTS[2:]]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        actual, _ = run(lambda: ScheduleFree(LR), WEIGHTS, gradients)
    assert_close(actual, schedule_free_reference(gradients, LR, 0.9, 0.0))


def test_what_a_rule_that_owns_its_iterate_refuses():
    with pytest.raises(ValueError, match=r"ScheduleFree cannot apply L1\(0.1\).*rebuilds the weights"):
        ScheduleFree(penalties=L1(0.1))
    with pytest.raises(ValueError, match="cannot keep the constraints of w0_kernel"):
        ScheduleFree().build(variables_of(WEIGHTS, constraint=keras.constraints.NonNeg()))


class Normalised(RuleOptimizer):
    """Divides by the norm of all gradients together: needs a sum over all weights."""

    slots = {"previous": ZEROS}
    shared_slots = {"norm": 0.0}
    measure = staticmethod(lambda g, w, state, shared, *, lr, t: {"squares": ops.sum(ops.square(g))})
    share = staticmethod(lambda old, sums, *, lr, t: {"norm": ops.sqrt(sums["squares"])})
    rule = staticmethod(
        lambda g, w, state, *, lr, t, shared: Step(-lr * state["previous"] / shared["norm"], {"previous": g})
    )

    def __init__(self, learning_rate=0.1, **options):
        super().__init__(learning_rate, own={}, **options)


@pytest.mark.parametrize("mode", MODES)
def test_scalars_measured_over_all_weights(mode):
    actual, _ = run(lambda: Normalised(LR), WEIGHTS, GRADIENTS, mode)
    norms = [np.sqrt(sum(np.sum(np.square(g.astype("float64"))) for g in grads)) for grads in GRADIENTS]
    expected = by_hand(lambda i, w, g, t: w - LR * (GRADIENTS[t - 2][i] if t > 1 else 0.0) / norms[t - 1])
    assert_close(actual, expected)


def swap(g, w, state, *, lr, t):
    return Step(state["a"], {"a": state["b"] + 1.0, "b": w})


class Swap(RuleOptimizer):
    """Hands live values around: any aliasing of variables shows."""

    slots = {"a": ZEROS, "b": WEIGHT}
    rule = staticmethod(swap)

    def __init__(self, **options):
        super().__init__(0.0, own={}, **options)


@pytest.mark.parametrize("mode", MODES)
def test_values_do_not_alias_variables(mode):
    actual, _ = run(Swap, WEIGHTS, GRADIENTS[:4], mode)

    def reference(w):
        a, b = 0.0, w
        for _ in range(4):
            a, b, w = b + 1, w, w + a
        return w

    assert_close(actual, [reference(w.astype("float64")) for w in WEIGHTS])


# ---------------------------------------------------------------- names that change


@pytest.mark.usefixtures("run_op_by_op")
def test_selectors_hold_after_reload_although_paths_change(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((3, 2)),
            keras.Sequential([layers.Bidirectional(layers.LSTM(2), name="rnn")], name="body"),
            layers.Dense(1),
        ]
    )
    penalties = [(select.matching("sequential/body/") & select.kernels(), L1(0.01))]
    model.compile(
        AdamW(0.01, weight_decay=0.1, weight_decay_on=select.matching("sequential/body/.*kernel"), penalties=penalties),
        "mse",
    )
    x, y = np.ones((4, 3, 2), "float32"), np.zeros((4, 1), "float32")
    model.fit(x, y, verbose=0)
    before = [v.path for v in model.trainable_variables]
    plan = model.optimizer.state.plan
    assert [bool(p) for p in plan.proximal] == plan.decays == ["kernel" in path and "body" in path for path in before]
    model.save(tmp_path / "m.keras")
    keras.utils.clear_session()
    keras.layers.Dense(1)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    loaded.save(tmp_path / "again.keras")  # Keras numbers shared objects in a file that is saved while being loaded
    loaded = keras.saving.load_model(tmp_path / "again.keras")
    assert loaded.optimizer.state.plan.decays == plan.decays
    for m in (model, loaded):
        m.fit(x, y, epochs=2, shuffle=False, verbose=0)
    assert_close([v for v in loaded.get_weights()], model.get_weights(), rtol=1e-6, atol=1e-7)
    other = type(model.optimizer).from_config(model.optimizer.get_config())
    with pytest.raises(ValueError, match="matches none of the weights"):  # other shapes: the selectors speak again
        other.build(variables_of(WEIGHTS))


def test_saved_positions_are_not_taken_for_other_weights_of_the_same_shapes():
    first, second, third = (
        keras.Variable(np.ones((2, 2), "float32"), name=f"{name}_kernel") for name in ("first", "second", "third")
    )
    optimizer = SGD(0.1, penalties=[(select.matching("second"), L1(0.1))])
    optimizer.build([first, second])
    again = SGD.from_config(optimizer.get_config())
    again.build([second, third])
    assert [bool(p) for p in again.state.plan.proximal] == [True, False]


def test_what_the_constructor_refuses():
    with pytest.raises(TypeError, match=r"Write select.matching\('kernel'\)"):
        SGD(weight_decay=0.1, weight_decay_on="kernel")
    with pytest.raises(ValueError, match="nothing would decay"):
        SGD(weight_decay_on=select.kernels())
    with pytest.raises(ValueError, match=r"`factor` of learning_rate_multipliers must be a number in \[0, inf\)"):
        SGD(learning_rate_multipliers=[(select.kernels(), -1)])
    with pytest.raises(ValueError, match="A regularizer belongs to a layer"):
        SGD(kernel_regularizer=L2(0.1))
    with pytest.raises(ValueError, match="`nesterov` of SGD must be True or False"):
        SGD(nesterov=1)
    with pytest.raises(ValueError, match="weight_decay"):
        AdamW(weight_decay=None)
    for name in ("clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"):
        with pytest.raises(ValueError, match=f"`{name}` of SGD"):
            SGD(**{name: -1.0})
    with pytest.raises(ValueError, match="one gradient a variable"):
        SGD().apply([ops.ones((3, 4))], variables_of(WEIGHTS))
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        SGD().apply([None, None], variables_of(WEIGHTS))
    with pytest.raises(ValueError, match="before the optimizer was built"):
        SGD().apply([ops.ones(2)])
