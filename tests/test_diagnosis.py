"""`diagnose`, judged by trainings that have a fault and by some that have none, and by curves on its thresholds."""

import importlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_optreg as kor
from keras_optreg import callbacks, diagnosis

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    """tools/diagnosis_runs.py."""
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module("diagnosis_runs")
    sys.path.remove(str(ROOT / "tools"))


# ------------------------------------------------------------------ real trainings

FAULTS = [rule.name for rule in diagnosis.RULES]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_in_four_of_five_trainings_that_have_it(tool, fault):
    recorded = tool.recorded()
    for make in tool.FAULTS[fault]:
        runs = recorded[make.__name__]
        assert len(runs) == tool.SEEDS == 5
        found = [fault in kor.diagnose(run) for run in runs]
        assert sum(found) >= 4, (make.__name__, found)


def test_nothing_is_found_in_trainings_that_have_none(tool):
    recorded = tool.recorded()
    assert len(tool.HEALTHY) == 5
    for make in tool.HEALTHY:
        for run in recorded[make.__name__]:
            diagnosed = kor.diagnose(run)
            assert not diagnosed.findings, (make.__name__, str(diagnosed))
            assert set(diagnosed.looked_for) >= set(FAULTS) - {"dead units"}


@pytest.mark.parametrize("fault", ["learning rate too high", "vanishing gradients", "dead units", None])
def test_a_training_of_today_is_judged_alike(tool, fault, tmp_path):
    make = tool.FAULTS[fault][0] if fault else tool.HEALTHY[0]
    diagnosed = kor.diagnose(tool.fitted(make, 0, tmp_path))
    assert (fault in diagnosed) if fault else not diagnosed.findings, str(diagnosed)


# ------------------------------------------------------------------ thresholds, on curves made by hand

NINE = list(range(9))


def falling(start, end, epochs=9):
    return np.linspace(start, end, epochs).tolist()


def flat(value, first=None, epochs=9):
    return [value if first is None else first, *[value] * (epochs - 1)]


def steps(**curves):
    """Measured at steps; `a__b` is the curve `a/b`, `_kernel` its end `/kernel`."""
    return {name.replace("__", "/").replace("_kernel", "/kernel"): values for name, values in curves.items()}


