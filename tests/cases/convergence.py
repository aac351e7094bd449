"""One row an optimizer class: the learning rate with which it solves the two problems of `test_convergence`.

The rates were found by trying 1, 2, 3 and 5 times powers of ten; those taken have neighbours that work as well. Methods
whose step is as long however small the gradient is need a rate that decays, by half a cosine over the run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_optreg import optimizers, schedules, select
from keras_optreg.regularizers import L1

STEPS = 1000


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        make: the optimizer with its learning rate.
        steps: how many it takes.
        why: what is not the default, and the reason.
    """

    make: Callable[[], Any]
    steps: int = STEPS
    why: str = ""


def decaying(rate: float, steps: int = STEPS) -> schedules.CosineDecay:
    return schedules.CosineDecay(rate, steps)


LONG = "decays: its step is as long however small the gradient is"
SHRINKING = "twice the steps: they shrink as it goes"
LAGGING = "twice the steps: the average comes later than the point that it averages"

ROWS = {
    "SGD": Row(
        lambda: optimizers.SGD(1e-3, momentum=0.9), why="without momentum Rosenbrock's valley needs 3000 steps and more"
    ),
    "RMSprop": Row(lambda: optimizers.RMSprop(decaying(0.02, 2000)), 2000, LONG),
    "Adagrad": Row(lambda: optimizers.Adagrad(1.0), 2000, SHRINKING),
    "Adam": Row(lambda: optimizers.Adam(0.1)),
    "AdamW": Row(lambda: optimizers.AdamW(0.1), why="with its default decay of 0.004"),
    "AMSGrad": Row(lambda: optimizers.AMSGrad(0.2)),
    "Adamax": Row(lambda: optimizers.Adamax(0.5), 2000, SHRINKING),
    "Nadam": Row(lambda: optimizers.Nadam(0.05)),
    "RAdam": Row(
        lambda: optimizers.RAdam(schedules.PiecewiseConstant([5], [1e-4, 0.1])),
        why="its first 5 steps are gradient descent, which takes a rate like SGD's",
    ),
    "AdaBelief": Row(lambda: optimizers.AdaBelief(0.1)),
    "Yogi": Row(lambda: optimizers.Yogi(0.2)),
    "NovoGrad": Row(lambda: optimizers.NovoGrad(decaying(5e-3)), why=LONG),
    "LAMB": Row(lambda: optimizers.LAMB(decaying(0.05)), why=LONG),
    "LARS": Row(lambda: optimizers.LARS(decaying(10.0)), why=LONG),
    "Lion": Row(lambda: optimizers.Lion(decaying(0.02)), why=LONG),
    "Adan": Row(lambda: optimizers.Adan(decaying(0.1)), why="decays: at a constant rate it circles at 1e-6"),
    "AdEMAMix": Row(lambda: optimizers.AdEMAMix(0.3)),
    "ADOPT": Row(lambda: optimizers.ADOPT(1.0), why="long steps: the first gradients stay in v for 10,000 steps"),
    "MARS": Row(lambda: optimizers.MARS(0.005)),
    "MADGRAD": Row(lambda: optimizers.MADGRAD(0.005)),
    "COCOB": Row(lambda: optimizers.COCOB(alpha=10.0), 4000, "has no rate, and its steps shrink as it goes"),
    "Prodigy": Row(lambda: optimizers.Prodigy(), why="finds its rate"),
    "ScheduleFreeSGD": Row(lambda: optimizers.ScheduleFreeSGD(3e-3), 2000, LAGGING),
    "ScheduleFreeAdamW": Row(lambda: optimizers.ScheduleFreeAdamW(0.1), 2000, LAGGING),
    "Muon": Row(lambda: optimizers.Muon(decaying(0.05)), why=LONG),
    "SOAP": Row(lambda: optimizers.SOAP(decaying(0.02)), why="decays: at a constant rate it circles at 1e-7"),
    "ProximalSGD": Row(
        lambda: optimizers.ProximalSGD(1e-3, momentum=0.9, penalties=L1(0.0)),
        why="strength 0, so that the solution is the same; `test_optimizers` has Lasso's",
    ),
    "ProximalAdagrad": Row(
        lambda: optimizers.ProximalAdagrad(1.0, penalties=L1(0.0)), 2000, "as those without Proximal"
    ),
    "Lookahead": Row(lambda: optimizers.Lookahead(optimizers.Adam(0.2))),
    "Partition": Row(
        lambda: optimizers.Partition(
            [(select.matching("w0"), optimizers.Muon(decaying(0.05)))], rest=optimizers.Adam(0.1)
        ),
        why="one method for each problem",
    ),
}
