"""The migration page is true: its expressions exist, its "Equal" is equal, and its ten scripts run after the move."""

import math
import re
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from stepping import BACKEND, run

import keras_optreg as kor

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
PAIRS = {
    path.name.removesuffix("_before.py"): (path, path.with_name(path.name.replace("_before", "_after")))
    for path in sorted((ROOT / "tests" / "migration").glob("*_before.py"))
}
NAMES = {
    "keras": keras,
    **{name: getattr(kor, name) for name in ("callbacks", "optimizers", "regularizers", "schedules", "select")},
    "gradient_transforms": kor.optimizers.gradient_transforms,
}


def rows_of(page):
    """(theirs, here, what differs) of every line of the tables; an expression without its backticks, "" for none."""
    cells = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert all(len(row) == 3 for row in cells), "a cell of docs/migration.md holds a bar"
    return [(theirs.strip(" `"), here.strip(" `—"), differs.strip()) for theirs, here, differs in cells]


ROWS = rows_of(PAGE)
EQUAL_IN_KERAS = [row for row in ROWS if row[0].startswith(("keras.optimizers.schedules.", "keras.regularizers."))]
OPTIMIZERS_OF_TORCH = [row for row in ROWS if re.match(r"torch\.optim\.\w+\(params\b", row[0])]
SCHEDULERS_OF_TORCH = [row for row in ROWS if row[0].startswith("torch.optim.lr_scheduler.")]
only_on_torch = pytest.mark.skipif(BACKEND != "torch", reason="compares with PyTorch")


def says_equal(differs):
    return differs.startswith("Equal")


def name(row):
    return row[0]


# ------------------------------------------------------------------ the tables


def small_model():
    layers = [keras.layers.Dense(3, name="encoder"), keras.layers.Dense(1, name="head")]
    return keras.Sequential([keras.Input((2,)), *layers], name="net")


def test_there_is_a_table_for_each_library():
    libraries = {"tfa", "keras", "torch", "timm", "optax"}
    assert libraries <= {theirs.split(".")[0] for theirs, _, _ in ROWS}
    assert [theirs for theirs, here, _ in ROWS if not here] == [
        "tfa.optimizers.ConditionalGradient(0.01, 1.0)",
        "tfa.layers.WeightNormalization(layer)",
    ]


@pytest.mark.parametrize("here", dict.fromkeys(here for _, here, _ in ROWS if here))
def test_every_expression_makes_what_it_names(here):
    model = small_model()
    made = eval(here, {**NAMES, "model": model})
    called = re.match(r"[\w.]+", here)[0].rsplit(".", 1)[1]
    if isinstance(made, keras.optimizers.Optimizer):
        assert type(made).__name__ == called
        table = [keras.Variable(np.ones((4, 2), "float32"), name="embeddings")] if getattr(made, "sparse", None) else []
        made.build(model.trainable_variables + table)  # which evaluates its selectors: each must match a weight
        assert made.built
    elif isinstance(made, keras.optimizers.schedules.LearningRateSchedule):
        assert 0 < float(made(3)) < 0.1001  # the rates of the page are 0.1 and less
    elif isinstance(made, keras.regularizers.Regularizer):
        assert float(made(ops.ones((2,)))) > 0
    elif isinstance(made, keras.Model):
        made.compile(kor.optimizers.SGD(0.1), "mse")
        assert math.isfinite(made.train_on_batch(np.ones((4, 2), "float32"), np.ones((4, 1), "float32")))
    else:
        assert isinstance(made, keras.callbacks.Callback)
        assert type(made).__name__ == called


@pytest.mark.parametrize("row", EQUAL_IN_KERAS, ids=name)
def test_schedules_and_regularizers_are_equal_to_those_of_keras(row):
    theirs, here, differs = row
    assert says_equal(differs)
    theirs, ours = eval(theirs, NAMES), eval(here, NAMES)
    if isinstance(ours, keras.regularizers.Regularizer):
        pairs = [(theirs(w), ours(w)) for w in (ops.array([[1.0, -2.0], [0.5, 3.0]]), ops.ones((3,)))]
    else:
        # A multiple of 500 + 1 is no restart of the cosine, the one step at which that may differ.
        pairs = [(theirs(step), ours(step)) for step in (0, 1, 499, 501, 999, 1001, 1999, 2001, 2501)]
    for one, other in pairs:
        np.testing.assert_allclose(float(one), float(other), rtol=1e-5)


def gradients(low, high, steps=12):
    """Weights, and gradients whose sizes are powers of ten between `low` and `high`."""
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,)]
    weights = [1e-3 * rng.normal(size=s).astype("float32") for s in shapes]
    return weights, [
        [(rng.normal(size=s) * 10 ** rng.uniform(low, high, size=s)).astype("float32") for s in shapes]
        for _ in range(steps)
    ]


