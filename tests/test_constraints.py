"""Constraints: the nearest point, found independently; in training; and Keras 2's radial kernels to the number."""

import json
from functools import cache, partial

import keras
import numpy as np
import pytest
from keras import ops
from scipy.optimize import minimize
from stepping import BACKEND, MODES, stepper, values_of, variables_of

import keras_optreg as kor
from keras_optreg.constraints import Box, L1Ball, RadialConstraint, Simplex
from keras_optreg.projections import project_onto_l1_ball, project_onto_simplex
from keras_optreg.saving import deserialize, serialize


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# ------------------------------------------------------------------ references in float64


def on_simplex(w, total):
    """The multiplier of Σ x = total, bisected: x = max(w − θ, 0) fulfils the conditions of a minimum."""
    w = np.asarray(w, "float64")
    low, high = w.min() - total - 1, w.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(w - middle, 0).sum() > total else (low, middle)
    return np.maximum(w - high, 0)


def on_l1_ball(w, radius):
    w = np.asarray(w, "float64")
    return w if np.abs(w).sum() <= radius else np.sign(w) * on_simplex(np.abs(w), radius)


def on_rings(w):
    """Least squares on the kernels that are 1 on one ring and 0 elsewhere."""
    n = len(w)
    rings = [
        [[float(min(i, j, n - 1 - i, n - 1 - j) == r) for j in range(n)] for i in range(n)] for r in range((n + 1) // 2)
    ]
    basis = np.array(rings).reshape(len(rings), -1).T
    flat = np.asarray(w, "float64").reshape(n * n, -1)
    return (basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]).reshape(w.shape)


def numpy_of(tensor):
    return ops.convert_to_numpy(tensor)


@cache
def compiled(function, mode):
    """The function as a graph or compiled by XLA, as the backend has it."""
    if mode == "eager":
        return function
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=mode == "jit", autograph=False)


REFERENCES = {"simplex": (project_onto_simplex, on_simplex), "l1_ball": (project_onto_l1_ball, on_l1_ball)}
both = pytest.mark.parametrize(("project", "reference"), REFERENCES.values(), ids=REFERENCES)
modes = pytest.mark.parametrize("mode", MODES)

# ------------------------------------------------------------------ the two projections

RNG = np.random.default_rng(3)  # used up at import
POINTS = {
    "normal": RNG.normal(size=50),
    "negative": -np.abs(RNG.normal(size=20)),
    "ties": np.array([2.0, 2.0, 2.0, -2.0, 1.0, 1.0]),
    "all equal": np.full(100, 0.3),
    "zeros": np.zeros(6),
    "one": np.array([3.0]),
    "one negative": np.array([-3.0]),
    "one large": np.array([1.0, *RNG.uniform(size=1000) * 1e-6]),
    "powers": np.array([2.0**-i for i in range(40)]),
    "powers from one": np.array([1 - 2.0**-i for i in range(23)]),
    "far from zero": 1e3 + np.arange(10.0) / 8,
    "heavy tails": RNG.standard_cauchy(size=3000),
}


@both
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 37.0])
def test_the_nearest_point_is_found(project, reference, size):
    points = [np.asarray(w, "float32") for w in POINTS.values()]
    longest = max(map(len, points))
    for w in points:  # on the simplex, what is far below adds nothing; in the ball, zeros add nothing
        filling = -1e6 if project is project_onto_simplex else 0.0
        padded = np.concatenate([w, np.full(longest - len(w), filling, "float32")])
        got = numpy_of(compiled(project, MODES[-1])(ops.convert_to_tensor(padded), size))[: len(w)]
        np.testing.assert_allclose(got, reference(w, size), rtol=2e-6, atol=2e-7 * max(np.abs(w).max(), 1e-3))


