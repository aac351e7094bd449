"""Magnitude pruning against NumPy: its schedule, its counts, the training beside it, and where zeros must hold."""

import json
import re

import keras
import numpy as np
import pytest
from keras import ops
from stepping import BACKEND

import keras_optreg as kor
from keras_optreg.callbacks import EvaluateAtAverage, MagnitudePruning

RNG = np.random.default_rng(5)
X = RNG.normal(size=(24, 6)).astype("float32")
KERNELS = [RNG.normal(size=(6, 5)).astype("float32"), 0.3 * RNG.normal(size=(6, 3)).astype("float32")]
TARGETS = [RNG.normal(size=(24, kernel.shape[1])).astype("float32") for kernel in KERNELS]
COMPILED = {"tensorflow": [False, True], "jax": [False, True]}.get(BACKEND, [False])
ways = pytest.mark.parametrize("jit_compile", COMPILED)


def made(optimizer, jit_compile=False, **options):
    """Two linear models side by side, without biases: each kernel has a gradient of its own."""
    x = keras.Input((6,))
    model = keras.Model(x, [keras.layers.Dense(k.shape[1], use_bias=False)(x) for k in KERNELS])
    model.set_weights(KERNELS)
    model.compile(optimizer, "mse", jit_compile=jit_compile, **options)
    return model


