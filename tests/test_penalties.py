"""Each penalty against its formula in NumPy, against Keras's class, and inside Keras's layers."""

import inspect
import json

import keras
import numpy as np
import pytest
from cases.regularizers import CASES, W
from keras import ops

from keras_optreg import select
from keras_optreg.optimizers import SGD
from keras_optreg.regularizers import L1, L1L2, L2, PenaltyRegularizer, Sum

every_penalty = pytest.mark.parametrize("case", CASES, ids=str)
every_tensor = pytest.mark.parametrize(
    ("case", "w"), [(case, w) for case in CASES for w in case.tensors], ids=lambda v: getattr(v, "shape", v)
)
by_element = [case for case in CASES if case.keras_equal]
with_map = [(case, w) for case in CASES for w in case.tensors if case.proximal]


def tensor(array, dtype="float32"):
    return ops.cast(ops.convert_to_tensor(np.asarray(array, "float32")), dtype)


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32")).astype("float64")


def number(scalar):
    return float(ops.convert_to_numpy(scalar))


def close_to(value, expected, tolerance):
    """Relative to each number where that is 1e-6, and to the largest for sums of many."""
    largest = np.abs(expected).max() if tolerance > 1e-6 else 0
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance * largest + 1e-30)


def autodiff(function, w):
    """The gradient of a scalar function by the backend."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.constant(w)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return array(tape.gradient(value, x))
    if keras.backend.backend() == "jax":
        import jax

        return array(jax.grad(function)(w))
    x = w.clone().requires_grad_()
    function(x).backward()
    return array(x.grad)


@every_tensor
def test_value_is_the_formula(case, w):
    assert number(case.make()(tensor(w))) == pytest.approx(case.value(w), rel=case.tolerance)


@pytest.mark.parametrize("case", by_element, ids=str)
def test_value_equals_keras(case):
    assert number(case.make()(tensor(W))) == pytest.approx(number(case.keras_equal()(tensor(W))), rel=1e-6)


@every_tensor
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_value_is_float32_for_every_dtype(case, w, dtype):
    rounded = tensor(w, dtype)
    value = case.make()(rounded)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert number(value) == pytest.approx(case.value(array(rounded)), rel=case.tolerance)


@every_tensor
def test_gradient_is_the_formula_and_the_slope(case, w):
    close_to(array(case.make().gradient(tensor(w))), case.gradient(w), case.tolerance)
    w, h = np.where(w == 0, 0.5, w), 1e-6
    slope = [(case.value(w + h * e) - case.value(w - h * e)) / (2 * h) for e in np.eye(w.size).reshape(-1, *w.shape)]
    found = array(case.make().gradient(tensor(w))).ravel()
    np.testing.assert_allclose(found, slope, rtol=1e-4, atol=10 * case.tolerance)


@every_tensor
def test_gradient_is_what_the_backend_derives(case, w):
    """From the formula, and from the call, which on TensorFlow gives the penalty's own; at zeros too."""
    for one in (w, np.zeros_like(w)):
        penalty = case.make()
        expected = array(penalty.gradient(tensor(one)))
        assert np.isfinite(expected).all()
        for function in (penalty, penalty.penalty):
            close_to(autodiff(function, tensor(one)), expected, case.tolerance)


@every_tensor
def test_a_zero_tensor_is_no_trouble(case, w):
    """On which a penalty that is least there has the value 0, the gradient 0, and stays."""
    penalty, zeros = case.make(), np.zeros_like(w)
    assert number(penalty(tensor(zeros))) == pytest.approx(case.value(zeros), rel=1e-6)
    assert not array(penalty.gradient(tensor(zeros))).any()
    if penalty.has_proximal_map:
        assert not array(penalty.proximal(tensor(zeros), 0.5)).any()


@pytest.mark.parametrize("case", by_element, ids=str)
def test_proximal_map_is_the_minimiser(case):
    """Element by element, the least value of ½(z − w)² + step·Ω(z) on a fine grid that holds 0."""
    w = np.array([-2.0, -0.3, 0.0, 0.02, 0.7, 4.0])
    grid = np.linspace(-5, 5, 10_001)
    penalty = np.array([case.value(np.array([z])) for z in grid])
    for step in (0.0, 0.5, 3.0):
        expected = [grid[np.argmin(0.5 * (grid - x) ** 2 + step * penalty)] for x in w]
        np.testing.assert_allclose(ops.convert_to_numpy(case.make().proximal(tensor(w), step)), expected, atol=6e-4)


