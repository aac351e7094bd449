"""What the methods do: the examples of their papers, two problems that all of them solve, and what equals what."""

from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import pytest
from cases.convergence import ROWS
from keras import ops
from stepping import BACKEND, MODES, minimise, problem, run, values_of, variables_of

from keras_optreg import optimizers
from keras_optreg.optimizers import (
    ADOPT,
    LAMB,
    LARS,
    MADGRAD,
    MARS,
    SGD,
    SOAP,
    AdaBelief,
    Adagrad,
    Adam,
    Adamax,
    Adan,
    AdEMAMix,
    AMSGrad,
    Lion,
    Lookahead,
    Muon,
    Nadam,
    NovoGrad,
    Prodigy,
    ProximalAdagrad,
    ProximalSGD,
    RMSprop,
    RuleOptimizer,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Yogi,
)
from keras_optreg.regularizers import L1

op_by_op = pytest.mark.usefixtures("run_op_by_op")


class AtStep(keras.optimizers.schedules.LearningRateSchedule):
    """A rate by a formula of t = 1, 2, …"""

    def __init__(self, formula):
        self.formula = formula

    def __call__(self, step):
        return self.formula(ops.cast(step, "float32") + 1)


class Interval(keras.constraints.Constraint):
    """The papers' set [−1, 1], onto which every step is projected."""

    def __call__(self, w):
        return ops.clip(w, -1, 1)


def linear(optimizer, slopes, start, times=1):
    """Where x ∈ [−1, 1]ⁿ is on f_t(x) = ⟨slopes[t], x⟩ each time it has been through the slopes."""
    slopes, ends = np.asarray(slopes, "float32"), []
    variables = variables_of([np.full(slopes.shape[1], start, "float32")], constraint=Interval())
    table = ops.convert_to_tensor(slopes)
    for _ in range(times):
        minimise(optimizer, variables, lambda t, x: [ops.take(table, t, axis=0)], len(slopes), counted=True)
        ends.append(values_of(variables)[0])
    return ends


# ---------------------------------------------------------------- counter-examples to Adam

THREE = {
    "RMSprop": (RMSprop, {"rho": 0.1}, 1),
    "Adam": (Adam, {"beta_1": 0.0, "beta_2": 0.1}, 1),
    "AMSGrad": (AMSGrad, {"beta_1": 0.0, "beta_2": 0.1}, -1),
    "Yogi": (Yogi, {"beta_1": 0.0, "beta_2": 0.1}, -1),
    "ADOPT": (ADOPT, {"beta_1": 0.0, "beta_2": 0.1}, -1),
}


@pytest.mark.parametrize("name", THREE)
def test_one_large_gradient_in_three(name):
    """Theorem 1 of Reddi, Kale & Kumar 2018: f_t(x) = C·x if t mod 3 = 1, else −x, on [−1, 1] from x₁ = 1.

    The best point is −1. The paper proves for C > 2, β₁ = 0, β₂ = 1/(1 + C²), α_t = α/√t and α < √(1 − β₂) that Adam is
    at 1 again after every third step. Here C = 3 and α = 0.5. RMSprop is that Adam without its correction of the bias,
    as the proof has it. That AMSGrad goes to −1 is the paper's; that Yogi and ADOPT do is our check.
    """
    make, own, expected = THREE[name]
    rate = AtStep(lambda t: 0.5 / ops.sqrt(t))
    [[x]] = linear(make(rate, **own), [[3.0], [-1.0], [-1.0]] * 500, 1.0)
    assert x == pytest.approx(expected, abs=0 if expected == 1 else 0.05)


