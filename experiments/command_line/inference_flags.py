"""Flags and checks of the runners that use a trained model."""

from collections.abc import Sequence
import pathlib
from typing import Any

from absl import flags

from experiments.command_line import config as config_lib
from jmp_hk.runtime import configuration

PRECISIONS = ("float32", "float64", "bfloat16")


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of which model is used and how."""
  flags.DEFINE_string(
    "checkpoint",
    None,
    "A model directory, the --workdir of a run, or a checkpoint in it.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "ema", True, "The averaged weights; else the raw ones.", flag_values=values
  )
  flags.DEFINE_enum(
    "precision", "float32", PRECISIONS, "Of the computation.", flag_values=values
  )
  flags.DEFINE_integer(
    "batch_edges",
    4096,
    "Main edges of a batch; more makes better use of a GPU.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    "compilation_cache",
    configuration.default_compilation_cache(),
    "Directory where compiled programs are kept between runs; empty keeps none.",
    flag_values=values,
  )


def start(values: flags.FlagValues) -> None:
  """Prepares jax's environment; call it before jax is imported."""
  configuration.configure(configuration.RuntimeConfig(values.compilation_cache))


def start_without_computing() -> None:
  """Prepares runners that move weights only, for which memory matters."""
  configuration.configure(configuration.RuntimeConfig(freed_memory="return"))


def require(values: flags.FlagValues, *names: str) -> None:
  """Checks that flags are given.

  Raises:
    FlagError: one is missing.
  """
  for name in names:
    if not values[name].value:
      raise config_lib.FlagError(f"--{name} is required: {values[name].help}")


def new_file(text: str, flag: str, *endings: str) -> pathlib.Path:
  """Checks a file that is to be written.

  Raises:
    FlagError: it ends otherwise, or its folder does not exist.
  """
  path = pathlib.Path(text)
  if endings and path.suffix not in endings:
    raise config_lib.FlagError(f"--{flag}={text} must end in {' or '.join(endings)}.")
  if not path.absolute().parent.is_dir():
    raise config_lib.FlagError(f"--{flag}={text}: its folder does not exist.")
  return path


def existing_file(text: str, flag: str) -> pathlib.Path:
  """Checks a file that is to be read.

  Raises:
    FlagError: there is no such file.
  """
  path = pathlib.Path(text)
  if not path.is_file():
    raise config_lib.FlagError(f"--{flag}={text} is no file.")
  return path


def read_description(values: flags.FlagValues) -> Any:
  """Configuration and datasets of the model, without its weights.

  Raises:
    FlagError: there is no model, or it cannot be understood.
  """
  from jmp_hk.checkpoints import model_directory

  try:
    path = model_directory.find_checkpoint(values.checkpoint)
    return model_directory.read_description(path)
  except model_directory.CheckpointError as error:
    raise config_lib.FlagError(f"--checkpoint={values.checkpoint}: {error}") from error


def choose_head(heads: Sequence[str], name: str) -> str:
  """The head that --head names; may be left out where there is one.

  Raises:
    FlagError: there is no such head, or there are several and none is named.
  """
  if not name and len(heads) == 1:
    return heads[0]
  if name not in heads:
    raise config_lib.FlagError(
      f"--head={name}: name one of the model's heads, {', '.join(heads)}."
    )
  return name


def parse_pairs(entries: Sequence[str], flag: str) -> dict[str, str]:
  """Reads NAME=VALUE entries.

  Raises:
    FlagError: an entry reads otherwise, or a name occurs twice.
  """
  result: dict[str, str] = {}
  for entry in entries:
    name, separator, value = entry.partition("=")
    if not separator or not name or not value or name in result:
      raise config_lib.FlagError(
        f"--{flag}: expected NAME=VALUE with different names, found {entry!r}."
      )
    result[name] = value
  return result
