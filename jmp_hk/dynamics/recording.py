"""Trajectories, logs and restart files of simulations.

Frames are written at whole multiples of an interval, then the restart file, which says
how far the trajectory and the log were. A run that is continued cuts both there, so
they hold every frame once.
"""

from collections.abc import Mapping
import dataclasses
import io
import json
import os
import pathlib
from typing import Any
import zipfile

import ase
from ase import io as ase_io
from ase import units
from ase.calculators import singlepoint
from ase.io import trajectory as ase_trajectory
import numpy as np

from jmp_hk import files
from jmp_hk import voigt
from jmp_hk.dynamics import integrators

Path = str | os.PathLike[str]
State = integrators.State

_ARRAYS = ("positions", "momenta", "cell", "forces", "energy", "stress", "step")
_FORMATS = {".traj": "traj", ".extxyz": "extxyz", ".xyz": "extxyz"}


class OtherRunError(ValueError):
  """A restart file or a trajectory belongs to something else."""


@dataclasses.dataclass(frozen=True)
class Outputs:
  """What a simulation writes.

  Attributes:
    trajectory: file of frames, .traj or .extxyz; None writes none.
    logfile: file of a line for each frame; None writes none.
    restart: file to continue from; None writes none.
    interval: steps between frames.
  """

  trajectory: Path | None
  logfile: Path | None
  restart: Path | None
  interval: int

  def __post_init__(self) -> None:
    if self.interval < 1:
      raise ValueError(f"interval must be at least 1 step, got {self.interval}.")
    if self.trajectory is not None:
      suffix = pathlib.Path(self.trajectory).suffix
      if suffix not in _FORMATS:
        raise ValueError(
          f"A trajectory must end in {', '.join(_FORMATS)}, got {self.trajectory!r}."
        )


class Recorder:
  """Writes what a simulation does."""

  def __init__(
    self, outputs: Outputs, atoms: ase.Atoms, settings: Mapping[str, Any], offset: float
  ) -> None:
    """Takes what is to be written; writes nothing yet.

    Args:
      outputs: the files.
      atoms: the structure.
      settings: what must be equal for a run to be continued; JSON values.
      offset: eV that energies of states lack.
    """
    self._outputs = outputs
    self._atoms = atoms.copy()
    self._settings = json.loads(json.dumps(settings))
    self._offset = offset
    self._timestep_fs = float(settings["timestep_fs"])

  def resume(self) -> State | None:
    """Where an earlier run stopped, with its files cut there; None if there was none.

    Raises:
      OtherRunError: the restart file is that of another run, or cannot be read, or a
        trajectory or log is there without one.
    """
    outputs = self._outputs
    if outputs.restart is None or not pathlib.Path(outputs.restart).exists():
      for path in self._appended().values():
        if path.exists():
          raise OtherRunError(
            f"{path} exists, and there is no restart file to continue from. Remove it "
            "or choose another name."
          )
      return None
    arrays, settings, sizes = _read_restart(pathlib.Path(outputs.restart))
    changed = [
      f"{name} was {settings.get(name)!r} and is {value!r}"
      for name, value in self._settings.items()
      if settings.get(name) != value
    ]
    if changed:
      raise OtherRunError(
        f"{outputs.restart} belongs to another run: {'; '.join(changed)}. Choose "
        "another name, or remove it to start anew."
      )
    for name, path in self._appended().items():
      _cut(path, sizes.get(name, 0))
    make: Any = State
    return make(**{**arrays, "step": int(arrays["step"])})

  def frame(self, state: State) -> ase.Atoms:
    """The structure at a state, with momenta, energy, forces and stress."""
    atoms = self._atoms.copy()
    atoms.set_cell(state.cell)
    atoms.positions[:] = state.positions
    atoms.set_momenta(state.momenta, apply_constraint=False)
    results: dict[str, Any] = {
      "energy": float(state.energy) + self._offset,
      "forces": np.array(state.forces),
    }
    if np.any(state.stress):
      results["stress"] = voigt.from_matrix(np.asarray(state.stress))
    atoms.calc = singlepoint.SinglePointCalculator(atoms, **results)
    step = int(state.step)
    atoms.info |= {"step": step, "time_fs": step * self._timestep_fs}
    return atoms

  def write(self, state: State) -> None:
    """Appends a frame and a line, then stores where the run is."""
    outputs = self._outputs
    atoms = self.frame(state)
    if outputs.trajectory is not None:
      path = pathlib.Path(outputs.trajectory)
      path.parent.mkdir(parents=True, exist_ok=True)
      if _FORMATS[path.suffix] == "traj":
        with ase_trajectory.TrajectoryWriter(str(path), "a") as trajectory:
          trajectory.write(atoms)
      else:
        ase_io.write(path, atoms, format="extxyz", append=True)
    if outputs.logfile is not None:
      _log(pathlib.Path(outputs.logfile), atoms)
    self.store(state)

  def _appended(self) -> dict[str, pathlib.Path]:
    """The files that grow."""
    given = {"trajectory": self._outputs.trajectory, "logfile": self._outputs.logfile}
    return {
      name: pathlib.Path(path) for name, path in given.items() if path is not None
    }

  def store(self, state: State) -> None:
    """Stores where the run is."""
    outputs = self._outputs
    if outputs.restart is None:
      return
    sizes = {name: _size(path) for name, path in self._appended().items()}
    buffer = io.BytesIO()
    about = json.dumps({"settings": self._settings, "sizes": sizes})
    arrays: dict[str, Any] = {
      name: np.asarray(getattr(state, name)) for name in _ARRAYS
    }
    np.savez(buffer, about=np.array(about), **arrays)
    files.write_atomically(outputs.restart, buffer.getvalue())