def test_one_large_gradient_in_a_hundred_and_one():
    """The online example of section 5 of Reddi, Kale & Kumar 2018: 1010·x if t mod 101 = 1, else −10·x, on [−1, 1].

    β₁ = 0.9, β₂ = 0.99 as there. The paper shows millions of steps; here 40 rounds from 0 with α_t = 1/√t, in
    which Adam climbs to the worst point, 1, and AMSGrad sinks towards the best, −1. The stochastic variant
    needs the millions.
    """
    slopes, rate = ([[1010.0]] + [[-10.0]] * 100) * 20, AtStep(lambda t: 1 / ops.sqrt(t))
    [half], [end] = linear(Adam(rate, 0.9, 0.99), slopes, 0.0, times=2)
    assert half < end
    assert end == 1
    [half], [end] = linear(AMSGrad(rate, 0.9, 0.99), slopes, 0.0, times=2)
    assert end < half - 0.02
    assert end < -0.6


@pytest.mark.parametrize("beta_2", [0.1, 0.999])
def test_adopt_converges_with_any_beta_2(beta_2):
    """The toy problem of section 5 of Taniguchi et al. 2024: k²·θ with probability 1/k, else −k·θ, on [−1, 1].

    The mean is θ, the best point −1. k = 4, β₁ = 0, the rate 0.1/√(1 + 0.01·t) and the mean over 64 runs are ours. A
    larger k is not for a test: with a small β₂ the clip at t^¼, which the authors added, bends the mean until t is k⁴.
    """
    rng = np.random.default_rng(0)
    slopes = np.where(rng.random((2000, 64)) < 1 / 4, 16.0, -4.0)
    rate = AtStep(lambda t: 0.1 / ops.sqrt(1 + 0.01 * t))
    ends = {
        make: np.mean(linear(make(rate, beta_1=0.0, beta_2=beta_2), slopes, 0.0)) for make in (Adam, AMSGrad, ADOPT)
    }
    assert ends[ADOPT] < -0.75
    assert ends[AMSGrad] < -0.75
    assert ends[Adam] < -0.75 if beta_2 == 0.999 else ends[Adam] > 0.75


# ---------------------------------------------------------------- Yogi


@op_by_op
def test_the_mean_square_of_yogi_moves_by_the_gradient_alone():
    """Section 3 of Zaheer et al. 2018: v_t − v_{t−1} has the size (1 − β₂)·g², Adam's (1 − β₂)·|g² − v_{t−1}|."""
    gradients = problem()[1]
    for make, change in ((Yogi, lambda g, v: g**2), (Adam, lambda g, v: np.abs(g**2 - v))):
        optimizer, [w] = make(beta_2=0.9), variables_of(problem()[0][:1])
        optimizer.build([w])
        [slot] = optimizer.state.slots["v"]
        for g, _ in gradients:
            before = ops.convert_to_numpy(slot).astype("float64")
            optimizer.apply([ops.convert_to_tensor(g)], [w])
            moved = np.abs(ops.convert_to_numpy(slot) - before)
            np.testing.assert_allclose(moved, 0.1 * change(g.astype("float64"), before), rtol=1e-4, atol=1e-5)


def test_the_rate_of_yogi_does_not_jump_when_gradients_become_small():
    """Section 3 of Zaheer et al. 2018: where v ≫ g², Adam raises its rate rapidly and Yogi in a controlled way.

    The numbers are ours: 60 gradients of 10 and then 41 of 0.1, with β₁ = 0 and β₂ = 0.9. Adam forgets a factor of β₂ a
    step; Yogi's v goes down from 100 by 0.1·0.1² a step.
    """

    def growth(optimizer):
        variables = variables_of([np.zeros(1, "float32")])
        minimise(optimizer, variables, lambda w: [10 + 0 * w], 60)
        steps = []
        for count in (1, 39, 1):
            before = values_of(variables)[0]
            minimise(optimizer, variables, lambda w: [0.1 + 0 * w], count)
            steps.append(before - values_of(variables)[0])
        return (steps[-1] / steps[0]).item()

    v = 100 * (1 - 0.9**60) * 0.9 ** np.array([1, 41]) + 0.01 * (1 - 0.9 ** np.array([1, 41]))
    assert growth(Adam(1.0, 0.0, 0.9)) == pytest.approx(np.sqrt(v[0] / v[1]), rel=1e-2)
    assert growth(Yogi(1.0, 0.0, 0.9)) == pytest.approx(1, abs=1e-2)


