"""Execute every `notebooks/NN_topic.py` (percent format) and write `NN_topic.ipynb`, the same bytes each time.

python tools/build_notebooks.py            # all of them, or those named
python tools/build_notebooks.py --check    # twice, into memory: equal bytes, and the committed file has this source
"""

import argparse
import os
import re
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "notebooks"
LARGEST = 300_000
# What TensorFlow's C++ side writes to stderr while it starts: time stamps and process ids, no news.
STARTUP_LOG = re.compile(r"^([IWE]\d{4} .*|WARNING: All log messages before absl.*|To enable the following.*)\n?", re.M)


def clean(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The same outputs with neighbouring pieces of one stream joined and start-up logs left out."""
    cleaned = []
    for stream, parts in groupby(outputs, key=lambda output: output.get("name")):
        if stream is None:
            cleaned += parts
            continue
        text = "".join(part.text for part in parts)
        if stream == "stderr":
            text = STARTUP_LOG.sub("", text)
            if text:
                raise RuntimeError(f"A notebook's cell wrote to stderr; a reader would wonder why:\n{text}")
        if text:
            cleaned.append(nbformat.v4.new_output("stream", name=stream, text=text))
    return cleaned


def execute(source: Path) -> str:
    """The executed notebook as the text of its file."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"  # jupytext draws them at random
    resources = {"metadata": {"path": str(FOLDER)}}
    options: dict[str, Any] = {"timeout": 600, "startup_timeout": 300, "resources": resources, "record_timing": False}
    NotebookClient(notebook, kernel_name="python3", **options).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell["outputs"] = clean(cell.outputs)
    # Only what does not depend on the machine that ran it.
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    nbformat.validate(notebook)
    text = nbformat.writes(notebook) + "\n"
    if len(text) > LARGEST:
        raise RuntimeError(f"{source.name}: {len(text):,} bytes executed; keep a notebook under {LARGEST:,}.")
    return text


def outline(text: str) -> list[tuple]:
    """What must be the same on every machine: each cell's kind, its source and the kinds of its outputs."""
    cells = nbformat.reads(text, as_version=4).cells
    return [(cell.cell_type, cell.source, [o.output_type for o in cell.get("outputs", [])]) for cell in cells]


def check(source: Path) -> list[str]:
    """What is wrong with the notebook, as sentences."""
    target = source.with_suffix(".ipynb")
    if not target.exists():
        return [f"{target.name} is missing; run `make notebooks`."]
    first, second, committed = execute(source), execute(source), target.read_text(encoding="utf-8")
    wrong = []
    if first != second:
        wrong.append(f"{source.name} gives other bytes each time it is executed: seed it and print no times.")
    if outline(first) != outline(committed):
        wrong.append(f"{target.name} was not built from this {source.name}; run `make notebooks`.")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when something is wrong")
    parser.add_argument("notebooks", nargs="*", type=Path, help="sources to build; default: all")
    options = parser.parse_args()

    # The kernel inherits these: one hash seed, reproducible kernels, pictures inline.
    os.environ.update(PYTHONHASHSEED="0", TF_DETERMINISTIC_OPS="1", TF_CPP_MIN_LOG_LEVEL="3")
    os.environ.pop("MPLBACKEND", None)
    os.environ["PYTHONPATH"] = str(FOLDER.parent)

    wrong = []
    for source in options.notebooks or sorted(FOLDER.glob("*.py")):
        start = time.perf_counter()
        if options.check:
            wrong += check(source)
        else:
            text = execute(source)
            source.with_suffix(".ipynb").write_text(text, encoding="utf-8")
        print(f"{source.name}: {time.perf_counter() - start:.0f} s")
    print("\n".join(wrong) if wrong else "every notebook is as its source says")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
