"""Relaxations of slabs with adsorbates, the common part of the OC20 and OC22 demos."""

from collections.abc import Callable
import dataclasses

import ase
import ase.calculators.calculator
import ase.constraints
import ase.optimize
import numpy as np

SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Frame:
  """One labelled step of a relaxation.

  Attributes:
    index: Number of the step in its relaxation.
    positions: [N, 3] in angstrom.
    energy: Total energy in eV.
    forces: [N, 3] raw forces in eV/angstrom, also on fixed atoms.
  """

  index: int
  positions: np.ndarray
  energy: float
  forces: np.ndarray


def add_adsorbate(
  slab: ase.Atoms, adsorbate: ase.Atoms, height: float, rng: np.random.Generator
) -> None:
  """Puts an adsorbate at a random place and azimuth above the top layer.

  Args:
    slab: Slab with z as its normal; changed in place.
    adsorbate: Its first atom is the lowest, at its origin.
    height: Height of the first atom above the highest slab atom, in angstrom.
    rng: Source of place and azimuth.
  """
  placed = adsorbate.copy()
  placed.rotate(rng.uniform(0, 360), "z")
  place = rng.uniform(0, 1, 2) @ np.asarray(slab.cell)[:2]
  place[2] = slab.positions[:, 2].max() + height
  tags = np.concatenate([slab.get_tags(), np.full(len(placed), ADSORBATE)])
  placed.positions += place - placed.positions[0]
  slab.extend(placed)
  slab.set_tags(tags)


def prepare(slab: ase.Atoms, amplitude: float, rng: np.random.Generator) -> None:
  """Fixes the sub-surface and rattles the rest, as a start off the minimum.

  Args:
    slab: Tagged slab, changed in place; becomes periodic in all directions.
    amplitude: Standard deviation of the displacement of free atoms in angstrom.
    rng: Source of the displacements.
  """
  slab.pbc = True
  fixed = slab.get_tags() == SUBSURFACE
  shift = rng.normal(scale=amplitude, size=(len(slab), 3))
  slab.positions += np.where(fixed[:, None], 0.0, shift)
  slab.set_constraint(ase.constraints.FixAtoms(mask=fixed))


def relax(
  slab: ase.Atoms,
  calculator: ase.calculators.calculator.Calculator,
  steps: int,
  accept: Callable[[Frame], bool] = lambda frame: True,
) -> list[Frame]:
  """Relaxes and returns every accepted step, the start included.

  Args:
    slab: As left by ``prepare``.
    calculator: Source of the labels.
    steps: Largest number of relaxation steps.
    accept: Says whether a step is kept.
  """
  slab.calc = calculator
  frames: list[Frame] = []

  def record() -> None:
    frame = Frame(
      optimizer.nsteps,
      slab.positions.copy(),
      float(slab.get_potential_energy()),
      slab.get_forces(apply_constraint=False),
    )
    if accept(frame):
      frames.append(frame)

  with ase.optimize.BFGS(slab, logfile=None, maxstep=0.15) as optimizer:
    optimizer.attach(record)
    optimizer.run(fmax=0.03, steps=steps)
  return frames


def spread(frames: list[Frame], count: int) -> list[Frame]:
  """At most ``count`` steps, denser towards the start where the energy changes."""
  if len(frames) <= count:
    return frames
  places = np.linspace(0, 1, count) ** 2 * (len(frames) - 1)
  return [frames[i] for i in sorted(set(np.ceil(places).astype(int)))]
