"""Views of tensors, and penalties on groups inside optimizers: which groups end zero, and at which solution."""

import json

import keras
import numpy as np
import pytest
from cases.regularizers import group_numbers, shrunk
from keras import ops
from stepping import minimise, values_of, variables_of

from keras_optreg import optimizers, select
from keras_optreg.regularizers import GroupLasso, NuclearNorm, Orthogonality, SparseGroupLasso, attach, views
from keras_optreg.regularizers.views import View

NAMED = {name: view for name, view in vars(views).items() if isinstance(view, View)}
SHAPES = {"per_filter": (2, 2, 3, 4), "per_head": (4, 2, 3), "per_output_head": (2, 3, 4)}


def array(tensor):
    return ops.convert_to_numpy(tensor).astype("float64")


# ---------------------------------------------------------------- views

GROUPS = [
    (views.per_output, (5,), (0,)),
    (views.per_output, (4, 5), (1,)),
    (views.per_output, (2, 2, 3, 4), (3,)),
    (views.per_filter, (2, 3, 4), (2,)),
    (views.per_input, (4, 5), (0,)),
    (views.per_input, (2, 2, 3, 4), (2,)),
    (views.per_head, (4, 2, 3), (1,)),
    (views.per_output_head, (2, 3, 4), (0,)),
    (views.axes(0), (4, 5), (0,)),
    (views.axes(0, -1), (2, 2, 3, 4), (0, 3)),
    (views.axes(-1, 0), (2, 2, 3, 4), (0, 3)),
    (views.axes(0, 1), (2, 3), (0, 1)),
]


@pytest.mark.parametrize(("view", "shape", "axes"), GROUPS, ids=str)
def test_a_view_is_its_axes(view, shape, axes):
    """Against groups that are found by numbering each element."""
    x, numbers = np.random.default_rng(0).normal(size=shape).astype("float32"), group_numbers(shape, axes)
    members = [x[numbers == number] for number in range(numbers.max() + 1)]
    matrix = view.as_matrix(ops.convert_to_tensor(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(matrix), members)
    np.testing.assert_array_equal(ops.convert_to_numpy(view.from_matrix(matrix, shape)), x)
    sums = ops.convert_to_numpy(view.reduce(ops.sum, ops.convert_to_tensor(x)))
    np.testing.assert_allclose(np.broadcast_to(sums, shape), np.sum(members, axis=1)[numbers], rtol=1e-5)
    assert view.size(shape) == len(members[0])
    assert view.weight(shape) == 1
    assert view.weighted_by_size().weight(shape) == pytest.approx(len(members[0]) ** 0.5)


@pytest.mark.parametrize("view", [*NAMED.values(), views.axes(0, -1)], ids=repr)
def test_a_view_is_a_value(view):
    for one in (view, view.weighted_by_size()):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(one)))
        again = keras.saving.deserialize_keras_object(config, safe_mode=True)
        assert again == one
        assert hash(again) == hash(one)
        assert eval(repr(one), {**NAMED, "axes": views.axes}) == one
    assert view != view.weighted_by_size()
    assert sum(view == other for other in NAMED.values()) == (repr(view) in NAMED)


def test_the_shapes_of_attention_are_as_the_views_say():
    for layer in (keras.layers.MultiHeadAttention(2, 3), keras.layers.GroupQueryAttention(3, 2, 2)):
        layer.build((None, 5, 4), (None, 5, 4))
        for weight in layer.weights:
            name = weight.path.split("/")[-2:]
            if name[1] == "kernel":
                view = views.per_output_head if name[0] == "attention_output" else views.per_head
                assert view.as_matrix(weight.value).shape == (2, 4 * 3)


def test_mistakes_with_views():
    w = ops.ones((4, 5))
    with pytest.raises(ValueError, match=r"per_filter is for tensors of rank 3 or more.*\(4, 5\).*select.ndim\(3\)"):
        GroupLasso(0.1, views.per_filter)(w)
    with pytest.raises(ValueError, match=r"axes\(0, -2\) are the same one in a tensor of shape \(4, 5\)"):
        GroupLasso(0.1, views.axes(0, -2)).proximal(w, 1.0)
    with pytest.raises(ValueError, match=r"axes\(2\) is for tensors of rank 3"):
        GroupLasso(0.1, views.axes(2)).gradient(w)
    for wrong in ("per_output", -1, None):
        with pytest.raises(TypeError, match=r"`view` of GroupLasso must be one of .*views.per_output"):
            GroupLasso(0.1, wrong)
    for wrong in ((), ("0",), (True,), ((0, 1),)):
        with pytest.raises(TypeError, match=r"as in axes\(0, -1\)"):
            views.axes(*wrong)
    for make in (NuclearNorm, Orthogonality):
        with pytest.raises(ValueError, match=r"one matrix.*Pass view=per_input\."):
            make(0.1, views.per_input.weighted_by_size())
    with pytest.raises(AttributeError, match="Make another GroupLasso"):
        GroupLasso(0.1).view = views.per_input