@pytest.mark.parametrize("case", by_element, ids=str)
def test_proximal_map_takes_a_step_for_each_weight(case):
    w, steps = np.array([-2.0, 0.3, 0.7]), [0.1, 2.0, 0.5]
    together = ops.convert_to_numpy(case.make().proximal(tensor(w), tensor(steps)))
    alone = [ops.convert_to_numpy(case.make().proximal(tensor(w), s))[i] for i, s in enumerate(steps)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize(("case", "w"), with_map, ids=lambda v: getattr(v, "shape", v))
def test_proximal_map_is_what_another_solver_finds(case, w):
    penalty = case.make()
    for step in (0.0, 0.25, 1.0, 4.0, 100.0):
        expected = case.proximal(w, np.full(w.shape, step))
        found = array(penalty.proximal(tensor(w), step))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 if penalty.takes_vector_steps else 1e-4)
        if penalty.takes_vector_steps:
            np.testing.assert_array_equal(found == 0, expected == 0)
    assert penalty.takes_vector_steps is not case.name.startswith("Nuclear")


@pytest.mark.parametrize(("case", "w"), with_map, ids=lambda v: getattr(v, "shape", v))
@pytest.mark.parametrize("spread", [0, 1, 2, 5])
def test_proximal_map_with_a_step_for_each_weight_is_what_another_solver_finds(case, w, spread):
    if not case.make().takes_vector_steps:
        pytest.skip("its step is one for all weights")
    rng = np.random.default_rng(spread)
    for scale in (0.01, 0.3, 1.0, 3.0):
        steps = scale * 10 ** rng.uniform(-spread, spread, size=w.shape) * (rng.random(w.shape) > 0.1)
        steps = steps.astype("float32").astype("float64")
        expected = case.proximal(w, steps)
        found = array(case.make().proximal(tensor(w), tensor(steps)))
        np.testing.assert_array_equal(found == 0, expected == 0)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(w).max())


@pytest.mark.parametrize("case", [case for case in CASES if case.make().has_proximal_map], ids=str)
def test_proximal_map_is_firmly_nonexpansive(case):
    """⟨p − q, x − y⟩ >= ‖p − q‖² in the metric Σ ·/step, for the maps of all convex penalties."""
    penalty, rng, shape = case.make(), np.random.default_rng(0), case.tensors[0].shape
    for _ in range(20):
        steps = 10.0 ** rng.uniform(-1, 1, size=shape) if penalty.takes_vector_steps else 10.0 ** rng.uniform(-1, 1)
        x, y = (rng.normal(size=shape) * 10.0 ** rng.uniform(-1, 1) for _ in range(2))
        step = tensor(steps)
        p, q = (array(penalty.proximal(tensor(one), step)) for one in (x, y))
        left, right = ((p - q) * (x - y) / steps).sum(), ((p - q) ** 2 / steps).sum()
        assert left >= right - 1e-5 * ((x - y) ** 2 / steps).sum()


@pytest.mark.parametrize("penalty", [L1(1.0), L1L2(1.0, 0.5)])
def test_l1_leaves_exact_zeros(penalty):
    assert ops.convert_to_numpy(penalty.proximal(tensor([0.4, -0.5, 0.0]), 0.5)).tolist() == [0.0, 0.0, 0.0]


@every_penalty
@pytest.mark.parametrize("coupled", [False, True])
def test_config_round_trips_through_json(case, coupled):
    penalty = case.make().coupled() if coupled else case.make()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(penalty)))
    again = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert again == penalty
    assert hash(again) == hash(penalty)
    assert again.is_coupled is coupled
    assert (again == case.make()) is not coupled


def test_repr_equality_and_the_coupled_form():
    assert repr(L1(0.0001)) == "L1(0.0001)"
    assert repr(L1(0.5).coupled()) == "L1(0.5).coupled()"
    assert repr(L1L2(0.5, 0.25)) == "L1L2(l1=0.5, l2=0.25)"
    assert L2(1) == L2(1.0)
    assert L2(1) != L2(2)
    assert L2(1) != L1(1)
    penalty = L2(1)
    penalty.coupled()
    assert not penalty.is_coupled
    assert L2.halved(0.5) == L2(0.25)
    assert L1.per_example(0.5, 10) == L1(0.025)


