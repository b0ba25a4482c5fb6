"""Density-functional labels of the molecular demo corpora: omegaB97X / 6-31G(d).

The functional and the basis are those of ANI-1x and Transition1x. Two settings
are cheaper than the originals: density fitting, and PySCF's grid level 1. The
gradient includes the response of the grid, so forces are the exact derivative of
the labelled energy and sum to zero.
"""

# Its programs are those of data/demo/requirements.txt.
# pyright: reportMissingImports=false

import dataclasses

from ase import units
import numpy as np
from pyscf import dft
from pyscf import gto

LEVEL_OF_THEORY = (
  "omegaB97X/6-31G(d), restricted Kohn-Sham, PySCF 2.14.0, density fitting, "
  "grid level 1 with grid response in the gradient, SCF tolerance 1e-8 hartree"
)


@dataclasses.dataclass(frozen=True)
class Label:
  """Result of one calculation.

  Attributes:
    energy: Total energy in hartree.
    forces: [N, 3] forces in hartree/angstrom.
    dipole: [3] dipole moment in e*angstrom.
    density: Density matrix, the start of the next calculation of this molecule.
  """

  energy: float
  forces: np.ndarray
  dipole: np.ndarray
  density: np.ndarray


def label(
  numbers: np.ndarray, positions: np.ndarray, density: np.ndarray | None = None
) -> Label | None:
  """Computes energy and forces of a neutral closed-shell molecule.

  Args:
    numbers: [N] atomic numbers.
    positions: [N, 3] positions in angstrom.
    density: Initial density matrix of a similar geometry, if there is one.

  Returns:
    The label, or None where the self-consistent field does not converge.
  """
  mol = gto.M(
    atom=[(int(z), tuple(p)) for z, p in zip(numbers, positions, strict=True)],
    basis="6-31g*",
    verbose=0,
  )
  field = dft.RKS(mol, xc="wb97x").density_fit()
  field.grids.level = 1
  field.conv_tol = 1e-8
  energy = field.kernel(dm0=density)
  if not field.converged:
    return None
  gradient = field.nuc_grad_method()
  gradient.grid_response = True
  forces = -gradient.kernel() / units.Bohr
  dipole = field.dip_moment(unit="AU", verbose=0) * units.Bohr
  return Label(float(energy), forces, dipole, field.make_rdm1())
