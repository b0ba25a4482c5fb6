"""How well a fine-tuned model behaves as a potential, by the truncation of its graphs.

  python -m benchmarks.potential --system=copper --output=runs/potential
  python -m benchmarks.potential --system=ethanol --ethanol=rmd17_ethanol.npz \
      --picoseconds=10 --output=runs/potential
  python -m benchmarks.potential --system=none --output=runs/potential \
      --plot=dynamics.png

Fine-tunes a model for each truncation, of copper on energies and forces of ASE's EMT
and of ethanol on rMD17, and runs it at constant energy. Of copper it also compares
cells of one crystal, relaxes positions and cell, and computes lattice constant, elastic
constants and the radial distribution function. Prints one line of JSON for each model
and keeps it in --output with the curves; --plot draws those.
"""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from absl import flags
import ase
from ase import units
import ase.build
from ase.calculators import emt
from ase.calculators import singlepoint
import numpy as np

from benchmarks import measure
from benchmarks import surface
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk import figures
from jmp_hk import files
from jmp_hk import fine_tuning
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import calculator as calculator_lib
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.runtime import configuration

Truncation = graph_config.Truncation
Result = dict[str, Any]

_TARGETS = {"energy": "energy", "forces": "conservative_forces"}
_KCAL_PER_MOL = units.kcal / units.mol


def copper_frames(count: int = 300) -> list[ase.Atoms]:
  """Strained and rattled cells of eight atoms with EMT's energies and forces."""
  rng, frames = np.random.default_rng(0), []
  for _ in range(count):
    atoms = ase.build.bulk("Cu", "fcc", a=rng.uniform(3.45, 3.8)).repeat(2)
    strain = rng.uniform(-0.03, 0.03, (3, 3))
    strain = (strain + strain.T) / 2
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(rng.uniform(0.0, 0.2), rng=rng)
    atoms.calc = emt.EMT()
    frames.append(_with_labels(atoms, atoms.get_potential_energy(), atoms.get_forces()))
  return frames


def ethanol_frames(path: str, count: int = 1100) -> list[ase.Atoms]:
  """Structures of an archive of rMD17 with its labels in eV and eV/Å."""
  with np.load(path) as data:
    chosen = np.random.default_rng(0).permutation(len(data["energies"]))[:count]
    numbers = data["nuclear_charges"]
    rows = [data[name][chosen] for name in ("coords", "energies", "forces")]
  return [
    _with_labels(
      ase.Atoms(numbers, positions), energy * _KCAL_PER_MOL, forces * _KCAL_PER_MOL
    )
    for positions, energy, forces in zip(*rows, strict=True)
  ]


def _with_labels(atoms: ase.Atoms, energy: float, forces: np.ndarray) -> ase.Atoms:
  atoms.calc = singlepoint.SinglePointCalculator(atoms, energy=energy, forces=forces)
  return atoms


def fine_tune(
  system: str,
  frames: Sequence[ase.Atoms],
  truncation: Truncation,
  num_steps: int,
  workdir: pathlib.Path,
) -> tuple[predictor_lib.Predictor, Result]:
  """Trains `tiny` from scratch, or loads what was trained there, and validates it."""
  is_copper = system == "copper"
  held_out = 40 if is_copper else 100
  training, validation = list(frames[:-held_out]), list(frames[-held_out:])
  model = fine_tuning.fine_tune(
    "tiny",
    training,
    validation=validation,
    targets=_TARGETS,
    workdir=workdir,
    num_steps=num_steps,
    batch_size=4 if is_copper else 8,
    learning_rate=2e-3,
    graph=graph_config.GraphConfig(
      cutoff=6.0 if is_copper else 7.0,
      max_neighbors=30 if is_copper else 100,
      truncation=truncation,
    ),
  )
  predictions = [p for p in model.predict(validation) if p is not None]
  energy = [
    abs(p.energy - atoms.get_potential_energy()) / len(atoms)
    for p, atoms in zip(predictions, validation, strict=True)
  ]
  forces = [
    np.abs(p.forces - atoms.get_forces()).mean()
    for p, atoms in zip(predictions, validation, strict=True)
  ]
  return model, {
    "energy_mae_mev_per_atom": surface.rounded(1e3 * np.mean(energy)),
    "force_mae_mev_per_angstrom": surface.rounded(1e3 * np.mean(forces)),
  }


def run_model(
  system: str,
  frames: Sequence[ase.Atoms],
  truncation: Truncation,
  num_steps: int,
  picoseconds: float,
  output: pathlib.Path,
) -> Result:
  """Trains and measures one model, and stores what was found.

  Args:
    system: "copper" or "ethanol".
    frames: labelled structures.
    truncation: how its graphs end.
    num_steps: optimiser steps.
    picoseconds: length of the dynamics.
    output: folder for model and result.
  """
  name = f"{system}_{truncation.value}"
  model, result = fine_tune(system, frames, truncation, num_steps, output / name)
  calc = calculator_lib.JMPCalculator(model)
  if system == "copper":
    result |= (
      surface.compare_cells(calc) | surface.relax(calc) | surface.elasticity(calc)
    )
    result |= surface.copper_dynamics(calc, picoseconds)
  else:
    result |= surface.ethanol_dynamics(calc, picoseconds)
  return _keep(result | measure.machine(), name, output)


