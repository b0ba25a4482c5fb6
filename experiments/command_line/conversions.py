"""The flag --convert: raw files that are converted at the start of a run."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import pathlib

from data import convert as convert_lib
from data.command_line import mistakes
from data.conversion import base
from data.conversion import registry
from experiments.command_line import command
from jmp_hk import structure as structure_lib
from jmp_hk.runtime import processes

_PUBLISHED, _FITTED = "published", "fitted"  # Values of the option "scales".

# What raw files or the options of their conversion may be wrong with.
ERRORS = (
  base.PlanError,
  base.RawDataError,
  structure_lib.InvalidStructureError,
)


DATA = "data"  # Name of the dataset of a fine-tuning until its task has one.


@dataclasses.dataclass(frozen=True)
class Conversion:
  """Raw files that are converted before the run, unless that has been done.

  Attributes:
    dataset: name of the dataset in the mixture.
    converter: name of the converter.
    input: raw file or folder.
    options: options of `data.convert`: "split", "scales" and those of the converter.
  """

  dataset: str
  converter: str
  input: str
  options: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Data:
  """The data of a fine-tuning.

  Attributes:
    directory: directory of the converted data.
    conversions: the raw files that they come from; none where they are converted.
  """

  directory: str
  conversions: tuple[Conversion, ...] = ()

  def convert(self, program: str) -> None:
    """Converts the raw files; arguments and errors as of `run`."""
    run(self.conversions, {DATA: self.directory}, program)


def parse(entry: str) -> Conversion:
  """Reads an entry NAME=CONVERTER:INPUT[,OPTION=VALUE]… of the flag.

  Raises:
    FlagError: it cannot be read, or its converter or input does not exist.
  """
  head, *options = entry.split(",")
  name, _, rest = head.partition("=")
  converter, _, source = rest.partition(":")
  if not (name and converter and source) or any("=" not in o for o in options):
    raise command.FlagError(
      f"--convert: {entry!r} does not read NAME=CONVERTER:INPUT[,OPTION=VALUE]…"
    )
  if converter not in registry.converters():
    raise command.FlagError(
      f"--convert: there is no converter {converter!r}; there are "
      f"{', '.join(registry.converters())}."
      f"{mistakes.did_you_mean(converter, list(registry.converters()))}"
    )
  if not pathlib.Path(source).exists():
    raise command.FlagError(
      f"--convert: the raw data {source} of {name!r} does not exist. Correct the "
      "path; relative paths start where the program is run."
    )
  pairs = (option.partition("=") for option in options)
  given = {key: value for key, _, value in pairs}
  if given.get("scales", _PUBLISHED) not in (_PUBLISHED, _FITTED):
    raise command.FlagError(
      f"--convert: scales={given['scales']} of {name!r} must be {_PUBLISHED} or "
      f"{_FITTED}."
    )
  return Conversion(name, converter, source, given)


def run(
  conversions: Sequence[Conversion], directories: Mapping[str, str], program: str
) -> None:
  """Converts raw files in the first process, while the others wait.

  What has been converted already stays.

  Args:
    conversions: what to convert.
    directories: where each dataset goes, by name.
    program: name of the program, for the provenance.

  Raises:
    PlanError: options or input cannot be used.
    RawDataError: a raw file cannot be read.
  """
  if processes.is_first():
    convert(conversions, directories, program)
  processes.wait_for_all("converted")


def convert(
  conversions: Sequence[Conversion], directories: Mapping[str, str], program: str
) -> None:
  """Converts raw files in this process; arguments and errors as of `run`."""
  for conversion in conversions:
    options = dict(conversion.options)
    is_fitted = options.pop("scales", _PUBLISHED) == _FITTED
    convert_lib.run(
      convert_lib.Config(
        dataset=conversion.converter,
        input=conversion.input,
        output=directories[conversion.dataset],
        split=options.pop("split", ""),
        num_workers=os.cpu_count() or 1,
        scales=_FITTED if is_fitted else _PUBLISHED,
        options=options,
      ),
      command=f"{program} --convert={conversion.dataset}",
    )
