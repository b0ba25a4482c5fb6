"""Molecular dynamics of one structure, from `ase.Atoms` to `ase.Atoms`."""

from collections.abc import Iterable
import dataclasses
import hashlib
from typing import Any

import ase
from ase import constraints
from ase.md import velocitydistribution
import jax
import numpy as np

from jmp_hk import from_ase
from jmp_hk import structure as structure_lib
from jmp_hk.dynamics import integrators
from jmp_hk.dynamics import recording
from jmp_hk.dynamics import simulation as simulation_lib
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import single_head
from jmp_hk.inference import smoothness
from jmp_hk.runtime import console

_STEPS_AT_ONCE = 100  # That a program makes at most, so that Ctrl-C is heard.


def run(
  model: predictor_lib.Predictor,
  atoms: ase.Atoms,
  ensemble: integrators.NVE,
  num_steps: int,
  outputs: recording.Outputs,
  *,
  head: str | None,
  seed: int,
  skin: float,
  progress: bool,
) -> ase.Atoms:
  """Runs a simulation, or continues it; arguments as of the functions in `dynamics`."""
  if num_steps < 0:
    raise ValueError(f"num_steps must not be negative, got {num_steps}.")
  runner = model.head(head)
  structure = check(runner, atoms, 0, ensemble.cell_moves)
  smoothness.warn(runner.task, runner.info, structure)
  movable = ~structure.fixed
  settings = _settings(ensemble, atoms, seed) | {"head": runner.task.name}
  if outputs.restart is not None:  # Else nobody asks; large models take a while.
    settings["weights"] = _digest(jax.tree.leaves(runner.variables))
  recorder = recording.Recorder(
    outputs,
    atoms,
    settings,
    runner.reference_energy(structure),
  )
  state = recorder.resume()
  if state is None:
    state = initial_state(atoms, ensemble, movable, seed)
    recorder.store(state)
  else:
    structure = dataclasses.replace(
      structure, positions=state.positions, cell=np.asarray(state.cell)
    )
  simulation = simulation_lib.Simulation(
    runner,
    structure,
    ensemble,
    state,
    masses=atoms.get_masses(),
    movable=movable,
    seed=seed,
    skin=skin,
  )
  if state.step < 0:
    simulation.run_to(0)
    recorder.write(simulation.state)
  with console.bar(
    num_steps, "step", "dynamics", initial=int(simulation.state.step), is_shown=progress
  ) as bar:
    while (done := int(simulation.state.step)) < num_steps:
      frame = (done // outputs.interval + 1) * outputs.interval
      simulation.run_to(min(frame, done + _STEPS_AT_ONCE, num_steps))
      bar.update(int(simulation.state.step) - done)
      if simulation.state.step == frame:
        recorder.write(simulation.state)
        if outputs.restart is not None:
          # As where the run continues from here, so that no sum has another order.
          simulation.renew()
      elif simulation.state.step == num_steps:
        recorder.store(simulation.state)
  return recorder.frame(simulation.state)


def check(
  runner: single_head.SingleHead, atoms: ase.Atoms, index: int, cell_moves: bool
) -> structure_lib.Structure:
  """The structure of atoms that can be moved with a head.

  Args:
    runner: the head.
    atoms: the atoms.
    index: their number in messages.
    cell_moves: whether the cell is to move, too.

  Raises:
    InvalidStructureError: the head cannot predict it.
    ValueError: the head has no energy or forces, the atoms have constraints other than
      `FixAtoms`, or the cell cannot move.
  """
  names = [target.name for target in runner.task.targets]
  missing = [name for name in ("energy", "forces") if name not in names]
  if missing:
    raise ValueError(
      f"Atoms move by energy and forces; the head {runner.task.name!r} predicts no "
      f"{' and no '.join(missing)}."
    )
  for constraint in atoms.constraints:
    if not isinstance(constraint, constraints.FixAtoms):
      raise ValueError(
        f"Expected no constraints but FixAtoms, found {type(constraint).__name__}; "
        "use the calculator with ASE's own dynamics and optimisers."
      )
  structure = from_ase.from_atoms(atoms, runner.info, from_ase.name_of(atoms, index))
  if cell_moves:
    check_cell(runner, structure)
  return structure


def check_cell(
  runner: single_head.SingleHead, structure: structure_lib.Structure
) -> None:
  """Raises ValueError where the cell of a structure cannot move."""
  if not runner.task.is_conservative:
    raise ValueError(
      f"The cell moves by the stress, which the head {runner.task.name!r} does not "
      "predict: its forces are not derivatives of the energy."
    )
  if not np.all(structure.pbc):
    raise ValueError(
      f"The cell moves only in structures that are periodic in all directions; "
      f"{structure.record_id or 'this one'} has pbc {structure.pbc.tolist()}."
    )
  if structure.fixed.any():
    raise ValueError("The cell cannot move while atoms are fixed in space.")


def initial_state(
  atoms: ase.Atoms, ensemble: integrators.NVE, movable: np.ndarray, seed: int
) -> integrators.State:
  """Positions and momenta of atoms; drawn where a temperature is kept and all rest."""
  momenta = np.array(atoms.get_momenta(), np.float64)
  if isinstance(ensemble, integrators.Langevin) and not momenta.any():
    moving = atoms.copy()
    velocitydistribution.thermalize_momenta(
      moving,
      temperature_K=ensemble.temperature_K,
      rng=np.random.default_rng(seed),
    )
    momenta = np.array(moving.get_momenta())
  make: Any = integrators.State
  return make(
    positions=np.array(atoms.positions, np.float64),
    momenta=momenta * movable[:, None],
    cell=np.array(atoms.cell, np.float64),
    forces=np.zeros((len(atoms), 3)),
    energy=np.float64(0),
    stress=np.zeros((3, 3)),
    step=-1,
  )


def _settings(ensemble: integrators.NVE, atoms: ase.Atoms, seed: int) -> dict[str, Any]:
  """What tells one simulation from another."""
  fixed = [np.asarray(c.index) for c in atoms.constraints]
  start = (
    atoms.numbers,
    atoms.positions,
    np.array(atoms.cell),
    atoms.pbc,
    atoms.get_masses(),
    atoms.get_momenta(),
    *fixed,
  )
  return {
    "ensemble": type(ensemble).__name__,
    **dataclasses.asdict(ensemble),
    "seed": seed,
    "start": _digest(start),
  }


def _digest(arrays: Iterable[Any]) -> str:
  """Digits that differ where arrays do."""
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()
