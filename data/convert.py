"""Converts raw files to TFRecord shards and `dataset_info.json`.

  python -m data.convert --dataset=oc20 --input=s2ef_train_2M --output=oc20 \
      --split=train --num_workers=16
  python -m data.convert --dataset=ase --input=mine.extxyz --output=converted/mine \
      --name=mine --split_fractions=0.8,0.1,0.1 --cutoff=6

Options of a single dataset are flags as well; an option given to a dataset that lacks
it is an error. Run it again to finish a conversion that was stopped.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import shlex
import sys
from typing import Any

from absl import flags

from data.command_line import flag_help
from data.command_line import numbers
from data.command_line import program as program_lib
from data.conversion import base
from data.conversion import estimates
from data.conversion import registry
from data.conversion import runner
from data.records import shards
from data.records import source as source_lib
from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import ranges
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import cuts
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.runtime import workers

_TASK_FLAGS = ("num_tasks", "task_id")
_ERRORS = (
  base.RawDataError,
  base.PlanError,
  structure_lib.InvalidStructureError,
  workers.WorkerError,
  dataset_info.DatasetInfoError,
  dataset_summary.EmptyError,
  dataset_summary.LabelError,
  shards.RecordFileError,
  OSError,
)


@dataclasses.dataclass(frozen=True)
class Config:
  """What is converted, and how.

  Attributes:
    dataset: name of the converter.
    input: raw file or folder.
    output: directory of the converted dataset.
    split: one split, or "" for every one that the input has.
    num_workers: number of processes.
    skip_invalid: leave bad records out and list them.
    overwrite: replace the same splits of an earlier conversion.
    measure: measure the graphs of all structures.
    plan: say what is going to be made, and make nothing.
    num_tasks: number of tasks that share the conversion.
    task_id: number of this one.
    scales: "published" or "fitted".
    options: options of the converter that were given.
  """

  dataset: str
  input: str
  output: str
  split: str = ""
  num_workers: int = 1
  skip_invalid: bool = False
  overwrite: bool = False
  measure: bool = True
  plan: bool = False
  num_tasks: int = 1
  task_id: int = 0
  scales: dataset_summary.ScaleSource = "published"
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags, among them one per option of any converter."""
  _define_input(values)
  _define_output(values)
  _define_processes(values)
  for name, kinds in _kinds_by_option().items():
    _define_option(name, kinds, values)


@flag_help.group("Input")
def _define_input(values: flags.FlagValues) -> None:
  flags.DEFINE_enum(
    "dataset",
    None,
    list(registry.converters()),
    "Dataset whose raw files to convert; ase reads any file that ASE reads.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "input",
    None,
    "PATH: Raw file or folder, as the dataset is released.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "split",
    "",
    "NAME: Split to convert, e.g. train; where the input is a single split, the name "
    "that it gets. By default every split that the input has.",
    flag_values=values,
  )


@flag_help.group("Output")
def _define_output(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "output",
    None,
    "DIR: Directory of the converted dataset. Splits that are converted one after "
    "another add up there.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace an earlier conversion of the same splits.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "plan",
    False,
    "Print the number of shards and structures, and the expected size and time, and "
    "write nothing.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "skip_invalid",
    False,
    "Leave bad records out and list them in dataset_info.json instead of stopping.",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "scales",
    "published",
    ["published", "fitted"],
    "Energy scale (eV) and force scale (eV/Å) to store: the published ones, or the "
    "standard deviations of these data. Datasets without published ones store the "
    "latter.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "measure",
    True,
    "Measure the graphs of every structure as GemNet-OC builds them, so that batches "
    "are planned from the sizes of all structures. Without, training measures what it "
    "needs when it starts.",
    flag_values=values,
  )


@flag_help.group("Machine")
def _define_processes(values: flags.FlagValues) -> None:
  flags.DEFINE_integer(
    "num_workers",
    1,
    "Number of processes that convert files at the same time.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "num_tasks",
    1,
    "Number of runs of this command that share the conversion, on machines that all "
    "see --input and --output; for example the tasks of a Slurm array.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "task_id",
    0,
    "Number of this one among them, from 0 on. The one that finishes last writes "
    "dataset_info.json.",
    lower_bound=0,
    flag_values=values,
  )


def _kinds_by_option() -> dict[str, list[type[base.Converter]]]:
  """The converters that have an option, by its name."""
  found: dict[str, list[type[base.Converter]]] = {}
  for kind in registry.converters().values():
    for field in dataclasses.fields(kind.options_type):
      found.setdefault(field.name, []).append(kind)
  return found