# ---------------------------------------------------------------- AdaBelief


def test_adabelief_takes_long_steps_where_gradients_agree():
    """Figure 2 of Zhuang et al. 2020: g_x = 1 always, g_y = ±1 in turn; Adam has the same denominator for both.

    AdaBelief's is small along x, where the gradient is as predicted, and as large as Adam's along y. Along x, m̂ = 1 and
    g − m = β₁ᵗ, so its step is known. Rate and number of steps are ours.
    """
    rate, steps = 1e-3, 200
    distance, slots = {}, {}
    for make, name in ((Adam, "v"), (AdaBelief, "s")):
        optimizer, variables = make(rate), variables_of([np.zeros(2, "float32")])
        signs = ops.convert_to_tensor([[1.0, 1.0], [1.0, -1.0]])
        gradients = lambda t, w, signs=signs: [ops.take(signs, ops.mod(t, 2), axis=0)]  # noqa: E731
        minimise(optimizer, variables, gradients, steps, counted=True)
        distance[make], slots[make] = np.abs(values_of(variables)[0]), values_of(optimizer.state.slots[name])[0]
    t = np.arange(1, steps + 1)
    s = [np.sum(0.001 * 0.999 ** (n - t[:n]) * 0.81 ** t[:n]) / (1 - 0.999**n) for n in t]
    np.testing.assert_allclose(distance[Adam][0], rate * steps, rtol=1e-3)
    np.testing.assert_allclose(distance[AdaBelief][0], rate * np.sum(1 / np.sqrt(s)), rtol=2e-3)
    assert distance[AdaBelief][0] > 4 * distance[Adam][0]
    np.testing.assert_allclose(slots[Adam][0], slots[Adam][1], rtol=1e-5)
    assert slots[AdaBelief][1] > 20 * slots[AdaBelief][0]
    assert slots[AdaBelief][1] > 0.8 * slots[Adam][1]


def test_adabelief_is_there_before_adam():
    """Two functions of figure 3 of Zhuang et al. 2020: |x| + |y|, and (x + y)² + (x − y)²/10.

    The paper's claim is that AdaBelief reaches the solution first. Starts, rate and 500 steps are ours, the same for
    both.
    """

    def gradients(p, q):
        q_sum, q_difference = q[0] + q[1], q[0] - q[1]
        return [ops.sign(p), ops.stack([2 * q_sum + 0.2 * q_difference, 2 * q_sum - 0.2 * q_difference])]

    left = {}
    for make in (Adam, AdaBelief):
        variables = variables_of([np.array([1.0, 5e-4], "float32"), np.array([1.0, -0.5], "float32")])
        minimise(make(1e-3), variables, gradients, 500)
        p, (x, y) = values_of(variables)
        left[make] = np.array([np.abs(p).sum(), (x + y) ** 2 + (x - y) ** 2 / 10])
    np.testing.assert_array_less(0.1, left[Adam])
    np.testing.assert_array_less(left[AdaBelief] * 8, left[Adam])


# ---------------------------------------------------------------- two problems for all

_RNG = np.random.default_rng(0)
_AXES = np.linalg.qr(_RNG.normal(size=(4, 4)))[0]
HESSIAN = (_AXES * [10.0, 30.0, 100.0, 300.0]) @ _AXES.T
SOLUTION = _RNG.normal(size=(4, 3))
STARTS = [(SOLUTION + _RNG.normal(size=(4, 3))).astype("float32"), np.array([[-1.2, 1.0]], "float32")]


