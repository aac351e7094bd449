"""TensorBoard reads what we write: a real server, asked over HTTP; and TensorFlow stays away."""

import contextlib
import importlib.util
import json
import os
import re
import selectors
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from keras_optreg.callbacks import Action, LearningRateDecay, TensorBoard
from keras_optreg.callbacks.writers import TensorBoardWriter
from keras_optreg.diagnosis import Recorded
from keras_optreg.schedules import StepDecay

BACKEND = keras.backend.backend()
X = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


# As `python -m tensorboard.main`, but with TensorBoard's own switch to do without TensorFlow, which it does not need to
# read scalars and histograms, and which takes most of its start.
SERVE = """
import sys, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")
from tensorboard import main
main.run_main()
"""


@contextlib.contextmanager
def server(logs, seconds=120):
    """The address of a TensorBoard that shows `logs`."""
    command = [sys.executable, "-c", SERVE, "--logdir", str(logs), "--host", "127.0.0.1", "--port", "0"]
    command += ["--reload_interval", "1", "--load_fast", "false"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        said, end = "", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while (found := re.search(r"http://127\.0\.0\.1:\d+", said)) is None:
                assert time.monotonic() < end, f"TensorBoard did not start: {said}"
                assert process.poll() is None, f"TensorBoard ended: {said}{process.stdout.read()}"
                if selector.select(timeout=1):
                    said += process.stdout.readline()
        yield found.group()
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def ask(address, what, posted=None, **query):
    request = urllib.request.Request(f"{address}/data/plugin/{what}?{urllib.parse.urlencode(query)}")
    if posted is not None:
        request.data = json.dumps(posted).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


class Said(Action):
    """Stands behind TensorBoard in the list, in the second fit, whose epoch is the third of the run."""

    def reset(self):
        self.said = None

    def on_epoch_end(self, epoch, logs=None):
        self.said = "It is **enough**."

    def outcome(self):
        return self.said


def test_a_run_is_read_back_over_http(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, kernel_regularizer="l2"), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    board = TensorBoard(tmp_path / "run", norms_every=2, histograms=True, hparams={"batch_size": 3, "tuned": True})
    decay = LearningRateDecay(StepDecay(0.1, 0.5, 1))
    options = dict(batch_size=3, validation_split=0.25, verbose=0, callbacks=[decay, board])
    first = model.fit(X, Y, epochs=2, **options).history
    second = model.fit(
        X, Y, epochs=1, callbacks=[*options.pop("callbacks"), Said()], **options
    ).history  # goes on counting
    picture = np.linspace(0, 1, 12).reshape(3, 4)
    board.writers[0].write_image(9, "kernel", picture)
    board.writers[0].close()
    with server(tmp_path) as address:
        end = time.monotonic() + 60
        while len(tags := ask(address, "scalars/tags")) < 2:
            assert time.monotonic() < end, f"runs: {list(tags)}"
            time.sleep(0.5)

        def values(run, tag):
            points = ask(address, "scalars/scalars", run=run, tag=tag)
            return [(step, value) for _, step, value in points]

        logged = {name: [*first[name], *second[name]] for name in first}
        parts = ["loss", "mae", "data_loss", "penalty"]
        for name in parts:
            for run, prefix in (("run/train", ""), ("run/validation", "val_")):
                expected = list(enumerate(logged[prefix + name]))
                np.testing.assert_allclose(values(run, f"epoch_{name}"), expected, rtol=1e-6, err_msg=name)
        assert set(tags["run/validation"]) == {f"epoch_{name}" for name in parts}
        gaps = np.subtract(logged["val_mae"], logged["mae"])
        assert [v for _, v in values("run/train", "epoch_gap_mae")] == pytest.approx(list(gaps), rel=1e-4)
        np.testing.assert_allclose(
            values("run/train", "epoch_learning_rate"), [(0, 0.1), (1, 0.05), (2, 0.1)], rtol=1e-6
        )
        rates = [0.1] * 3 + [0.05] * 3 + [0.1] * 3
        np.testing.assert_allclose(values("run/train", "learning_rate"), list(enumerate(rates, start=1)), rtol=1e-6)
        for norm in ("gradient_norm", "weight_norm", "update_ratio"):
            found = values("run/train", norm)
            assert [step for step, _ in found] == [2, 4, 6, 8]
            assert all(np.isfinite(value) and value > 0 for _, value in found)
            assert {t for t in tags["run/train"] if t.startswith(f"{norm}/")} == {
                f"{norm}/{w.path}" for w in model.trainable_variables
            }
        kernel = model.layers[0].kernel.path
        histograms = ask(address, "histograms/histograms", run="run/train", tag=f"weights/{kernel}")
        assert [step for _, step, _ in histograms] == [3, 6, 9]
        assert sum(count for _, _, count in histograms[-1][2]) == pytest.approx(6)

        [image] = ask(address, "images/images", run="run/train", tag="kernel")
        assert image["step"] == 9
        with urllib.request.urlopen(f"{address}/data/plugin/images/individualImage?{image['query']}") as answer:
            pixels = np.asarray(Image.open(answer))
        np.testing.assert_array_equal(pixels, np.round(picture * 255))

        texts = ask(address, "text/tags")["run"]
        assert sorted(texts) == ["events/Said", "model", "optimizer"]
        [text] = ask(address, "text/text", run="run", tag="model")
        assert f"<td>{kernel}</td>" in text["text"]
        assert "<td>3×2</td>" in text["text"]
        assert text["text"].count("keras L2(0.01)") == 1
        [text] = ask(address, "text/text", run="run", tag="optimizer")
        assert "<td>momentum</td>" in text["text"]
        events = ask(address, "text/text", run="run", tag="events/Said")
        assert [(each["step"], each["text"]) for each in events] == [(2, "<p>It is <strong>enough</strong>.</p>")]

        layout = ask(address, "custom_scalars/layout")
        charts = {(c["title"], chart["title"]): chart for c in layout["category"] for chart in c["chart"]}
        shown = {
            (group, title): {
                run: sorted(t for t in tags[run] if any(re.match(e, t) for e in chart["multiline"]["tag"]))
                for run in ("run/train", "run/validation")
            }
            for (group, title), chart in charts.items()
        }
        assert all(each["run/train"] for each in shown.values()), "a chart is empty"
        assert shown["fit", "loss"] == {run: ["epoch_loss"] for run in ("run/train", "run/validation")}
        assert shown["fit", "metrics"] == {run: ["epoch_mae"] for run in ("run/train", "run/validation")}
        gaps = [f"epoch_gap_{name}" for name in sorted(parts)]
        assert shown["fit", "how much worse on validation data"]["run/train"] == gaps
        found = ask(
            *(address, "hparams/session_groups"),
            posted={"allowedStatuses": ["STATUS_SUCCESS"], "colParams": [], "startIndex": 0, "sliceSize": 9},
        )
        [group] = found["sessionGroups"]
        assert group["hparams"] == {
            **{"optimizer": "SGD", "learning_rate": pytest.approx(0.1), "schedule": "none", "epochs": 2, "steps": 3},
            **{"weights": 11, "penalties": "keras L2(0.01)", "batch_size": 3, "tuned": True},
        }
        judged = {(m["name"]["group"], m["name"]["tag"]): m["value"] for m in group["metricValues"]}
        assert judged == {
            (run, f"epoch_{name}"): pytest.approx(logged[prefix + name][-1], rel=1e-5)
            for run, prefix in (("train", ""), ("validation", "val_"))
            for name in parts
        }


def test_files_of_one_second_sort_as_they_were_opened(tmp_path, monkeypatch):
    """TensorBoard reads the files of a run in the order of their names."""
    monkeypatch.setattr(time, "time", lambda: 1700000000.5)
    names = []
    for step in range(12):
        writer = TensorBoardWriter(tmp_path)
        writer.write(step, {"loss": float(step)})
        writer.close()
        names += sorted({file.name for file in tmp_path.iterdir()} - set(names))
    assert len(names) == 12
    assert names == sorted(names)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras's own callback writes through TensorFlow")
def test_tags_are_those_of_keras(tmp_path):
    """Everything Keras's own callback writes per epoch has the same tag, run and step here."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalar(proto):
        return float(proto.float_val[0] if proto.float_val else np.frombuffer(proto.tensor_content, "float32")[0])

    written = {}
    for name, board in (("keras", keras.callbacks.TensorBoard), ("ours", TensorBoard)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        options = {"write_graph": False} if name == "keras" else {}
        model.fit(X, Y, epochs=2, verbose=0, validation_split=0.25, callbacks=[board(str(tmp_path / name), **options)])
        for run in ("train", "validation"):
            events = EventAccumulator(str(tmp_path / name / run), size_guidance={"scalars": 0, "tensors": 0})
            events.Reload()
            read = {
                tag: [(e.step, scalar(e.tensor_proto)) for e in events.Tensors(tag)] for tag in events.Tags()["tensors"]
            }
            read |= {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
            written[name, run] = {tag: points for tag, points in read.items() if tag.startswith("epoch_")}
    for run in ("train", "validation"):
        assert written["keras", run]
        for tag, points in written["keras", run].items():
            np.testing.assert_allclose(written["ours", run][tag], points, rtol=1e-5, err_msg=tag)
        # Without a penalty, too: runs with one can be laid beside this one.
        assert written["ours", run]["epoch_data_loss"] == written["ours", run]["epoch_loss"]
        assert [value for _, value in written["ours", run]["epoch_penalty"]] == [0, 0]


WITHOUT = """
import sys
import numpy as np, keras
before = set(sys.modules)
import keras_optreg
from keras_optreg import callbacks, schedules
heavy = {"tensorflow", "jax", "torch", "tensorboard", "tensorboardX", "matplotlib", "sklearn", "optuna", "psutil"}
assert not heavy & (set(sys.modules) - before), f"importing imports {heavy & (set(sys.modules) - before)}"
folder, x = sys.argv[1], np.ones((4, 3))
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "relu", kernel_regularizer="l2")])
model.compile(keras.optimizers.SGD(schedules.CosineDecay(0.1, 9)), "mse")
stopping = callbacks.EarlyStopping("loss", patience=1)
board = callbacks.TensorBoard(folder, norms_every=1, histograms=True, hparams={"batch_size": 4})
memory = callbacks.MemoryWriter()
names = [name for name in callbacks.probes.__all__ if name not in ("Probe", "Logs", "TrainValidationGap")]
own = [getattr(callbacks.probes, name) for name in names]
probes = [kind(x) if kind.__name__ in ("Activations", "DeadUnits") else kind() for kind in own]
writers = [memory, callbacks.CSVWriter(folder + "/run.csv"), callbacks.JSONLinesWriter(folder + "/run.jsonl")]
writers += [callbacks.ConsoleWriter(), callbacks.TensorBoardWriter(folder + "/more")]
monitor = callbacks.Monitor(probes, writers, every=1)
model.fit(x, np.ones((4, 1)), epochs=2, verbose=0, callbacks=[stopping, board, monitor])
for writer in writers:
    writer.write_text(2, "text", "text")
    writer.write_image(2, "image", np.ones((2, 2)))
    writer.write_hyperparameters({"rate": 0.1}, ["loss"])
    writer.write_layout({"group": {"chart": ["loss"]}})
    writer.close()