@both
@modes
def test_every_mode_finds_it(project, reference, mode):
    w = POINTS["normal"].astype("float32")
    for size in (0.0, 1.0):
        got = numpy_of(compiled(project, mode)(ops.convert_to_tensor(w), ops.convert_to_tensor(size)))
        np.testing.assert_allclose(got, reference(w, size), atol=3e-7)
        assert got.dtype == "float32"


def test_no_other_point_is_nearer():
    """A general minimiser, which knows nothing of thresholds."""
    w = np.array([0.9, -0.6, 0.3, 0.05, -0.2], "float32")
    free = minimize(
        lambda x: ((x - w) ** 2).sum(),
        np.full(5, 0.2),
        method="SLSQP",
        bounds=[(0, None)] * 5,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(numpy_of(project_onto_simplex(ops.array(w), 1.0)), free.x, atol=1e-6)
    split = minimize(  # x = p − q, with p and q >= 0
        lambda x: ((x[:5] - x[5:] - w) ** 2).sum(),
        np.full(10, 0.05),
        method="SLSQP",
        bounds=[(0, None)] * 10,
        constraints={"type": "ineq", "fun": lambda x: 1 - x.sum()},
        options={"ftol": 1e-14},
    )
    got = numpy_of(project_onto_l1_ball(ops.array(w), 1.0))
    np.testing.assert_allclose(got, split.x[:5] - split.x[5:], atol=1e-6)


@both
@pytest.mark.parametrize("axis", [0, -1, [0, 2], (1, 2), [-3, 1], [0, 1, 2]])
def test_an_axis_is_a_loop_over_slices(project, reference, axis, rng):
    w = rng.normal(size=(4, 3, 5)).astype("float32")
    axes = sorted(a % 3 for a in ([axis] if isinstance(axis, int) else axis))
    sizes = rng.uniform(0.1, 3, size=[1 if a in axes else n for a, n in enumerate(w.shape)]).astype("float32")
    got = numpy_of(project(ops.convert_to_tensor(w), ops.convert_to_tensor(sizes), axis))
    for i in np.ndindex(*sizes.shape):
        where = tuple(slice(None) if a in axes else i[a] for a in range(3))
        np.testing.assert_allclose(got[where], reference(w[where], float(sizes[i])), atol=5e-7)


@both
def test_a_projected_point_stays_bit_for_bit(project, reference, rng):
    w = ops.convert_to_tensor(rng.normal(size=(60, 200)).astype("float32"))
    once = project(w, 1.5, 0)
    assert np.array_equal(numpy_of(project(once, 1.5, 0)), numpy_of(once))
    inside = np.array([0.25, -0.5, 0.1, 0.0, 1e-30], "float32")
    assert np.array_equal(numpy_of(project_onto_l1_ball(ops.array(inside), 0.86)), inside)
    inside = np.array([0.9, 1e-9, 0.1, 0.0], "float32")
    assert np.array_equal(numpy_of(project_onto_simplex(ops.array(inside), 1.0)), inside)


@both
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_it_is_firmly_non_expansive(project, reference, scale, rng):
    """‖P(a) − P(b)‖² <= ⟨P(a) − P(b), a − b⟩ for 300 pairs, one a column."""
    pairs = (rng.standard_t(2, size=(2, 40, 300)) * scale).astype("float32")
    pairs[1, :, ::2] = pairs[0, :, ::2] + rng.normal(size=(40, 150)) * 1e-2 * scale  # near ones, too
    a, b = pairs
    pa, pb = (numpy_of(project(ops.convert_to_tensor(x), 2.0, 0)).astype("float64") for x in (a, b))
    moved = (pa - pb) * (a.astype("float64") - b)
    assert np.all(((pa - pb) ** 2).sum(0) <= moved.sum(0) + 1e-6 * (1 + np.abs(moved).sum(0)))


def sorted_threshold(w, total):
    """Duchi et al. 2008, figure 1, in float64."""
    u = np.sort(w.ravel().astype("float64"))[::-1]
    theta = (np.cumsum(u) - total) / np.arange(1, u.size + 1)
    return theta[np.flatnonzero(u > theta)[-1]]


def large_points(rng):
    n = 1 << 20
    yield rng.normal(size=n)
    yield np.full(n, 0.7)
    yield np.concatenate([[0.5], np.full(n - 1, 1e-6)])  # half of the total in one, half in a million
    yield np.sort(rng.standard_cauchy(size=n))


def test_a_million_weights_add_up(rng):
    simplex, ball = (compiled(project, MODES[-1]) for project in (project_onto_simplex, project_onto_l1_ball))
    for w in large_points(rng):
        w = w.astype("float32")
        for size in (0.8, 1e4):
            given = ops.convert_to_tensor(w), ops.convert_to_tensor(size, "float32")
            for got, above in ((numpy_of(simplex(*given)), w), (np.abs(numpy_of(ball(*given))), np.abs(w))):
                if not np.array_equal(got, above):  # 1e4 is more than the million small ones of one point have
                    assert abs(got.sum(dtype="float64") / size - 1) < 1e-5
                    want = np.maximum(above - sorted_threshold(above, np.float32(size)), 0)
                    np.testing.assert_allclose(got, want, rtol=2e-6, atol=3e-7 * want.max())


def test_a_matrix_of_4096_rows_has_the_right_zeros(rng):
    w = rng.normal(size=(4096, 4096)).astype("float32")
    got = numpy_of(compiled(project_onto_l1_ball, MODES[-1])(ops.convert_to_tensor(w), ops.convert_to_tensor(1e5)))
    assert abs(np.abs(got).sum(dtype="float64") / 1e5 - 1) < 1e-5
    want = np.sign(w) * np.maximum(np.abs(w) - sorted_threshold(np.abs(w), 1e5), 0)
    assert np.count_nonzero((got == 0) != (want == 0)) <= 4  # those within float32's rounding of the threshold
    np.testing.assert_allclose(got, want, atol=1e-6)


# ------------------------------------------------------------------ the constraints

GIVEN = RNG.normal(size=(6, 4)).astype("float32")
MADE = {
    "L1Ball": (lambda: L1Ball(1.5), partial(on_l1_ball, radius=1.5)),
    "L1Ball(axis)": (lambda: L1Ball(0.7, axis=0), lambda w: np.stack([on_l1_ball(c, 0.7) for c in w.T], 1)),
    "Simplex": (lambda: Simplex(2.0), partial(on_simplex, total=2.0)),
    "Simplex(axis)": (lambda: Simplex(axis=[1]), lambda w: np.stack([on_simplex(row, 1.0) for row in w])),
    "Box": (lambda: Box(-0.1, 0.25), lambda w: np.minimum(np.maximum(np.float64(w), -0.1), 0.25)),
    "Box(one side)": (lambda: Box(0.1, np.inf), lambda w: np.maximum(np.float64(w), 0.1)),
}
constraints = pytest.mark.parametrize(("make", "reference"), MADE.values(), ids=MADE)


@constraints
def test_a_constraint_is_its_projection(make, reference):
    constraint, w = make(), ops.convert_to_tensor(GIVEN)
    once = constraint(w)
    np.testing.assert_allclose(numpy_of(once), reference(GIVEN), atol=3e-7)
    assert np.array_equal(numpy_of(constraint(once)), numpy_of(once))
    assert np.array_equal(numpy_of(constraint(keras.Variable(GIVEN))), numpy_of(once))


@constraints
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_dtype_stays_and_short_ones_are_computed_in_float32(make, reference, dtype):
    if dtype == "float64" and BACKEND == "jax":
        pytest.skip("JAX has float64 only when it is told so before it starts")
    w = ops.cast(ops.convert_to_tensor(GIVEN), dtype)
    got = make()(w)
    assert keras.backend.standardize_dtype(got.dtype) == dtype
    if dtype == "float64":
        np.testing.assert_allclose(numpy_of(got), reference(numpy_of(w)), atol=1e-12)
    else:
        precise = ops.cast(ops.cast(make()(ops.cast(w, "float32")), dtype), "float32")
        assert np.array_equal(numpy_of(ops.cast(got, "float32")), numpy_of(precise))


@pytest.mark.parametrize("make", [*[m for m, _ in MADE.values()], RadialConstraint, lambda: RadialConstraint(True)])
def test_a_config_comes_back_through_json(make):
    constraint = make()
    again = deserialize(json.loads(json.dumps(serialize(constraint))))
    assert again == constraint
    assert type(again) is type(constraint)
    assert again.get_config() == constraint.get_config() == type(constraint)(**constraint.get_config()).get_config()
    assert hash(again) == hash(constraint)


def test_what_it_says_of_itself():
    assert repr(L1Ball(2, axis=(0, 1))) == "L1Ball(radius=2.0, axis=[0, 1])"
    assert L1Ball(1.0) != L1Ball(1.0, axis=0)
    assert L1Ball(1.0) != Simplex(1.0)


REFUSED = [
    (lambda: L1Ball(-1), ValueError, "The `radius` of L1Ball must be a number in [0, inf). Received: radius=-1"),
    (lambda: L1Ball("1"), ValueError, "The `radius` of L1Ball must be a number in [0, inf). Received: radius='1'"),
    (lambda: L1Ball(np.inf), ValueError, "The `radius` of L1Ball must be a number in [0, inf). Received: radius=inf"),
    (lambda: Simplex(np.nan), ValueError, "The `total` of Simplex must be a number in [0, inf). Received: total=nan"),
    (lambda: Box(None, 1), ValueError, "The `low` of Box must be a number in [-inf, inf]. Received: low=None"),
    (lambda: Box(0.5, 0.2), ValueError, "The `high` of Box must be a number in [0.5, inf]. Received: high=0.2"),
    (
        lambda: L1Ball(axis="rows"),
        ValueError,
        "The `axis` of L1Ball must be an integer, a list of different integers, or None for the whole weight. "
        "Received: axis='rows'",
    ),
    (lambda: Simplex(axis=True), ValueError, "The `axis` of Simplex must be an integer, "),
    (lambda: Simplex(axis=[]), ValueError, "The `axis` of Simplex must be an integer, "),
    (lambda: Simplex(axis=[0, 0]), ValueError, "The `axis` of Simplex must be an integer, "),
    (
        lambda: L1Ball(axis=2)(ops.ones((3, 4))),
        ValueError,
        "L1Ball: a weight of shape (3, 4) has the axes -2 to 1, and each may be named once. Received: axis=2",
    ),
    (lambda: Simplex(axis=[0, -2])(ops.ones((3, 4))), ValueError, "Simplex: a weight of shape (3, 4) has the axes"),
    (
        lambda: RadialConstraint()(ops.ones((3, 5, 1, 1))),
        ValueError,
        "as many rows as columns. Received a weight of shape (3, 5, 1, 1)",
    ),
    (lambda: RadialConstraint()(ops.ones((3, 3))), ValueError, "Received a weight of shape (3, 3)"),
    (lambda: RadialConstraint(1), TypeError, "The `nearest_point` of RadialConstraint must be True or False."),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), REFUSED)
