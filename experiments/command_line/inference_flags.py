"""Flags and checks of the runners that use a trained model."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from data.command_line import flag_help
from data.command_line import mistakes
from experiments.command_line import command
from jmp_hk import dataset_info
from jmp_hk.runtime import configuration

if TYPE_CHECKING:
  import ase

  from jmp_hk.inference import predictor as predictor_lib
  from jmp_hk.models import model as model_lib

PRECISIONS = ("float32", "float64", "tensorfloat32", "bfloat16")


@flag_help.group("Model")
def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of which model is used and how."""
  flags.DEFINE_string(
    "checkpoint",
    None,
    "PATH: A model directory, the --workdir of a run, a checkpoint in it, a PyTorch "
    "file of published weights, or jmp-mini, which comes with the package. Several of "
    "them, separated by commas, make a committee of models that were trained alike, "
    "which predicts means and standard deviations; so does the --workdir of a "
    "fine-tuning with --num_members.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "ema",
    True,
    "Use the averaged weights, where there are some, instead of the raw ones.",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "precision",
    "float32",
    PRECISIONS,
    "What is computed in. float32: true float32, on GPUs too. float64: everything in "
    "float64. tensorfloat32: dense layers may use TensorFloat-32, which is faster on "
    "NVIDIA's cards. bfloat16: dense layers and messages in bfloat16.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "batch_edges",
    4096,
    "About how many main edges a batch of one device has. More make better use of a "
    "GPU and take more memory.",
    lower_bound=1,
    flag_values=values,
  )
  define_compilation_cache(values)
  _define_devices(values)


@flag_help.group("Machine")
def define_compilation_cache(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flag of where compiled programs are kept."""
  flags.DEFINE_string(
    "compilation_cache",
    configuration.default_compilation_cache(),
    "DIR: Directory where compiled programs are kept between runs; empty keeps none.",
    flag_values=values,
  )


@flag_help.group("Machine")
def _define_devices(values: flags.FlagValues) -> None:
  flags.DEFINE_integer(
    "num_devices",
    0,
    "Number of devices that share the batches; 0 uses all of this machine, and fewer "
    "where there are few structures.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "num_workers",
    0,
    "Number of processes that build graphs and batches where there are more than a "
    "thousand structures; 0 makes them in this one, which a GPU outruns.",
    lower_bound=0,
    flag_values=values,
  )


def start(values: flags.FlagValues) -> None:
  """Prepares jax's environment; call it before jax is imported."""
  configuration.configure(configuration.RuntimeConfig(values.compilation_cache))


def start_without_computing() -> None:
  """Prepares runners that move weights only, for which memory matters."""
  configuration.configure(configuration.RuntimeConfig(freed_memory="return"))


def new_file(text: str, flag: str, *endings: str) -> pathlib.Path:
  """Checks a file that is to be written.

  Raises:
    FlagError: it ends otherwise, or its folder does not exist.
  """
  path = pathlib.Path(text)
  if endings and path.suffix not in endings:
    raise command.FlagError(f"--{flag}={text} must end in {' or '.join(endings)}.")
  if not path.absolute().parent.is_dir():
    raise command.FlagError(f"--{flag}={text}: its folder does not exist.")
  if path.is_dir():
    raise command.FlagError(f"--{flag}={text} is a folder: name a file.")
  return path


def existing_file(text: str, flag: str) -> pathlib.Path:
  """Checks a file that is to be read.

  Raises:
    FlagError: there is no such file.
  """
  path = pathlib.Path(text)
  if not path.is_file():
    problem = "is a folder, not a file" if path.is_dir() else "does not exist"
    raise command.FlagError(f"--{flag}={text} {problem}.")
  return path


def checkpoints(values: flags.FlagValues) -> list[pathlib.Path]:
  """The models that --checkpoint names: one, or the members of a committee.

  Raises:
    FlagError: there are none.
  """
  from jmp_hk.inference import committee

  text = values.checkpoint
  if pathlib.Path(text).exists():
    return committee.find_paths(text)
  names = [name for name in text.split(",") if name]
  if not names:
    raise command.FlagError(f"--checkpoint={text} names no model.")
  return committee.find_paths(names)


def read_description(
  values: flags.FlagValues,
) -> tuple["model_lib.ModelConfig", Mapping[str, dataset_info.DatasetInfo]]:
  """Configuration of the model and constants of its datasets, without the weights.

  Raises:
    FlagError: there is no model, or it cannot be understood.
  """
  from jmp_hk.checkpoints import loading
  from jmp_hk.checkpoints import model_directory

  try:
    return loading.read_description(checkpoints(values)[0])
  except model_directory.CheckpointError as error:
    raise command.FlagError(f"--checkpoint={values.checkpoint}: {error}") from error


def load_predictor(
  values: flags.FlagValues,
  references: Mapping[str, str] | None = None,
) -> "predictor_lib.Predictor":
  """Loads the model that the flags name.

  Args:
    values: parsed flags.
    references: files of per-element reference energies by head.

  Raises:
    FlagError: the models are no committee.
  """
  from jmp_hk.inference import committee
  from jmp_hk.inference import predictor as predictor_lib

  models = [
    predictor_lib.load(
      path,
      ema=values.ema,
      references=references,
      precision=values.precision,
      batch_edges=values.batch_edges,
      num_devices=values.num_devices,
      num_workers=values.num_workers,
    )
    for path in checkpoints(values)
  ]
  try:
    return models[0] if len(models) == 1 else committee.Committee(models)
  except ValueError as error:
    raise command.FlagError(f"--checkpoint={values.checkpoint}: {error}") from error


def read_structures(
  path: pathlib.Path, index: str = ":", flag: str = "input"
) -> Iterator["ase.Atoms"]:
  """Yields the structures of a file.

  Args:
    path: a file in any format that ASE reads.
    index: which structures of it, as ASE writes it.
    flag: flag that names the file, for messages.

  Raises:
    FlagError: ASE cannot read it, or there are no structures.
  """
  import ase.io

  from jmp_hk.inference import prediction_files

  count = 0
  try:
    if path.suffix == ".db":
      found = prediction_files.read_db(path, index)
    else:
      found = ase.io.iread(path, index, do_not_split_by_at_sign=True)
    for atoms in found:
      yield atoms
      count += 1
  except Exception as error:  # ASE's readers raise nearly anything.
    raise command.FlagError(
      f"--{flag}={path}: ASE fails after {count} structures: {type(error).__name__}: "
      f"{error}"
    ) from error
  if not count:
    raise command.FlagError(f"--{flag}={path} holds no structures.")


def choose_head(heads: Sequence[str], name: str) -> str:
  """The head that --head names; may be left out where there is one.

  Raises:
    FlagError: there is no such head, or there are several and none is named.
  """
  if not name and len(heads) == 1:
    return heads[0]
  if not name:
    raise command.FlagError(
      f"--head is required, because the model has several: {', '.join(heads)}."
    )
  if name not in heads:
    raise command.FlagError(
      f"--head={name}: name one of the model's heads, {', '.join(heads)}."
      f"{mistakes.did_you_mean(name, heads, '--head=')}"
    )
  return name
