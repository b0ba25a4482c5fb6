"""Flags about data: datasets, conversion, mixture, batches, validation."""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import flags

from data.command_line import flag_help
from data.command_line import numbers
from data.records import datasets as datasets_lib
from experiments.command_line import command
from experiments.command_line import conversions as conversions_lib
from jmp_hk import dataset_info
from jmp_hk import names as names_lib
from jmp_hk import ranges
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.pipeline import config as pipeline_config

CONVERTED = "data"  # Below the working directory: what --convert makes.


@dataclasses.dataclass(frozen=True)
class Mixture:
  """The datasets that --datasets and --convert name.

  Attributes:
    datasets: the mixture.
    conversions: raw files that some of the datasets come from.
  """

  datasets: tuple[datasets_lib.DatasetConfig, ...]
  conversions: tuple[conversions_lib.Conversion, ...]

  @property
  def names(self) -> list[str]:
    """Names of the datasets."""
    return [dataset.name for dataset in self.datasets]

  def convert(self, program: str) -> None:
    """Converts raw files; arguments and errors as of `conversions.run`."""
    directories = {dataset.name: dataset.directory for dataset in self.datasets}
    conversions_lib.run(self.conversions, directories, program)


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of a mixture and its batches."""
  define_mixture(values)
  define_batches(values)


@flag_help.group("Data")
def define_mixture(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of a mixture."""
  flags.DEFINE_enum(
    "truncation",
    None,
    [kind.value for kind in graph_config.Truncation],
    "How the graphs of all datasets end at the cutoff and at the number of neighbors, "
    "in place of what the data say. published takes the nearest neighbors; shells "
    "takes equally distant ones together; smooth lets every edge vanish smoothly.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "datasets",
    [],
    "NAME=DIR[:WEIGHT],…: The mixture: converted datasets (python -m data.convert). "
    "Either all have a weight or none; without weights, their sizes and --temperature "
    "decide.",
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    "convert",
    [],
    "NAME=CONVERTER:INPUT[,OPTION=VALUE]…: Before training, convert "
    "INPUT to the directory of dataset NAME (that of --datasets, else "
    "WORKDIR/data/NAME), unless that is done. CONVERTER is a --dataset of python -m "
    "data.convert, options are its flags. Several inputs may go to one dataset, e.g. "
    "with split=train and split=val.",
    flag_values=values,
  )
  numbers.define(
    "temperature",
    2.0,
    "T in p ∝ size^(1/T), the probability of a draw from a dataset; 1 draws in "
    "proportion to the sizes, inf from all alike. Counts where no weights are given.",
    pipeline_config.PipelineConfig.RANGES["temperature"],
    values,
  )