def test_a_penalty_shows_its_view():
    assert repr(GroupLasso(0.5, views.per_head)) == "GroupLasso(0.5, view=per_head)"
    weighted = SparseGroupLasso(0.5, 0.25, views.axes(0, 1).weighted_by_size())
    assert repr(weighted) == "SparseGroupLasso(l1=0.5, group_strength=0.25, view=axes(0, 1).weighted_by_size())"


# ---------------------------------------------------------------- the map under hard metrics


def test_the_map_in_metrics_that_span_twelve_orders_of_magnitude():
    """Within 1e-5 of each weight, of a bisection in float64; the groups that are zero are the same ones."""
    rng = np.random.default_rng(0)
    for trial in range(24):
        members, strength = (1, 2, 5, 30)[trial % 4], 10 ** rng.uniform(-4, 1)
        steps = 10 ** rng.uniform(-8, 4, (members, 10))
        if trial % 3 == 0:
            steps = np.repeat(np.logspace(-8, 4, members)[:, None], 10, axis=1)
        if trial % 5 == 0:
            steps[rng.random(steps.shape) < 0.1] = 0
        # Weights of any size; or those that the gradient alone would leave of a zero group, near the threshold.
        w = rng.normal(size=steps.shape) * 10 ** rng.uniform(-4, 2, steps.shape)
        w = (w if trial % 2 else steps * strength * rng.uniform(0.3, 1.2, steps.shape)).astype("float32")
        steps = steps.astype("float32")
        found = array(GroupLasso(strength).proximal(ops.convert_to_tensor(w), ops.convert_to_tensor(steps)))
        for g in range(10):
            expected = shrunk(w[:, g].astype("float64"), strength * steps[:, g].astype("float64"))
            assert found[:, g].any() == expected.any()
            np.testing.assert_array_less(np.abs(found[:, g] - expected), 1e-5 * np.abs(w[:, g]) + 1e-30)


# ---------------------------------------------------------------- in optimizers


def falling(rate):
    """To a thousandth: with a constant rate such a rule goes on stepping by it around the solution."""
    return keras.optimizers.schedules.PolynomialDecay(rate, 4000, rate / 1000)


OPTIMIZERS = {
    "SGD": (lambda p: optimizers.SGD(0.05, penalties=p), 2000),
    "momentum": (lambda p: optimizers.SGD(0.01, momentum=0.9, penalties=p), 2000),
    "Adagrad": (lambda p: optimizers.Adagrad(0.3, penalties=p), 3000),
    "RMSprop": (lambda p: optimizers.RMSprop(falling(1e-2), penalties=p), 4000),
    "Adam": (lambda p: optimizers.Adam(falling(1e-2), penalties=p), 4000),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8)) * [3, 1, 0.3, 1, 2, 0.5, 1, 1]
TRUE = RNG.normal(size=(8, 5)) * np.isin(np.arange(8), (0, 2, 5))[:, None] * (np.arange(5) != 3)
Y = X @ TRUE + 0.3 * RNG.normal(size=(60, 5))
GRAM, XY = X.T @ X / len(X), X.T @ Y / len(X)


def solved(make, penalty, steps):
    """The weights at which ½‖Y − X·W‖²/60 + Ω(W) ends, and the gradient of the first part there."""
    gram, xy = (ops.convert_to_tensor(a, "float32") for a in (GRAM, XY))
    variables = variables_of([np.zeros(TRUE.shape, "float32")])
    minimise(make([(select.kernels(), penalty)]), variables, lambda w: [ops.matmul(gram, w) - xy], steps)
    w = values_of(variables)[0].astype("float64")
    return w, GRAM @ w - XY


