"""Flags about the model and the loss."""

from collections.abc import Mapping
from collections.abc import Sequence

from absl import flags

from experiments.command_line import config as config_lib
from jmp_hk import dataset_info as info_lib
from jmp_hk import serialization
from jmp_hk.models.gemnet_oc import config as gemnet_config
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import losses

PRECISIONS = ("float32", "bfloat16")


def define_model(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the backbone."""
  flags.DEFINE_enum(
    "model",
    "gemnet_oc_small",
    list(gemnet_config.PRESETS),
    "Size of the backbone; gemnet_oc_small is JMP-S, gemnet_oc_large JMP-L.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "model_override",
    [],
    "Single sizes of the backbone: FIELD=VALUE,…",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "precision",
    "bfloat16",
    PRECISIONS,
    "Of dense layers and messages; parameters, geometry, sums and losses are float32.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "remat",
    False,
    "Compute the insides of blocks again in the backward pass: less "
    "memory, about a third more time, the same numbers.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "dropout",
    0.0,
    "Dropout after dense layers of blocks.",
    lower_bound=0,
    upper_bound=1,
    flag_values=values,
  )
  flags.DEFINE_float(
    "edge_dropout",
    0.1,
    "Rate at which edges are left out in training.",
    lower_bound=0,
    upper_bound=1,
    flag_values=values,
  )


def define_loss(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the pre-training loss."""
  flags.DEFINE_float(
    "energy_coefficient",
    1.0,
    "Factor of the energy loss; 0 switches it off.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_list(
    "force_coefficients",
    [],
    "Factor of the force loss: one VALUE for all datasets "
    "or NAME=VALUE,…; 0 switches it off. By default the published ones (73, 80, 15, "
    "14), and the average number of atoms for other datasets.",
    flag_values=values,
  )
  define_averages(values)


def define_averages(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of what losses average over."""
  flags.DEFINE_bool(
    "structure_wise_loss",
    True,
    "Average forces over the atoms of a structure "
    "first, then over structures; false averages over all atoms (naive).",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "train_on_free_atoms_only",
    False,
    "Leave fixed atoms out of the force loss. Metrics of OC20 and OC22 always do.",
    flag_values=values,
  )


def backbone(values: flags.FlagValues) -> gemnet_config.GemNetOCConfig:
  """The backbone.

  Raises:
    FlagError: --model_override cannot be read.
  """
  data = serialization.to_json(gemnet_config.preset(values.model))
  data |= {
    "dropout": values.dropout,
    "edge_dropout": values.edge_dropout,
    "remat": values.remat,
  }
  for entry in values.model_override:
    name, _, text = entry.partition("=")
    if name not in data:
      raise config_lib.FlagError(
        f"--model_override: {entry!r} does not read FIELD=VALUE with FIELD one of "
        f"{', '.join(data)}."
      )
    data[name] = _parse(text)
  try:
    return serialization.from_json(
      gemnet_config.GemNetOCConfig, data, "--model_override"
    )
  except ValueError as error:
    raise config_lib.FlagError(str(error)) from error


def loss(values: flags.FlagValues) -> losses.LossConfig:
  """Averages of the loss."""
  return losses.LossConfig(
    structure_wise=values.structure_wise_loss,
    free_atoms_only=values.train_on_free_atoms_only,
  )


def force_coefficients(
  values: flags.FlagValues, names: Sequence[str]
) -> Mapping[str, float | None]:
  """Force coefficient of each dataset; None where its `DatasetInfo` decides.

  Raises:
    FlagError: --force_coefficients cannot be read or names another dataset.
  """
  given = _parse_coefficients(values.force_coefficients)
  unknown = sorted(set(given) - {"", *names})
  if unknown:
    raise config_lib.FlagError(
      f"--force_coefficients names {', '.join(unknown)}, but the datasets are "
      f"{', '.join(names)}."
    )
  return {name: given.get(name, given.get("")) for name in names}


def make_tasks(
  values: flags.FlagValues, infos: Mapping[str, info_lib.DatasetInfo]
) -> tuple[tasks_lib.TaskConfig, ...]:
  """The pre-training task of each dataset, in the order of `infos`."""
  coefficients = force_coefficients(values, list(infos))
  tasks = []
  for name, info in infos.items():
    choices = (coefficients[name], info.force_coefficient, info.average_atoms)
    force_coefficient = next(value for value in choices if value is not None)
    tasks.append(
      tasks_lib.pretraining_task(name, values.energy_coefficient, force_coefficient)
    )
  return tuple(tasks)


def _parse_coefficients(entries: Sequence[str]) -> dict[str, float]:
  """Coefficients by name; "" is for all."""
  result = {}
  for entry in entries:
    name, equals, text = entry.rpartition("=")
    try:
      value = float(text)
    except ValueError:
      value = -1.0
    if value < 0 or (equals and not name):
      raise config_lib.FlagError(
        f"--force_coefficients: {entry!r} is neither VALUE nor NAME=VALUE with a "
        "value of at least 0."
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
