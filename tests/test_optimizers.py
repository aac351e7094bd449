"""Every optimizer row, against its reference, its peers and the properties all optimizers have."""

import json
import re
from functools import partial

import keras
import numpy as np
import pytest
from cases.optimizers import CASES
from keras import ops
from stepping import BACKEND, MODES, minimise, run, run_reference, stepper, values_of, variables_of

from keras_optreg import optimizers
from keras_optreg.optimizers import GRADIENT, WEIGHT, RuleOptimizer, Scalar
from keras_optreg.optimizers.averaged import Averaged
from keras_optreg.regularizers import L1

LR = 0.05
CLASSES = {case.name: type(case.make(LR)) for case in CASES}
CASE = {case.name: case for case in CASES}
every_case = pytest.mark.parametrize("case", CASES, ids=str)
# A compilation takes longer than all that these tests ask of a step; that both are the same is the first test's.
op_by_op = pytest.mark.usefixtures("run_op_by_op")


def assert_close(actual, expected, rtol=2e-5, atol=2e-6):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)


@op_by_op
@every_case
def test_agrees_with_the_paper(case):
    expected = run_reference(case.reference, case.weights, case.gradients, LR)
    actual, _ = run(partial(case.make, LR), case.weights, case.gradients)
    assert_close(actual, expected)


@pytest.mark.skipif(len(MODES) == 1, reason="torch compiles nothing here")
@every_case
def test_compiled_it_agrees_too_and_the_rule_is_traced_once(case, monkeypatch):
    """As in `fit`; the engine's own tests go through the other modes."""
    calls = []
    cls, rule = type(case.make(LR)), type(case.make(LR)).rule
    monkeypatch.setattr(cls, "rule", staticmethod(lambda *a, **k: (calls.append(1), rule(*a, **k))[1]))
    variables = variables_of(case.weights)
    step = stepper(case.make(LR), variables, MODES[1])
    step(case.gradients[0])
    traced = len(calls)
    assert traced >= len(case.weights)
    for grads in case.gradients[1:]:
        step(grads)
    assert len(calls) == traced
    assert_close(values_of(variables), run_reference(case.reference, case.weights, case.gradients, LR))


@op_by_op
@pytest.mark.parametrize("case", [c for c in CASES if c.keras_peer], ids=str)
def test_agrees_with_keras(case):
    ours, _ = run(partial(case.make, 0.01), case.weights, case.gradients)
    theirs, _ = run(partial(case.keras_peer, 0.01), case.weights, case.gradients)
    assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="torch is installed beside the torch backend only")
@pytest.mark.parametrize("case", [c for c in CASES if c.torch_peer], ids=str)
def test_agrees_with_torch(case):
    import torch

    name, arguments = case.torch_peer
    theirs = [torch.nn.Parameter(torch.tensor(w)) for w in case.weights]
    peer = getattr(torch.optim, name)(theirs, lr=LR, **arguments)
    for grads in case.gradients:
        for parameter, g in zip(theirs, grads, strict=True):
            parameter.grad = torch.tensor(g)
        peer.step()
    tiny = {"epsilon": 1e-12} if "eps" in arguments else {}  # the conventions differ only in where ε stands
    ours, _ = run(partial(case.make, LR, **tiny), case.weights, case.gradients)
    assert_close(ours, [p.detach().numpy() for p in theirs])


@every_case
def test_config_survives_json(case):
    averaging = {} if issubclass(CLASSES[case.name], Averaged) else {"use_ema": True, "ema_momentum": 0.5}
    optimizer = case.make(LR, clipnorm=1.5, **averaging)
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    restored = keras.optimizers.deserialize(config)
    assert type(restored) is type(optimizer)
    assert restored.get_config() == optimizer.get_config()
    assert restored.get_config() == case.make(LR, clipnorm=1.5, **averaging, name=optimizer.name).get_config()


