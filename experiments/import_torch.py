"""Imports a published PyTorch checkpoint, without PyTorch.

  python -m experiments.import_torch --input=jmp-l.pt --output=models/jmp_l

Reads Lightning checkpoints and bare state dicts; makes a model directory for predict,
embed, the calculator and fine-tuning.
"""

import dataclasses
from typing import Any

from absl import flags

from data.command_line import flag_help
from data.command_line import program as program_lib
from experiments.command_line import command
from experiments.command_line import inference_flags
from jmp_hk import published


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  _define_input(values)
  _define_output(values)


@flag_help.group("Output")
def _define_output(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "output",
    None,
    "DIR: Model directory to make; it must not exist yet.",
    flag_values=values,
  )


@flag_help.group("Input")
def _define_input(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "input",
    None,
    "FILE: PyTorch file of published weights, e.g. jmp-s.pt.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "ema",
    None,
    "Import the moving average of the weights (--ema), or the weights themselves "
    "(--noema). By default the average where the file has one.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "tasks",
    list(published.PRETRAINING),
    "NAME[=DIR],…: Names of the datasets that the heads belong to, in the file's "
    "order. NAME=DIR takes graph settings, scales "
    "and references from the converted dataset DIR.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "references",
    [],
    "NAME=FILE.npz,…: Per-element reference energies of datasets, "
    "an array `coeff` in eV indexed by atomic number. Without them energies are "
    "relative to them.",
    flag_values=values,
  )


def run(values: flags.FlagValues) -> None:
  """Imports what the flags say.

  Raises:
    FlagError: flags that cannot be used.
  """
  command.require(values, *PROGRAM.required)
  path = inference_flags.existing_file(values.input, "input")
  inference_flags.start_without_computing()
  from jmp_hk.checkpoints import model_writer
  from jmp_hk.interop import import_checkpoint

  try:
    model_writer.check_new(values.output)
  except FileExistsError as error:
    raise command.FlagError(f"--output: {error}") from error
  summary = import_checkpoint.import_checkpoint(
    path, values.output, ema=values.ema, infos=_infos(values)
  )
  kind = "moving averages" if summary.averaged else "weights"
  print(
    f"{values.output}: {summary.num_parameters} parameters ({kind}) in "
    f"{summary.num_tensors} tensors; {summary.config.backbone.describe()}; heads "
    f"{', '.join(summary.infos)}."
  )
  print(
    f"Also in the file: {len(summary.redundant)} constants and aliases, which agree; "
    f"no weights: {', '.join(summary.ignored) or 'nothing'}."
  )
  relative = [
    name for name, info in summary.infos.items() if not info.energy_references
  ]
  if relative:
    print(
      f"Energies of {', '.join(relative)} will be relative to per-element reference "
      "energies, which the file does not hold; --references=NAME=FILE.npz adds them."
    )


def _infos(values: flags.FlagValues) -> list[Any]:
  """Constants of the datasets, in the order of the heads."""
  from jmp_hk import dataset_info
  from jmp_hk import reference_energies

  infos = {}
  for entry in values.tasks:
    name, _, directory = entry.partition("=")
    if name in infos:
      raise command.FlagError(f"--tasks names {name!r} twice.")
    if directory:
      try:
        info = dataset_info.load(directory)
      except dataset_info.DatasetInfoError as error:
        raise command.FlagError(f"--tasks={entry}: {error}") from error
      infos[name] = dataclasses.replace(info, name=name)
    elif name in dataset_info.PUBLISHED:
      infos[name] = dataset_info.PUBLISHED[name]
    else:
      raise command.FlagError(
        f"--tasks: {name!r} is not one of {', '.join(dataset_info.PUBLISHED)}; give "
        f"its converted data as {name}=DIR."
      )
  files = command.parse_pairs(values.references, "references")
  for name, file in files.items():
    if name not in infos:
      raise command.FlagError(f"--references: there is no task {name!r}.")
    infos[name] = reference_energies.with_references(
      infos[name], reference_energies.load_references(file)
    )
  return list(infos.values())


def _errors() -> tuple[type[Exception], ...]:
  from jmp_hk import reference_energies
  from jmp_hk.interop import recognise
  from jmp_hk.interop import torch_file
  from jmp_hk.interop import weights

  return (
    reference_energies.ReferencesError,
    recognise.RecognitionError,
    torch_file.TorchFileError,
    weights.WeightsError,
    FileExistsError,
  )


PROGRAM = program_lib.Program(
  name="experiments.import_torch",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=(
    "input",
    "output",
  ),
  errors=_errors,
)

if __name__ == "__main__":
  PROGRAM.start()