def test_flags_follow_from_the_methods():
    class Quartic(PenaltyRegularizer):
        def penalty(self, x):
            return ops.sum(x**4)

    assert (L1.has_gradient, L1.has_proximal_map) == (True, True)
    assert (Quartic.has_gradient, Quartic.has_proximal_map) == (False, False)
    assert number(Quartic()(tensor([2.0]))) == 16
    with pytest.raises(NotImplementedError, match="has_proximal_map"):
        Quartic().proximal(tensor([2.0]), 1.0)
    with pytest.raises(NotImplementedError, match="has_gradient"):
        Quartic().gradient(tensor([2.0]))


@keras.saving.register_keras_serializable("test_penalties")
class ToOne(L2):
    def penalty(self, x):
        return self.strength * ops.sum((x - 1) ** 2)


class WithGradient:
    def gradient(self, w):
        return 2 * self.strength * (w - 1)


def test_another_formula_inherits_nothing_that_belongs_to_its_parent_s():
    """L2's gradient and proximal map point to 0, the least value of this penalty is at 1."""
    assert (ToOne.has_gradient, ToOne.has_proximal_map) == (False, False)
    assert not ToOne(1.0).is_quadratic
    for method in (lambda: ToOne(1.0).gradient(tensor([3.0])), lambda: ToOne(1.0).proximal(tensor([3.0]), 1.0)):
        with pytest.raises(NotImplementedError, match="ToOne"):
            method()

    class Mixed(WithGradient, ToOne):
        """The gradient comes from a mixin that stands before the formula."""

    class Summed(PenaltyRegularizer):
        def __call__(self, x):
            return ops.sum(x)

    class Both(Summed, L2):
        """The formula comes from the first parent, so the second's gradient is not its own."""

    class Renamed(L2):
        """The formula is its parent's."""

    assert (Mixed.has_gradient, Mixed.has_proximal_map) == (True, False)
    assert (Both.has_gradient, Both.has_proximal_map) == (False, False)
    assert (Renamed.has_gradient, Renamed.has_proximal_map, Renamed(1.0).is_quadratic) == (True, True, True)
    w = keras.Variable([3.0, -2.0])
    optimizer = SGD(0.25, penalties=[(select.everything(), Mixed(1.0))])
    for _ in range(20):
        optimizer.apply([ops.zeros(2)], [w])
    np.testing.assert_allclose(ops.convert_to_numpy(w), 1 + np.array([2.0, -3.0]) * 0.5**20, rtol=1e-6)


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (L1(1.0), False),
        (L2(1.0), True),
        (L2(0.0), False),
        (L1L2(1.0, 0.0), False),
        (L1L2(0.0, 1.0), True),
        (Sum(L1(1.0), L1(2.0)), False),
        (Sum(L1(1.0), L2(1.0)), True),
        (Sum(L1(1.0), keras.regularizers.L2(1.0)), True),
        (Sum(keras.regularizers.L1L2(1.0, 0.0)), False),
    ],
    ids=repr,
)
def test_what_shrinks_weights_as_decay_does(penalty, expected):
    assert penalty.is_quadratic is expected


def test_a_sum_shows_the_strengths_of_kerass_own_parts():
    total = Sum(L1(0.5), keras.regularizers.L1L2(0.25, 0.125))
    assert repr(total) == "Sum(L1(0.5), keras L1L2(0.25, 0.125))"


@pytest.mark.parametrize(
    ("penalty", "name", "same"),
    [
        (L1(0.1), "strength", L1(0.5)),
        (L1(0.1), "l1", L1(0.5)),
        (L2(0.1), "strength", L2(0.5)),
        (L2(0.1).coupled(), "l2", L2(0.5).coupled()),
        (L1L2(0.1, 0.2), "l1", L1L2(0.5, 0.2)),
        (L1L2(0.1, 0.2), "l2", L1L2(0.1, 0.5)),
    ],
    ids=repr,
)
def test_a_strength_that_is_set_is_the_strength(penalty, name, same):
    """`regularizer.l2 = ...` is how Keras's users anneal a penalty."""
    before = hash(penalty)
    setattr(penalty, name, np.float32(0.5))
    assert (getattr(penalty, name), repr(penalty), penalty.get_config()) == (0.5, repr(same), same.get_config())
    assert penalty == same
    assert hash(penalty) == hash(same) == before
    assert number(penalty(tensor(W))) == number(same(tensor(W)))
    step = ops.convert_to_numpy(penalty.proximal(tensor(W), 0.1))
    np.testing.assert_array_equal(step, ops.convert_to_numpy(same.proximal(tensor(W), 0.1)))
    for wrong in (-1.0, float("nan"), "0.1", True):
        with pytest.raises(ValueError, match=rf"The `{name}` of {type(penalty).__name__} must be a number"):
            setattr(penalty, name, wrong)
    assert getattr(penalty, name) == 0.5