TABLE = [
    # the rule, curves that it names, curves just on the other side
    (
        diagnosis.Overfitting,
        {"loss": [1, 0.5, 0.4, 0.3, 0.3, 0.3], "val_loss": [1, 0.5, 0.56, 0.56, 0.56, 0.56]},
        {"loss": [1, 0.5, 0.4, 0.3, 0.3, 0.3], "val_loss": [1, 0.5, 0.54, 0.54, 0.54, 0.54]},
    ),
    (
        diagnosis.Overfitting,
        {"loss": [1, 0.5, 0.44, 0.44, 0.44, 0.44], "val_loss": [1, 0.5, 0.6, 0.6, 0.6, 0.6]},
        {"loss": [1, 0.5, 0.46, 0.46, 0.46, 0.46], "val_loss": [1, 0.5, 0.6, 0.6, 0.6, 0.6]},
    ),
    (
        diagnosis.Overfitting,  # judged in every second epoch
        {"loss": [1, 1, 1, 1, *[0.5] * 8], "val_loss": [1, 0.5, *[0.6] * 4]},
        {"loss": [1, 0.5, *[0.49] * 10], "val_loss": [1, 0.5, *[0.6] * 4]},
    ),
    (
        diagnosis.Overfitting,  # of the data alone, where they were recorded apart
        {"loss": flat(9.0), "val_loss": flat(9.0), "data_loss": falling(1, 0.2), "val_data_loss": falling(0.5, 0.9)},
        {"loss": falling(9, 1), "val_loss": falling(8, 9), "data_loss": flat(1.0), "val_data_loss": flat(1.0)},
    ),
    (
        diagnosis.Underfitting,
        {"loss": flat(0.4, first=1), "val_loss": flat(0.43)},
        {"loss": flat(0.4, first=1), "val_loss": flat(0.45)},
    ),
    (
        diagnosis.Underfitting,
        {"loss": flat(0.31, first=1), "val_loss": flat(0.31)},
        {"loss": flat(0.29, first=1), "val_loss": flat(0.29)},
    ),
    (
        diagnosis.Underfitting,  # a slow fall at a steady pace has not come to rest
        {"loss": flat(2.0), "val_loss": flat(2.0)},
        {"loss": falling(2.0, 1.98), "val_loss": falling(2.0, 1.98)},
    ),
    (
        diagnosis.Plateau,
        {"loss": flat(0.4, first=1, epochs=12), "learning_rate": flat(0.1, epochs=12)},
        {"loss": flat(0.4, first=1, epochs=12), "learning_rate": falling(0.1, 0.0, epochs=12)},
    ),
    (diagnosis.Plateau, {"loss": flat(0.06, first=1, epochs=12)}, {"loss": flat(0.04, first=1, epochs=12)}),
    (diagnosis.Plateau, {"loss": flat(0.4, first=1, epochs=12)}, {"loss": flat(0.4, first=1, epochs=9)}),
    (
        diagnosis.DominatingPenalty,
        {"loss": NINE, "data_loss": flat(1.0), "penalty": flat(1.1), "val_data_loss": flat(1.0)},
        {"loss": NINE, "data_loss": flat(1.0), "penalty": flat(0.9), "val_data_loss": flat(1.0)},
    ),
    (
        diagnosis.DominatingPenalty,  # it may well be the larger part where the data are learned
        {"loss": NINE, "data_loss": flat(0.4, first=1), "penalty": flat(2.0), "val_data_loss": flat(0.43)},
        {"loss": NINE, "data_loss": flat(0.4, first=1), "penalty": flat(2.0), "val_data_loss": flat(0.45)},
    ),
    (diagnosis.LearningRateTooHigh, {"loss": [1, float("nan")]}, {"loss": [1, 0.9]}),
    (diagnosis.LearningRateTooHigh, {"loss": flat(1.06, first=1)}, {"loss": flat(1.04, first=1)}),
    (
        diagnosis.LearningRateTooHigh,
        {"loss": [1, 0.5, *falling(0.3, 0.46, epochs=60), *flat(0.46)]},
        {"loss": [1, 0.5, *falling(0.3, 0.44, epochs=60), *flat(0.44)]},
    ),
    (
        diagnosis.LearningRateTooHigh,  # what has been learned may flutter; a penalty may grow
        {"loss": [1, 0.1, 0.01, 0.01, 0.06, 0.06, 0.06]},
        {"loss": [1, 0.1, 1e-7, 1e-7, 3e-7, 3e-7, 3e-7]},
    ),
    (
        diagnosis.LearningRateTooHigh,
        {"loss": falling(1, 0.5), "data_loss": falling(0.5, 1)},
        {"loss": falling(1, 2), "data_loss": falling(1, 0.5)},
    ),
    (
        diagnosis.LearningRateTooHigh,
        {"loss": [1, 0.5, 0.515, 0.4, 0.415, 0.4, 0.4]},
        {"loss": [1, 0.5, 0.510, 0.4, 0.410, 0.4, 0.4]},
    ),
    (
        diagnosis.LearningRateTooLow,
        {"loss": falling(2, 1.9), "update_ratio": flat(9e-4)},
        {"loss": falling(2, 1.9), "update_ratio": flat(2e-3)},
    ),
    (diagnosis.LearningRateTooLow, {"loss": falling(2, 1.1)}, {"loss": falling(2, 0.9)}),
    (
        diagnosis.LearningRateTooLow,
        {"loss": [2, 1.98, 1.96, 1.94, 1.93, 1.92, 1.91, 1.90, 1.89]},
        {"loss": [2, 1.90, 1.80, 1.70, 1.68, 1.66, 1.65, 1.64, 1.63]},
    ),
    (
        diagnosis.VanishingGradients,
        steps(gradient_norm=flat(1.0), gradient_norm__a_kernel=flat(0.9e-3), gradient_norm__b_kernel=flat(1.0)),
        steps(gradient_norm=flat(1.0), gradient_norm__a_kernel=flat(1.1e-3), gradient_norm__b_kernel=flat(1.0)),
    ),
    (
        diagnosis.VanishingGradients,  # not of a bias, nor where there is none at all
        steps(gradient_norm=flat(1.0), gradient_norm__a_kernel=flat(1e-9), gradient_norm__b_kernel=flat(1.0)),
        steps(gradient_norm=flat(1.0), gradient_norm__a__bias=flat(1e-9), gradient_norm__b_kernel=flat(1.0))
        | steps(gradient_norm__c_kernel=flat(0.0)),
    ),
    (
        diagnosis.ExplodingGradients,
        {"gradient_norm": [1, 1, 1, 1, 1, 1, 101, 1, 1, 1]},
        {"gradient_norm": [1, 1, 1, 1, 1, 1, 99, 1, 1, 1]},
    ),
    (
        diagnosis.ExplodingGradients,  # where all has been learned, a leap is a leap between nothings
        {"gradient_norm": [1e-5, *[1e-6] * 6, 1e-3, 1e-6]},
        {"gradient_norm": [1, *[1e-6] * 6, 1e-3, 1e-6]},
    ),
    (diagnosis.ExplodingGradients, {"gradient_norm": [1, float("inf")]}, {"gradient_norm": [1, 2]}),
    (diagnosis.ExplodingGradients, {"gradient_norm": [*[1e-9] * 7, 2e-7, 0]}, {"gradient_norm": [*[0] * 7, 1e-8, 0]}),
    (
        diagnosis.ExplodingGradients,
        {"gradient_norm": flat(210.0), "weight_norm": flat(10.0), "loss": flat(2.0)},
        {"gradient_norm": flat(190.0), "weight_norm": flat(10.0), "loss": flat(2.0)},
    ),
    (
        diagnosis.DeadUnits,
        steps(dead_units=[0, 0], dead_units__a=[0.0, 0.4]),
        steps(dead_units=[0, 0], dead_units__a=[0.5, 0.39]),
    ),
    (
        diagnosis.DeadUnits,
        steps(gradient_norm=flat(1.0), gradient_norm__a_kernel=flat(0.0, first=1)),
        steps(gradient_norm=flat(1.0), gradient_norm__a_kernel=[*flat(0.0), 1e-9]),
    ),
    (
        diagnosis.DeadUnits,  # one measurement is too few: the first factor of LoRA begins so
        steps(gradient_norm=flat(1.0), gradient_norm__a_kernel=[0.0] * 5),
        steps(gradient_norm=flat(1.0), gradient_norm__a_kernel=[0.0]),
    ),
]


