"""Penalties on singular values: identities between them, what power iteration finds, and what training leaves."""

import keras
import numpy as np
import pytest
from cases.regularizers import rows
from keras import ops
from stepping import MODES, minimise, run, values_of, variables_of

from keras_optreg import optimizers, select
from keras_optreg.regularizers import SRIP, NuclearNorm, Orthogonality, SpectralNorm, views
from keras_optreg.regularizers.matrices import polar_factor

RNG = np.random.default_rng(0)
SHAPES = [(4, 7), (7, 4), (5, 5), (2, 2, 3, 4), (1, 2, 2, 9)]


def tensor(array):
    return ops.convert_to_tensor(np.asarray(array, "float32"))


def array(tensor):
    return ops.convert_to_numpy(tensor).astype("float64")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_double_soft_orthogonality_is_the_soft_one_at_twice_the_strength(shape):
    """‖WᵀW − I‖² + ‖WWᵀ − I‖², for fewer and for more filters than members, by finite differences in float64."""
    w = RNG.normal(size=shape)

    def double_soft(w):
        m = rows(w)
        return sum(((gram - np.eye(len(gram))) ** 2).sum() for gram in (m @ m.T, m.T @ m))

    n, m = rows(w).shape
    soft = float(ops.convert_to_numpy(Orthogonality(2.0)(tensor(w))))
    assert double_soft(w) == pytest.approx(soft + m - n, rel=1e-5)
    h = 1e-5
    slope = [(double_soft(w + h * e) - double_soft(w - h * e)) / (2 * h) for e in np.eye(w.size).reshape(-1, *shape)]
    found = array(Orthogonality(2.0).gradient(tensor(w))).ravel()
    np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-5 * np.abs(slope).max())


def test_a_view_and_its_transpose_pull_the_same_way():
    w, by_power = tensor(RNG.normal(size=(4, 7))), {"num_iterations": 200}
    for make, options in ((Orthogonality, {}), (NuclearNorm, {}), (SRIP, by_power), (SpectralNorm, by_power)):
        found = [array(make(0.5, view=view, **options).gradient(w)) for view in (views.per_output, views.per_input)]
        np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4 * np.abs(found[0]).max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("make", [Orthogonality, lambda s: SRIP(s, 20)], ids=["Orthogonality", "SRIP"])
def test_training_ends_with_singular_values_of_one(make, shape):
    """Filters become orthonormal, or their columns do where there are more filters than members. SRIP never rests."""
    w = keras.Variable(RNG.normal(size=shape) * 0.4, name="kernel", dtype="float32")
    optimizer = optimizers.SGD(0.02, penalties=[(select.everything(), make(1.0).coupled())])  # compiled
    zeros = ops.zeros(shape)
    for _ in range(300):
        optimizer.apply([zeros], [w])
    singular = np.linalg.svd(rows(array(w)), compute_uv=False)
    np.testing.assert_allclose(singular, 1, atol=1e-4 if make is Orthogonality else 0.1)


@pytest.mark.parametrize("num_iterations", [1, 2, 5])
@pytest.mark.parametrize("n", [3, 6])
def test_srip_is_the_paper_s_loop(num_iterations, n):
    """Section 3.3: u ← (WᵀW − I)v, v ← (WᵀW − I)u, σ = ‖v‖/‖u‖, with W = Mᵀ, from the same start."""
    m = RNG.normal(size=(n, 8)) / 3
    v = np.random.default_rng(0).normal(size=n)
    for _ in range(num_iterations):
        u = (m @ m.T - np.eye(n)) @ v
        v = (m @ m.T - np.eye(n)) @ u
    expected = 0.5 * np.linalg.norm(v) / np.linalg.norm(u)
    found = SRIP(0.5, num_iterations)(tensor(m.T))
    assert float(ops.convert_to_numpy(found)) == pytest.approx(expected, rel=1e-4)
    assert SRIP(0.5) == SRIP(0.5, 2)


