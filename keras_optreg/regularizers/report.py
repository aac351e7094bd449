"""How large are the penalties of a model, weight by weight?"""

from typing import Any

import keras
import numpy as np

from keras_optreg.regularizers.owners import owners_of
from keras_optreg.select import path_of
from keras_optreg.table import Table


def report(model: Any, loss: float | None = None) -> Table:
    r"""The value of each weight's penalty now, and its share of their sum.

    A share near all of the loss says that the penalty is too strong, one near nothing that it hardly acts. Frozen
    weights are left out, as Keras leaves them out of the loss. Activity penalties are not weights' and not counted, nor
    are penalties given to an optimizer.

    Args:
        model: a built Keras model.
        loss: a value of the whole loss, data and penalties, as `fit` logs it; adds a column with the share of it.

    Returns:
        A table with one row a penalised weight, a shared one once: `path`, `penalty`, `value`, `share` of all penalties
        and, with `loss`, `share_of_loss`; the footer has the total.

    Example:
        >>> from keras_optreg.regularizers import L2, attach
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
        >>> table = attach(model, L2(0.5))
        >>> row = report(model, loss=12.0)[0]
        >>> row.value, row.share, row.share_of_loss
        (3.0, 1.0, 0.25)
    """
    penalised = [o for o in owners_of(model, "report") if o.variable.regularizer is not None]
    acting = [o.variable for o in penalised if o.is_trainable]
    values = [np.asarray(keras.ops.convert_to_numpy(v.regularizer(v))).item() for v in acting]
    total = sum(values)
    rows = []
    for variable, value in zip(acting, values, strict=True):
        row = [path_of(variable), variable.regularizer, value, value / total if total else 0.0]
        rows.append(row if loss is None else [*row, value / loss if loss else 0.0])
    footer = f"total penalty {total:.6g}"
    if loss is not None:
        footer += f" of a loss of {loss:.6g}"
    if len(penalised) > len(acting):
        footer += f"; {len(penalised) - len(acting)} frozen weights have a penalty that does not count"
    return Table(("path", "penalty", "value", "share", *(() if loss is None else ("share_of_loss",))), rows, footer)