@op_by_op
@pytest.mark.filterwarnings("ignore:.*what is being saved holds the weights at which")
@every_case
def test_saved_and_continued_equals_never_stopped(case):
    unbroken, _ = run(partial(case.make, LR), case.weights, case.gradients[:8])
    half, first = run(partial(case.make, LR), case.weights, case.gradients[:4])
    store = {}
    first.save_own_variables(store)
    second = type(first).from_config(first.get_config())
    variables = variables_of(half)
    second.build(variables)
    second.load_own_variables(store)
    for grads in case.gradients[4:8]:
        second.apply([ops.convert_to_tensor(g) for g in grads], variables)
    assert_close(values_of(variables), unbroken, rtol=0, atol=0)


@op_by_op
@every_case
def test_a_weight_without_gradient_is_left_alone(case):
    gradients = [
        [case.gradients[0][0], None],
        [case.gradients[1][0], None],
        case.gradients[2],
        [case.gradients[3][0], None],
        case.gradients[4],
    ]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        first, _ = run(partial(case.make, LR), case.weights, gradients[:2])
    np.testing.assert_array_equal(first[1], case.weights[1])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        actual, _ = run(partial(case.make, LR), case.weights, gradients)
    assert_close(actual, run_reference(case.reference, case.weights, gradients, LR))


@op_by_op
@every_case
def test_accumulation_of_k_equals_a_batch_of_k(case):
    k = 4
    whole = [[np.mean([case.gradients[b * k + i][j] for i in range(k)], axis=0) for j in range(2)] for b in range(3)]
    expected = run_reference(case.reference, case.weights, whole, LR)
    make = partial(case.make, LR, gradient_accumulation_steps=k)
    actual, optimizer = run(make, case.weights, case.gradients[: 3 * k])
    assert_close(actual, expected)
    assert int(optimizer.iterations) == 3


@op_by_op
@every_case
def test_schedule_ticks_on_real_updates(case):
    schedule = keras.optimizers.schedules.InverseTimeDecay(LR, 1, 0.5)
    expected = run_reference(case.reference, case.weights, case.gradients[:4], lambda step: LR / (1 + 0.5 * step))
    actual, _ = run(partial(case.make, schedule), case.weights, case.gradients[:4])
    assert_close(actual, expected)
    twice = [g for g in case.gradients[:4] for _ in range(2)]
    actual, _ = run(partial(case.make, schedule, gradient_accumulation_steps=2), case.weights, twice)
    assert_close(actual, expected)


@op_by_op
@every_case
def test_bfloat16_weights_have_float32_slots(case):
    def rounded(w):
        return ops.convert_to_numpy(ops.cast(ops.cast(w, "bfloat16"), "float32"))

    def kept(w):
        return rounded(w.astype("float32")).astype("float64")

    gradients = [[rounded(g) for g in grads] for grads in case.gradients[:10]]
    expected = run_reference(case.reference, [rounded(w) for w in case.weights], gradients, LR, kept)
    actual, optimizer = run(partial(case.make, LR), case.weights, gradients, dtype="bfloat16")
    # One rounding of w differs where the float32 value lies on the edge between two bfloat16 numbers.
    assert_close(actual, expected, rtol=2**-7, atol=2**-9)
    assert {v.dtype for v in optimizer.variables[2:]} <= {"float32"}


@op_by_op
@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has IndexedSlices")
@every_case
def test_sparse_gradients_equal_dense_ones(case):
    import tensorflow as tf

    rows, values = [2, 0, 2], np.arange(12, dtype="float32").reshape(3, 4) / 7
    dense = np.zeros((3, 4), "float32")
    np.add.at(dense, rows, values)
    sparse = tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([3, 4]))
    expected, _ = run(partial(case.make, LR, clipnorm=1.0), case.weights[:1], [[dense]] * 3)
    variables = variables_of(case.weights[:1])
    optimizer = case.make(LR, clipnorm=1.0)
    for _ in range(3):
        optimizer.apply([sparse], variables)
    assert_close(values_of(variables), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("case", "bound"), [(c, b) for c in CASES for b in c.bad], ids=str)
def test_each_number_is_refused_outside_its_range_and_taken_inside(case, bound):
    name, outside, inside = bound
    with pytest.raises(ValueError, match=rf"The `{name}` of \w+ must be an? (number|integer) in .* Received: {name}="):
        case.make(LR, **{name: outside})
    with pytest.raises(ValueError, match=f"`{name}`"):
        case.make(LR, **{name: float("nan")})
    assert getattr(case.make(LR, **{name: inside}), name) == inside