def test_wrong_arguments_are_refused_in_words(wrong, kind, message):
    with pytest.raises(kind) as caught:
        wrong()
    assert message in str(caught.value)


# ------------------------------------------------------------------ Keras 2's radial kernels

# What tf_keras 2.21.0's RadialConstraint gives for kernels whose number in row i and column j is 10·i + j.
KERAS_2 = {
    2: [[0, 0], [0, 0]],
    3: [[11, 11, 11], [11, 0, 11], [11, 11, 11]],
    4: [[33, 33, 33, 33], [33, 11, 11, 33], [33, 11, 11, 33], [33, 33, 33, 33]],
    5: [
        [33, 33, 33, 33, 33],
        [33, 22, 22, 22, 33],
        [33, 22, 11, 22, 33],
        [33, 22, 22, 22, 33],
        [33, 33, 33, 33, 33],
    ],
    6: [
        [55, 55, 55, 55, 55, 55],
        [55, 44, 44, 44, 44, 55],
        [55, 44, 22, 22, 44, 55],
        [55, 44, 22, 22, 44, 55],
        [55, 44, 44, 44, 44, 55],
        [55, 55, 55, 55, 55, 55],
    ],
    7: [
        [55, 55, 55, 55, 55, 55, 55],
        [55, 44, 44, 44, 44, 44, 55],
        [55, 44, 33, 33, 33, 44, 55],
        [55, 44, 33, 22, 33, 44, 55],
        [55, 44, 33, 33, 33, 44, 55],
        [55, 44, 44, 44, 44, 44, 55],
        [55, 55, 55, 55, 55, 55, 55],
    ],
}


