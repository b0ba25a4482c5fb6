"""Flags about the model and the loss."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from absl import flags

from data.command_line import flag_help
from data.command_line import numbers
from experiments.command_line import command
from jmp_hk import dataset_info
from jmp_hk import ranges
from jmp_hk import serialization
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import precision as precision_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import losses


@flag_help.group("Model")
def define_model(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the backbone."""
  number = lambda name, default, text: numbers.define(
    name, default, text, backbone_lib.BackboneConfig.RANGES[name], values
  )
  presets = backbone_lib.presets()
  flags.DEFINE_enum(
    "model",
    presets[0],
    presets,
    "Kind and size of the backbone; gemnet_oc_small is JMP-S, gemnet_oc_large JMP-L.",
    flag_values=values,
  )
  command.define_settings(
    "model_override",
    "FIELD=VALUE,…: Single settings of the backbone, nested ones with dots, e.g. "
    "num_blocks=3,bases.num_radial=64. May be repeated.",
    values,
  )
  flags.DEFINE_enum(
    "precision",
    "bfloat16",
    tuple(precision_lib.POLICIES),
    "What is computed in. float32: true float32, on GPUs too. tensorfloat32: dense "
    "layers may use TensorFloat-32, which is faster on NVIDIA's cards. bfloat16: dense "
    "layers and messages in bfloat16. Parameters, geometry, sums and losses are always "
    "float32.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "remat",
    False,
    "Compute the insides of blocks again in the backward pass, with the same numbers: "
    "less memory, about a third more time.",
    flag_values=values,
  )
  number(
    "dropout",
    0.0,
    "Probability with which an output of the blocks' dense layers is dropped.",
  )
  number("edge_dropout", 0.1, "Probability with which an edge is left out in training.")