def test_counts_are_integers_and_decay_is_no_penalty():
    for make in (
        lambda: optimizers.Muon(newton_schulz_steps=2.5),
        lambda: optimizers.SOAP(precondition_every=2.5),
        lambda: optimizers.ScheduleFreeAdamW(warmup_steps=2.5),
    ):
        with pytest.raises(ValueError, match="must be an integer in"):
            make()
    with pytest.raises(ValueError, match="`weight_decay` of SGD is a number.*A penalty goes into `penalties=`"):
        optimizers.SGD(0.1, weight_decay=L1(0.1))
    with pytest.raises(ValueError, match="Did you mean `learning_rate`"):
        optimizers.Adam(lr=0.1)


@every_case
def test_every_number_has_a_range_that_is_tested(case):
    kind = CLASSES[case.name]
    tested = {name for c in CASES if CLASSES[c.name] is kind for name, _, _ in c.bad}
    assert set(kind.bounds) == tested


@every_case
def test_misspelt_argument_is_refused(case):
    with pytest.raises(
        ValueError, match=r"not recognized: \w+ has no argument `weight_decya`. Did you mean `weight_decay`"
    ):
        case.make(LR, weight_decya=0.1)


@op_by_op
@every_case
def test_learning_rate_zero_and_integers_are_legal(case):
    still, _ = run(partial(case.make, 0), case.weights, case.gradients[:2])
    assert_close(still, case.weights, rtol=0, atol=0)
    assert float(ops.convert_to_numpy(case.make(1).learning_rate)) == 1.0
    with pytest.raises(ValueError, match="learning_rate"):
        case.make(-0.1)


@pytest.mark.parametrize("case", [c for c in CASES if c.make(LR).has_metric], ids=str)
def test_the_metric_is_the_step_of_a_constant_gradient(case):
    """With the same gradient for ever, delta = -metric · gradient, of size `reach` if there is one of these."""
    seen = []
    optimizer = case.make(LR, weight_decay=0.0)
    cls, rule = type(optimizer), type(optimizer).rule
    optimizer.build(variables_of([np.zeros((3, 1), "float32")]))
    own = optimizer.own_arguments()
    g, shared = ops.convert_to_tensor(np.array([0.5, -2.0, 1.0], "float32")), dict(optimizer.shared_slots)

    def first(start):
        if isinstance(start, Scalar):
            return ops.zeros(()) + start.start
        return g if start == GRADIENT else ops.zeros(3) + (0.0 if start == WEIGHT else start)

    state = {name: first(start) for name, start in optimizer.slots.items()}
    for t in range(1, 150):
        t = ops.convert_to_tensor(float(t))
        extra = {"wd": 0.0} if cls.takes_decay else {}
        if shared:
            sums = cls.measure(g, ops.zeros(3), state, shared, lr=LR, t=t, **own) if cls.measure else {}
            shared = cls.share(shared, sums, lr=LR, t=t, **own)
            extra["shared"] = shared
        step = rule(g, ops.zeros(3), state, lr=LR, t=t, **extra, **own)
        state = step.state
        seen.append(step)
    np.testing.assert_allclose(
        ops.convert_to_numpy(step.delta), ops.convert_to_numpy(-step.metric * g), rtol=2e-3, atol=1e-7
    )


@pytest.mark.parametrize("mode", sorted({MODES[0], MODES[-1]}))
def test_the_distance_of_prodigy_grows_as_in_the_paper(mode):
    """On a quadratic, where it does; the gradients of the shared rows say nothing about a distance."""
    start = [np.array([[1.0, -2.0]], "float32"), np.array([3.0], "float32")]
    variables, expected, state = variables_of(start), [np.asarray(w, "float64") for w in start], {}
    optimizer = optimizers.Prodigy(initial_distance=0.01)
    step = stepper(optimizer, variables, mode)
    for t in range(1, 9):
        step([2 * w for w in values_of(variables)])
        expected = CASE["Prodigy"].reference.step([2 * w for w in expected], expected, state, t, 1.0, d0=0.01)
        assert_close(values_of(variables), expected, rtol=1e-4, atol=1e-5)
    assert state["d"] > 0.5