@pytest.mark.parametrize(("rule", "named", "not_named"), TABLE)
def test_a_rule_holds_its_threshold(rule, named, not_named):
    assert rule().name in kor.diagnose(named, rules=[rule()])
    assert not kor.diagnose(not_named, rules=[rule()]).findings


def test_every_threshold_has_its_row():
    assert {rule for rule, _, _ in TABLE} == {type(rule) for rule in diagnosis.RULES}


def test_other_thresholds_are_another_rule():
    class Strict(diagnosis.Overfitting):
        RISE = 0.02

    run = {"loss": falling(1, 0.1), "val_loss": [1, 0.5, *[0.53] * 7]}
    assert not kor.diagnose(run).findings
    assert "overfitting" in kor.diagnose(run, rules=[Strict()])


def test_what_looks_like_most_faults_is_named_where_no_other_is_found():
    still = {"loss": flat(0.5, first=1, epochs=12), "val_loss": flat(0.5, epochs=12)}
    assert [finding.name for finding in kor.diagnose(still)] == ["underfitting", "plateau"]
    assert [finding.name for finding in kor.diagnose(still, steps(dead_units=[0.9], dead_units__a=[0.9]))] == [
        "dead units"
    ]


def test_evidence_has_the_numbers_and_the_layer():
    norms = steps(gradient_norm=flat(2.0), gradient_norm__first_kernel=flat(1e-6), gradient_norm__last_kernel=flat(2.0))
    [finding] = kor.diagnose(norms)
    assert finding.name == "vanishing gradients"
    assert finding.evidence.startswith("the gradient of first/kernel has a norm of 1e-06, that of last/kernel 2,")
    assert finding.remedy in str(finding)
    assert finding.source in str(kor.diagnose(norms))