def numbered(n):
    """(n, n, 2, 3): the number 10·i + j, times another factor for each pair of channels."""
    cells = 10.0 * np.arange(n)[:, None] + np.arange(n)
    return (cells[:, :, None, None] * np.arange(1, 7).reshape(2, 3)).astype("float32")


@modes
@pytest.mark.parametrize("n", KERAS_2)
def test_radial_kernels_have_the_numbers_of_keras_2(n, mode):
    want = np.array(KERAS_2[n])[:, :, None, None] * np.arange(1, 7).reshape(2, 3)
    got = numpy_of(compiled(RadialConstraint().__call__, mode)(ops.convert_to_tensor(numbered(n))))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("n", [1, *KERAS_2])
def test_keras_2s_formula_is_idempotent_for_even_sizes_alone_and_the_mean_always(n, rng):
    w = ops.convert_to_tensor(rng.normal(size=(n, n, 2, 3)).astype("float32"))
    once = RadialConstraint()(w)
    assert np.array_equal(numpy_of(RadialConstraint()(once)), numpy_of(once)) == (n % 2 == 0 or n == 1)
    if n == 1:
        assert np.array_equal(numpy_of(once), numpy_of(w))
    nearest = RadialConstraint(nearest_point=True)
    np.testing.assert_allclose(numpy_of(nearest(w)), on_rings(numpy_of(w)), atol=1e-6)
    np.testing.assert_allclose(numpy_of(nearest(nearest(w))), numpy_of(nearest(w)), atol=3e-7)


