"""The flags --train_data, --val_data, --test_data: files that ASE reads, as they are.

They are converted to WORKDIR/data, as `data.convert --dataset=ase` does, and read from
there; running again converts nothing.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from absl import flags
from absl import logging

from data.command_line import flag_help
from data.command_line import numbers
from data.conversion import base
from data.conversion import plans
from data.conversion import registry
from data.formats import ase_atoms
from experiments.command_line import command
from experiments.command_line import conversions
from experiments.command_line import tasks as declarations
from jmp_hk import ase_files
from jmp_hk import ase_labels
from jmp_hk import dataset_info
from jmp_hk import ranges
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.runtime import processes
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare

_FLAGS = {"train": "train_data", "val": "val_data", "test": "test_data"}  # By split.
_LABELS = structure_lib.LABELS
_ROUND = 12  # Digits of shares.


@flag_help.group("Data")
def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of data as they are."""
  string = lambda name, default, text: flags.DEFINE_string(
    name, default, text, flag_values=values
  )
  number = lambda name, default, text: flags.DEFINE_float(
    name, default, text, lower_bound=0, flag_values=values
  )
  fraction = lambda name, default, text: numbers.define(
    name, default, text, ranges.FRACTION, values
  )
  string(
    "train_data",
    "",
    "PATH: Structures to train on, as they are: a file that ASE reads (extxyz, xyz, "
    "traj, db, cif, …), a folder of such files, 'runs/*.xyz' with wildcards, or a CSV "
    "table of an identifier and values beside its structures. They are converted to "
    "WORKDIR/data.",
  )
  string(
    "val_data",
    "",
    "PATH: Structures to validate on, likewise; without it, --val_fraction of "
    "--train_data.",
  )
  string(
    "test_data",
    "",
    "PATH: Structures to test the best weights on, likewise; without it, "
    "--test_fraction of --train_data.",
  )
  fraction(
    "val_fraction",
    0.1,
    "Part of --train_data that is drawn at random to validate on, where there is no "
    "--val_data; always the same for the same data and --split_seed.",
  )
  fraction(
    "test_fraction", 0.0, "Part of --train_data that is drawn to test on, likewise."
  )
  flags.DEFINE_integer(
    "split_seed", 0, "Seed of these draws.", lower_bound=0, flag_values=values
  )
  string(
    "energy_key",
    "",
    "KEY: Entry of --train_data that holds the energies; by default it is found "
    "(REF_energy, energy, …).",
  )
  string("forces_key", "", "KEY: Entry that holds the forces, likewise.")
  string(
    "stress_key",
    "",
    "KEY: Entry that holds the stress, or the virial, which has that word in its name; "
    "likewise.",
  )
  string(
    "energy_unit",
    "eV",
    "UNIT: Unit of the energies: eV, meV, Hartree, Ry, kcal/mol, ….",
  )
  string("forces_unit", "eV/Ang", "UNIT: Unit of the forces, e.g. Hartree/Bohr.")
  string(
    "stress_unit",
    "eV/Ang3",
    "UNIT: Unit of the stress: eV/Ang3, meV/Ang3, GPa, kbar or Hartree/Bohr3; virials "
    "have the unit of energies.",
  )
  number(
    "cutoff",
    0.0,
    "Cutoff of the neighbor graphs of --train_data in Å; 0 takes that of the heads of "
    "--checkpoint where they agree, else 12.",
  )
  flags.DEFINE_integer(
    "max_neighbors",
    0,
    "Largest number of neighbors of an atom in these graphs; 0 takes that of the "
    "heads, else 30.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_enum(
    "truncation",
    None,
    [kind.value for kind in graph_config.Truncation],
    "How graphs end at the cutoff and at the number of neighbors. published "
    "takes the nearest neighbors, as the published models were trained; energies jump "
    "where one neighbor passes another. shells takes equally distant neighbors "
    "together, so crystals keep their symmetry. smooth lets every edge vanish "
    "smoothly, for molecular dynamics and relaxations. By default that of the heads "
    "of --checkpoint; from scratch smooth for a --target of conservative_forces, else "
    "published. With --data it takes the place of what the data say.",
    flag_values=values,
  )


