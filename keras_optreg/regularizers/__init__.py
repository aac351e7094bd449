"""Penalties, and the ways to give them to a model."""

from keras_optreg.regularizers.attach import attach, detach, transfer
from keras_optreg.regularizers.attach_activity import attach_activity
from keras_optreg.regularizers.compact import compact
from keras_optreg.regularizers.dropout import insert_dropout
from keras_optreg.regularizers.hoyer import Hoyer
from keras_optreg.regularizers.kl_sparsity import KLSparsity
from keras_optreg.regularizers.l1 import L1
from keras_optreg.regularizers.l1_l2 import L1L2
from keras_optreg.regularizers.l2 import L2
from keras_optreg.regularizers.l2_sp import L2SP
from keras_optreg.regularizers.mcp import MCP
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.report import report
from keras_optreg.regularizers.scad import SCAD
from keras_optreg.regularizers.sum import Sum
from keras_optreg.regularizers.to_keras import to_keras

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "L2SP",
    "MCP",
    "SCAD",
    "Hoyer",
    "KLSparsity",
    "PenaltyRegularizer",
    "Sum",
    "attach",
    "attach_activity",
    "compact",
    "detach",
    "insert_dropout",
    "report",
    "to_keras",
    "transfer",
]
