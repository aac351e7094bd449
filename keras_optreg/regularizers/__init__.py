"""Penalties, and the ways to give them to a model."""

from keras_optreg.regularizers import views
from keras_optreg.regularizers.attach import attach, detach, transfer
from keras_optreg.regularizers.attach_activity import attach_activity
from keras_optreg.regularizers.compact import compact
from keras_optreg.regularizers.dropout import insert_dropout
from keras_optreg.regularizers.group_lasso import GroupLasso
from keras_optreg.regularizers.hoyer import Hoyer
from keras_optreg.regularizers.kl_sparsity import KLSparsity
from keras_optreg.regularizers.l1 import L1
from keras_optreg.regularizers.l1_l2 import L1L2
from keras_optreg.regularizers.l2 import L2
from keras_optreg.regularizers.l2_sp import L2SP
from keras_optreg.regularizers.mcp import MCP
from keras_optreg.regularizers.nuclear_norm import NuclearNorm
from keras_optreg.regularizers.orthogonality import Orthogonality
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.report import report
from keras_optreg.regularizers.scad import SCAD
from keras_optreg.regularizers.sparse_group_lasso import SparseGroupLasso
from keras_optreg.regularizers.spectral_norm import SpectralNorm
from keras_optreg.regularizers.srip import SRIP
from keras_optreg.regularizers.sum import Sum
from keras_optreg.regularizers.to_keras import to_keras

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "L2SP",
    "MCP",
    "SCAD",
    "SRIP",
    "GroupLasso",
    "Hoyer",
    "KLSparsity",
    "NuclearNorm",
    "Orthogonality",
    "PenaltyRegularizer",
    "SparseGroupLasso",
    "SpectralNorm",
    "Sum",
    "attach",
    "attach_activity",
    "compact",
    "detach",
    "insert_dropout",
    "report",
    "to_keras",
    "transfer",
    "views",
]