def losses(w, r):
    """½⟨w − w*, H(w − w*)⟩ with a condition of 30 on axes that no weight lies on; Rosenbrock's banana."""
    error, (x, y) = w.astype("float64") - SOLUTION, r[0].astype("float64")
    return np.array([np.sum(error * (HESSIAN @ error)) / 2, (1 - x) ** 2 + 100 * (y - x**2) ** 2])


def gradients_of_losses(w, r):
    hessian, solution = ops.convert_to_tensor(HESSIAN, "float32"), ops.convert_to_tensor(SOLUTION, "float32")
    x, y = r[:, :1], r[:, 1:]
    bend = y - x * x
    return [ops.matmul(hessian, w - solution), ops.concatenate([2 * (x - 1) - 400 * x * bend, 200 * bend], axis=1)]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="thousands of steps; other backends are compared step by step")
@pytest.mark.parametrize("name", ROWS)
def test_solves_a_quadratic_and_rosenbrock(name):
    """One run for both, the second from its usual start (−1.2, 1), as a matrix of one row for methods of matrices."""
    row, variables = ROWS[name], variables_of(STARTS)
    optimizer = row.make()
    minimise(optimizer, variables, gradients_of_losses, row.steps)
    if hasattr(optimizer, "to_average"):
        optimizer.to_average()
    np.testing.assert_array_less(losses(*values_of(variables)) / losses(*STARTS), [1e-6, 1e-3])


def test_every_optimizer_has_its_rates():
    public = {name for name in optimizers.__all__ if isinstance(getattr(optimizers, name), type)}
    kinds = {name for name in public if issubclass(getattr(optimizers, name), keras.optimizers.Optimizer)}
    assert kinds - {RuleOptimizer.__name__} == set(ROWS)
    for name, row in ROWS.items():
        assert type(row.make()) is getattr(optimizers, name)


# ---------------------------------------------------------------- what equals what

LR, TINY = 0.05, 1e-12
WEIGHTS, GRADIENTS = problem()
SHORT = [[g / 100 for g in grads] for grads in GRADIENTS]
GROWING = [[np.sign(g + 0.1) * np.float32(1 + n) for g in GRADIENTS[0]] for n in range(20)]
EVEN = [[np.sign(g) * (1 + np.abs(np.tanh(g))) for g in grads] for grads in GRADIENTS]  # of sizes 1 to 2, with zeros
TURNING = [[g * np.float32((-1) ** n) for g in GRADIENTS[0]] for n in range(20)]


@dataclass(frozen=True)
class Equal:
    """Two optimizers which are the same one on these gradients, and why."""

    why: str
    one: partial
    other: partial
    gradients: tuple = tuple(GRADIENTS)
    later: bool = False  # the first gradient moves no weight of the one, and the other does not get it

    def __str__(self):
        return f"{self.one.func.__name__}-{self.other.func.__name__}"


def adam_without_correction(beta_1, beta_2, rate=LR, **own):
    """Adam, with a schedule that undoes its correction of the bias."""
    undone = AtStep(lambda t: rate * (1 - ops.power(beta_1, t)) / ops.sqrt(1 - ops.power(beta_2, t)))
    return partial(Adam, undone, beta_1, beta_2, **own)