@pytest.mark.parametrize("make", [L2, keras.regularizers.L2])
def test_a_strength_that_is_set_acts_once_functions_are_made_anew(make):
    """In the same way as Keras's own: by another `compile`, or by making the function again in a callback."""
    penalty = make(l2=0.5)
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer=penalty)
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    zeros = np.zeros((2, 1), "float32")

    def losses(**kwargs):
        return model.fit(zeros, zeros, verbose=0, **kwargs).history["loss"]

    assert losses() == [0.5]  # w = 1 and the data loss is 0
    penalty.l2 = 0.25
    model.compile(model.optimizer, "mse")
    assert losses() == [0.25]

    class Annealed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            penalty.l2 = 2.0**-epoch
            self.model.make_train_function(force=True)

    assert losses(epochs=3, callbacks=[Annealed()]) == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("wrong", [-1e-9, float("inf"), float("nan"), "0.1", True, [0.1]])
@pytest.mark.parametrize("make", [L1, L2, L1L2, lambda s: L1L2(0.0, s), L1.halved, lambda s: L2.per_example(s, 10)])
def test_a_wrong_strength_is_refused(make, wrong):
    with pytest.raises(ValueError, match=r"must be a number in \[0, inf\)"):
        make(wrong)


@pytest.mark.parametrize("legal", [0, 0.0, 1, np.float32(0.5)])
def test_a_legal_strength_is_taken(legal):
    assert L2(legal).strength == float(legal)
    assert number(L2(legal)(tensor([2.0]))) == 4 * float(legal)


@pytest.mark.parametrize("wrong", [0, -5, None, "many"])
def test_a_wrong_number_of_examples_is_refused(wrong):
    with pytest.raises(ValueError, match=r"`num_examples` of L2.per_example"):
        L2.per_example(0.1, wrong)


def test_names_of_arguments_are_keras_s():
    """A drop-in: by position, by Keras's name, and with Keras's defaults."""
    assert L1(l1=0.5) == L1(0.5) == L1(strength=0.5)
    assert L2(l2=0.5) == L2(0.5) == L2(strength=0.5)
    assert L1().strength == L2().strength == 0.01
    assert L1L2(l2=0.5) == L1L2(0.0, 0.5)
    for misspelt in (lambda: L2(strenght=0.1), lambda: L1(l2=0.1), lambda: L1L2(strength=0.1)):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            misspelt()
    with pytest.raises(TypeError, match="not both"):
        L2(0.1, l2=0.1)


# Every Keras layer that takes a weight penalty: how to make it, the input it takes, its regularizer arguments.
IMAGE, SERIES, VIDEO = (6, 6, 2), (5, 3), (3, 5, 5, 2)
LAYERS = [
    (keras.layers.Dense, {"units": 2}, (3,)),
    (keras.layers.EinsumDense, {"equation": "ab,bc->ac", "output_shape": 2, "bias_axes": "c"}, (3,)),
    (keras.layers.Conv1D, {"filters": 2, "kernel_size": 2}, SERIES),
    (keras.layers.Conv2D, {"filters": 2, "kernel_size": 2}, IMAGE),
    (keras.layers.Conv3D, {"filters": 2, "kernel_size": 2}, VIDEO),
    (keras.layers.Conv1DTranspose, {"filters": 2, "kernel_size": 2}, SERIES),
    (keras.layers.Conv2DTranspose, {"filters": 2, "kernel_size": 2}, IMAGE),
    (keras.layers.Conv3DTranspose, {"filters": 2, "kernel_size": 2}, VIDEO),
    (keras.layers.DepthwiseConv1D, {"kernel_size": 2}, SERIES),
    (keras.layers.DepthwiseConv2D, {"kernel_size": 2}, IMAGE),
    (keras.layers.SeparableConv1D, {"filters": 2, "kernel_size": 2}, SERIES),
    (keras.layers.SeparableConv2D, {"filters": 2, "kernel_size": 2}, IMAGE),
    (keras.layers.Embedding, {"input_dim": 4, "output_dim": 2}, (5,)),
    (keras.layers.SimpleRNN, {"units": 2}, SERIES),
    (keras.layers.LSTM, {"units": 2}, SERIES),
    (keras.layers.GRU, {"units": 2}, SERIES),
    (keras.layers.ConvLSTM1D, {"filters": 2, "kernel_size": 2}, (3, 5, 2)),
    (keras.layers.ConvLSTM2D, {"filters": 2, "kernel_size": 2}, VIDEO),
    (keras.layers.BatchNormalization, {}, (3,)),
    (keras.layers.LayerNormalization, {}, (3,)),
    (keras.layers.GroupNormalization, {"groups": 1}, (3,)),
    (keras.layers.PReLU, {}, (3,)),
    (keras.layers.MultiHeadAttention, {"num_heads": 2, "key_dim": 2}, SERIES),
    (keras.layers.GroupQueryAttention, {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1}, SERIES),
]


