"""Molecular dynamics and relaxations in compiled loops.

  import jmp_hk
  from jmp_hk import dynamics

  model = jmp_hk.load(path)
  atoms = dynamics.run_langevin(
    model, atoms, temperature_K=300, num_steps=10_000, trajectory="md.extxyz"
  )
  results = dynamics.relax(model, structures, fmax=0.02, cell=True)

Units are ASE's (eV, Å, amu), and what an argument's name says.
"""

from collections.abc import Sequence
import os
from typing import NamedTuple

import ase
from ase.calculators import singlepoint
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk import voigt
from jmp_hk.dynamics import fire
from jmp_hk.dynamics import integrators
from jmp_hk.dynamics import recording
from jmp_hk.dynamics import relaxation
from jmp_hk.dynamics import running
from jmp_hk.dynamics import stepping
from jmp_hk.graphs import candidates
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import smoothness
from jmp_hk.runtime import console

Path = str | os.PathLike[str]
DynamicsError = stepping.DynamicsError
OtherRunError = recording.OtherRunError

__all__ = (
  "DynamicsError",
  "OtherRunError",
  "Relaxed",
  "relax",
  "run_langevin",
  "run_npt",
  "run_nve",
)


def run_nve(
  model: predictor_lib.Predictor,
  atoms: ase.Atoms,
  *,
  num_steps: int,
  timestep_fs: float = 0.5,
  head: str | None = None,
  trajectory: Path | None = None,
  logfile: Path | None = None,
  restart: Path | None = None,
  interval: int = 100,
  skin: float = candidates.DEFAULT_SKIN,
  progress: bool = True,
) -> ase.Atoms:
  """Runs molecular dynamics at constant energy: velocity Verlet.

  Args:
    model: a model from `jmp_hk.load` whose head has energy and forces.
    atoms: the structure with its momenta; stays as it is. Atoms in `FixAtoms` rest.
    num_steps: steps in all, those of an interrupted run included.
    timestep_fs: time step in fs: up to 0.5 with hydrogen, up to 2 for metals.
    head: name of the head; may be left out if the model has one.
    trajectory: file of frames, .traj or .extxyz; must not exist in a new run.
    logfile: file with energies, temperature, pressure of each frame, likewise.
    restart: file from which the same call continues, where it exists.
    interval: steps between frames, lines and restart files.
    skin: atoms may move by half of it before neighbors are searched for, Å.
    progress: whether to show a progress bar.

  Returns:
    A copy of the atoms at the end, with momenta, energy, forces and stress.

  Raises:
    InvalidStructureError: the model cannot predict the structure.
    DynamicsError: atoms move too far in a step, or predictions are not finite.
    OtherRunError: the files belong to another run.
    ValueError: the head or the settings cannot be used.
  """
  return running.run(
    model,
    atoms,
    _checked(integrators.NVE(timestep_fs)),
    num_steps,
    recording.Outputs(trajectory, logfile, restart, interval),
    head=head,
    seed=0,
    skin=skin,
    progress=progress,
  )


def run_langevin(
  model: predictor_lib.Predictor,
  atoms: ase.Atoms,
  *,
  temperature_K: float,
  num_steps: int,
  timestep_fs: float = 0.5,
  friction_per_fs: float = 0.01,
  seed: int = 0,
  head: str | None = None,
  trajectory: Path | None = None,
  logfile: Path | None = None,
  restart: Path | None = None,
  interval: int = 100,
  skin: float = candidates.DEFAULT_SKIN,
  progress: bool = True,
) -> ase.Atoms:
  """Runs molecular dynamics at constant temperature: Langevin, BAOAB.

  Args:
    model: see `run_nve`, as for what is not explained here.
    atoms: the structure. Where no atom has a momentum, all are drawn.
    temperature_K: temperature in K.
    num_steps: see `run_nve`.
    timestep_fs: see `run_nve`.
    friction_per_fs: friction in 1/fs. The larger, the faster is the temperature
      reached, and the less do atoms diffuse.
    seed: seed of momenta and random forces.
    head: see `run_nve`.
    trajectory: see `run_nve`.
    logfile: see `run_nve`.
    restart: see `run_nve`.
    interval: see `run_nve`.
    skin: see `run_nve`.
    progress: see `run_nve`.

  Returns:
    See `run_nve`.

  Raises:
    ValueError: see `run_nve`, as for other errors.
  """
  ensemble = integrators.Langevin(timestep_fs, temperature_K, friction_per_fs)
  return running.run(
    model,
    atoms,
    _checked(ensemble),
    num_steps,
    recording.Outputs(trajectory, logfile, restart, interval),
    head=head,
    seed=seed,
    skin=skin,
    progress=progress,
  )