@only_on_torch
@pytest.mark.parametrize("row", OPTIMIZERS_OF_TORCH, ids=name)
def test_optimizers_differ_from_pytorch_where_the_table_says_so_and_nowhere_else(row):
    import torch

    theirs, here, differs = row
    distances = []
    for sizes in ((-2, 0), (-10, -8)):  # the small ones, where epsilon counts
        weights, steps = gradients(*sizes)
        kind = None
        if is_sparse := "Sparse" in theirs:  # tables, of which a step leaves out one row
            kind, weights = "embeddings", weights[:1]
            steps = [
                [g * (np.arange(3) != t % 3)[:, None].astype("float32") for g in s[:1]] for t, s in enumerate(steps)
            ]
        ours, _ = run(lambda: eval(here, NAMES), weights, steps, kind=kind)
        params = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
        optimizer = eval(theirs, {"torch": torch, "params": params})
        for grads in steps:
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.tensor(g).to_sparse(1) if is_sparse else torch.tensor(g)
            optimizer.step()
        moved = max(np.abs(o - w).max() for o, w in zip(ours, weights, strict=True))
        distance = max(np.abs(o - p.detach().numpy()).max() for o, p in zip(ours, params, strict=True))
        if moved > 1e-5:  # less is rounding: plain SGD hardly moves by gradients of 1e-9
            distances.append(distance / moved)
    assert (max(distances) < 5e-4) == says_equal(differs), distances


@only_on_torch
@pytest.mark.parametrize("row", SCHEDULERS_OF_TORCH, ids=name)
def test_schedules_are_equal_to_those_of_pytorch(row):
    import torch

    theirs, here, differs = row
    assert says_equal(differs)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, schedule = eval(theirs, {"torch": torch, "optimizer": optimizer}), eval(here, NAMES)
    for step in range(50):
        np.testing.assert_allclose(scheduler.get_last_lr()[0], float(schedule(step)), rtol=1e-5, atol=1e-9)
        optimizer.step()
        scheduler.step()


# ------------------------------------------------------------------ ten scripts


def value_while_tracing(variable):
    """The variable's value, also where TensorFlow traces a function: `fit` builds optimizers there."""
    if BACKEND != "tensorflow":
        return ops.convert_to_numpy(variable)
    import tensorflow as tf

    with tf.init_scope():
        return variable.value.numpy()


class Ran:
    """A script that ran: its names, and the trainable weights before and after the training, by path.

    Attributes:
        names: the script's global names.
        model: its model.
        optimizer: its optimizer, of which `config` are the arguments.
        start, end: the weights.
    """

    def __init__(self, path, monkeypatch):
        started = {}
        build = keras.optimizers.Optimizer.build

        def noting_build(optimizer, variables):
            for v in variables:
                started.setdefault(id(v), value_while_tracing(v))
            return build(optimizer, variables)

        monkeypatch.setattr(keras.optimizers.Optimizer, "build", noting_build)
        keras.utils.clear_session(free_memory=False)
        self.names = runpy.run_path(str(path))
        monkeypatch.setattr(keras.optimizers.Optimizer, "build", build)
        self.model = self.names["model"]
        self.optimizer = getattr(self.model, "optimizer", None) or self.names["optimizer"]
        self.config = self.optimizer.get_config()
        paths = [v.path for v in self.model.trainable_variables]
        assert len(set(paths)) == len(paths)
        self.start = {v.path: started[id(v)] for v in self.model.trainable_variables}
        self.end = {v.path: ops.convert_to_numpy(v) for v in self.model.trainable_variables}

    @property
    def steps(self):
        return int(self.optimizer.iterations)

    def moved(self, path):
        """How far the weight moved in its largest coordinate, in all."""
        return np.abs(self.end[path] - self.start[path]).max()


@pytest.fixture
def after(request, monkeypatch):
    """The script after its move, run; it trained every weight, and to numbers."""
    script = Ran(PAIRS[request.param][1], monkeypatch)
    for path, value in script.end.items():
        assert np.isfinite(value).all(), path
        assert script.moved(path) > 0, path
    return script


def runs(pair, **marks):
    return pytest.mark.parametrize("after", [pytest.param(pair, **marks)], indirect=True)


def numbers(script, *names):
    return {name: pytest.approx(script.config[name]) for name in names}


def decays_of(script):
    return {row.weight: row.decay for row in kor.summary(script.model)}


@runs("01_rectified_adam")
def test_rectified_adam(after):
    assert type(after.optimizer) is kor.optimizers.RAdam
    assert numbers(after, "learning_rate", "weight_decay") == {"learning_rate": 1e-2, "weight_decay": 1e-4}
    assert after.steps == 3 * 5  # 150 rows in batches of 32
    assert set(decays_of(after).values()) == {1e-4}


