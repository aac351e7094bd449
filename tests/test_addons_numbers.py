"""The numbers that TensorFlow Addons published for its optimizers, in its own tests, whose problems these are.

Each runs constant gradients from given weights. Its tolerances are Addons' own.
"""

import numpy as np
import pytest
from keras import ops
from stepping import values_of, variables_of

from keras_optreg import select
from keras_optreg.optimizers import COCOB, AdaBelief, NovoGrad, ProximalAdagrad, RAdam
from keras_optreg.regularizers import L1, L1L2

START = [[1.0, 2.0], [3.0, 4.0]]
GRADIENTS = [[0.1, 0.2], [0.03, 0.04]]


def after(optimizer, steps, start=START, gradients=GRADIENTS):
    variables = variables_of([np.array(w, "float32") for w in start])
    for _ in range(steps):
        optimizer.apply([ops.convert_to_tensor(np.array(g, "float32")) for g in gradients], variables)
    return values_of(variables)


def proximal(penalty):
    return ProximalAdagrad(3.0, 0.1, epsilon=0, penalties=[(select.everything(), penalty)])


CASES = {
    "RectifiedAdam": (
        lambda: after(RAdam(1e-3), 100),
        [[0.985769, 1.985269], [2.986119, 3.986068]],
        {"atol": 2e-4},
    ),
    "AdaBelief(rectify=False)": (
        lambda: after(AdaBelief(1e-3, epsilon=1e-14), 100),
        [[0.66723955, 1.6672393], [2.6672382, 3.6672382]],
        {"atol": 2e-4},
    ),
    "NovoGrad": (
        lambda: after(NovoGrad(0.1, 0.9, 0.999), 1, gradients=[[0.1, 0.2], [0.3, 0.4]]),
        [[0.9552786425, 1.9105572849], [2.9400000012, 3.9200000016]],
        {"atol": 2e-4},
    ),
    "NovoGrad(weight_decay=0.1)": (
        lambda: after(NovoGrad(0.1, 0.9, 0.999, weight_decay=0.1), 1, gradients=[[0.1, 0.2], [0.3, 0.4]]),
        [[0.945278642, 1.8905572849], [2.9100000012, 3.8800000016]],
        {"atol": 2e-4},
    ),
    "COCOB": (
        lambda: after(COCOB(), 100),
        [[-4.183396e16, -4.183396e16], [-4.1833639e16, -4.1833858e16]],
        {"rtol": 2e-5},
    ),
    "COCOB(20)": (
        lambda: after(COCOB(alpha=20), 100),
        [[-8.60311e26, -8.60311e26], [-8.603111e26, -8.603099e26]],
        {"rtol": 2e-5},
    ),
    "ProximalAdagrad": (
        lambda: after(proximal(L1(0.0)), 10, [[1.0, 2.0], [4.0, 3.0]], [[0.1, 0.2], [0.01, 0.02]]),
        [[-6.722771, -9.230448], [3.0539124, 1.1230775]],
        {"rtol": 1e-6},
    ),
    "ProximalAdagrad(l1)": (
        lambda: after(proximal(L1(0.001)), 10, [[1.0, 2.0], [4.0, 3.0]], [[0.1, 0.2], [0.01, 0.02]]),
        [[-6.663634, -9.190331], [2.9593036, 1.0292315]],
        {"rtol": 1e-6},
    ),
    "ProximalAdagrad(l1, l2)": (
        lambda: after(proximal(L1L2(0.001, 1.0)), 10, [[1.0, 2.0], [4.0, 3.0]], [[0.1, 0.2], [0.01, 0.02]]),
        [[-0.0495, -0.0995], [-0.0045, -0.0095]],
        {"rtol": 1e-5},
    ),
}


@pytest.mark.usefixtures("run_op_by_op")
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_published_numbers(name):
    run, expected, tolerance = CASES[name]
    for ours, theirs in zip(run(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **{"rtol": 1e-7, **tolerance})
