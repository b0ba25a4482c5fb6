"""Converts raw files at the start of a run."""

from collections.abc import Iterable
from collections.abc import Mapping
import os

from data import convert
from data.conversion import base as converter_base
from experiments.command_line import config as config_lib
from jmp_hk import structure as structure_lib

# What raw files or the options of their conversion may be wrong with.
ERRORS = (
  converter_base.PlanError,
  converter_base.RawDataError,
  structure_lib.InvalidStructureError,
)


def run(
  made: Iterable[config_lib.Conversion], directories: Mapping[str, str], program: str
) -> None:
  """Converts raw files; what is done already stays.

  Args:
    made: what to convert.
    directories: where each dataset goes, by name.
    program: its name, for the provenance.

  Raises:
    PlanError: options or input cannot be used.
    RawDataError: a raw file cannot be read.
  """
  for conversion in made:
    options = dict(conversion.options)
    settings = {k: options.pop(k) for k in ("split", "scales") if k in options}
    convert.run(
      convert.Config(
        dataset=conversion.converter,
        input=conversion.input,
        output=directories[conversion.dataset],
        num_workers=os.cpu_count() or 1,
        options=options,
        **settings,
      ),
      command=f"{program} --convert={conversion.dataset}",
    )