@runs("02_ranger")
def test_ranger(after):
    assert type(after.optimizer) is kor.optimizers.Lookahead
    assert (after.config["sync_period"], after.config["slow_step_size"]) == (6, 0.5)
    assert "RAdam" in repr(after.config)
    assert after.steps == 3 * 8


@runs("03_lamb")
def test_lamb(after):
    assert type(after.optimizer) is kor.optimizers.LAMB
    assert decays_of(after) == {
        "intermediate/kernel": 0.01,
        "intermediate/bias": None,
        "layer_norm/gamma": None,
        "layer_norm/beta": None,
        "output/kernel": 0.01,
        "output/bias": None,
    }
    # A step moves a weight tensor by the rate times its own norm, and the norm stays about as it was.
    for path in ("intermediate/kernel", "output/kernel"):
        length = np.linalg.norm(after.start[path])
        assert np.linalg.norm(after.end[path] - after.start[path]) < 1.2 * after.steps * 0.01 * length


@runs("04_adamw")
def test_adamw_of_addons(after):
    assert type(after.optimizer) is kor.optimizers.AdamW
    again = kor.optimizers.AdamW.from_config(after.config)
    w = keras.Variable([1.0, -1.0])
    for _ in range(10):
        again.apply([ops.zeros(2)], [w])  # no gradient: only the decay acts, and not times the rate
    np.testing.assert_allclose(ops.convert_to_numpy(w), np.array([1, -1]) * (1 - 1e-4) ** 10, rtol=1e-6)


@pytest.mark.parametrize("after", ["05_lazy_adam"], indirect=True)
def test_lazy_adam(after):
    assert type(after.optimizer) is kor.optimizers.Adam
    assert after.config["sparse"] == "touched_rows"
    [path] = [path for path in after.end if path.endswith("embeddings")]
    change = np.abs(after.end[path] - after.start[path]).max(axis=1)
    tokens = after.names["tokens"]
    seen = np.unique(tokens)
    assert (change[seen] > 0).all()
    assert (change[np.setdiff1d(np.arange(1000), seen)] == 0).all()
    # A row that one batch looks up makes one step an epoch, at most as long as the rate. Plain Adam goes on moving it.
    batches = [np.unique(tokens[i : i + 64]) for i in range(0, len(tokens), 64)]
    once = [row for row in seen if sum(row in batch for batch in batches) == 1]
    assert once
    assert change[once].max() < 2 * 0.001  # two epochs


@runs("06_novograd")
def test_novograd(after):
    assert type(after.optimizer) is kor.optimizers.NovoGrad
    expected = {"learning_rate": 1e-2, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "weight_decay": 0.001}
    assert numbers(after, *expected) == expected
    assert after.steps == 2 * 4


@runs("07_adabelief")
def test_adabelief(after):
    assert type(after.optimizer) is kor.optimizers.AdaBelief
    assert numbers(after, "learning_rate", "epsilon") == {"learning_rate": 1e-3, "epsilon": 1e-14}
    assert after.steps == 3 * 5  # 133 rows in batches of 32


@runs("08_multi_optimizer")
def test_multi_optimizer(after):
    assert type(after.optimizer) is kor.optimizers.Partition
    first, *others = [[w.path for w in layer.weights] for layer in after.model.layers]
    # Adam's steps are about the rate long, so layers of rates 1e-4 and 1e-2 are far apart.
    assert all(after.moved(path) < 2 * 1e-4 * 20 for path in first)
    assert all(after.moved(path) > 1e-2 for paths in others for path in paths if path.endswith("kernel"))


@pytest.mark.parametrize("pair", ["09_sgd_schedule_l2", "10_custom_loop"])
def test_scripts_of_keras_end_with_the_same_weights(pair, monkeypatch):
    if BACKEND != "tensorflow" and "import tensorflow" in PAIRS[pair][0].read_text(encoding="utf-8"):
        pytest.skip("the script calls TensorFlow")
    before, after = (Ran(path, monkeypatch) for path in PAIRS[pair])
    assert type(before.optimizer).__module__.startswith("keras.")
    assert type(after.optimizer).__module__.startswith("keras_optreg.")
    assert before.steps == after.steps >= 12
    for path, value in before.end.items():
        assert before.moved(path) > 0.01
        np.testing.assert_allclose(after.end[path], value, rtol=0, atol=1e-5, err_msg=path)
    if pair == "09_sgd_schedule_l2":
        assert type(after.model.layers[0].kernel_regularizer) is kor.regularizers.L2
        assert type(after.names["lr_schedule"]) is kor.schedules.ExponentialDecay