def weight_penalties_of(layer_class):
    parameters = [n for c in layer_class.__mro__ if c is not object for n in inspect.signature(c.__init__).parameters]
    return {n for n in parameters if n.endswith("_regularizer") and n != "activity_regularizer"}


@pytest.mark.parametrize(("layer_class", "arguments", "shape"), LAYERS, ids=lambda v: getattr(v, "__name__", ""))
def test_every_layer_s_weight_penalties_count_once_and_equal_keras_s(layer_class, arguments, shape):
    x = keras.Input(shape)
    calls = (x, x) if "Attention" in layer_class.__name__ else (x,)
    ours, keras_s = L1L2(0.3, 0.2), keras.regularizers.L1L2(0.3, 0.2)
    names = weight_penalties_of(layer_class)
    assert names
    layer = layer_class(**arguments, **dict.fromkeys(names, ours))
    layer(*calls)
    for weight in layer.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    twin = layer_class(**arguments, **dict.fromkeys(names, keras_s))
    twin(*calls)
    twin.set_weights(layer.get_weights())
    assert len(layer.losses) == len(twin.losses) == len(layer.trainable_weights)
    assert number(sum(layer.losses)) == pytest.approx(number(sum(twin.losses)), rel=1e-6)
    assert all(weight.regularizer is ours for weight in layer.trainable_weights)


@pytest.mark.parametrize("case", by_element, ids=str)
def test_activity_penalty_is_divided_by_the_batch_as_keras_does(case):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    layer = keras.layers.Dense(2, activity_regularizer=case.make())
    y = ops.convert_to_numpy(layer(ops.convert_to_tensor(x)))
    twin = keras.layers.Dense(2, activity_regularizer=case.keras_equal())
    twin.build(x.shape)
    twin.set_weights(layer.get_weights())
    twin(ops.convert_to_tensor(x))
    assert number(layer.losses[0]) == pytest.approx(case.value(y.astype("float64")) / 5, rel=1e-5)
    assert number(layer.losses[0]) == pytest.approx(number(twin.losses[0]), rel=1e-6)


def test_activity_penalty_does_not_overflow_in_mixed_float16():
    layer = keras.layers.Dense(1, activity_regularizer=L2(1.0), kernel_initializer="ones", dtype="mixed_float16")
    layer(np.full((2, 4), 100.0, "float32"))
    assert number(layer.losses[0]) == 400.0**2  # 65504 is the largest float16


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "float64", "mixed_bfloat16", "mixed_float16"])
def test_trains_under_every_dtype_policy(policy):
    if policy == "float64" and keras.backend.backend() == "jax":
        policy = "float32"  # JAX has no float64 unless it is switched on for the whole process
    dense = keras.layers.Dense(1, kernel_regularizer=L2(0.5), kernel_initializer="ones", dtype=policy, use_bias=False)
    model = keras.Sequential([keras.Input((2,)), dense])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    history = model.fit(np.zeros((4, 2), "float32"), np.zeros((4, 1), "float32"), epochs=2, batch_size=4, verbose=0)
    # The data loss is 0, so the loss is ½·(w₁² + w₂²) and each step multiplies both weights by 1 − 0.1.
    np.testing.assert_allclose(history.history["loss"], [1.0, 0.81], rtol=1e-2)