def _define_option(
  name: str, kinds: list[type[base.Converter]], values: flags.FlagValues
) -> None:
  """Defines the flag of an option; what it means may depend on the converter."""
  shape, default, allowed, texts = "", "", None, {}
  for kind in kinds:
    fields = {field.name: field for field in dataclasses.fields(kind.options_type)}
    default = fields[name].default
    allowed = fields[name].metadata.get("allowed")
    shape, text = flag_help.split(fields[name].metadata["help"])
    if default != "":
      text = f"{text} Default: {flag_help.written(default)}."
    texts.setdefault(text, []).append(kind.name)
  lines = [
    f"With {' and '.join(names)}: {text}" if len(kinds) > 1 else text
    for text, names in texts.items()
  ]
  words = " ".join([f"{shape}:" if shape else "", *lines]).strip()
  if isinstance(allowed, ranges.Range):
    numbers.define(name, None, words, allowed, values)
  else:
    define = flags.DEFINE_bool if isinstance(default, bool) else flags.DEFINE_string
    define(name, None, words, flag_values=values)
  title = "Only with some datasets"
  if len(kinds) == 1:
    title = f"Only with --dataset={kinds[0].name}"
  flag_help.assign(values, title, [name])


def config_from_flags(values: flags.FlagValues) -> Config:
  """Reads the flags once.

  Raises:
    FlagError: a required flag is missing.
  """
  program_lib.require(values, *PROGRAM.required)
  return Config(
    dataset=values.dataset,
    input=values.input,
    output=values.output,
    split=values.split,
    num_workers=values.num_workers,
    skip_invalid=values.skip_invalid,
    overwrite=values.overwrite,
    measure=values.measure,
    plan=values.plan,
    num_tasks=values.num_tasks,
    task_id=values.task_id,
    scales=values.scales,
    options={
      name: values[name].value
      for name in _kinds_by_option()
      if values[name].value is not None
    },
  )


def run(config: Config, command: str = "") -> None:
  """Converts as the configuration says and prints what came out."""
  converter = registry.make(config.dataset, config.input, config.split, config.options)
  if config.plan:
    output = pathlib.Path(config.output)
    found = estimates.estimate(converter, output, measure=config.measure)
    print(estimates.describe(found, output, config.num_workers, config.num_tasks))
    return
  try:
    info = runner.convert(
      converter,
      pathlib.Path(config.output),
      num_workers=config.num_workers,
      skip_invalid=config.skip_invalid,
      overwrite=config.overwrite,
      measure=config.measure,
      scales=config.scales,
      task=runner.Task(config.task_id, config.num_tasks),
      command=command,
    )
  except runner.UnfinishedError as error:
    print(f"{config.output}: {error}")
    return
  counts = ", ".join(f"{n} {split}" for split, n in info.num_structures.items())
  print(f"{config.output}: {info.name}, structures: {counts}")
  if hasattr(converter.options, "truncation"):  # Others have published settings.
    _advise(config, info)
  for split, facts in info.provenance["splits"].items():
    if facts["num_skipped_invalid"]:
      print(
        f"{split}: {facts['num_skipped_invalid']} invalid records were left out; "
        "dataset_info.json lists them"
      )
    for reason, count in facts["filtered"].items():
      print(f"{split}: {count} records were left out as published: {reason}")


def _advise(config: Config, info: dataset_info.DatasetInfo) -> None:
  """Prints how often the number of neighbors cuts neighborhoods, if it does."""
  split, count = next(iter(info.num_structures.items()))
  files = shards.list_shards(pathlib.Path(config.output), split)
  source = source_lib.ShardSource(info.name, split, tuple(files), count)
  sample = datasets_lib.evenly(source, count, cuts.SAMPLE)
  if advice := cuts.advice(cuts.measure(sample, info.graph), info.graph):
    print(
      f"{advice} Fine-tuning chooses it by itself for conservative models that start "
      "from scratch; --truncation says it."
    )


def _run(values: flags.FlagValues) -> None:
  config = config_from_flags(values)
  arguments = _without_task(sys.argv[1:])
  run(config, shlex.join(["python", "-m", PROGRAM.name, *arguments]))


def _without_task(arguments: Sequence[str]) -> list[str]:
  """The arguments but for those that differ between the tasks of one conversion."""
  kept = []
  is_value = False
  for argument in arguments:
    name, equals, _ = argument.lstrip("-").partition("=")
    if argument.startswith("-") and name in _TASK_FLAGS:
      is_value = not equals
    elif is_value:
      is_value = False
    else:
      kept.append(argument)
  return kept


PROGRAM = program_lib.Program(
  name="data.convert",
  description=__doc__,
  define_flags=define_flags,
  run=_run,
  required=("dataset", "input", "output"),
  errors=lambda: _ERRORS,
)

if __name__ == "__main__":
  PROGRAM.start()
