"""Draw the schedules of docs/schedules.md, from the code that stands above each picture there.

    python tools/draw_schedules.py               # all of them
    python tools/draw_schedules.py OneCycle REX

The code that was drawn is kept in docs/images/schedules/drawn.json, so that a test can tell a picture that is no longer
of its code.
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from draw_regularizers import BLUE, GREY, RED, label, legend, panels, save
from keras import ops
from update_docs import ROOT, SCHEDULES, curves, examples

FOLDER = ROOT / "docs" / "images" / "schedules"
DRAWN = FOLDER / "drawn.json"
STYLES = ((BLUE, "-"), (RED, "-"), (GREY, "-"), (BLUE, ":"))


def draw(name: str, code: str) -> None:
    steps = np.arange(1000, dtype="float32")
    values = {each: ops.convert_to_numpy(schedule(steps)) for each, schedule in curves(code).items()}
    apart = {"momentum": values.pop("momentum")} if "momentum" in values else {}  # on an axis of its own
    figure, axes = panels(*([1] * (1 + len(apart))), height=1.6)
    for axis, those, of in zip(axes, (values, apart), ("learning rate", "momentum"), strict=False):
        for (each, value), (colour, style) in zip(those.items(), STYLES, strict=False):
            axis.plot(steps, value, color=colour, ls=style, lw=1.4, label=each)
        axis.set_xlim(0, 1000)
        if len(those) > 1:
            legend(axis, loc="upper left", bbox_to_anchor=(1, 1.1))
        label(axis, "", "step", of)
    axes[0].set_ylim(0, 0.105)
    save(figure, FOLDER / f"{name}.png")


def main() -> None:
    page = examples(SCHEDULES.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which pictures; all by default. Of: {', '.join(page)}")
    names = parser.parse_args().names or list(page)
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawn = json.loads(DRAWN.read_text(encoding="utf-8")) if DRAWN.exists() else {}
    for name in names:
        draw(name, page[name])
        drawn[name] = page[name]
    kept = {name: drawn[name] for name in page if name in drawn}
    DRAWN.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