@pytest.mark.parametrize(
    ("view", "strength", "axis"), [(views.per_input, 0.15, 1), (views.per_output, 0.6, 0)], ids=str
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_group_lasso_ends_at_its_conditions(name, view, strength, axis):
    """‖∇_g‖ <= λ where a group is zero, ∇_g = −λ w_g/‖w_g‖ where it is not."""
    w, gradient = solved(OPTIMIZERS[name][0], GroupLasso(strength, view), OPTIMIZERS[name][1])
    norms = np.linalg.norm(w, axis=axis, keepdims=True)
    is_zero = norms == 0
    assert 0 < is_zero.sum() < is_zero.size
    assert (np.linalg.norm(gradient, axis=axis, keepdims=True)[is_zero] <= strength + 1e-3).all()
    pull = -strength * w / np.where(is_zero, 1, norms)
    np.testing.assert_allclose(np.where(is_zero, 0, gradient), pull, atol=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_group_lasso_ends_at_scikit_learn_s_solution(name):
    """Its MultiTaskLasso is (1/2n)‖Y − X·W‖² + α Σ ‖row of W‖."""
    from sklearn.linear_model import MultiTaskLasso

    expected = MultiTaskLasso(alpha=0.15, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(X, Y).coef_.T
    found, _ = solved(OPTIMIZERS[name][0], GroupLasso(0.15, views.per_input), OPTIMIZERS[name][1])
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("size", "is_zero"), [(0.97, True), (1.05, False)])
def test_a_group_near_its_threshold_falls_on_the_right_side(name, size, is_zero):
    """½‖w − b‖² + λ‖w‖ is least at 0 where ‖b‖ <= λ, also where b is in one weight and the others' gradients are tiny.

    Adam's metric is then a thousand times larger for the others.
    """
    b = np.array([1.0] + [1e-3] * 15)[:, None]
    b = ops.convert_to_tensor(size * b / np.linalg.norm(b), "float32")
    variables = variables_of([np.full((16, 1), 0.05, "float32")])
    minimise(OPTIMIZERS[name][0](GroupLasso(1.0)), variables, lambda w: [w - b], OPTIMIZERS[name][1])
    [w] = values_of(variables)
    assert (w == 0).all() == is_zero
    np.testing.assert_allclose(w, max(1 - 1 / size, 0) * array(b), atol=2e-4)


def test_sparse_group_lasso_leaves_zeros_in_groups_that_stay():
    w, gradient = solved(OPTIMIZERS["Adam"][0], SparseGroupLasso(0.05, 0.1, views.per_input), 4000)
    norms = np.linalg.norm(w, axis=1, keepdims=True)
    stays = np.broadcast_to(norms > 0, w.shape)
    assert 0 < (w == 0)[stays].sum() < stays.sum() < w.size
    left = np.sign(-gradient) * np.maximum(np.abs(gradient) - 0.05, 0)  # what remains for the group
    assert (np.linalg.norm(left, axis=1)[norms[:, 0] == 0] <= 0.1 + 1e-3).all()
    np.testing.assert_allclose(left[w != 0], (0.1 * w / np.where(norms > 0, norms, 1))[w != 0], atol=1e-3)
    assert (np.abs(gradient[stays & (w == 0)]) <= 0.05 + 1e-3).all()


@pytest.mark.parametrize("projection", ["value", "attention_output"])
def test_a_head_that_is_not_needed_is_killed_exactly(projection):
    """The data come from attention with one head; of two heads under Adam one ends as zeros, in fit."""
    x = np.random.default_rng(0).normal(size=(32, 4, 3)).astype("float32")
    teacher = keras.layers.MultiHeadAttention(1, 2, use_bias=False)
    inputs = keras.Input((4, 3))
    y = ops.convert_to_numpy(teacher(x, x))
    student = keras.layers.MultiHeadAttention(2, 2, use_bias=False)
    model = keras.Model(inputs, student(inputs, inputs))
    weights = [np.random.default_rng(i).normal(size=w.shape) * 0.05 for i, w in enumerate(student.weights)]
    for new, w in zip(weights, teacher.get_weights(), strict=True):
        if w.shape[0] == 1:
            new[0] += w[0]
        else:
            new[:, 0] += w[:, 0]
    model.set_weights(weights)
    view = views.per_head if projection == "value" else views.per_output_head
    optimizer = optimizers.Adam(3e-3, penalties=[(select.matching(f"{projection}/kernel"), GroupLasso(0.02, view))])
    model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=32, epochs=60, verbose=0)
    [kernel] = select.matching(f"{projection}/kernel").of(model.weights)
    heads = ops.convert_to_numpy(view.as_matrix(kernel.value))
    assert [bool(head.any()) for head in heads] == [True, False]
    assert np.abs(heads[0]).min() > 0


def test_a_strength_that_is_set_acts_in_the_next_step():
    """As test_strengths.py asks of others: for one weight GroupLasso and NuclearNorm are |w|."""
    for make in (GroupLasso, NuclearNorm):
        penalty, ones = make(1.0), np.zeros((8, 1), "float32")
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((1,)), dense])
        attach(model, penalty)
        model.compile(optimizers.SGD(2.0**-6, penalties=penalty), "mse")
        model.fit(ones, ones, batch_size=4, verbose=0)
        assert model.get_weights()[0].item() == pytest.approx(1 - 4 * 2.0**-6, rel=1e-6)
        penalty.strength = 2.0
        model.fit(ones, ones, batch_size=4, verbose=0)
        assert model.get_weights()[0].item() == pytest.approx(1 - 12 * 2.0**-6, rel=1e-6)