def _read_restart(
  path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, int]]:
  try:
    with np.load(path, allow_pickle=False) as stored:
      about = json.loads(str(stored["about"]))
      arrays = {name: stored[name] for name in _ARRAYS}
      return arrays, about["settings"], about["sizes"]
  except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise OtherRunError(
      f"{path} is no restart file of a simulation: {error}"
    ) from error


def _size(path: pathlib.Path) -> int:
  """Frames of a .traj file, bytes of another."""
  if not path.exists():
    return 0
  if path.suffix == ".traj":
    with ase_trajectory.Trajectory(str(path)) as trajectory:
      return len(trajectory)
  return path.stat().st_size


def _cut(path: pathlib.Path, size: int) -> None:
  """Removes what was written after the restart file was.

  Raises:
    OtherRunError: the file is shorter than it was then.
  """
  if not size:  # Whatever is there was cut short.
    path.unlink(missing_ok=True)
    return
  found = _size(path)
  if found < size:
    raise OtherRunError(
      f"{path} holds less than when the restart file was written: it was changed or "
      "removed. Remove the restart file to start anew."
    )
  if found == size:
    return
  if path.suffix != ".traj":
    os.truncate(path, size)
    return
  frames = ase_io.read(path, f":{size}")
  with (
    files.named_atomically(path) as temporary,
    ase_trajectory.TrajectoryWriter(str(temporary), "w") as trajectory,
  ):
    for frame in frames:
      trajectory.write(frame)


def _log(path: pathlib.Path, atoms: ase.Atoms) -> None:
  """Appends a line, under a heading if it is the first."""
  columns = {
    "time[ps]": f"{atoms.info['time_fs'] / 1000:12.4f}",
    "Etot[eV]": f"{atoms.get_total_energy():14.5f}",
    "Epot[eV]": f"{atoms.get_potential_energy():14.5f}",
    "Ekin[eV]": f"{atoms.get_kinetic_energy():12.5f}",
    "T[K]": f"{atoms.get_temperature():9.2f}",
  }
  if atoms.calc is not None and "stress" in atoms.calc.results:
    stress = atoms.get_stress(voigt=False, include_ideal_gas=True)
    columns["P[GPa]"] = f"{-np.trace(stress) / 3 / units.GPa:10.4f}"
    columns["V[A^3]"] = f"{atoms.get_volume():12.3f}"
  path.parent.mkdir(parents=True, exist_ok=True)
  is_new = not path.exists() or not path.stat().st_size
  with path.open("a", encoding="utf-8") as file:
    if is_new:
      names = [name.rjust(len(text)) for name, text in columns.items()]
      file.write(" ".join(names) + "\n")
    file.write(" ".join(columns.values()) + "\n")