def run_reference(picoseconds: float, output: pathlib.Path) -> Result:
  """The same properties of copper with EMT itself."""
  calc = emt.EMT()
  result = surface.elasticity(calc) | surface.copper_dynamics(calc, picoseconds)
  return _keep(result, "copper_emt", output)


def _keep(result: Result, name: str, output: pathlib.Path) -> Result:
  """Stores a result with its curves, and prints the rest."""
  files.write_atomically(output / f"{name}.json", json.dumps(result))
  curves = ("pairs", "relaxation")
  shown = {key: value for key, value in result.items() if key not in curves}
  shown["dynamics"] = {
    key: value
    for key, value in result["dynamics"].items()
    if key not in ("times_ps", "energies")
  }
  print(json.dumps({"model": name, **shown}), flush=True)
  return result


def plot(output: pathlib.Path, path: str) -> None:
  """Draws the curves of all results in a folder."""
  found = {file.stem: json.loads(file.read_text()) for file in output.glob("*.json")}
  titles = {
    "copper": "256 Cu atoms, 600 K, 1 fs",
    "ethanol": "Ethanol, 0.5 fs",
    "relaxation": "Relaxation of atoms and cell",
    "pairs": "Pairs of Cu atoms at 600 K",
  }
  with figures.style():
    figure, axes = figures.panels(len(titles), columns=2)
    for axis, title in zip(axes, titles.values(), strict=True):
      axis.set_title(title)
    for colour, truncation in zip(figures.COLOURS, Truncation, strict=False):
      for axis, system in zip(axes, ("copper", "ethanol"), strict=False):
        result = found.get(f"{system}_{truncation.value}")
        if result:
          curve = result["dynamics"]
          axis.plot(
            curve["times_ps"],
            curve["energies"],
            color=colour,
            label=truncation.value,
            linewidth=0.8 if system == "ethanol" else None,
          )
      copper = found.get(f"copper_{truncation.value}")
      if copper:
        axes[2].semilogy(copper["relaxation"], color=colour, label=truncation.value)
    middles = (np.arange(surface.BINS) + 0.5) * surface.RANGE / surface.BINS
    for name, label, shape in (
      ("copper_smooth", "smooth", "-"),
      ("copper_emt", "EMT", "--"),
    ):
      if name in found:
        colour = figures.COLOURS[2] if shape == "-" else figures.GREY
        axes[3].plot(middles, found[name]["pairs"], shape, color=colour, label=label)
    for axis in axes[:2]:
      axis.set(xlabel="time (ps)", ylabel="total energy (meV/atom)")
    axes[2].axhline(surface.FORCE, color=figures.GREY, linewidth=0.8)
    axes[2].set(xlabel="step of BFGS", ylabel="largest force (eV/Å)")
    axes[3].set(xlabel="distance (Å)", ylabel="g(r)")
    for axis in axes:
      if axis.get_legend_handles_labels()[0]:
        axis.legend()
    figures.save(figure, path)


@flag_help.group("What is measured")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this benchmark."""
  flags.DEFINE_enum(
    "system",
    "copper",
    ["copper", "ethanol", "emt", "none"],
    "What is simulated; emt computes the reference of copper, none nothing.",
    flag_values=values,
  )
  flags.DEFINE_multi_enum(
    "truncation",
    [kind.value for kind in Truncation],
    [kind.value for kind in Truncation],
    "How graphs end; may be given several times.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "ethanol", "", "FILE.npz: Archive of rMD17's ethanol.", flag_values=values
  )
  flags.DEFINE_integer(
    "steps",
    0,
    "Optimiser steps; 0 takes 400 of copper and 300 of ethanol.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_float(
    "picoseconds", 2.0, "Length of the dynamics.", lower_bound=0.1, flag_values=values
  )
  flags.DEFINE_string(
    "output", None, "DIR: Folder for the results.", flag_values=values
  )
  flags.DEFINE_string(
    "plot", "", "FILE.png: Picture of all results in --output.", flag_values=values
  )


def _measure(values: flags.FlagValues) -> None:
  configuration.configure()
  output = pathlib.Path(values.output)
  output.mkdir(parents=True, exist_ok=True)
  if values.system == "emt":
    run_reference(values.picoseconds, output)
  elif values.system != "none":
    if values.system == "ethanol" and not values.ethanol:
      raise program_lib.FlagError("--system=ethanol needs --ethanol=FILE.npz.")
    is_copper = values.system == "copper"
    frames = copper_frames() if is_copper else ethanol_frames(values.ethanol)
    steps = values.steps or (400 if is_copper else 300)
    for name in values.truncation:
      run_model(
        values.system, frames, Truncation(name), steps, values.picoseconds, output
      )
  if values.plot:
    plot(output, values.plot)


PROGRAM = program_lib.Program(
  name="benchmarks.potential",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
  required=("output",),
)

if __name__ == "__main__":
  PROGRAM.start()