@op_by_op
def test_centered_rmsprop_stays_finite_where_gradients_hardly_change():
    """Rounding takes v − m² below −ε there."""
    noise = np.random.default_rng(0).normal(size=(30, 200)) * 1e-3
    for size in (1.0, 100.0):
        gradients = [[(size * (1 + n)).astype("float32")] for n in noise]
        found, _ = run(lambda: optimizers.RMSprop(1e-3, centered=True), [np.ones(200, "float32")], gradients * 7)
        assert np.isfinite(found[0]).all()


@pytest.fixture(scope="module")
def lasso_problem():
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Lasso

    x, y = load_diabetes(return_X_y=True)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    strength = 0.05
    solution = Lasso(alpha=strength, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(x, y).coef_
    assert 0 < np.count_nonzero(solution) < x.shape[1]
    return x.T @ x / len(y), x.T @ y / len(y), strength, solution


@pytest.mark.parametrize("case", [c for c in CASES if c.make(LR).has_metric], ids=str)
def test_proximal_l1_ends_at_the_lasso_solution_with_its_zeros(case, lasso_problem):
    gram, xy, strength, solution = lasso_problem
    rate, steps = case.lasso
    variables = variables_of([np.zeros((len(xy), 1), "float32")])
    gram, xy = ops.convert_to_tensor(gram, "float32"), ops.convert_to_tensor(xy[:, None], "float32")
    optimizer = case.make(rate, penalties=L1(strength), weight_decay=0.0)
    minimise(optimizer, variables, lambda w: [ops.matmul(gram, w) - xy], steps)
    found = values_of(variables)[0][:, 0]
    np.testing.assert_array_equal(found == 0, solution == 0)
    np.testing.assert_allclose(found, solution, atol=2e-4)


def test_signatures_take_every_argument_of_keras():
    import inspect

    differing = {}
    for name in optimizers.__all__:
        theirs = getattr(keras.optimizers, name, None)
        if theirs is None or name == "Muon":  # Keras's brings an Adam for other weights; here Partition gives them one
            continue
        ours = inspect.signature(getattr(optimizers, name)).parameters
        for argument, parameter in inspect.signature(theirs.__init__).parameters.items():
            if argument in ("self", "kwargs"):
                continue
            assert argument in ours, f"{name} lacks {argument}"
            if ours[argument].default != parameter.default:
                differing[f"{name}.{argument}"] = (ours[argument].default, parameter.default)
    assert differing == {}, "a default that differs from Keras's belongs in the docs"


def test_positional_arguments_are_those_of_keras_in_its_order():
    """`SGD(0.1, 0.9, False, 0.01)` must never mean something else here: it is an error at worst."""
    import inspect

    for name in optimizers.__all__:
        theirs = getattr(keras.optimizers, name, None)
        if theirs is None:
            continue
        order = list(inspect.signature(theirs).parameters)
        ours = inspect.signature(getattr(optimizers, name)).parameters.values()
        positional = [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert positional == order[: len(positional)], name


def test_every_optimizer_has_a_row():
    classes = {getattr(optimizers, name) for name in optimizers.__all__}
    public = {c for c in classes if isinstance(c, type) and issubclass(c, RuleOptimizer) and c is not RuleOptimizer}
    assert public == {type(c.make(LR)) for c in CASES}


def test_every_optimizer_is_one_screen_and_its_rule_less():
    """A longer file means that the machine underneath lacks something."""
    import inspect
    from pathlib import Path

    for kind in {type(case.make(LR)) for case in CASES} | {optimizers.Lookahead, optimizers.Partition}:
        lines = Path(inspect.getfile(kind)).read_text(encoding="utf-8").splitlines()
        assert len(lines) < 120, kind
        if issubclass(kind, RuleOptimizer):
            rule = getattr(kind.rule, "func", kind.rule)
            assert len(inspect.getsource(rule).splitlines()) < 25, kind


def test_a_wrong_kind_of_learning_rate_says_what_is_wanted():
    with pytest.raises(
        ValueError, match=re.escape("The `learning_rate` of Adam should be a number, a schedule or a callable")
    ):
        optimizers.Adam("fast")
