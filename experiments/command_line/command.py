"""What flags of runs have in common: wrong ones, stored ones, NAME=VALUE."""

from collections.abc import Sequence
import pathlib

from absl import flags

from data.command_line import program

FLAGS_FILE = "flags.txt"

# Which machine and how many processes a run uses is no part of it.
_NOT_STORED = (
  "flagfile",
  "coordinator_address",
  "num_processes",
  "process_id",
  "compilation_cache",
  "debug",
)
# Other packages (absl, chex, orbax) define flags of their own when they are imported.
_PACKAGES = ("benchmarks", "data", "experiments")


# What programs of every floor need, under the name that is used here.
FlagError = program.FlagError
require = program.require
is_chosen = program.is_chosen


class _AddedFlag(flags.Flag):
  """A list that further occurrences of the flag add to."""

  def parse(self, argument: str | Sequence[str]) -> None:
    """Reads one occurrence."""
    earlier = (self.value or []) if self.present else []
    super().parse(argument)
    self.value = [*earlier, *(self.value or [])]


def define_settings(name: str, text: str, values: flags.FlagValues) -> None:
  """Defines a flag FIELD=VALUE,… that flag files and the command line can add to.

  A list of absl's would forget the fields of a flag file when the command line sets
  another one. Where a field occurs twice, the later value counts.

  Args:
    name: name of the flag.
    text: its help.
    values: where it is defined.
  """
  flags.DEFINE_flag(
    _AddedFlag(
      parser=flags.ListParser(),
      serializer=flags.CsvListSerializer(","),
      name=name,
      default=[],
      help_string=text,
    ),
    flag_values=values,
  )


def flags_text(values: flags.FlagValues) -> str:
  """All flags of the project as a flag file, but for those of the machine."""
  lines = []
  for module, module_flags in sorted(values.flags_by_module_dict().items()):
    if module.split(".")[0] not in _PACKAGES:
      continue
    for flag in module_flags:
      if flag.name not in _NOT_STORED and flag.value is not None:
        lines += flag.serialize().splitlines()
  return "\n".join(lines) + "\n"


def save_flags(workdir: pathlib.Path, values: flags.FlagValues) -> pathlib.Path:
  """Stores all flags of the project, so that the run can be repeated by them.

  Args:
    workdir: directory of the run.
    values: parsed flags.

  Returns:
    A flag file: `--flagfile=WORKDIR/flags.txt` starts the same run.
  """
  path = workdir / FLAGS_FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(flags_text(values), encoding="utf-8")
  return path


def parse_pairs(entries: Sequence[str], flag: str) -> dict[str, str]:
  """Reads NAME=VALUE entries.

  Raises:
    FlagError: an entry reads otherwise, or a name occurs twice.
  """
  result: dict[str, str] = {}
  for entry in entries:
    name, separator, value = entry.partition("=")
    if not separator or not name or not value or name in result:
      raise FlagError(
        f"--{flag}: expected NAME=VALUE with different names, found {entry!r}."
      )
    result[name] = value
  return result
