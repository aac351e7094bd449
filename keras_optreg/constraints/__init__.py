"""Sets in which weights are kept, for `kernel_constraint=` of a layer and `constraint` of a variable."""

from keras_optreg.constraints.box import Box
from keras_optreg.constraints.l1_ball import L1Ball
from keras_optreg.constraints.radial_constraint import RadialConstraint
from keras_optreg.constraints.simplex import Simplex

__all__ = ["Box", "L1Ball", "RadialConstraint", "Simplex"]
