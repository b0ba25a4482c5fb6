"""A run's directory: the flags it was started with."""

import pathlib

from absl import flags

FLAGS_FILE = "flags.txt"

# Which machine and how many processes a run uses is no part of it.
_NOT_STORED = (
  "flagfile",
  "coordinator_address",
  "num_processes",
  "process_id",
  "compilation_cache",
)
# Packages that define flags of their own when they are imported.
_FOREIGN_MODULES = ("absl", "chex")


def save_flags(workdir: pathlib.Path, values: flags.FlagValues) -> pathlib.Path:
  """Stores all flags of the project, so that the run can be repeated by them.

  Args:
    workdir: of the run.
    values: parsed flags.

  Returns:
    A flag file: `--flagfile=WORKDIR/flags.txt` starts the same run.
  """
  lines = []
  for module, module_flags in sorted(values.flags_by_module_dict().items()):
    if module.split(".")[0] in _FOREIGN_MODULES:
      continue
    for flag in module_flags:
      if flag.name not in _NOT_STORED and flag.value is not None:
        lines += flag.serialize().splitlines()
  path = workdir / FLAGS_FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path