SAME = [
    Equal(
        "c = g where γ = 0 and ‖g‖ < 1",
        partial(MARS, LR, gamma=0.0, epsilon=TINY),
        partial(Adam, LR, 0.95, 0.99, epsilon=TINY),
        tuple(SHORT),
    ),
    Equal(
        "with β₂ = 0 neither m̂ nor n sees the difference d",
        partial(Adan, LR, beta_1=0.9, beta_2=0.0, beta_3=0.99, epsilon=TINY),
        partial(Adam, LR, 0.9, 0.99, epsilon=TINY),
    ),
    Equal(
        "with β₁ = 0 all μ are 0 and m̂ = g",
        partial(Nadam, LR, beta_1=0.0, beta_2=0.99, epsilon=TINY),
        partial(Adam, LR, 0.0, 0.99, epsilon=TINY),
    ),
    Equal("v̂ = v while v grows", partial(AMSGrad, LR, 0.9, 0.99), partial(Adam, LR, 0.9, 0.99), tuple(GROWING)),
    Equal(
        "a side longer than max_size keeps its axes, and so do vectors",
        partial(SOAP, LR, max_size=1),
        partial(Adam, LR, 0.95, 0.95, epsilon=1e-8),
        later=True,
    ),
    Equal(
        "RMSprop is Adam without momentum and correction",
        partial(RMSprop, LR, rho=0.9, epsilon=TINY**2),
        adam_without_correction(0.0, 0.9, epsilon=TINY),
    ),
    Equal(
        "with ρ = 1, v stays 0, and √ε = 1",
        partial(RMSprop, LR, rho=1.0, momentum=0.9, epsilon=1.0),
        partial(SGD, LR, momentum=0.9),
    ),
    Equal(
        "d·m/(√(d²·v) + d·ε): where d stays, it is the rate of an Adam without correction",
        partial(Prodigy, 1.0, initial_distance=0.01, epsilon=1e-6),
        adam_without_correction(0.9, 0.999, rate=0.01, epsilon=1e-6),
        tuple(TURNING),
    ),
    Equal(
        "while g² > v, Yogi's v is a sum: Adagrad's times 1 − β₂",
        partial(Yogi, LR, beta_1=0.0, beta_2=0.999, epsilon=TINY, initial_accumulator_value=1e-3),
        partial(Adagrad, LR / 0.001**0.5, initial_accumulator_value=1.0, epsilon=TINY),
        tuple(GROWING),
    ),
    Equal(
        "the proximal map of 0 is the identity", partial(ProximalSGD, LR, 0.9, penalties=L1(0.0)), partial(SGD, LR, 0.9)
    ),
    Equal(
        "the proximal map of 0 is the identity",
        partial(ProximalAdagrad, LR, penalties=L1(0.0)),
        partial(Adagrad, LR),
    ),
]