# ------------------------------------------------------------------ in training

X = RNG.normal(size=(32, 6)).astype("float32")
Y = RNG.normal(size=(32, 4)).astype("float32")
COMPILED = {"tensorflow": [False, True], "jax": [False, True]}.get(BACKEND, [False])
ways = pytest.mark.parametrize("jit_compile", COMPILED)
packages = pytest.mark.parametrize("package", [keras.optimizers, kor.optimizers], ids=["keras", "ours"])


class AfterEachStep(keras.callbacks.Callback):
    """Keeps all kernels after every step."""

    def on_train_begin(self, logs=None):
        self.kernels = []

    def on_train_batch_end(self, batch, logs=None):
        self.kernels.append([np.array(numpy_of(v)) for v in self.model.weights])


def side_by_side(constraints):
    """A model with one dense layer a constraint, each from the same kernel and with an output of its own."""
    x = keras.Input((6,))
    layers = [keras.layers.Dense(4, use_bias=False, kernel_constraint=each) for each in constraints]
    model = keras.Model(x, [layer(x) for layer in layers])
    model.set_weights([GIVEN] * len(layers))
    return model


def fit(model, steps):
    seen = AfterEachStep()
    targets = [Y] * len(model.outputs)
    model.fit(X, targets, batch_size=32, epochs=steps, shuffle=False, verbose=0, callbacks=[seen])
    return seen.kernels