class Seen(keras.callbacks.Callback):
    """Copies of all kernels where others look at them."""

    def on_train_begin(self, logs=None):
        self.batches, self.epochs, self.tests = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(kernels_of(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(kernels_of(self.model))

    def on_test_begin(self, logs=None):
        self.tests.append(kernels_of(self.model))


def kernels_of(model):
    return [np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables]


def fit(model, *callbacks, steps=12, per_epoch=4, **options):
    """Every step sees the same data; returns what was seen."""
    seen = Seen()
    data = [np.tile(a, (per_epoch, 1)) for a in (X, *TARGETS)]
    model.fit(
        data[0],
        data[1:],
        batch_size=len(X),
        epochs=steps // per_epoch,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, seen],
        **options,
    )
    return seen


def zeros_of(kernels):
    return [kernel == 0 for kernel in kernels]


def equation_1(t, s_i, s_f, t_0, n, delta):
    return s_f + (s_i - s_f) * (1 - (t - t_0) / (n * delta)) ** 3


def pruned(kernels, masks, sparsity, globally=False):
    """Masks with exactly round(s·n) zeros: by a stable sort on (kept, |w|)."""
    if globally:
        ends = np.cumsum([k.size for k in kernels])[:-1]
        both = pruned(
            [np.concatenate([k.ravel() for k in kernels])], [np.concatenate([m.ravel() for m in masks])], sparsity
        )[0]
        return [m.reshape(k.shape) for m, k in zip(np.split(both, ends), kernels, strict=True)]
    new = []
    for kernel, mask in zip(kernels, masks, strict=True):
        order = np.lexsort((np.abs(kernel).ravel(), mask.ravel()))  # stable: equal ones in their order
        flat = np.ones(kernel.size, bool)
        flat[order[: round(sparsity * kernel.size)]] = False
        new.append(flat.reshape(kernel.shape))
    return new


# ------------------------------------------------------------------ the schedule and the counts


def test_the_schedule_is_equation_1():
    pruning = MagnitudePruning(0.9, begin_step=50, end_step=650, every=100, initial_sparsity=0.2)
    assert [pruning.sparsity_at(t) for t in (0, 49)] == [0, 0]
    for t in range(50, 651, 100):
        want = equation_1(t, 0.2, 0.9, 50, 6, 100)
        for later in (0, 1, 99):
            assert pruning.sparsity_at(min(t + later, 650)) == pytest.approx(want, abs=1e-12)
    assert pruning.sparsity_at(50) == pytest.approx(0.2)
    assert pruning.sparsity_at(10**6) == 0.9


def test_the_end_counts_also_where_it_is_no_multiple_and_alone():
    uneven = MagnitudePruning(0.5, begin_step=0, end_step=25, every=10)
    assert [uneven.sparsity_at(t) for t in (0, 20, 24, 25)] == pytest.approx([0, 0.496, 0.496, 0.5])
    once = MagnitudePruning(0.5, begin_step=7, end_step=7)
    assert [once.sparsity_at(t) for t in (6, 7, 8)] == [0, 0.5, 0.5]


@ways
@pytest.mark.parametrize("globally", [False, True])
def test_training_is_a_gradient_step_and_then_the_mask(globally, jit_compile):
    model = made(keras.optimizers.SGD(0.3), jit_compile)
    pruning = MagnitudePruning(0.8, begin_step=2, end_step=10, every=4, initial_sparsity=0.1, globally=globally)
    seen = fit(model, pruning).batches
    kernels = [k.astype("float64") for k in KERNELS]
    masks = [np.ones(k.shape, bool) for k in kernels]
    for t, got in enumerate(seen, 1):
        kernels = [
            w - 0.3 * 2 * X.T.astype("float64") @ (X @ w - y) / y.size for w, y in zip(kernels, TARGETS, strict=True)
        ]
        if t in (2, 6, 10):
            sparsity = equation_1(t, 0.1, 0.8, 2, 2, 4)
            masks = pruned([k * m for k, m in zip(kernels, masks, strict=True)], masks, sparsity, globally)
            sizes = [sum(k.size for k in kernels)] if globally else [k.size for k in kernels]
            zeros = [int(z.sum()) for z in zeros_of(got)]
            assert ([sum(zeros)] if globally else zeros) == [round(sparsity * n) for n in sizes]
        kernels = [k * m for k, m in zip(kernels, masks, strict=True)]
        for here, there in zip(got, kernels, strict=True):
            np.testing.assert_array_equal(here == 0, there == 0)
            np.testing.assert_allclose(here, there, atol=3e-6)
    assert len(seen) == 12
    if globally:
        assert len({z.mean() for z in zeros_of(seen[-1])}) == 2  # the small kernel loses more


def test_of_equal_weights_the_first_are_pruned():
    model = made(keras.optimizers.SGD(0.0))
    ties = [np.sign(KERNELS[0]), np.where(np.arange(18).reshape(6, 3) % 3, 0.5, -2.0).astype("float32")]
    model.set_weights(ties)
    pruning = MagnitudePruning(0.5, end_step=0)
    [first, *_] = fit(model, pruning, steps=4).batches
    assert np.array_equal(first[0].ravel() == 0, np.arange(30) < 15)
    smallest = np.flatnonzero(np.abs(ties[1].ravel()) == 0.5)[:9]
    assert np.array_equal(np.flatnonzero(first[1].ravel() == 0), smallest)


# ------------------------------------------------------------------ zeros stay


@ways
@pytest.mark.parametrize("package", [keras.optimizers, kor.optimizers], ids=["keras", "ours"])
def test_pruned_weights_stay_zero_though_momentum_would_move_them(package, jit_compile):
    model = made(package.Adam(0.05), jit_compile)
    pruning = MagnitudePruning(0.6, begin_step=3, end_step=3)
    seen = fit(model, pruning).batches
    first = zeros_of(seen[2])
    assert [int(z.sum()) for z in first] == [18, 11]
    for got in seen[2:]:
        assert all(np.array_equal(a, b) for a, b in zip(zeros_of(got), first, strict=True))
    loose = fit(made(package.Adam(0.05), jit_compile), MagnitudePruning(0.6, begin_step=3, end_step=3), steps=4).batches
    assert np.any(loose[2][0] != loose[3][0])  # the others move
    momenta = [v for v in model.optimizer.variables if "momentum" in v.path or v.path.endswith("_m")]
    sizes = {tuple(v.shape): np.abs(ops.convert_to_numpy(v)) for v in momenta}
    assert sizes[KERNELS[0].shape][first[0]].min() > 0


@pytest.mark.parametrize("is_validated", [True, False])
@pytest.mark.parametrize("kind", ["use_ema", "Lookahead", "ScheduleFreeAdamW"])
def test_averages_that_end_a_fit_have_the_zeros(kind, is_validated, tmp_path):
    optimizer = {
        "use_ema": lambda: kor.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9),
        "Lookahead": lambda: kor.optimizers.Lookahead(kor.optimizers.Adam(0.05), sync_period=5),
        "ScheduleFreeAdamW": lambda: kor.optimizers.ScheduleFreeAdamW(0.05),
    }[kind]()
    model = made(optimizer)
    pruning = MagnitudePruning(0.6, begin_step=2, end_step=6, every=2)
    average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True) if kind == "use_ema" else EvaluateAtAverage()]
    saving = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    validation = {"validation_data": (X, TARGETS)} if is_validated else {}
    seen = fit(model, *average, pruning, saving, steps=16, **validation)
    last = zeros_of(seen.batches[-1])
    assert [int(z.sum()) for z in last] == [18, 11]
    loaded = keras.saving.load_model(tmp_path / "4.keras")
    assert len(seen.tests) == (4 if is_validated else 0)
    for kernels in (seen.epochs[-1], *seen.tests[-1:], kernels_of(loaded), kernels_of(model)):
        assert all(np.array_equal(a, b) for a, b in zip(zeros_of(kernels), last, strict=True))
    assert np.any(kernels_of(model)[0] != seen.batches[-1][0])  # it is the average, and no more the training point
    again = fit(model, *average, pruning, steps=4)
    for kernels in (*again.batches, kernels_of(model)):
        assert all(np.array_equal(a, b) for a, b in zip(zeros_of(kernels), last, strict=True))


