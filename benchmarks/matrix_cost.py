"""What a step of Muon and SOAP costs beside one of Adam, in one run.

    python benchmarks/matrix_cost.py                    # square matrices of 256, 512 and 1024
    python benchmarks/matrix_cost.py --sizes 128 --save

These methods multiply matrices, so a step costs more than reading and writing the weights. What that is in a training
depends on the model: a batch of n examples multiplies the same matrices about 6·n times, a step of Muon about 15 times
and one of SOAP 8 times, and now and then a decomposition.
"""

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import keras
from step_time import BACKEND, milliseconds, stepper

from keras_optreg.optimizers import SOAP, Adam, Muon

RESULTS = Path(__file__).parent / "results" / "matrix_cost.jsonl"
MATRICES = 4


def measure(size: int, steps: int) -> dict[str, float]:
    """Milliseconds a step on four square matrices; SOAP's with its decompositions, every tenth step."""
    made = {"Adam": Adam(1e-3), "Muon": Muon(1e-3), "SOAP": SOAP(1e-3)}
    step = {name: stepper(optimizer, [(size, size)] * MATRICES) for name, optimizer in made.items()}
    found = {}
    for name, one in step.items():
        milliseconds(one, 12)  # compile, take SOAP's first basis and its first power iteration
        found[name] = milliseconds(one, steps)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--steps", type=int, default=20, help="measured steps; a multiple of 10")
    parser.add_argument("--save", action="store_true", help=f"append the results to {RESULTS.name}")
    options = parser.parse_args()
    machine = {"backend": BACKEND, "keras": keras.__version__, "python": platform.python_version()}
    for size in options.sizes:
        found = measure(size, options.steps)
        ratios = {name: round(ms / found["Adam"], 1) for name, ms in found.items() if name != "Adam"}
        times = "  ".join(f"{name} {ms:.2f} ms" for name, ms in found.items())
        print(f"{MATRICES} × ({size}, {size}):  {times}   " + "  ".join(f"{n} {r} × Adam" for n, r in ratios.items()))
        if options.save:
            RESULTS.parent.mkdir(exist_ok=True)
            line = {"date": str(date.today()), **machine, "size": size, "ms": found, "ratio": ratios}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
