"""Write the README's tables: the components from their docstrings, the demo's numbers from its own results.

python tools/update_readme.py                                      # the tables, from what is committed
python tools/update_readme.py runs/quickstart/results.json         # first take over a run of the demo
"""

import argparse
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import keras

import keras_optreg as kor

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
NUMBERS = ROOT / "docs" / "quickstart.json"
FAMILIES = {
    "optimizers": (kor.optimizers, object),
    "`optimizers.gradient_transforms`": (
        kor.optimizers.gradient_transforms,
        kor.optimizers.gradient_transforms.GradientTransform,
    ),
    "regularizers": (kor.regularizers, keras.regularizers.Regularizer),
    "constraints": (kor.constraints, keras.constraints.Constraint),
    "schedules": (kor.schedules, keras.optimizers.schedules.LearningRateSchedule),
    "`schedules.shapes`": (kor.schedules.shapes, object),
    "callbacks": (kor.callbacks, keras.callbacks.Callback),
    "criteria of `EarlyStopping`": (kor.callbacks.criteria, kor.callbacks.criteria.Criterion),
    "probes of a `Monitor`": (kor.callbacks.probes, kor.callbacks.Probe),
    "writers of a `Monitor`": (kor.callbacks.writers, kor.callbacks.Writer),
    "selectors": (kor.select, kor.select.Selector),
}
FOR_AUTHORS = {
    *("Action", "FunctionSchedule", "Joined", "PenaltyRegularizer", "Probe", "RuleOptimizer", "Selector", "Writer"),
    *("as_selector", "path_of", "Criterion", "GradientTransform", "Scalar", "Scaled", "Seen", "Shaped", "Step"),
}
"""What components are made of; CONTRIBUTING.md is about them."""
COLUMNS = {"train": "train %", "validation": "validation %", "gap": "gap", "epochs": "epochs", "zeros": "zeros %"}


def summary(thing) -> str:
    """The first line of the docstring as the text of a table's cell."""
    return thing.__doc__.strip().splitlines()[0].rstrip(".").replace("|", "\\|")


def components() -> str:
    lines = ["| | | |", "|---|---|---|"]
    for family, (module, kind) in FAMILIES.items():
        public = {name: getattr(module, name) for name in module.__all__ if name not in FOR_AUTHORS}
        classes = {name: c for name, c in public.items() if isinstance(c, type) and issubclass(c, kind)}
        functions = {name: f for name, f in public.items() if callable(f) and not isinstance(f, type)}
        for name, thing in {**dict(sorted(classes.items())), **dict(sorted(functions.items()))}.items():
            lines.append(f"| {family} | `{name}` | {summary(thing)} |")
            family = ""
    return "\n".join(lines)


def take_over(results: Path) -> None:
    """Keep the means of a run of the demo, with the versions that made them."""
    runs = json.loads(results.read_text(encoding="utf-8"))
    means = {
        name: {column: round(sum(run[column] for run in same) / len(same), 4) for column in (*COLUMNS, "seconds")}
        for name, same in runs.items()
    }
    origin = {"python": platform.python_version(), "keras": keras.__version__, "backend": keras.backend.backend()}
    seeds = len(next(iter(runs.values())))
    NUMBERS.write_text(json.dumps({"seeds": seeds, "versions": origin, "means": means}, indent=2) + "\n")


def quickstart() -> str:
    kept = json.loads(NUMBERS.read_text(encoding="utf-8"))
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---|" + "--:|" * len(COLUMNS)]
    for name, means in kept["means"].items():
        cells = [f"{means[c]:.0f}" if c == "epochs" else f"{means[c]:.1f}" for c in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    versions = kept["versions"]
    lines += ["", f"Means of {kept['seeds']} seeds; Keras {versions['keras']} on {versions['backend']}, CPU."]
    return "\n".join(lines)


def fill(text: str, parts: Mapping[str, str], page: str) -> str:
    """The page with what stands between its markers written anew; `parts` are the texts by their markers."""
    for marker, part in parts.items():
        pattern = rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)"
        text, found = re.subn(pattern, lambda m, new=part: f"{m[1]}{new}\n{m[2]}", text, flags=re.S)
        if found != 1:
            raise ValueError(f"{page} must have the markers of `{marker}` once; found {found} times.")
    return text


def render(text: str) -> str:
    """The README with the parts between its markers written anew."""
    return fill(text, {"components": components(), "quickstart": quickstart()}, "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="results.json of `quickstart.py --seeds 3`")
    results = parser.parse_args().results
    if results:
        take_over(results)
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