def test_it_says_what_it_could_not_look_for():
    diagnosed = kor.diagnose({"loss": falling(1, 0.1)})
    assert diagnosed.looked_for == ["learning rate too high", "learning rate too low", "plateau"]
    assert diagnosed.not_looked_for["overfitting"] == "it needs loss and val_loss"
    assert diagnosed.not_looked_for["dead units"] == "it needs dead_units or gradient_norm"
    assert "No fault was found." in str(diagnosed)
    assert "Not for vanishing gradients: it needs gradient_norm." in str(diagnosed)


# ------------------------------------------------------------------ where the numbers come from


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One training, recorded everywhere."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3)).astype("float32"), rng.normal(size=(24, 1)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "tanh"), keras.layers.Dense(1)])
    model.compile(kor.optimizers.SGD(0.1), "mse")
    memory, board = callbacks.MemoryWriter(), callbacks.TensorBoard(folder / "board", norms_every=2)
    writers = [memory, callbacks.CSVWriter(folder / "a.csv"), callbacks.JSONLinesWriter(folder / "a.jsonl")]
    probes = [callbacks.GradientNorm(), callbacks.WeightNorm(), callbacks.Weights()]
    watching = [callbacks.Monitor(probes, writers, every=2), board]
    history = model.fit(x, y, 4, 3, 0, watching, validation_data=(x, y))
    return folder, history, memory


def test_all_records_of_a_training_say_the_same(run):
    folder, history, memory = run
    records = {source: diagnosis.Recorded(source).curves for source in (folder / "a.csv", folder / "a.jsonl")}
    records[str(folder / "board")] = diagnosis.Recorded(str(folder / "board")).curves
    expected = diagnosis.Recorded(memory).curves["gradient_norm"]
    assert expected.at.tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    for curves in records.values():
        assert curves["gradient_norm"].at.tolist() == expected.at.tolist()
        np.testing.assert_allclose(curves["gradient_norm"].values, expected.values, rtol=1e-6)
    losses = diagnosis.Recorded(history).curves
    for name in ("loss", "val_loss"):
        found = records[str(folder / "board")][name]
        assert found.at.tolist() == [0, 1, 2]
        assert found.unit == "epoch"
        np.testing.assert_allclose(found.values, history.history[name], rtol=1e-6)
        np.testing.assert_allclose(losses[name].values, history.history[name], rtol=1e-6)
    assert not any(name.startswith("weights/") for name in diagnosis.Recorded(memory).curves)  # those are arrays


def test_layers_are_in_the_order_of_the_model(run):
    folder, _, memory = run
    paths = list(diagnosis.Recorded(memory).each("gradient_norm"))
    assert [path.split("/")[-2:] for path in paths] == [
        *(["dense", "kernel"], ["dense", "bias"]),
        *(["dense_1", "kernel"], ["dense_1", "bias"]),
    ]
    for record in ("board", "a.csv", "a.jsonl"):
        assert list(diagnosis.Recorded(folder / record).each("gradient_norm")) == paths


