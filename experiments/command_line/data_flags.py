"""Flags about data: datasets, conversion, mixture, batches, validation."""

from collections.abc import Sequence
import pathlib

from absl import flags

from data.records import datasets as datasets_lib
from experiments.command_line import config as config_lib
from jmp_hk import dataset_info as info_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.pipeline import config as stream_config

CONVERTED = "data"  # Below the working directory: what --convert makes.


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of a mixture and its batches."""
  define_mixture(values)
  define_batches(values)


def define_mixture(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of a mixture."""
  flags.DEFINE_list(
    "datasets",
    [],
    "The mixture: NAME=DIR[:WEIGHT],… of converted datasets "
    "(python -m data.convert). Either all have a weight or none; without weights, "
    "sizes and --temperature decide.",
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    "convert",
    [],
    "NAME=CONVERTER:INPUT[,OPTION=VALUE]…: before training, convert "
    "INPUT to the directory of dataset NAME (that of --datasets, else "
    "WORKDIR/data/NAME), unless that is done. May be repeated, also for several "
    "inputs of one dataset, e.g. with split=train and split=val.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "temperature",
    2.0,
    "T in p ∝ size^(1/T); 1 is proportional, inf uniform.",
    lower_bound=1e-6,
    flag_values=values,
  )


def define_batches(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of batches and validation."""
  flags.DEFINE_float(
    "batch_size",
    16,
    "Wanted mean number of structures of a microbatch; the batch of "
    "a step has --num_microbatches of them.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_list(
    "budget",
    [],
    "Static sizes of a microbatch that are not to be chosen from the "
    "data, FIELD=SIZE,…, e.g. num_atoms=2048.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "num_workers",
    0,
    "Processes that build graphs; 0 builds them in a thread.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "pool_size",
    64,
    "Structures per microbatch that wait for a batch they fit into; "
    "at least twice --batch_size do.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "shuffle_buffer",
    10_000,
    "Records within which the order is shuffled.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_list(
    "validation_splits",
    ["val", "val_id"],
    "Validation splits; of each dataset the first one that it has is used.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "validation_limit",
    0,
    "Structures per dataset to validate on, taken evenly; 0 takes all.",
    lower_bound=0,
    flag_values=values,
  )


def conversions(values: flags.FlagValues) -> tuple[config_lib.Conversion, ...]:
  """Reads --convert.

  Raises:
    FlagError: an entry cannot be read, or its converter or input does not exist.
  """
  return tuple(conversion(entry) for entry in values.convert)


def datasets(
  values: flags.FlagValues,
  made: Sequence[config_lib.Conversion],
  workdir: pathlib.Path,
) -> tuple[datasets_lib.DatasetConfig, ...]:
  """Reads --datasets and adds those that --convert makes.

  Raises:
    FlagError: nothing is given, or a directory is missing and nobody makes it.
  """
  entries = list(values.datasets)
  named = {entry.partition("=")[0].strip() for entry in entries}
  for name in dict.fromkeys(entry.dataset for entry in made):
    if name not in named:
      entries.append(f"{name}={workdir / CONVERTED / name}")
  if not entries:
    raise config_lib.FlagError(
      "No data: name converted datasets with --datasets=NAME=DIR,… or raw files with "
      "--convert=NAME=CONVERTER:INPUT. The demo brings its own: "
      "--flagfile=experiments/flags/pretrain_demo.flags."
    )
  try:
    result = datasets_lib.parse_datasets(entries)
  except ValueError as error:
    raise config_lib.FlagError(f"--datasets: {error}") from error
  makes = {entry.dataset for entry in made}
  for dataset in result:
    if dataset.name not in makes:
      load_info(dataset)
  return result


def load_info(
  dataset: datasets_lib.DatasetConfig, flag: str = "--datasets"
) -> info_lib.DatasetInfo:
  """`dataset_info.json` of a dataset; `flag` is what messages begin with.

  Raises:
    FlagError: it is missing or cannot be read.
  """
  if not pathlib.Path(dataset.directory).is_dir():
    raise config_lib.FlagError(
      f"{flag}: the directory {dataset.directory} of {dataset.name!r} does not "
      "exist. Correct the path, or convert the raw files first with `python -m "
      f"data.convert --dataset=… --input=… --output={dataset.directory}`."
    )
  try:
    return info_lib.load(dataset.directory)
  except info_lib.DatasetInfoError as error:
    raise config_lib.FlagError(f"{flag}: dataset {dataset.name!r}: {error}") from error


def pipeline(values: flags.FlagValues) -> stream_config.PipelineConfig:
  """Settings of the pipeline."""
  return stream_config.PipelineConfig(
    seed=values.seed,
    num_microbatches=values.num_microbatches,
    temperature=values.temperature,
    edge_dropout=values.edge_dropout,
    num_workers=values.num_workers,
    pool_size=pool_lib.least_size(values.batch_size, values.pool_size),
    shuffle_buffer=values.shuffle_buffer,
  )


def budget(values: flags.FlagValues) -> budget_lib.BudgetConfig:
  """How microbatches are sized.

  Raises:
    FlagError: --budget cannot be read.
  """
  overrides = {}
  for entry in values.budget:
    name, _, size = entry.partition("=")
    if name not in budget_lib.FIELDS or not size.isdigit():
      raise config_lib.FlagError(
        f"--budget: {entry!r} does not read FIELD=SIZE with FIELD one of "
        f"{', '.join(budget_lib.FIELDS)}."
      )
    overrides[name] = int(size)
  return budget_lib.BudgetConfig(structures=values.batch_size, overrides=overrides)


def validation(values: flags.FlagValues) -> config_lib.ValidationConfig:
  """What is validated on."""
  return config_lib.ValidationConfig(
    tuple(values.validation_splits), values.validation_limit
  )


def conversion(entry: str) -> config_lib.Conversion:
  """Reads NAME=CONVERTER:INPUT[,OPTION=VALUE]…

  Raises:
    FlagError: it cannot be read, or its converter or input does not exist.
  """
  from data.conversion import registry  # Imports all converters.

  head, *options = entry.split(",")
  name, _, rest = head.partition("=")
  converter, _, source = rest.partition(":")
  if not (name and converter and source) or any("=" not in o for o in options):
    raise config_lib.FlagError(
      f"--convert: {entry!r} does not read NAME=CONVERTER:INPUT[,OPTION=VALUE]…"
    )
  if converter not in registry.converters():
    raise config_lib.FlagError(
      f"--convert: there is no converter {converter!r}; there are "
      f"{', '.join(registry.converters())}."
    )
  if not pathlib.Path(source).exists():
    raise config_lib.FlagError(
      f"--convert: the raw data {source} of {name!r} does not exist. Correct the "
      "path; relative paths start where the program is run."
    )
  return config_lib.Conversion(
    name, converter, source, dict(o.split("=", 1) for o in options)
  )