@op_by_op
@pytest.mark.parametrize("case", SAME, ids=str)
def test_is_the_same_method(case):
    one, optimizer = run(case.one, WEIGHTS, case.gradients)
    other, _ = run(case.other, WEIGHTS, case.gradients[1:] if case.later else case.gradients)
    if isinstance(optimizer, Prodigy):
        assert ops.convert_to_numpy(optimizer.state.shared["d"]) == np.float32(0.01)
    for a, b, start in zip(one, other, WEIGHTS, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
        assert np.abs(a - start).max() > 5e-3


def descent(direction):
    """The weights after w ← w − α·direction(g, w) in float64."""

    def weights(w, gradients):
        for g in gradients:
            w = w - LR * direction(g, w)
        return w

    return weights


def average(direction):
    """The mean of z₁ … z_T, z_t = w − α·Σ direction(g) up to t: what Schedule-Free has for x at a constant rate."""
    return lambda w, gradients: np.mean(w - LR * np.cumsum([direction(g) for g in gradients], axis=0), axis=0)


def dual_average(w, gradients):
    weights = [LR * np.sqrt(t) for t in range(1, len(gradients) + 1)]
    s, nu = (sum(a * g**power for a, g in zip(weights, gradients, strict=True)) for power in (1, 2))
    return w - s / (np.cbrt(nu) + 1e-6)


def norm(x):
    return np.linalg.norm(x)


FORGETFUL = descent(lambda g, w: np.sign(g))
ALONG = descent(lambda g, w: g / norm(g))
AS_FAR_AS_LONG = descent(lambda g, w: norm(w) * g / norm(g))
SIGNS_AS_FAR_AS_LONG = descent(lambda g, w: norm(w) * np.sign(g) / np.sqrt(np.count_nonzero(g)))
FORMULAS = {
    # Methods that divide by the gradient's size, when they remember nothing, are descent along its sign.
    "Lion": (partial(Lion, LR, beta_1=0.0), FORGETFUL),
    "Adam": (partial(Adam, LR, 0.0, 0.0, epsilon=TINY), FORGETFUL),
    "Adamax": (partial(Adamax, LR, 0.0, 0.0, epsilon=TINY), FORGETFUL),
    "Nadam": (partial(Nadam, LR, 0.0, 0.0, epsilon=TINY), FORGETFUL),
    "RMSprop": (partial(RMSprop, LR, rho=0.0, epsilon=TINY**2), FORGETFUL),
    "Adan": (partial(Adan, LR, 0.0, 0.0, 0.0, epsilon=TINY), FORGETFUL),
    "AdEMAMix": (partial(AdEMAMix, LR, 0.0, 0.0, alpha=0.0, epsilon=TINY), FORGETFUL),
    "MARS": (partial(MARS, LR, 0.0, 0.0, epsilon=TINY), FORGETFUL),
    # Those that divide by a norm, along the gradient, or as far as the weights are long.
    "NovoGrad": (partial(NovoGrad, LR, 0.0, 0.0, epsilon=0.0), ALONG),
    "LARS": (partial(LARS, LR, momentum=0.0, trust_coefficient=1.0, epsilon=0.0), AS_FAR_AS_LONG),
    "LAMB": (partial(LAMB, LR, 0.0, 0.0, epsilon=TINY), SIGNS_AS_FAR_AS_LONG),
    # With β₁ = 1 the weights are x themselves: primal averaging.
    "ScheduleFreeSGD": (partial(ScheduleFreeSGD, LR, beta_1=1.0), average(lambda g: g)),
    "ScheduleFreeAdamW": (partial(ScheduleFreeAdamW, LR, beta_1=1.0, beta_2=0.0, epsilon=TINY), average(np.sign)),
    # Without momentum, dual averaging.
    "MADGRAD": (partial(MADGRAD, LR, momentum=0.0), dual_average),
    # Where gradients do not depend on the weights, α of every round of k steps is kept.
    "Lookahead": (lambda: Lookahead(SGD(LR), 5, 0.3), lambda w, gradients: w - 0.3 * LR * sum(gradients)),
}


@op_by_op
@pytest.mark.parametrize("name", FORMULAS)
def test_is_a_formula_where_its_memory_is_switched_off(name):
    make, formula = FORMULAS[name]
    found, _ = run(make, WEIGHTS, EVEN)
    for i, (w, start) in enumerate(zip(found, WEIGHTS, strict=True)):
        expected = formula(start.astype("float64"), [grads[i].astype("float64") for grads in EVEN])
        np.testing.assert_allclose(w, expected, rtol=2e-5, atol=2e-6)


@op_by_op
def test_with_both_betas_0_a_step_is_the_rate_whatever_came_before():
    """The second gradient's square is below the rounding of the first one's."""
    [w], _ = run(
        partial(Adam, LR, 0.0, 0.0), [np.zeros(1, "float32")], [[np.full(1, g, "float32")] for g in (10.0, 1e-3)]
    )
    np.testing.assert_allclose(w, -2 * LR, rtol=1e-3)


@pytest.mark.parametrize(("make", "turns"), [(Muon, True), (SOAP, True), (Adam, False)])
def test_methods_of_matrices_do_not_depend_on_the_axes(make, turns):
    """With gradients P·g·Q in place of g, P and Q orthogonal, they move by P·Δ·Q. Adam does not."""
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (3, 4))
    gradients = [rng.normal(size=(3, 4)) for _ in range(20)]
    plain, turned = (
        run(partial(make, LR), [np.zeros((3, 4), "float32")], [[g.astype("float32")] for g in given], MODES[-1])[0][0]
        for given in (gradients, [left @ g @ right for g in gradients])
    )
    difference = np.abs(turned - left @ plain @ right).max() / np.abs(plain).max()
    assert difference < 1e-3 if turns else difference > 0.1
