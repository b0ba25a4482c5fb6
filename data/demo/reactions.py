"""Reactions of small CHNO molecules and their GFN2-xTB paths.

A reaction is a reactant and the bonds that form and break. The product is found by
pulling the reactant along these bonds with springs and then relaxing it freely, so
atoms keep their order and the path does not tangle.
"""

from collections.abc import Sequence
import dataclasses

import ase
import ase.build
import ase.calculators.calculator
import ase.data
import ase.mep
import ase.optimize
import numpy as np

from data.demo import molecules

IMAGES = 8  # of a path, end points included


@dataclasses.dataclass(frozen=True)
class Reaction:
  """One elementary step.

  Attributes:
    smiles: The reactant.
    forms: Bonds that form; an atom is ``heavy`` or ``heavy h number``, e.g. ``0h1``
      is the second hydrogen of heavy atom 0.
    breaks: Bonds that break.
  """

  smiles: str
  forms: tuple[tuple[str, str], ...]
  breaks: tuple[tuple[str, str], ...]


def parse(line: str) -> Reaction:
  """Reads ``SMILES +a-b -c-d``: the bond a-b forms, c-d breaks."""
  smiles, *changes = line.split()
  bonds = {"+": [], "-": []}
  for change in changes:
    first, second = change[1:].split("-")
    bonds[change[0]].append((first, second))
  return Reaction(smiles, tuple(bonds["+"]), tuple(bonds["-"]))


def _index(atoms: ase.Atoms, name: str) -> int:
  """Index of an atom named as in ``Reaction``, at the reactant's geometry."""
  heavy, _, hydrogen = name.partition("h")
  if not hydrogen:
    return int(heavy)
  bonded = np.flatnonzero(
    (atoms.numbers == 1) & (atoms.get_distances(int(heavy), range(len(atoms))) < 1.3)
  )
  return int(bonded[int(hydrogen)])


class _Pulled(ase.calculators.calculator.Calculator):
  """GFN2-xTB with harmonic springs on some distances."""

  implemented_properties = ["energy", "forces"]

  def __init__(self, springs: Sequence[tuple[int, int, float]], stiffness: float):
    super().__init__()
    self._springs, self._stiffness, self._base = springs, stiffness, molecules.gfn2()

  def calculate(self, atoms=None, properties=("energy",), system_changes=()):
    """Adds the springs to the energy (eV) and forces (eV/angstrom)."""
    super().calculate(atoms, properties, system_changes)
    assert atoms is not None
    plain = atoms.copy()
    plain.calc = self._base
    energy, forces = plain.get_potential_energy(), plain.get_forces()
    for i, j, length in self._springs:
      vector = plain.positions[j] - plain.positions[i]
      distance = np.linalg.norm(vector)
      energy += 0.5 * self._stiffness * (distance - length) ** 2
      pull = self._stiffness * (distance - length) * vector / distance
      forces[i] += pull
      forces[j] -= pull
    self.results = {"energy": energy, "forces": forces}


def _product(
  reactant: ase.Atoms, forms: list[tuple[int, ...]], breaks: list[tuple[int, ...]]
) -> ase.Atoms | None:
  """The relaxed product, or None where the pulled molecule falls back."""
  radii = ase.data.covalent_radii[reactant.numbers]
  springs = [(i, j, radii[i] + radii[j]) for i, j in forms]
  springs += [(i, j, 2.2 * (radii[i] + radii[j])) for i, j in breaks]
  product = reactant.copy()
  for stiffness in (5.0, 20.0):
    product.calc = _Pulled(springs, stiffness)
    with ase.optimize.BFGS(product, logfile=None, maxstep=0.1) as optimizer:
      optimizer.run(fmax=0.1, steps=150)
  molecules.relax(product, fmax=0.03, steps=120)
  length = lambda i, j: product.get_distance(i, j) / (radii[i] + radii[j])
  formed = all(length(i, j) < 1.35 for i, j in forms)
  broken = all(length(i, j) > 1.45 for i, j in breaks)
  return product if formed and broken else None


def path(reaction: Reaction, iterations: int = 60) -> np.ndarray | None:
  """Frames along a reaction in the order of Transition1x.

  Args:
    reaction: The reaction.
    iterations: Relaxation steps of the climbing-image nudged elastic band.

  Returns:
    [2 * IMAGES - 2, N, 3] positions in angstrom: ``IMAGES`` of the initial
    (image-dependent pair potential) path with both end points, then the inner images
    of the relaxed GFN2-xTB band; None where no product was found.
  """
  reactant = molecules.embed(reaction.smiles)
  molecules.relax(reactant, fmax=0.01)
  named = lambda bonds: [tuple(_index(reactant, atom) for atom in b) for b in bonds]
  product = _product(reactant, named(reaction.forms), named(reaction.breaks))
  if product is None:
    return None
  ase.build.minimize_rotation_and_translation(reactant, product)
  images = [reactant.copy() for _ in range(IMAGES - 1)] + [product.copy()]
  band = ase.mep.NEB(
    images, k=1.0, climb=True, method="improvedtangent", allow_shared_calculator=True
  )
  band.interpolate(method="idpp")
  first = np.array([image.positions for image in images])
  calculator = molecules.gfn2()
  for image in images:
    image.calc = calculator
  with ase.optimize.FIRE(
    band,  # pyright: ignore[reportArgumentType]
    logfile=None,  # pyright: ignore[reportArgumentType]
    maxstep=0.1,
  ) as optimizer:
    optimizer.run(fmax=0.1, steps=iterations)
  relaxed = np.array([image.positions for image in images[1:-1]])
  return np.concatenate([first, relaxed])


def elements_and_path(line: str) -> tuple[np.ndarray, np.ndarray | None]:
  """Atomic numbers and the frames (or None) of a reaction given as text."""
  reaction = parse(line)
  numbers = molecules.embed(reaction.smiles).numbers
  try:
    return numbers, path(reaction)
  except ase.calculators.calculator.CalculationFailed:  # a biradical on the way
    return numbers, None
