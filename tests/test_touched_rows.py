"""`sparse="touched_rows"`: rows of embeddings that a batch did not touch keep their values and their state."""

import keras
import numpy as np
import pytest
from cases.optimizers import CASES
from keras import layers, ops
from stepping import BACKEND, run_reference, values_of

from keras_optreg import select
from keras_optreg.optimizers import SGD, Adam
from keras_optreg.optimizers.gradient_transforms import Centralize
from keras_optreg.regularizers import L1

LR = 0.05
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(6, 3)).astype("float32")
BATCHES = [[0, 2, 2], [1, 2, 5], [0, 0, 0], [5, 1, 2]]  # rows 3 and 4 never
VALUES = [RNG.normal(size=(3, 3)).astype("float32") * 10.0**k for k in (-2, 0, 1, -1)]


def dense(rows, values):
    out = np.zeros_like(TABLE)
    np.add.at(out, rows, values)
    return out


def slices(rows, values):
    if BACKEND != "tensorflow":
        return ops.convert_to_tensor(dense(rows, values))
    import tensorflow as tf

    return tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant(TABLE.shape))


def trained(make, gradient=slices, **options):
    table = keras.Variable(TABLE, name="embeddings")
    optimizer = make(LR, sparse="touched_rows", **options)
    for rows, values in zip(BATCHES, VALUES, strict=True):
        optimizer.apply([gradient(rows, values)], [table])
    return values_of([table])[0]


def row_by_row(reference):
    """Each row a weight of its own, without gradient where the batch has none of it."""
    gradients = [
        [g if g.any() else None for g in dense(rows, values)] for rows, values in zip(BATCHES, VALUES, strict=True)
    ]
    return np.stack(run_reference(reference, list(TABLE), gradients, LR))


WITHOUT_ROWS = ("Adan", "Prodigy")  # one starts from the first gradient of a weight, the other sums over all weights
ROWS = [
    case
    for case in CASES
    if type(case.make(LR)).elementwise
    and not case.name.startswith((*WITHOUT_ROWS, "Proximal"))  # the references of Proximal are about kernels
]


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_equals_a_reference_for_each_row(case):
    np.testing.assert_allclose(trained(case.make), row_by_row(case.reference), rtol=2e-5, atol=2e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has gradients by rows")
def test_compiled_by_rows_equals_compiled_with_a_mask():
    def whole(rows, values):
        return ops.convert_to_tensor(dense(rows, values))

    by_rows = trained(Adam, weight_decay=0.1)
    np.testing.assert_allclose(by_rows, trained(Adam, whole, weight_decay=0.1), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(by_rows[3:5], TABLE[3:5])


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_transforms": [Centralize()]},
        {"clipnorm": 1.0},
        {"penalties": [(select.embeddings(), L1(0.1).coupled())]},
        {"use_ema": True},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_rows_stay_with_every_option(options):
    found = trained(Adam, **options)
    np.testing.assert_array_equal(found[3:5], TABLE[3:5])
    assert (np.abs(found - TABLE)[[0, 1, 2, 5]] > 1e-4).all()


def embedding_model(optimizer, **compile_options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(6, 4), layers.Flatten(), layers.Dense(1)]
    )
    model.compile(optimizer, "mse", **compile_options)
    return model


TOKENS, TARGETS = np.array(BATCHES), np.ones((4, 1), "float32")


@pytest.mark.parametrize("jit", [False, True])
def test_in_fit(jit, tmp_path):
    """Addons' LazyAdam in NumPy on the table; the other weights see plain Adam."""
    if BACKEND == "torch" and jit:
        pytest.skip("torch compiles with a C++ compiler for minutes")
    exact, lazy = (
        embedding_model(Adam(LR), jit_compile=jit),
        embedding_model(Adam(LR, sparse="touched_rows"), jit_compile=jit),
    )
    start = lazy.get_weights()[0]
    for model in (exact, lazy):
        model.fit(TOKENS, TARGETS, batch_size=1, epochs=1, shuffle=False, verbose=0)
    np.testing.assert_array_equal(lazy.get_weights()[0][3:5], start[3:5])
    # Row 5 is looked up in batches 2 and 4: exact Adam moves it in batch 3, too.
    assert np.abs(lazy.get_weights()[0] - exact.get_weights()[0])[5].max() > 1e-3
    lazy.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for model in (lazy, loaded):
        model.fit(TOKENS, TARGETS, batch_size=2, epochs=1, shuffle=False, verbose=0)
    for a, e in zip(loaded.get_weights(), lazy.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-7)
    assert loaded.optimizer.sparse == "touched_rows"


def test_refused_where_a_row_cannot_be_told_apart():
    refused = [case for case in CASES if not type(case.make(LR)).elementwise or case.name.startswith(WITHOUT_ROWS)]
    assert len(refused) > 10
    for case in refused:
        with pytest.raises(ValueError, match="cannot update the touched rows alone"):
            case.make(LR, sparse="touched_rows")
    with pytest.raises(ValueError, match="is None \\(exact\\) or 'touched_rows'"):
        SGD(0.1, sparse="rows")
    with pytest.raises(ValueError, match="`sparse`: .* matches none"):
        SGD(0.1, sparse="touched_rows").build([keras.Variable(TABLE, name="kernel")])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has gradients by rows")
def test_many_repeats_in_bfloat16_and_none_at_all():
    import tensorflow as tf

    table = keras.Variable(np.zeros((3, 1), "float32"), name="embeddings", dtype="bfloat16")
    optimizer = SGD(0.01, sparse="touched_rows")
    ones = tf.IndexedSlices(tf.ones((1000, 1), "bfloat16"), tf.zeros(1000, "int64"), (3, 1))
    optimizer.apply([ones], [table])  # the sum of 1000 ones is 256 in bfloat16
    np.testing.assert_allclose(values_of([table])[0][:, 0], [-10, 0, 0])
    optimizer.apply([tf.IndexedSlices(tf.ones((0, 1), "bfloat16"), tf.zeros(0, "int64"), (3, 1))], [table])
    np.testing.assert_allclose(values_of([table])[0][:, 0], [-10, 0, 0])