# ------------------------------------------------------------------ saved and resumed


@pytest.mark.usefixtures("run_op_by_op")
def test_a_saved_model_goes_on_with_its_zeros(tmp_path):
    def pruning():
        return MagnitudePruning(0.7, begin_step=2, end_step=8, every=2)

    whole = made(kor.optimizers.SGD(0.1, momentum=0.9))
    want = fit(whole, pruning(), steps=16).batches
    half = made(kor.optimizers.SGD(0.1, momentum=0.9))
    fit(half, pruning(), steps=4)
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    got = fit(loaded, pruning(), steps=12).batches
    for here, there in zip(got, want[4:], strict=True):
        for a, b in zip(here, there, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7)
            assert np.array_equal(a == 0, b == 0)
    without = fit(loaded, MagnitudePruning(0.7, begin_step=2, end_step=8), steps=4)
    assert [int(z.sum()) for z in zeros_of(without.batches[-1])] == [21, 13]


@pytest.mark.usefixtures("run_op_by_op")
def test_a_state_tells_a_pruned_zero_from_another():
    first = MagnitudePruning(0.5, begin_step=1, end_step=1)
    model = made(keras.optimizers.SGD(0.1))
    fit(model, first, steps=4)
    kept = kernels_of(model)
    free = np.argwhere(kept[0] != 0)[0]
    kept[0][tuple(free)] = 0.0  # by itself
    model.set_weights(kept)
    second = MagnitudePruning(0.5, begin_step=1, end_step=1)
    second.load_state_dict(first.state_dict())
    got = fit(model, second, steps=4).batches
    assert got[0][0][tuple(free)] != 0
    assert int((got[0][0] == 0).sum()) == 15
    guessed = made(keras.optimizers.SGD(0.1))
    guessed.optimizer.iterations.assign(4)
    guessed.set_weights(kept)
    assert fit(guessed, MagnitudePruning(0.5, begin_step=1, end_step=1), steps=4).batches[-1][0][tuple(free)] == 0
    assert [mask.dtype for mask in first.state_dict()["masks"]] == [bool, bool]
    assert len(second.report()) == 2
    assert len(MagnitudePruning(end_step=1).report()) == 0
    listed = json.loads(json.dumps([mask.tolist() for mask in first.state_dict()["masks"]]))
    assert np.array_equal(np.array(listed[0]), first.masks[0])


@pytest.mark.usefixtures("run_op_by_op")
def test_a_zero_of_the_initializer_is_not_pruned():
    model = made(keras.optimizers.SGD(0.1))
    model.set_weights([np.zeros_like(k) for k in KERNELS])
    got = fit(model, MagnitudePruning(0.5, begin_step=0, end_step=1000), steps=4).batches
    assert not np.any(got[-1][0] == 0)


def test_a_state_of_other_weights_is_refused():
    pruning = MagnitudePruning(0.5, end_step=1)
    pruning.load_state_dict({"masks": [np.ones((2, 2), bool)]})
    with pytest.raises(ValueError, match=r"the shapes \[\(2, 2\)\].*shapes \[\(6, 5\), \(6, 3\)\]"):
        fit(made("sgd"), pruning, steps=4)


# ------------------------------------------------------------------ steps, and which weights


