"""The demo: its data, a short run of it, and the rules by which it judges itself."""

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "data"


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "examples" / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def short_run(quickstart, tmp_path_factory):
    """What main() leaves and prints after one epoch on 200 images, with three of the arms: compiling takes the time."""
    out = tmp_path_factory.mktemp("quickstart")
    data = [part[:200] for part in quickstart.load("small")]
    arms = {name: quickstart.ARMS[name] for name in ("nothing", "L1 in the update", "L2, stopping, decay")}
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(quickstart, "load", lambda name: data)
        patch.setattr(quickstart, "ARMS", arms)
        patch.setattr(sys, "argv", ["quickstart.py", "--epochs", "1", "--out", str(out)])
        assert quickstart.main() == 0
    return out, printed.getvalue(), arms


def test_data_is_balanced_small_and_has_its_licence():
    arrays = np.load(DATA / "fashion_mnist_small.npz")
    for split in ("train", "validation"):
        assert arrays[f"x_{split}"].shape == (2000, 28, 28)
        assert arrays[f"x_{split}"].dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(arrays[f"y_{split}"]), np.full(10, 200))
    assert (DATA / "fashion_mnist_small.npz").stat().st_size < 1_800_000
    assert "Copyright (c) 2017 Zalando SE" in (DATA / "LICENSE").read_text(encoding="utf-8")


def test_training_and_validation_images_differ():
    arrays = np.load(DATA / "fashion_mnist_small.npz")
    training, validation = ({image.tobytes() for image in arrays[f"x_{split}"]} for split in ("train", "validation"))
    assert not training & validation


def test_short_run_shows_every_arm_and_ends_with_the_command_to_paste(short_run):
    out, printed, arms = short_run
    for name in arms:
        assert name in printed
    assert printed.splitlines()[-1].endswith(f"--logdir {out / 'logs'}")
    assert "tensorboard" in printed.splitlines()[-1]


def test_short_run_leaves_a_picture_numbers_and_logs(short_run):
    out, _, arms = short_run
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    assert list(results) == list(arms)
    for [run] in results.values():
        assert run["gap"] == pytest.approx(run["train"] - run["validation"])
        assert len(run["curves"]["accuracy"]) == run["epochs"] == 1
    logged = {path.parent.relative_to(out / "logs") for path in (out / "logs").rglob("events.out.tfevents.*")}
    assert len(logged) == 3 * len(arms)  # the run with its settings, train and validation


def _run(gap=4.0, validation=80.0, zeros=10.0, epochs=20):
    return {"train": 0.0, "validation": validation, "gap": gap, "epochs": epochs, "zeros": zeros, "seconds": 0.0}


def _runs(quickstart, **changed):
    runs = {name: [_run()] for name in quickstart.ARMS}
    return {**runs, "nothing": [_run(gap=10.0)], **changed}


def test_claims_hold_for_numbers_on_the_border(quickstart):
    border = _runs(quickstart, **{"L2 attached": [_run(gap=6.0, validation=79.5)]})
    assert all(quickstart.claims(border, epochs=21).values())


@pytest.mark.parametrize(
    ("arm", "run"),
    [
        ("L2 attached", _run(gap=6.1)),
        ("dropout", _run(validation=79.4)),
        ("L1 in the update", _run(zeros=0.0)),
        ("L2, stopping, decay", _run(epochs=21)),
    ],
)
def test_each_claim_can_fail(quickstart, arm, run):
    held = quickstart.claims(_runs(quickstart, **{arm: [run]}), epochs=21)
    [failed] = [claim for claim, true in held.items() if not true]
    assert arm in failed or failed.startswith("early stopping")