def run_npt(
  model: predictor_lib.Predictor,
  atoms: ase.Atoms,
  *,
  temperature_K: float,
  num_steps: int,
  pressure_GPa: float = 0.0,
  timestep_fs: float = 0.5,
  friction_per_fs: float = 0.01,
  pressure_time_fs: float = 500.0,
  compressibility_per_GPa: float = 0.01,
  seed: int = 0,
  head: str | None = None,
  trajectory: Path | None = None,
  logfile: Path | None = None,
  restart: Path | None = None,
  interval: int = 100,
  skin: float = candidates.DEFAULT_SKIN,
  progress: bool = True,
) -> ase.Atoms:
  """Runs molecular dynamics at constant temperature and pressure.

  BAOAB with stochastic cell rescaling (Bernetti and Bussi 2020), which scales the cell
  isotropically and samples the right fluctuations of the volume. The structure is
  periodic in all directions, no atoms are fixed, and the head is conservative.

  Args:
    model: see `run_nve`, as for what is not explained here.
    atoms: see `run_langevin`.
    temperature_K: temperature in K.
    num_steps: see `run_nve`.
    pressure_GPa: external pressure in GPa.
    timestep_fs: see `run_nve`.
    friction_per_fs: see `run_langevin`.
    pressure_time_fs: time in which the pressure relaxes, in fs.
    compressibility_per_GPa: that of the material, roughly, in 1/GPa: 0.01 of metals,
      0.5 of water. Only its ratio to the time matters.
    seed: see `run_langevin`.
    head: see `run_nve`.
    trajectory: see `run_nve`.
    logfile: see `run_nve`.
    restart: see `run_nve`.
    interval: see `run_nve`.
    skin: see `run_nve`.
    progress: see `run_nve`.

  Returns:
    See `run_nve`.

  Raises:
    ValueError: see `run_nve`, as for other errors.
  """
  ensemble = integrators.NPT(
    timestep_fs,
    temperature_K,
    friction_per_fs,
    pressure_GPa,
    pressure_time_fs,
    compressibility_per_GPa,
  )
  return running.run(
    model,
    atoms,
    _checked(ensemble),
    num_steps,
    recording.Outputs(trajectory, logfile, restart, interval),
    head=head,
    seed=seed,
    skin=skin,
    progress=progress,
  )


class Relaxed(NamedTuple):
  """One relaxed structure.

  Attributes:
    atoms: a copy of the structure where the relaxation ended, with energy, forces and
      stress.
    converged: whether forces, and stress where the cell relaxes, are small enough.
    num_steps: steps that it took.
    fmax: largest force at the end in eV/Å.
  """

  atoms: ase.Atoms
  converged: bool
  num_steps: int
  fmax: float


def relax(
  model: predictor_lib.Predictor,
  structures: ase.Atoms | Sequence[ase.Atoms],
  *,
  fmax: float = 0.05,
  cell: bool = False,
  max_steps: int = 1000,
  head: str | None = None,
  batch_edges: int | None = None,
  skin: float = candidates.DEFAULT_SKIN,
  progress: bool = True,
) -> list[Relaxed]:
  """Relaxes structures in batches with FIRE.

  Args:
    model: a model from `jmp_hk.load` whose head has energy and forces.
    structures: any number of structures, which stay as they are; a single one counts
      as a list of one. Atoms in `FixAtoms` rest.
    fmax: largest force at which a structure counts as relaxed, eV/Å; with the cell,
      also -V times stress over the number of atoms, as in ASE's cell filters.
    cell: whether cells relax too.
    max_steps: steps after which a structure is given up.
    head: name of the head; may be left out if the model has one.
    batch_edges: about how many main edges a batch has; None takes the model's.
    skin: see `run_nve`.
    progress: whether to show a progress bar.

  Returns:
    One result a structure, in their order.

  Raises:
    InvalidStructureError: the model cannot predict a structure.
    DynamicsError: predictions are not finite.
    ValueError: the head or the settings cannot be used.
  """
  given = [structures] if isinstance(structures, ase.Atoms) else list(structures)
  if not fmax > 0:
    raise ValueError(f"fmax must be positive, in eV/Å, got {fmax}.")
  if max_steps < 1:
    raise ValueError(f"max_steps must be at least 1, got {max_steps}.")
  if skin < 0.5:
    raise ValueError(f"skin must be at least 0.5 Å for relaxations, got {skin}.")
  if not given:
    return []
  runner = model.head(head)
  prepared = [
    running.check(runner, atoms, index, cell) for index, atoms in enumerate(given)
  ]
  smoothness.warn(runner.task, runner.info, prepared[0])
  with console.bar(len(given), "structure", "relaxation", is_shown=progress) as bar:
    job = relaxation.Relaxation(
      runner,
      prepared,
      relaxation.Settings(fmax, cell, max_steps),
      batch_edges=batch_edges or model.batch_edges,
      skin=skin,
      on_done=lambda index: bar.update(1),
    )
    job.run()
  return [
    _relaxed(atoms, structure, state, fmax, runner.reference_energy(structure))
    for atoms, structure, state in zip(given, prepared, job.states, strict=True)
  ]


def _relaxed(
  atoms: ase.Atoms,
  structure: structure_lib.Structure,
  state: fire.State,
  fmax: float,
  offset: float,
) -> Relaxed:
  result = atoms.copy()
  result.set_cell(fire.cell_of(state))
  result.positions[:] = fire.positions_of(state)
  values = {
    "energy": float(state.energy[0]) + offset,
    "forces": np.array(state.forces),
  }
  if structure.volume > 0 and np.any(state.stress):
    values["stress"] = voigt.from_matrix(state.stress[0])
  result.calc = singlepoint.SinglePointCalculator(result, **values)
  largest = float(state.fmax[0])
  return Relaxed(result, largest < fmax, int(state.step[0]), largest)


def _checked(ensemble: integrators.NVE) -> integrators.NVE:
  """The ensemble, whose settings make sense.

  Raises:
    ValueError: one of them does not.
  """
  for name, value in vars(ensemble).items():
    least = -np.inf if name == "pressure_GPa" else 0.0
    if not (least < value < np.inf) and not (name == "friction_per_fs" and value == 0):
      raise ValueError(f"{name} must be a positive number, got {value}.")
  return ensemble