@ways
def test_steps_are_updates_under_accumulation(jit_compile):
    model = made(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), jit_compile)
    seen = fit(model, MagnitudePruning(0.5, begin_step=2, end_step=4, every=1, initial_sparsity=0.2), steps=12).batches
    share = [round(s * 30) for s in (0.2, 0.5 - 0.3 / 8, 0.5)]
    want = [0, 0, 0, share[0], share[0], share[1], share[1], *[share[2]] * 5]
    assert [int((kernels[0] == 0).sum()) for kernels in seen] == want


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no steps_per_execution on torch")
@ways
def test_several_steps_an_execution(jit_compile):
    model = made(kor.optimizers.Adam(0.05), jit_compile, steps_per_execution=2)
    seen = fit(model, MagnitudePruning(0.5, begin_step=3, end_step=7, every=2), steps=12)
    zeros = [[int(z.sum()) for z in zeros_of(kernels)] for kernels in seen.batches]
    middle = 0.5 * (1 - 0.5**3)
    assert zeros == [[0, 0], [0, 0], [round(middle * 30), round(middle * 18)], *[[15, 9]] * 3]


@pytest.mark.usefixtures("run_op_by_op")
def test_only_what_is_selected_and_trained():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(4), keras.layers.Dense(3)])
    model.layers[0].trainable = False
    model.compile("sgd", "mse")
    before = [np.array(ops.convert_to_numpy(v)) for v in model.weights]
    pruning = MagnitudePruning(0.5, end_step=0, on=kor.select.kernels() & ~kor.select.ndim(1))
    history = model.fit(X, TARGETS[1], verbose=0, callbacks=[pruning]).history
    after = [np.array(ops.convert_to_numpy(v)) for v in model.weights]
    assert np.array_equal(before[0], after[0])
    assert [int((w == 0).sum()) for w in after[2::2]] == [10, 6]
    assert history["sparsity"] == [0.5]
    assert pruning.sparsity == 0.5
    report = pruning.report()
    assert [tuple(row)[1:] for row in report] == [(20, 10, 0.5), (12, 6, 0.5)]
    assert report[0].path == model.layers[1].kernel.path
    assert str(report).endswith("16 of 32 weights are zero")


def test_a_model_that_is_built_in_its_first_step():
    model = keras.Sequential([keras.layers.Dense(5), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    model.fit(X, TARGETS[1], verbose=0, epochs=2, callbacks=[MagnitudePruning(0.5, end_step=1)])
    assert [int((ops.convert_to_numpy(layer.kernel) == 0).sum()) for layer in model.layers] == [15, 8]


@pytest.mark.usefixtures("run_op_by_op")
def test_short_weights_are_pruned():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, dtype="bfloat16")])
    model.compile(kor.optimizers.SGD(0.1), "mse")
    model.fit(X, TARGETS[0], verbose=0, callbacks=[MagnitudePruning(0.5, end_step=1)])
    kernel = model.layers[0].kernel
    assert keras.backend.standardize_dtype(kernel.dtype) == "bfloat16"
    assert int((ops.convert_to_numpy(ops.cast(kernel, "float32")) == 0).sum()) == 15


REFUSED = [
    ({"final_sparsity": 1.0}, "The `final_sparsity` of MagnitudePruning must be a number in [0, 1)."),
    ({"initial_sparsity": 0.9}, "The `initial_sparsity` of MagnitudePruning must be a number in [0, 0.8]."),
    ({"begin_step": 20}, "The `end_step` of MagnitudePruning must be an integer in [20, inf). Received: end_step=10"),
    ({"every": 0}, "The `every` of MagnitudePruning must be an integer in [1, inf)."),
    ({"begin_step": 0.5}, "The `begin_step` of MagnitudePruning must be an integer in [0, inf)."),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_wrong_arguments_are_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MagnitudePruning(**{"end_step": 10, **arguments})


def test_a_wrong_selection_is_refused():
    with pytest.raises(TypeError, match="Write select.matching\\('kernel'\\)"):
        MagnitudePruning(end_step=10, on="kernel")
    with pytest.raises(ValueError, match="MagnitudePruning\\(on=...\\): embeddings\\(\\) matches none of the weights"):
        fit(made("sgd"), MagnitudePruning(end_step=10, on=kor.select.embeddings()), steps=4)