names = {name.split("/")[0] for name in memory.history}
assert {"gradients", "gradient_norm", "zero_fraction", "penalty", "weights", "step_seconds", "dead_units"} <= names
penalty = keras_optreg.regularizers.Sum(keras.regularizers.L2(0.1)).coupled()
optimizer = keras_optreg.optimizers.SGD(schedules.warmup(schedules.CosineDecay(0.1, 9), 3))
type(optimizer).from_config(optimizer.get_config())
type(penalty).from_config(penalty.get_config())
new = {"tensorboard", "psutil", "PIL", *TF} & (set(sys.modules) - before)
assert not new, f"fit imports {new}"
"""


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="what is not installed is not imported")
def test_nothing_heavy_is_imported(tmp_path):
    """Importing imports no optional package and no other backend; under JAX and torch, using imports no TensorFlow."""
    forbidden = [] if BACKEND == "tensorflow" else ["tensorflow"]
    done = subprocess.run(
        [sys.executable, "-c", f"TF = {forbidden}\n{WITHOUT}", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "train").glob("events.out.tfevents.*"))


@pytest.mark.usefixtures("run_op_by_op")
def test_phases_of_one_run_follow_each_other_and_a_run_begun_anew_replaces_the_old(tmp_path):
    def phase(first, last):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(X, Y, epochs=last, initial_epoch=first, verbose=0, callbacks=[TensorBoard(tmp_path)])
        return Recorded(tmp_path).curves["loss"].at.tolist()

    assert phase(0, 3) == [0, 1, 2]
    assert phase(3, 5) == [0, 1, 2, 3, 4]
    assert phase(0, 2) == [0, 1]


@pytest.mark.usefixtures("run_op_by_op")
def test_a_metric_that_is_an_array_is_told_by_its_ends_and_its_mean(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, "softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()])
    labels = np.eye(3)[np.arange(12) % 3]
    history = model.fit(X, labels, verbose=0, validation_data=(X, labels), callbacks=[TensorBoard(tmp_path)])
    for prefix in ("", "val_"):
        scores = np.asarray(history.history[f"{prefix}f1_score"][0])
        curves = Recorded(tmp_path).curves
        for end in ("min", "mean", "max"):
            np.testing.assert_allclose(curves[f"{prefix}f1_score/{end}"].values, [getattr(scores, end)()], rtol=1e-6)