@pytest.mark.parametrize(
    ("is_large", "expected"), [(False, (0.32, 0.13, 0.045, 0.02, 0.003)), (True, (0.67, 0.25, 0, 0, 0))]
)
def test_power_iteration_is_as_accurate_as_its_docstring_says(is_large, expected):
    """The worst of five."""
    rng, lower = np.random.default_rng(1), []
    for _ in range(5):
        w = rng.normal(size=(512, 512))
        if is_large:
            a, b = rng.normal(size=(2, 512))
            w += 2 * np.linalg.norm(w, 2) * np.outer(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        found = [float(ops.convert_to_numpy(SpectralNorm(1.0, k)(tensor(w)))) for k in (1, 3, 10, 30, 100)]
        lower.append(1 - np.array(found) / np.linalg.norm(w, 2))
    np.testing.assert_allclose(np.max(lower, axis=0), expected, atol=5e-3)
    assert np.min(lower) > -1e-5


@pytest.mark.parametrize("shape", [(3, 3), (6, 40), (40, 6), (64, 64)], ids=str)
def test_the_polar_factor_is_that_of_the_singular_value_decomposition(shape):
    for spread in (0, 2, 4):
        u, _, v = np.linalg.svd(RNG.normal(size=shape), full_matrices=False)
        s = 10.0 ** -np.linspace(0, spread, len(v))
        found = array(polar_factor(tensor((u * s) @ v)))
        # In float32 the matrix itself is known to 1e-7, which is s.min()·10**spread·1e-7 of its smallest direction.
        np.testing.assert_allclose(found, u @ v, atol=1e-5 * 10 ** max(spread - 1, 0))
    assert not array(polar_factor(tensor(np.zeros(shape)))).any()


@pytest.mark.parametrize("mode", MODES)
def test_nuclear_norm_under_sgd_ends_at_the_thresholded_matrix(mode):
    """½‖W − B‖² + λ‖W‖_* is least at B with its singular values lowered by λ: here of rank 2. In compiled steps too."""
    b = RNG.normal(size=(6, 5))
    u, s, v = np.linalg.svd(b, full_matrices=False)
    strength = (s[1] + s[2]) / 2
    make = lambda: optimizers.SGD(1.0, penalties=NuclearNorm(strength))  # noqa: E731
    [found], _ = run(make, [np.zeros((6, 5), "float32")], [[(-b).astype("float32")]], mode)
    np.testing.assert_allclose(found, (u * np.maximum(s - strength, 0)) @ v, atol=1e-5)
    assert np.linalg.matrix_rank(found, tol=1e-5) == 2


def test_nuclear_norm_finds_the_rank_of_a_layer():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    true = rng.normal(size=(8, 2)) @ rng.normal(size=(2, 6))
    gram, xy = x.T @ x / 200, x.T @ (x @ true + 0.1 * rng.normal(size=(200, 6))) / 200
    variables = variables_of([rng.normal(size=(8, 6)).astype("float32")])
    gram32, xy32 = tensor(gram), tensor(xy)
    minimise(optimizers.SGD(0.3, penalties=NuclearNorm(0.1)), variables, lambda w: [ops.matmul(gram32, w) - xy32], 500)
    w = values_of(variables)[0].astype("float64")
    u, s, v = np.linalg.svd(w, full_matrices=False)
    assert (s > 1e-5).sum() == 2
    gradient = gram @ w - xy
    np.testing.assert_allclose(u[:, :2].T @ gradient @ v[:2].T, -0.1 * np.eye(2), atol=1e-4)
    assert np.linalg.norm(gradient, 2) <= 0.1 + 1e-4


def test_rules_with_a_step_for_each_weight_take_the_nuclear_norm_by_its_gradient():
    with pytest.raises(ValueError, match=r"Adam cannot apply NuclearNorm.*step differs from element to element"):
        optimizers.Adam(penalties=NuclearNorm(0.1))
    [w] = variables_of([np.eye(2, dtype="float32")])
    optimizers.Adam(0.25, penalties=NuclearNorm(0.1).coupled()).apply([ops.zeros((2, 2))], [w])
    np.testing.assert_allclose(array(w), 0.75 * np.eye(2), atol=1e-5)


@pytest.mark.parametrize("make", [SpectralNorm, SRIP])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2", None])
def test_a_wrong_number_of_iterations_is_refused(make, wrong):
    with pytest.raises(ValueError, match=rf"`num_iterations` of {make.__name__} must be an integer in \[1, inf\)"):
        make(0.1, wrong)