def define_batches(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of batches and validation."""
  _define_validation(values)
  _define_batch_size(values)
  _define_host(values)


@flag_help.group("Training")
def _define_batch_size(values: flags.FlagValues) -> None:
  flags.DEFINE_integer(
    "batch_size",
    16,
    "Number of structures of a step, over all devices and processes.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_enum_class(
    "packing",
    pipeline_config.Packing.EXACT,
    pipeline_config.Packing,
    "How many structures a step has. With exact: --batch_size, and what is left at the "
    "end of an epoch, for which the sizes of all structures are measured once. With "
    "full: as many as fill a batch of one size, --batch_size on average.",
    flag_values=values,
  )


@flag_help.group("Batches")
def _define_host(values: flags.FlagValues) -> None:
  integer = lambda name, default, least, text: flags.DEFINE_integer(
    name, default, text, lower_bound=least, flag_values=values
  )
  command.define_settings(
    "budget",
    "FIELD=SIZE,…: Static sizes of a microbatch, e.g. num_atoms=2048, for those that "
    "shall not be chosen from the data. May be repeated.",
    values,
  )
  integer(
    "num_workers",
    0,
    0,
    "Number of processes that read structures and make batches of them while the "
    "device computes; 0 makes them in a thread.",
  )
  integer(
    "pool_size",
    24,
    1,
    "Number of structures per stream that wait for a batch they fit into; never fewer "
    "than twice as many as a microbatch holds.",
  )
  integer(
    "streams_per_microbatch",
    8,
    1,
    "Number of streams that take turns in making a microbatch; that many of "
    "--num_workers can work for one microbatch. A run that is continued keeps it.",
  )


@flag_help.group("Data")
def _define_validation(values: flags.FlagValues) -> None:
  flags.DEFINE_list(
    "validation_splits",
    ["val", "val_id"],
    "NAME,…: Validation splits; of each dataset the first that it has is used.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "validation_limit",
    0,
    "Number of structures of each dataset to validate on, taken evenly; 0 takes all.",
    lower_bound=0,
    flag_values=values,
  )


def read_mixture(values: flags.FlagValues, workdir: pathlib.Path) -> Mixture:
  """Reads --datasets and --convert.

  Args:
    values: parsed flags.
    workdir: directory of the run, where raw files are converted to unless a directory
      is given.

  Raises:
    FlagError: nothing is given, an entry cannot be read, or a directory is missing
      that no conversion makes.
  """
  conversions = tuple(conversions_lib.parse(entry) for entry in values.convert)
  converted = list(dict.fromkeys(entry.dataset for entry in conversions))
  entries = list(values.datasets)
  for name in converted:
    if problem := names_lib.find_problem(name):
      raise command.FlagError(f"--convert: {problem}.")
  named = {entry.partition("=")[0].strip() for entry in entries}
  entries += [
    f"{name}={workdir / CONVERTED / name}" for name in converted if name not in named
  ]
  if not entries:
    raise command.FlagError(
      "No data: name converted datasets with --datasets=NAME=DIR,… or raw files with "
      "--convert=NAME=CONVERTER:INPUT. The demo brings its own: "
      "--flagfile=experiments/flags/pretrain_demo.flags."
    )
  try:
    datasets = datasets_lib.parse_datasets(entries)
  except ValueError as error:
    raise command.FlagError(f"--datasets: {error}") from error
  if values.truncation:
    truncation = graph_config.Truncation(values.truncation)
    datasets = tuple(dataclasses.replace(d, truncation=truncation) for d in datasets)
  for dataset in datasets:
    if dataset.name not in converted:
      load_info(dataset)
  return Mixture(datasets, conversions)


def load_info(
  dataset: datasets_lib.DatasetConfig, flag: str = "--datasets"
) -> dataset_info.DatasetInfo:
  """Reads `dataset_info.json` of a dataset.

  Args:
    dataset: the dataset.
    flag: what messages begin with.

  Raises:
    FlagError: it is missing or cannot be read.
  """
  if not pathlib.Path(dataset.directory).is_dir():
    raise command.FlagError(
      f"{flag}: the directory {dataset.directory} of {dataset.name!r} does not "
      "exist. Correct the path, or convert the raw files first with `python -m "
      f"data.convert --dataset=… --input=… --output={dataset.directory}`."
    )
  try:
    return dataset_info.load(dataset.directory)
  except dataset_info.DatasetInfoError as error:
    raise command.FlagError(f"{flag}: dataset {dataset.name!r}: {error}") from error


def check_splits(
  values: flags.FlagValues, info: dataset_info.DatasetInfo, names: Sequence[str]
) -> None:
  """Checks that the data have the splits that flags were set to.

  Args:
    values: parsed flags.
    info: constants of the data.
    names: names of flags that name a split, or several of which one is enough.

  Raises:
    FlagError: there is no such split, or it is empty.
  """
  for name in names:
    value = values[name].value
    wanted = [value] if isinstance(value, str) else list(value or ())
    wanted = list(filter(None, wanted))
    if not wanted or not command.is_chosen(values[name]):
      continue
    if not any(info.num_structures.get(split) for split in wanted):
      known = ", ".join(f"{k} ({v})" for k, v in info.num_structures.items())
      named = " or ".join(map(repr, wanted))
      raise command.FlagError(
        f"--{name}: the data have no structures in the split {named}; "
        f"they have {known or 'none at all'}."
      )


def pipeline(
  values: flags.FlagValues, temperature: float = 1.0
) -> pipeline_config.PipelineConfig:
  """How batches are made.

  Args:
    values: parsed flags.
    temperature: temperature of the mixture, where there is one.
  """
  return pipeline_config.PipelineConfig(
    packing=values.packing,
    temperature=temperature,
    num_workers=values.num_workers,
    pool_size=values.pool_size,
    streams_per_microbatch=values.streams_per_microbatch,
  )


def budget(
  values: flags.FlagValues, backbone: backbone_lib.BackboneConfig
) -> budget_lib.BudgetConfig:
  """How microbatches are sized.

  Args:
    values: parsed flags.
    backbone: says which sizes there are.

  Raises:
    FlagError: --budget cannot be read.
  """
  known = budget_lib.names(backbone.graph_builder.budget_type)
  return budget_lib.BudgetConfig(overrides=_parse_sizes(values.budget, known))


def _parse_sizes(entries: Sequence[str], known: Sequence[str]) -> dict[str, int]:
  """Reads FIELD=SIZE entries."""
  sizes = {}
  for entry in entries:
    name, _, size = entry.partition("=")
    try:
      sizes[name] = int(numbers.parse(size, ranges.POSITIVE_COUNT))
    except ValueError as error:
      raise command.FlagError(
        f"--budget: {entry!r} does not read FIELD=SIZE ({error})."
      ) from error
    if name not in known:
      raise command.FlagError(
        f"--budget: {entry!r} does not read FIELD=SIZE with FIELD one of "
        f"{', '.join(known)}."
      )
  return sizes
