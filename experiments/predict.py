"""Predicts the structures of a file.

  python -m experiments.predict --checkpoint=DIR --input=structures.cif \
      --output=predicted.extxyz --head=oc20

Reads anything that ASE reads. The output holds all that the input holds, and beside it
the predictions as `jmp_energy`, `jmp_forces`, `jmp_stress` and `jmp_TARGET`; where the
input has labels, also the differences `jmp_energy_error` and so on.
"""

from collections.abc import Sequence
import pathlib
from typing import TYPE_CHECKING

from absl import flags
from absl import logging

from data.command_line import flag_help
from data.command_line import program as program_lib
from experiments.command_line import command
from experiments.command_line import inference_flags
import jmp_hk
from jmp_hk.inference import prediction_files
from jmp_hk.runtime import console

if TYPE_CHECKING:
  import ase

  from jmp_hk.inference import prediction as prediction_lib
  from jmp_hk.inference import predictor as predictor_lib
  from jmp_hk.targets import config as tasks_lib


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
  flags.DEFINE_string(
    "output",
    None,
    "FILE: File to write: .extxyz (or .xyz); .csv with one row a structure, without "
    "forces of atoms; or .db, ASE's database.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "prefix",
    prediction_files.PREFIX,
    "TEXT: Begins the names of predictions, as in jmp_energy. If it is empty, they are "
    "stored as results of a calculator, for files without labels.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "overwrite", False, "Replace --output where it exists.", flag_values=values
  )
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
  output = _output(values, path)
  inference_flags.start(values)
  config, _ = inference_flags.read_description(values)
  head = inference_flags.choose_head([t.name for t in config.tasks], values.head)
  structures = list(inference_flags.read_structures(path, values.index))
  (task,) = (task for task in config.tasks if task.name == head)
  _check_names(values, structures, task)
  model = inference_flags.load_predictor(
    values, {head: values.references} if values.references else None
  )
  results = _predict(model, structures, head, values.skip_invalid)
  for notice in model.notices(head):
    logging.warning("%s Give them with --references=FILE.npz.", notice)
  done = [
    (atoms, result)
    for atoms, result in zip(structures, results, strict=True)
    if result is not None
  ]
  annotated = jmp_hk.annotate(model, structures, results, head, prefix=values.prefix)
  for atoms in annotated:
    atoms.info[f"{values.prefix}head"] = head
  prediction_files.write(output, annotated)
  print(f"{output}: predictions of {len(done)} of {len(structures)} structures.")
  _print_errors(model, head, done)


def _output(values: flags.FlagValues, path: pathlib.Path) -> pathlib.Path:
  """The file to write, which is neither the input nor another one that exists."""
  output = inference_flags.new_file(values.output, "output", *prediction_files.SUFFIXES)
  if output.exists() and output.samefile(path):
    raise command.FlagError(
      f"--output={output} is --input: predictions are written to a file of their own."
    )
  if output.exists() and not values.overwrite:
    raise command.FlagError(
      f"--output={output} exists already: give another name, or --overwrite."
    )
  return output


def _check_names(
  values: flags.FlagValues,
  structures: Sequence["ase.Atoms"],
  task: "tasks_lib.TaskConfig",
) -> None:
  """Checks that no prediction would replace what the structures hold."""
  from jmp_hk.inference import annotation  # Imports jax.

  try:
    annotation.check_names(structures, task, values.prefix)
  except annotation.NameTakenError as error:
    raise command.FlagError(f"--prefix={values.prefix}: {error}") from error


def _predict(
  model: "predictor_lib.Predictor",
  structures: Sequence["ase.Atoms"],
  head: str,
  skip_invalid: bool,
) -> list["prediction_lib.Prediction | None"]:
  """Predicts and shows how far it is."""
  with console.progress("structure", "Prediction") as update:
    return model.predict(
      structures,
      head,
      skip_invalid=skip_invalid,
      on_progress=update,
      on_invalid=lambda index, problem: logging.warning("Left out: %s.", problem),
    )


def _print_errors(
  model: "predictor_lib.Predictor",
  head: str,
  done: Sequence[tuple["ase.Atoms", "prediction_lib.Prediction"]],
) -> None:
  """Prints how far predictions are from the labels of the file, where it has any."""
  from jmp_hk.inference import annotation  # Imports jax.
  from jmp_hk.inference import comparison

  if not done:
    return
  runner = model.head(head)
  structures, predictions = zip(*done, strict=True)
  errors = annotation.compare(
    structures,
    predictions,
    runner.task,
    runner.info.units,
    is_relative=bool(model.notices(head)),
  )
  if errors:
    print("Against the labels of the input:")
    print(comparison.shown_table(errors))


def _errors() -> tuple[type[Exception], ...]:
  from jmp_hk import reference_energies
  from jmp_hk.checkpoints import model_directory
  from jmp_hk.inference import preparation
  from jmp_hk.training import sharding

  return (
    preparation.InvalidStructuresError,
    reference_energies.ReferencesError,
    model_directory.CheckpointError,
    sharding.DevicesError,
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
