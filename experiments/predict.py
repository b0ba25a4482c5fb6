"""Predicts the structures of a file.

  python -m experiments.predict --checkpoint=DIR --input=structures.cif \
      --output=predicted.extxyz --head=oc20

Reads anything that ASE reads. Energy, forces and stress are stored as the file's
results, other targets under their names.
"""

from collections.abc import Sequence
import pathlib
from typing import Any

from absl import flags
from absl import logging

from data.command_line import flag_help
from data.command_line import program as program_lib
from experiments.command_line import command
from experiments.command_line import inference_flags


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  _define_input(values)
  inference_flags.define(values)
  _define_head(values)
  _define_output(values)


@flag_help.group("Input")
def _define_input(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "input",
    None,
    "FILE: Structures: extxyz, cif, traj, db, or whatever ASE reads.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "index",
    ":",
    "INDEX: Which structures of the file, as ASE writes it: 0 is the first, -1 the "
    "last, :10 the first ten, ::5 every fifth.",
    flag_values=values,
  )


@flag_help.group("Model")
def _define_head(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "head",
    "",
    "NAME: Name of the head whose targets are predicted; may be left out if the model "
    "has only one. Its dataset decides about cutoff, number of neighbors and units.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "references",
    "",
    "FILE.npz: Per-element reference energies of the head's dataset: an array `coeff` "
    "in eV, indexed by atomic number.",
    flag_values=values,
  )


@flag_help.group("Output")
def _define_output(values: flags.FlagValues) -> None:
  flags.DEFINE_string("output", None, "FILE.extxyz: File to write.", flag_values=values)
  flags.DEFINE_bool(
    "skip_invalid",
    False,
    "Leave out structures that cannot be predicted, and name them, instead of "
    "stopping.",
    flag_values=values,
  )


def run(values: flags.FlagValues) -> None:
  """Predicts what the flags say.

  Raises:
    FlagError: flags that cannot be used.
  """
  command.require(values, *PROGRAM.required)
  path = inference_flags.existing_file(values.input, "input")
  output = inference_flags.new_file(values.output, "output", ".extxyz", ".xyz")
  inference_flags.start(values)
  config, _ = inference_flags.read_description(values)
  head = inference_flags.choose_head([t.name for t in config.tasks], values.head)
  structures = list(inference_flags.read_structures(path, values.index))
  model = inference_flags.load_predictor(
    values, {head: values.references} if values.references else None
  )
  notices = model.notices(head)
  for notice in notices:
    logging.warning("%s Give them with --references=FILE.npz.", notice)
  results = _predict(model, structures, head, values.skip_invalid)
  done = [
    _with_results(atoms, result, model.head(head).task, bool(notices))
    for atoms, result in zip(structures, results, strict=True)
    if result is not None
  ]
  _write(output, done)
  print(
    f"{output}: {len(done)} of {len(structures)} structures, head {head!r}, "
    f"{model.num_compilations} compilations."
  )


def _predict(model: Any, structures: Sequence[Any], head: str, skip_invalid: bool):
  """Predicts with a progress bar."""
  import tqdm

  with tqdm.tqdm(total=len(structures), unit="structure", dynamic_ncols=True) as bar:
    return model.predict(
      structures,
      head,
      skip_invalid=skip_invalid,
      on_progress=lambda done, total: bar.update(done - bar.n),
      on_invalid=lambda index, problem: bar.write(f"Left out: {problem}."),
    )


def _with_results(atoms: Any, result: Any, task: Any, is_relative: bool) -> Any:
  """The structure with its predictions and without any other results."""
  from ase.calculators import singlepoint

  results = {"energy": result.energy, "forces": result.forces, "stress": result.stress}
  known = {name: value for name, value in results.items() if value is not None}
  atoms = atoms.copy()
  atoms.calc = singlepoint.SinglePointCalculator(atoms, **known) if known else None
  atoms.info["head"] = task.name
  if is_relative:
    atoms.info["energy_is_relative_to_references"] = True
  for name, value in result.properties.items():
    if name in task.per_atom:
      atoms.arrays[name] = value
    else:
      atoms.info[name] = value
  return atoms


def _write(path: pathlib.Path, structures: Sequence[Any]) -> None:
  """Writes all structures; the file appears whole or not at all."""
  import ase.io

  from jmp_hk import files

  with files.open_atomically(path, "w") as file:
    ase.io.write(file, structures, format="extxyz")


def _errors() -> tuple[type[Exception], ...]:
  from jmp_hk import reference_energies
  from jmp_hk.checkpoints import model_directory
  from jmp_hk.inference import preparation

  return (
    preparation.InvalidStructuresError,
    reference_energies.ReferencesError,
    model_directory.CheckpointError,
  )


PROGRAM = program_lib.Program(
  name="experiments.predict",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=(
    "checkpoint",
    "input",
    "output",
  ),
  errors=_errors,
)

if __name__ == "__main__":
  PROGRAM.start()
