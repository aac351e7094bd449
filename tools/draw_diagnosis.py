"""Draw the trainings of docs/diagnosis.md: the losses, and the measure that shows the fault.

python tools/draw_diagnosis.py               # from tests/data/diagnosis_runs.json.gz, that is in seconds
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import Any

import numpy as np
from diagnosis_runs import FAULTS, ROOT, recorded
from draw_regularizers import BLUE, GREY, RED, label, legend, panels, save

from keras_optreg.diagnosis import Recorded

FOLDER = ROOT / "docs" / "images" / "diagnosis"


def losses(axis: Any, run: Recorded, fault: str) -> None:
    names = ["loss", "val_loss"]
    if fault == "dominating penalty":
        names = ["data_loss", "penalty"]
    for name, colour in zip(names, (BLUE, RED), strict=True):
        curve = run.curves[name]
        axis.plot(curve.at + 1, curve.values, color=colour, lw=1.4, label=name)
    legend(axis)
    label(axis, "", "epoch", "")


def shares(axis: Any, run: Recorded, measure: str, kind: str) -> None:
    """One line a layer, from the first (light) to the last (dark)."""
    curves = {path: curve for path, curve in run.each(measure).items() if path.endswith(kind)}
    for i, (path, curve) in enumerate(curves.items()):
        shown = path.removeprefix("sequential/") if i in (0, len(curves) - 1) else None
        colour = [GREY, BLUE][i == 0] if i < len(curves) - 1 else RED
        axis.plot(curve.at, curve.values, color=colour, lw=1.2, label=shown)
    legend(axis, loc="upper left", bbox_to_anchor=(0, 1.25), ncols=2)


def measure(axis: Any, run: Recorded, fault: str) -> None:
    if fault in ("vanishing gradients", "exploding gradients"):
        shares(axis, run, "gradient_norm", "kernel")
        axis.set_yscale("log")
        label(axis, "", "step", "gradient norm")
    elif fault == "dead units":
        shares(axis, run, "dead_units", "")
        axis.set_ylim(-0.03, 1.03)
        label(axis, "", "step", "dead units")
    else:
        curve = run.curves["update_ratio"]
        finite = np.where(np.isfinite(curve.values), curve.values, np.nan)
        axis.plot(curve.at, finite, color=BLUE, lw=1.2)
        axis.set_yscale("log")
        label(axis, "", "step", "update ratio")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    runs = recorded()
    for fault, trainings in FAULTS.items():
        for make in trainings:
            run = runs[make.__name__][0]
            if not np.isfinite(run.curves["loss"].values).any():
                continue  # there is nothing to draw
            figure, (left, right) = panels(1, 1, height=1.7)
            losses(left, run, fault)
            measure(right, run, fault)
            save(figure, FOLDER / f"{make.__name__}.png")


if __name__ == "__main__":
    main()