@dataclasses.dataclass(frozen=True)
class OwnData(conversions.Data):
  """Files of one's own, the training data first.

  Attributes:
    targets: what is learned on them.
  """

  targets: tuple[tasks_lib.TargetConfig, ...] = ()

  def convert(self, program: str) -> None:
    """Converts the files; labels are read from the same entries in all of them.

    Raises:
      FlagError: files or labels cannot be used.
    """
    if processes.is_first():
      directories = {conversions.DATA: self.directory}
      keys: Mapping[str, str] = {}
      for conversion in self.conversions:
        conversion = dataclasses.replace(
          conversion, options={**conversion.options, **keys}
        )
        try:
          conversions.convert([conversion], directories, program)
        except conversions.ERRORS as error:
          raise command.FlagError(self._explain(conversion, error)) from error
        keys = keys or self._keys()
      self._report()
    processes.wait_for_all("converted")

  def _keys(self) -> dict[str, str]:
    """The options that name the entries which labels of the training data are in."""
    info = dataset_info.load(self.directory)
    options = info.provenance["splits"]["train"]["options"]
    names = [*(f"{label}_key" for label in _LABELS), "target_keys"]
    return {name: options[name] for name in names}

  def _explain(self, conversion: conversions.Conversion, error: Exception) -> str:
    """What is wrong, in the words of this command line."""
    split = conversion.options.get("split", "train")
    flag = f"--{_FLAGS[split]}={conversion.input}"
    cause = error.__cause__
    if isinstance(cause, ase_labels.KeyNotFoundError):
      label = cause.label
      known = {target.name: target.kind for target in self.targets}
      name = f"--{label}_key=KEY"
      if label not in _LABELS:
        name = f"--target={label}={known.get(label, 'KIND')},key=KEY"
      return f"{flag}: {cause}. Say which with {name}."
    if isinstance(error, plans.OtherConversionError):
      return (
        f"{flag}: {self.directory} holds data that were converted from other files or "
        f"with other settings ({'; '.join(error.changes)}). Choose another --workdir, "
        f"or delete {self.directory} and the run that was trained on it."
      )
    text = str(error).removeprefix("--input: ").removeprefix(f"{conversion.input}: ")
    if "expected the label" in text:
      if split != "train":
        text += " Labels are read from the same entries as those of --train_data."
      text += (
        " Where structures may lack a label, say so: "
        "--target=NAME=KIND,missing=allowed."
      )
    return f"{flag}: {text}"

  def _report(self) -> None:
    """Logs the sizes of the splits, and how many structures lack labels."""
    info = dataset_info.load(self.directory)
    for split, facts in info.splits.items():
      for label, count in facts.missing.items():
        if count:
          logging.info(
            "The label %r is missing in %d of the %d structures of the split %r; they "
            "do not count in its loss and metrics.",
            label,
            count,
            info.num_structures[split],
            split,
          )


def read(
  values: flags.FlagValues,
  directory: str,
  targets: tuple[tasks_lib.TargetConfig, ...],
  graph: graph_config.GraphConfig,
) -> OwnData:
  """Reads the flags.

  Args:
    values: parsed flags.
    directory: where the converted data go.
    targets: what is learned.
    graph: graph settings of the checkpoint, where the flags give none.

  Raises:
    FlagError: a path does not exist, or flags contradict each other.
  """
  sources = {split: str(values[flag].value or "") for split, flag in _FLAGS.items()}
  for split, source in sources.items():
    try:
      _ = ase_files.find(source) if source else None
    except ase_files.FileError as error:
      raise command.FlagError(f"--{_FLAGS[split]}: {error}") from error
  options = _options(values, targets, graph)
  first = options | _division(values)
  made = [conversions.Conversion(conversions.DATA, "ase", sources["train"], first)]
  made += [
    conversions.Conversion(
      conversions.DATA, "ase", sources[split], options | {"split": split}
    )
    for split in ("val", "test")
    if sources[split]
  ]
  for conversion in made:
    _check_options(conversion)
  return OwnData(directory, tuple(made), targets)


def _options(
  values: flags.FlagValues,
  targets: Sequence[tasks_lib.TargetConfig],
  graph: graph_config.GraphConfig,
) -> dict[str, str]:
  """Options of the converter that all files share."""
  extra = declarations.parse_label_options(values.target)
  keys = {name: entry["key"] for name, entry in extra.items() if "key" in entry}
  keys |= {
    label: str(values[f"{label}_key"].value)
    for label in _LABELS
    if values[f"{label}_key"].value
  }
  learned = {target.name for target in targets if target.is_learned}
  for label in _LABELS:
    unlearned = ase_atoms.NONE if label == "stress" else ase_atoms.OPTIONAL
    keys.setdefault(label, ase_atoms.REQUIRED if label in learned else unlearned)
  others = [target for target in targets if target.spec.label_name is None]
  return {
    "name": values.name or "own_data",
    "cutoff": str(values.cutoff or graph.cutoff),
    "max_neighbors": str(values.max_neighbors or graph.max_neighbors),
    "truncation": values.truncation or graph.truncation.value,
    "energy_unit": values.energy_unit,
    "forces_unit": values.forces_unit,
    "stress_unit": extra.get("stress", {}).get("unit") or values.stress_unit,
    **{f"{label}_key": keys.pop(label) for label in _LABELS},
    "targets": ",".join(
      f"{target.name}:{declare.label_kind(target)}"
      f":{extra.get(target.name, {}).get('unit', '')}"
      for target in others
    ),
    "target_keys": ",".join(f"{name}={key}" for name, key in keys.items()),
    "missing": ",".join(target.name for target in targets if target.allow_missing),
  }


def _division(values: flags.FlagValues) -> dict[str, str]:
  """Options of how --train_data is divided.

  Raises:
    FlagError: the parts make no sense.
  """
  parts = {}
  for split in ("val", "test"):
    fraction = f"{split}_fraction"
    if values[f"{split}_data"].value:
      if command.is_chosen(values[fraction]) and values[fraction].value:
        raise command.FlagError(
          f"--{split}_data and --{fraction} exclude each other: give one of them."
        )
      parts[split] = 0.0
    else:
      parts[split] = values[fraction].value
  train = round(1.0 - sum(parts.values()), _ROUND)
  if train <= 0:
    raise command.FlagError(
      "--val_fraction and --test_fraction leave nothing to train on: together they "
      f"must be below 1, but they are {sum(parts.values()):g}."
    )
  if train == 1:
    return {"split": "train"}
  return {
    "split_fractions": f"{train},{parts['val']},{parts['test']}",
    "split_seed": str(values.split_seed),
  }


def _check_options(conversion: conversions.Conversion) -> None:
  """Raises FlagError where units or the like cannot be read."""
  options = {k: v for k, v in conversion.options.items() if k != "split"}
  try:
    registry.make("ase", conversion.input, options=options).declare()
  except base.PlanError as error:
    raise command.FlagError(str(error)) from error