@flag_help.group("Loss")
def define_loss(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the pre-training loss."""
  flags.DEFINE_enum(
    "forces",
    "direct",
    ("direct", "conservative"),
    "How forces are predicted. direct: by a head of their own, as published. "
    "conservative: as the negative gradient of the energy, which takes longer and "
    "prepares better for fine-tuning to conservative forces; it needs "
    "--precision=float32 or tensorfloat32, and graphs get --truncation=smooth unless "
    "it or the data say otherwise.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "energy_coefficient",
    1.0,
    "Factor of the energy loss, whose energies are divided by the dataset's energy "
    "scale, or by its force scale with --forces=conservative; 0 switches it off.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_list(
    "force_coefficients",
    [],
    "[NAME=]VALUE,…: Factor of the force loss: one VALUE for all datasets or one for "
    "each; 0 switches it off. By default the published ones (73, 80, 15, "
    "14), and the average number of atoms for other datasets.",
    flag_values=values,
  )
  define_averages(values)


@flag_help.group("Loss")
def define_averages(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of what losses average over."""
  flags.DEFINE_bool(
    "structure_wise_loss",
    True,
    "Average the force loss over the atoms of each structure first, then over "
    "structures. Otherwise it is averaged over all atoms of a batch at once.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "train_on_free_atoms_only",
    False,
    "Leave fixed atoms out of the force loss. Metrics of OC20 and OC22 always do.",
    flag_values=values,
  )


def backbone(values: flags.FlagValues) -> backbone_lib.BackboneConfig:
  """The backbone.

  Raises:
    FlagError: --model_override cannot be read.
  """
  data = serialization.to_json(backbone_lib.preset(values.model))
  data |= {
    "dropout": values.dropout,
    "edge_dropout": values.edge_dropout,
    "remat": values.remat,
  }
  for entry in values.model_override:
    _override(data, entry)
  try:
    return serialization.from_json(
      backbone_lib.BackboneConfig, data, "--model_override"
    )
  except ValueError as error:
    raise command.FlagError(str(error)) from error


def pretraining_backbone(values: flags.FlagValues) -> backbone_lib.BackboneConfig:
  """The backbone; with conservative forces it has no branch for direct ones.

  Raises:
    FlagError: --model_override cannot be read.
  """
  return dataclasses.replace(
    backbone(values), direct_vectors=not is_conservative(values)
  )


def is_conservative(values: flags.FlagValues) -> bool:
  """Whether pre-training learns forces as derivatives of the energy."""
  return values.forces == "conservative"


def loss(values: flags.FlagValues) -> losses.LossConfig:
  """What the loss averages over."""
  return losses.LossConfig(
    structure_wise=values.structure_wise_loss,
    free_atoms_only=values.train_on_free_atoms_only,
  )


def force_coefficients(
  values: flags.FlagValues, names: Sequence[str]
) -> Mapping[str, float]:
  """Force coefficients that --force_coefficients gives, by dataset.

  Args:
    values: parsed flags.
    names: names of all datasets; those that are not given are left out.

  Raises:
    FlagError: --force_coefficients cannot be read or names another dataset.
  """
  given = _parse_coefficients(values.force_coefficients)
  unknown = sorted(set(given) - {"", *names})
  if unknown:
    raise command.FlagError(
      f"--force_coefficients names {', '.join(unknown)}, but the datasets are "
      f"{', '.join(names)}."
    )
  of_all = dict.fromkeys(names, given[""]) if "" in given else {}
  return of_all | {name: value for name, value in given.items() if name}


def make_tasks(
  values: flags.FlagValues, infos: Mapping[str, dataset_info.DatasetInfo]
) -> tuple[tasks_lib.TaskConfig, ...]:
  """The pre-training task of each dataset, in the order of `infos`.

  Datasets without forces, or without energies, are learned by what they have.

  Raises:
    FlagError: a dataset has neither, or --force_coefficients cannot be used.
  """
  given = force_coefficients(values, list(infos))
  tasks = []
  for name, info in infos.items():
    published = info.force_coefficient
    own = info.average_atoms if published is None else published
    missing = {label for facts in info.splits.values() for label in facts.missing}
    try:
      task = tasks_lib.pretraining_task(
        name,
        values.energy_coefficient,
        given.get(name, own),
        info.units,
        missing,
        conservative=is_conservative(values),
      )
    except ValueError as error:
      raise command.FlagError(f"--datasets: {error}") from error
    tasks.append(task)
  return tuple(tasks)


def _override(data: serialization.Json, entry: str) -> None:
  """Sets what a FIELD=VALUE entry says in a stored backbone."""
  path, equals, text = entry.partition("=")
  known = dict(_fields(data))
  if not equals or path not in known:
    raise command.FlagError(
      f"--model_override: {entry!r} does not read FIELD=VALUE with FIELD one of "
      f"{', '.join(known)}."
    )
  known[path][path.rpartition(".")[2]] = _parse(text)


def _fields(
  data: serialization.Json, prefix: str = ""
) -> Iterator[tuple[str, dict[str, serialization.Json]]]:
  """Dotted paths of all settings, with the mapping that holds each."""
  for name, value in data.items():
    if isinstance(value, dict):
      yield from _fields(value, f"{prefix}{name}.")
    elif name != serialization.TYPE_KEY:
      yield f"{prefix}{name}", data


def _parse_coefficients(entries: Sequence[str]) -> dict[str, float]:
  """Coefficients by name; "" is for all."""
  result = {}
  for entry in entries:
    name, equals, text = entry.rpartition("=")
    try:
      value = float(numbers.parse(text, ranges.NOT_NEGATIVE))
    except ValueError:
      value = -1.0
    if value < 0 or (equals and not name) or name in result:
      raise command.FlagError(
        f"--force_coefficients: {entry!r} is neither VALUE nor NAME=VALUE with a "
        "value of at least 0, each name once."
      )
    result[name] = value
  return result


def _parse(text: str) -> serialization.Json:
  """A number or truth value as JSON has it."""
  if text.lower() in ("true", "false"):
    return text.lower() == "true"
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text
