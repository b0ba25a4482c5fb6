"""Converts raw files to TFRecord shards and `dataset_info.json`.

  python -m data.convert --dataset=oc20 --input=s2ef_train_2M --output=oc20 \
      --split=train --num_workers=16

Options of a single dataset (`--energy_key`, `--fold`, …) are flags as well; an option
given to a dataset that lacks it is an error. Run it again to finish a conversion that
was stopped.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import shlex
import sys
from typing import Any

from absl import app
from absl import flags

from data.conversion import base
from data.conversion import registry
from data.conversion import runner
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import structure as structure_lib
from jmp_hk.runtime import workers

_ERRORS = (
  base.RawDataError,
  base.PlanError,
  structure_lib.InvalidStructureError,
  workers.WorkerError,
  dataset_info.DatasetInfoError,
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
  scales: dataset_summary.ScaleSource = "published"
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines all flags, among them one per option of any converter.

  Returns:
    The names of the converters' options.
  """
  kinds = registry.converters()
  flags.DEFINE_enum(
    "dataset",
    None,
    list(kinds),
    "Dataset whose raw files to convert.",
    flag_values=values,
  )
  flags.DEFINE_string("input", None, "Raw file or folder.", flag_values=values)
  flags.DEFINE_string(
    "output",
    None,
    "Directory of the converted dataset; splits add up there.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "split",
    "",
    "Split to convert (or, where the input is one split, its name); all by default.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "num_workers", 1, "Number of processes.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_bool(
    "skip_invalid",
    False,
    "Leave bad records out and list them in dataset_info.json instead of stopping.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace an earlier conversion of the same splits.",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "scales",
    "published",
    ["published", "fitted"],
    "Energy and force scale to "
    "store; datasets without published ones store fitted ones.",
    flag_values=values,
  )
  texts: dict[str, list[str]] = {}
  for kind in kinds.values():
    for field in dataclasses.fields(kind.options_type):
      text = f"[{kind.name}] {field.metadata['help']} Default: {field.default!r}."
      texts.setdefault(field.name, []).append(text)
  for name, lines in texts.items():
    flags.DEFINE_string(name, None, " ".join(lines), flag_values=values)
  return list(texts)


def config_from_flags(option_names: Sequence[str], values: flags.FlagValues) -> Config:
  """Reads the flags once.

  Raises:
    PlanError: a required flag is missing.
  """
  for name in ("dataset", "input", "output"):
    if not values[name].value:
      raise base.PlanError(f"--{name} is required; see --help.")
  return Config(
    dataset=values.dataset,
    input=values.input,
    output=values.output,
    split=values.split,
    num_workers=values.num_workers,
    skip_invalid=values.skip_invalid,
    overwrite=values.overwrite,
    scales=values.scales,
    options={n: values[n].value for n in option_names if values[n].value is not None},
  )


def run(config: Config, command: str = "") -> None:
  """Converts as the configuration says and prints what came out."""
  converter = registry.make(config.dataset, config.input, config.split, config.options)
  info = runner.convert(
    converter,
    pathlib.Path(config.output),
    num_workers=config.num_workers,
    skip_invalid=config.skip_invalid,
    overwrite=config.overwrite,
    scales=config.scales,
    command=command,
  )
  counts = ", ".join(f"{n} {split}" for split, n in info.num_structures.items())
  print(f"{config.output}: {info.name}, structures: {counts}")
  for split, facts in info.provenance["splits"].items():
    if facts["num_skipped_invalid"]:
      print(
        f"{split}: {facts['num_skipped_invalid']} invalid records were left out; "
        "dataset_info.json lists them"
      )
    for reason, count in facts["filtered"].items():
      print(f"{split}: {count} records were left out as published: {reason}")


def main(argv: Sequence[str]) -> int:
  """Runs the command line; what is wrong with it gives one line and exit code 1."""
  if len(argv) > 1:
    print(f"error: unexpected arguments {argv[1:]}", file=sys.stderr)
    return 1
  try:
    command = shlex.join(["python", "-m", "data.convert", *sys.argv[1:]])
    run(config_from_flags(_OPTIONS, flags.FLAGS), command)
  except _ERRORS as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  _OPTIONS = define_flags()
  app.run(main)