def all_of_them():
    return [make() for make, _ in MADE.values()]


@ways
@packages
def test_training_is_projected_gradient_descent(package, jit_compile):
    model = side_by_side(all_of_them())
    model.compile(package.SGD(0.5), "mse", jit_compile=jit_compile)
    each = [GIVEN.astype("float64")] * len(MADE)
    for kernels in fit(model, 6):
        each = [
            reference(w - 0.5 * 2 * X.T @ (X @ w - Y) / Y.size)
            for w, (_, reference) in zip(each, MADE.values(), strict=True)
        ]
        for kernel, w, (_, reference) in zip(kernels, each, MADE.values(), strict=True):
            np.testing.assert_allclose(kernel, w, atol=3e-6)
            np.testing.assert_allclose(kernel, reference(kernel), atol=3e-7)  # it is in the set
    assert np.abs(each[0] - each[-1]).max() > 0.1


@ways
@packages
def test_weights_are_in_the_set_after_every_step_of_adam(package, jit_compile):
    model = side_by_side([L1Ball(0.3, axis=0), Simplex(axis=0)])
    model.compile(package.Adam(0.1), "mse", jit_compile=jit_compile)
    steps = fit(model, 8)
    for ball, simplex in steps:
        assert np.all(np.abs(ball).sum(0, dtype="float64") <= 0.3 * (1 + 1e-5))
        assert np.all(simplex >= 0)
        np.testing.assert_allclose(simplex.sum(0, dtype="float64"), 1, rtol=1e-5)
    for before, after in zip(steps[-2], steps[-1], strict=True):
        assert np.any(after == 0)
        assert np.any(after != before)


@modes
def test_our_adam_applies_a_constraint_in_its_step(mode, rng):
    gradients = [rng.normal(size=(6, 4)).astype("float32") for _ in range(4)]
    variables = variables_of([GIVEN], constraint=Simplex(axis=0))
    step = stepper(kor.optimizers.Adam(0.1), variables, mode)
    w, m, v = GIVEN.astype("float64"), 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        step([g])
        m, v = 0.9 * m + 0.1 * g.astype("float64"), 0.999 * v + 0.001 * g.astype("float64") ** 2
        w = w - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
        w = np.stack([on_simplex(column, 1.0) for column in w.T], 1)
        np.testing.assert_allclose(values_of(variables)[0], w, atol=1e-5)


@pytest.mark.parametrize("jit_compile", COMPILED)
def test_a_convolution_trains_with_radial_filters(jit_compile, rng):
    layer = keras.layers.Conv2D(2, 3, kernel_constraint=RadialConstraint(nearest_point=True))
    model = keras.Sequential([keras.Input((6, 6, 1)), layer, keras.layers.Flatten()])
    model.compile(kor.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    before = numpy_of(layer.kernel).copy()
    model.fit(rng.normal(size=(8, 6, 6, 1)), rng.normal(size=(8, 32)), verbose=0)
    np.testing.assert_allclose(numpy_of(layer.kernel), on_rings(numpy_of(layer.kernel)), atol=1e-7)
    assert np.abs(numpy_of(layer.kernel) - on_rings(before)).max() > 1e-4  # the step, not the projection alone


@pytest.mark.usefixtures("run_op_by_op")
def test_a_model_keeps_its_constraints_when_saved_loaded_and_cloned(tmp_path):
    model = side_by_side(all_of_them())
    model.compile(kor.optimizers.SGD(0.5, momentum=0.9), "mse", jit_compile=False)
    fit(model, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (loaded, keras.models.clone_model(model)):
        assert [layer.kernel_constraint for layer in each.layers[1:]] == all_of_them()
        assert [v.constraint for v in each.weights] == all_of_them()
    for here, there in zip(fit(model, 1)[0], fit(loaded, 1)[0], strict=True):
        np.testing.assert_array_equal(here, there)