def test_several_records_are_one_training(run):
    _, history, memory = run
    diagnosed = kor.diagnose(history, memory)
    assert {"overfitting", "vanishing gradients"} <= set(diagnosed.looked_for)
    curves = diagnosis.Recorded({"loss": [5.0]}, history).curves
    assert curves["loss"].values.tolist() == [5.0]  # the earlier of two is taken


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras's TensorBoard writes through TensorFlow")
def test_the_directory_of_keras_own_callback_is_read(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    theirs = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    history = model.fit(x, y, epochs=3, verbose=0, validation_data=(x, y), callbacks=[theirs])
    curves = diagnosis.Recorded(tmp_path).curves
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(curves[name].values, history.history[name], rtol=1e-6)


def test_a_file_that_was_cut_short_is_read_up_to_there(tmp_path):
    writer = callbacks.TensorBoardWriter(tmp_path)
    for step, loss in enumerate([3.0, 2.0, 1.0]):
        writer.write(step, {"epoch_loss": loss})
    writer.close()
    [file] = tmp_path.glob("events*")
    whole = file.read_bytes()
    for cut in (1, 12, 20):
        file.write_bytes(whole[:-cut])
        assert diagnosis.Recorded(tmp_path).curves["loss"].values.tolist() == [3, 2]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_half_a_line_at_the_end_is_left_out(run, tmp_path, name):
    whole = (run[0] / name).read_text()
    expected = diagnosis.Recorded(run[0] / name).curves["gradient_norm"]
    (tmp_path / name).write_text(whole.rstrip("\n")[:-1])
    found = diagnosis.Recorded(tmp_path / name).curves["gradient_norm"]
    assert found.values.tolist() == expected.values[: len(found)].tolist()
    assert len(expected) - len(found) == (name == "a.jsonl")  # of a CSV file the last line is another name's
    (tmp_path / name).write_text("what is this\n1\n")
    with pytest.raises(ValueError, match=f"diagnose cannot read .*{name}"):
        kor.diagnose(tmp_path / name)


def test_the_file_of_keras_csv_logger_is_read(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,accuracy,loss,val_loss\n0,0.5,2.0,NA\n1,0.75,1.5,3.0\n")
    curves = diagnosis.Recorded(tmp_path / "log.csv").curves
    assert curves["loss"].values.tolist() == [2.0, 1.5]
    assert (curves["val_loss"].at.tolist(), curves["val_loss"].values.tolist()) == ([1], [3.0])


def test_what_is_no_number_is_left_out():
    curves = diagnosis.Recorded(
        {"loss": (3, np.float32(2), 1.0), "f1": [np.ones(3)] * 3, "note": ["a"], "val_loss": [None]}
    ).curves
    assert list(curves) == ["loss"]
    assert curves["loss"].values.tolist() == [3, 2, 1]


def test_names_of_ones_own_are_no_losses():
    assert not kor.diagnose({"loss/kl": falling(1, 2), "loss/rec": falling(1, 2)}).looked_for


def test_a_run_that_was_taken_up_again_is_read_as_tensorboard_shows_it(tmp_path):
    first = callbacks.TensorBoardWriter(tmp_path)
    for step in (1, 2, 3, 4):
        first.write(step, {"loss": float(step)})
    first.close()
    second = callbacks.TensorBoardWriter(tmp_path)
    second.open()
    second.start_after(2)
    second.write(3, {"loss": 30.0})
    second.close()
    third = callbacks.TensorBoardWriter(tmp_path / "other")
    third.write(5, {"gradient_norm/of/another/kernel": 0.0})
    third.close()
    fourth = callbacks.TensorBoardWriter(tmp_path / "other")
    fourth.open()
    fourth.start_after(0)
    fourth.write(1, {"loss": 1.0})
    fourth.close()
    assert list(diagnosis.Recorded(tmp_path / "other").curves) == ["loss"]
    curve = diagnosis.Recorded(tmp_path).curves["loss"]
    assert (curve.at.tolist(), curve.values.tolist()) == ([1, 2, 3], [1, 2, 30])


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(TypeError, match="diagnose takes what `fit` returned.*Received: 3"):
        kor.diagnose(3)
    with pytest.raises(FileNotFoundError, match="there are no event files in .*`log_dir` of its `TensorBoard`"):
        kor.diagnose(tmp_path)
    with pytest.raises(FileNotFoundError):
        kor.diagnose(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="no numbers are recorded in {}"):
        kor.diagnose({})
    with pytest.raises(TypeError, match="at least one"):
        kor.diagnose()
    for rule in ("overfitting", diagnosis.Overfitting):
        with pytest.raises(TypeError, match="`rules` of diagnose are objects such as"):
            kor.diagnose({"loss": [1.0]}, rules=[rule])
    assert str(kor.diagnose({"los": [1.0]})).startswith("Looked for: nothing.")
