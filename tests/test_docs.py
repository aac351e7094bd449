"""The pages in docs/ are the generated ones, complete; their links lead somewhere, and their code runs."""

import importlib
import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_optreg as kor
from keras_optreg.regularizers import PenaltyRegularizer

ROOT = Path(__file__).parents[1]
CATALOG, DIAGNOSIS, MIGRATION, REGULARIZERS, SCHEDULES, TENSORBOARD = (
    (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for page in ("catalog", "diagnosis", "migration", "regularizers", "schedules", "tensorboard")
)
FIRST, *EXAMPLES = re.findall(r"```python\n(.*?)```", REGULARIZERS, flags=re.S)


@pytest.fixture
def tool(monkeypatch):
    """tools/update_docs.py, which imports its neighbour."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    yield importlib.import_module("update_docs")
    for module in ("update_docs", "update_readme", "diagnosis_runs"):
        sys.modules.pop(module, None)


def cells_of(name):
    [line] = [line for line in CATALOG.splitlines() if line.startswith(f"| `{name}` |")]
    return line.strip("| ").split(" | ")


def test_the_pages_are_the_generated_ones(tool):
    assert tool.catalog() == CATALOG, "run: python tools/update_docs.py"
    assert tool.migration(MIGRATION) == MIGRATION, "run: python tools/update_docs.py"
    assert tool.regularizers(REGULARIZERS) == REGULARIZERS, "run: python tools/update_docs.py"
    assert tool.schedules(SCHEDULES) == SCHEDULES, "run: python tools/update_docs.py"
    assert tool.diagnosis(DIAGNOSIS) == DIAGNOSIS, "run: python tools/update_docs.py"


def test_a_script_moves_here_in_three_lines(tool):
    assert len(tool.pairs()) == 10
    for before, after in tool.pairs().values():
        lines = tool.edited_lines(before, after)
        removed, added = (sum(line.startswith(sign) for line in lines) for sign in "-+")
        assert 0 < max(removed, added) <= 3, lines
        assert "keras_optreg" not in before.read_text(encoding="utf-8")
        assert "tensorflow_addons" not in after.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page",
    [CATALOG, DIAGNOSIS, MIGRATION, REGULARIZERS, SCHEDULES, TENSORBOARD],
    ids=["catalog", "diagnosis", "migration", "regularizers", "schedules", "tensorboard"],
)
def test_links_exist(page):
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", page) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


def test_everything_public_is_in_it_once(tool):
    families = (kor.optimizers, kor.regularizers, kor.constraints, kor.schedules, kor.callbacks, kor.select)
    offered = {name for family in families for name in family.__all__ if callable(getattr(family, name))}
    listed = re.findall(r"^\| `(\w+)` \|", CATALOG, flags=re.M)
    parts = (kor.optimizers.gradient_transforms, kor.schedules.shapes, kor.callbacks.criteria)
    offered |= {name for part in parts for name in part.__all__}
    assert sorted(listed) == sorted(offered - tool.update_readme.FOR_AUTHORS)


def test_columns_say_what_the_classes_do():
    when, slots, proximal, elementwise, arguments, reference = cells_of("Adam")[2:]
    assert (slots, proximal, elementwise) == ("2 (3 with `amsgrad`)", "yes", "yes")
    assert "`beta_1=0.9`" in arguments
    assert "weight_decay" not in arguments
    assert reference.endswith("[arXiv:1412.6980](https://arxiv.org/abs/1412.6980)")
    assert when.startswith("The default for most networks.")
    assert cells_of("SGD")[3] == "0 (1 with `momentum`)"
    assert cells_of("NovoGrad")[3:6] == ["1 + 1 number a tensor", "yes", "no"]
    assert cells_of("MADGRAD")[3:6] == ["3", "no", "yes"]
    assert cells_of("matching")[2] == "`regex`"


# ------------------------------------------------------------------ docs/regularizers.md


def some_model():
    """With a unit of `hidden` that sees nothing, and layers of the names that the page uses."""
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(4, 5, activation="relu", name="conv"),
        keras.layers.Flatten(),
        keras.layers.Dense(6, "relu", name="hidden"),
        keras.layers.Dense(5, "sigmoid", name="code"),
        keras.layers.Dense(3, "softmax", name="head"),
    ]
    model = keras.Sequential(layers)
    kernel = keras.ops.convert_to_numpy(model.get_layer("hidden").kernel).copy()
    kernel[:, 0] = 0
    model.get_layer("hidden").kernel.assign(kernel)
    return model


def images():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(12, 8, 8, 1)).astype("float32"), rng.integers(3, size=12)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("code", EXAMPLES, ids=[code.strip().splitlines()[0][:50] for code in EXAMPLES])
def test_examples_of_regularizers_run_and_their_models_train(code):
    x, y = images()
    names = {"model": some_model(), "x": x, "y": y}
    names["model"].compile("sgd", "sparse_categorical_crossentropy")
    code = code.replace("epochs=100", "epochs=2")
    exec(compile(FIRST + code, "docs/regularizers.md", "exec"), names)
    model = names["model"]
    before = model.get_weights()
    model.compile(names.get("optimizer", "sgd"), "sparse_categorical_crossentropy")
    assert np.isfinite(model.train_on_batch(x, y))
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_every_penalty_has_a_section_with_a_picture_and_an_example():
    penalties = {
        name
        for name in kor.regularizers.__all__
        if isinstance(each := getattr(kor.regularizers, name), type) and issubclass(each, PenaltyRegularizer)
    } - {"PenaltyRegularizer", "Sum"}
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", REGULARIZERS, flags=re.S | re.M))
    assert set(sections) == penalties
    for name, section in sections.items():
        assert f"images/regularizers/{name}.png" in section
        assert f"{name}(" in section.split("```python")[1]
    for name in {*kor.constraints.__all__, "MagnitudePruning", "PenaltySchedule", "DropoutSchedule"}:
        assert re.search(rf"```python\n[^`]*\b{name}\b", REGULARIZERS), name


@pytest.mark.parametrize("page", [REGULARIZERS, SCHEDULES], ids=["regularizers", "schedules"])
def test_the_table_leads_to_sections(page):
    titles = re.findall(r"^#+ (.*)", page, flags=re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    linked = set(re.findall(r"\]\(#([\w-]+)\)", page))
    assert linked
    assert linked <= anchors


def test_which_penalties_have_a_proximal_map_is_said_right():
    kinds = {name: getattr(kor.regularizers, name) for name in kor.regularizers.__all__}
    kinds = {n: k for n, k in kinds.items() if isinstance(k, type) and issubclass(k, PenaltyRegularizer)}
    everywhere = {name for name, kind in kinds.items() if kind.has_proximal_map and kind.takes_vector_steps}
    [said] = re.findall(r"Seven penalties have a proximal map: (.*?);", REGULARIZERS, flags=re.S)
    assert set(re.findall(r"`(\w+)`", said)) == everywhere
    assert len(everywhere) == 7
    assert {n for n, kind in kinds.items() if kind.has_proximal_map} - everywhere == {"NuclearNorm"}


# ------------------------------------------------------------------ docs/schedules.md


def test_examples_of_schedules_run():
    first, *examples = re.findall(r"```python\n(.*?)```", SCHEDULES, flags=re.S)
    for code in examples:
        names = {}
        exec(compile(first + code, "docs/schedules.md", "exec"), names)
        for schedule in [
            each for each in names.values() if isinstance(each, keras.optimizers.schedules.LearningRateSchedule)
        ]:
            assert all(0 <= float(schedule(t)) <= 1 for t in (0, 500, 1000, 5000)), code


def test_every_schedule_has_a_section_with_a_picture_of_its_code(tool):
    offered = {name for name in kor.schedules.__all__ if callable(getattr(kor.schedules, name))}
    sections = dict(re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", SCHEDULES, flags=re.S | re.M))
    assert set(sections) - {"Momentum with one cycle"} == offered - tool.update_readme.FOR_AUTHORS
    for name in set(sections) & offered:
        assert f"images/schedules/{name}.png" in sections[name]
        assert f"{name}(" in tool.examples(SCHEDULES)[name]
    assert all(f"shapes.{name})" in tool.examples(SCHEDULES)["shapes"] for name in kor.schedules.shapes.__all__)
    drawn = json.loads((ROOT / "docs" / "images" / "schedules" / "drawn.json").read_text(encoding="utf-8"))
    assert drawn == tool.examples(SCHEDULES), "run: python tools/draw_schedules.py"


def test_the_table_of_names_has_a_row_for_every_schedule(tool):
    rows = re.findall(r"^\| `(\w+)` \|", SCHEDULES.split("## Names elsewhere")[1], flags=re.M)
    offered = {name for name in kor.schedules.__all__ if callable(getattr(kor.schedules, name))}
    assert sorted(rows) == sorted(offered - tool.update_readme.FOR_AUTHORS)


# ------------------------------------------------------------------ docs/tensorboard.md


class Recorder:
    """Stands for wandb and mlflow, and writes down what it is told."""

    def __init__(self):
        self.told = []
        self.config = {}
        self.Histogram = np.histogram

    def init(self, project):
        return self

    def log(self, values, step):
        self.told.append((step, values))

    log_metrics = log

    def finish(self):
        self.told.append("finished")


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
@pytest.mark.usefixtures("run_op_by_op")
def test_examples_of_watching_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wandb, mlflow = Recorder(), Recorder()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    x, y = images()
    names = {"model": some_model(), "x": x, "y": y, "x_val": x[:4], "y_val": y[:4]}
    names["model"].compile("sgd", "sparse_categorical_crossentropy")
    examples = re.findall(r"```python\n(.*?)```", TENSORBOARD, flags=re.S)
    for code in examples:
        exec(
            compile(code.replace("epochs=20", "epochs=2").replace("=10)", "=1)"), "docs/tensorboard.md", "exec"), names
        )
    assert list(tmp_path.glob("logs/run1/train/events.out.tfevents.*"))
    assert names["dead"]
    assert any(name.startswith("largest/") for name in names["memory"].history)
    (step, values), end = wandb.told
    assert end == "finished"
    [(later, numbers)] = mlflow.told
    assert 0 < step < later
    assert values["gradient_norm"] > 0 < numbers["gradient_norm"]
    kernel = next(name for name in values if name.startswith("weights/") and "kernel" in name)
    assert values[kernel][0].sum() > 0
    assert {f"{kernel}/min", f"{kernel}/mean", f"{kernel}/max"} <= set(numbers)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
@pytest.mark.usefixtures("run_op_by_op")
def test_examples_of_diagnosis_run_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = images()
    names = {"model": some_model(), "x": x, "y": y, "x_val": x[:4], "y_val": y[:4]}
    names["model"].compile("sgd", "sparse_categorical_crossentropy")
    for code in re.findall(r"```python\n(.*?)```", DIAGNOSIS, flags=re.S):
        exec(compile(code.replace("epochs=20", "epochs=10"), "docs/diagnosis.md", "exec"), names)
    assert "Looked for: learning rate too high, exploding gradients" in capsys.readouterr().out
    assert "dead units" in names["diagnosis"].looked_for
    assert not names["diagnosis"].not_looked_for


def test_all_tags_are_in_the_table():
    table = TENSORBOARD.split("## The tags")[1].split("## Other measures")[0]
    for name in set(kor.callbacks.probes.__all__) - {"Probe", "Logs", "DataLoss", "TrainValidationGap"}:
        tag = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
        assert f"`{name}`" in table or f"`{tag}`" in table, name
