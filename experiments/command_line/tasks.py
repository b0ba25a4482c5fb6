"""Declarations of fine-tuning tasks: those of the paper, one more, and users' own."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from data.command_line import mistakes
from data.command_line import numbers
from data.converters import rmd17
from experiments.command_line import command
from jmp_hk import ranges
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from jmp_hk.targets import spec as spec_lib

Reduction = tasks_lib.Reduction
Target = tasks_lib.TargetConfig

_LABEL_OPTIONS = ("key", "unit")  # Of data as they are.
_FORCE_UNIT = "meV/Å"
_MILLI = 1000.0


@dataclasses.dataclass(frozen=True)
class FineTuningTask:
  """One task of the paper.

  Attributes:
    name: its name, also that of its flag file and of the model's task.
    dataset: the dataset that results are averaged by.
    targets: what is learned.
    unit: unit of the published error.
    factor: factor that turns errors in the unit of the label into that unit.
  """

  name: str
  dataset: str
  targets: tuple[Target, ...]
  unit: str
  factor: float = 1.0

  @property
  def config(self) -> tasks_lib.TaskConfig:
    """The task as the model knows it."""
    return tasks_lib.TaskConfig(self.name, self.targets)


def conservative(coefficient: float) -> tuple[Target, ...]:
  """Forces as derivatives of an energy that has no loss and no biases."""
  forces = Target("forces", "conservative_forces", loss_coefficient=coefficient)
  return tasks_lib.with_energy([forces])


def direct(coefficient: float) -> tuple[Target, ...]:
  """Forces from a head of their own."""
  return (Target("forces", "direct_forces", loss_coefficient=coefficient),)


def _qm9() -> list[FineTuningTask]:
  rows = [  # Name, label, published unit, factor.
    ("mu", "mu", "D", 1.0),
    ("alpha", "alpha", "a0³", 1.0),
    ("eps_homo", "eps_HOMO", "meV", _MILLI),
    ("eps_lumo", "eps_LUMO", "meV", _MILLI),
    ("delta_eps", "delta_eps", "meV", _MILLI),
    ("r2", "R_2_Abs", "a0²", 1.0),
    ("zpve", "ZPVE", "meV", _MILLI),
    ("u0", "U_0", "meV", _MILLI),
    ("u", "U", "meV", _MILLI),
    ("h", "H", "meV", _MILLI),
    ("g", "G", "meV", _MILLI),
    ("cv", "c_v", "cal/(mol K)", 1.0),
  ]
  kinds = {"R_2_Abs": "spatial_extent"}
  return [
    FineTuningTask(
      f"qm9_{name}",
      "qm9",
      (Target(label, kinds.get(label, "scalar")),),
      unit,
      factor,
    )
    for name, label, unit, factor in rows
  ]


def _rmd17() -> list[FineTuningTask]:
  return [
    FineTuningTask(f"rmd17_{name}", "rmd17", conservative(10.0), _FORCE_UNIT, _MILLI)
    for name in rmd17.MOLECULES
  ]


def _md22() -> list[FineTuningTask]:
  molecules = {
    "ac_ala3_nhme": direct,
    "dha": conservative,
    "stachyose": conservative,
    "at_at": conservative,
    "at_at_cg_cg": conservative,
    "buckyball_catcher": conservative,
    "double_walled_nanotube": direct,
  }
  return [
    FineTuningTask(f"md22_{name}", "md22", targets(100.0), _FORCE_UNIT, _MILLI)
    for name, targets in molecules.items()
  ]


def _spice() -> list[FineTuningTask]:
  return [
    FineTuningTask(f"spice_{name}", "spice", conservative(100.0), _FORCE_UNIT, _MILLI)
    for name in ("solvated_amino_acids", "dipeptides")
  ]


def _matbench() -> list[FineTuningTask]:
  rows = [  # Name, published unit, factor.
    ("jdft2d", "meV/atom", 1.0),
    ("phonons", "1/cm", 1.0),
    ("dielectric", "1", 1.0),
    ("log_gvrh", "log10(GPa)", 1.0),
    ("log_kvrh", "log10(GPa)", 1.0),
    ("perovskites", "eV/cell", 1.0),
    ("mp_gap", "eV", 1.0),
    ("mp_e_form", "meV/atom", _MILLI),
  ]
  reductions = {"phonons": Reduction.MAX}
  scalars = [
    FineTuningTask(
      f"matbench_{name}",
      "matbench",
      (Target(name, "scalar", reductions.get(name, Reduction.MEAN)),),
      unit,
      factor,
    )
    for name, unit, factor in rows
  ]
  # In the authors' code, but not among the published forty.
  metal = Target("mp_is_metal", "multiclass", Reduction.MEAN, num_classes=2)
  return [*scalars, FineTuningTask("matbench_mp_is_metal", "matbench", (metal,), "nat")]


def _qmof() -> list[FineTuningTask]:
  target = Target("bandgap", "scalar", Reduction.MEAN)
  return [FineTuningTask("qmof", "qmof", (target,), "eV")]


TASKS: Mapping[str, FineTuningTask] = {
  task.name: task
  for task in (*_qm9(), *_rmd17(), *_md22(), *_spice(), *_matbench(), *_qmof())
}


def find(name: str) -> FineTuningTask:
  """A declared task.

  Raises:
    FlagError: there is none of that name.
  """
  if name not in TASKS:
    meant = mistakes.did_you_mean(name, list(TASKS))
    raise command.FlagError(
      f"--task: there is no task {name!r}.{meant or f' There are {_listed()}.'} For "
      "data of your own use --target=NAME=KIND instead."
    )
  return TASKS[name]


def _listed() -> str:
  return ", ".join(TASKS)


def parse_targets(entries: Sequence[str]) -> tuple[Target, ...]:
  """Reads NAME=KIND[,OPTION=VALUE]… entries of --target.

  Conservative forces bring the energy that they are the derivative of, see
  `targets.config.with_energy`.

  Args:
    entries: one per target. The options are reduction, coefficient, classes, missing,
      and those of `parse_label_options`.

  Raises:
    FlagError: an entry cannot be read.
  """
  try:
    return declare.declare([_parse_target(entry) for entry in entries])
  except command.FlagError:
    raise
  except ValueError as error:
    raise command.FlagError(f"--target: {error}") from error


def parse_label_options(entries: Sequence[str]) -> dict[str, dict[str, str]]:
  """The options of --target about labels of data as they are.

  Args:
    entries: one per target.

  Returns:
    By name of the target, "key" (entry that holds the label) and "unit" where given.
  """
  result = {}
  for entry in entries:
    name, _, values = _split_target(entry)
    result[name] = {k: v for k, v in values.items() if k in _LABEL_OPTIONS and v}
  return result


def _split_target(entry: str) -> tuple[str, str, dict[str, str]]:
  """Name, kind and options of an entry of --target."""
  head, *options = entry.split(",")
  name, _, kind = head.partition("=")
  pairs = (option.partition("=") for option in options)
  return name, kind, {key: value for key, _, value in pairs}


def _parse_target(entry: str) -> Target:
  """One entry of --target."""
  name, kind, values = _split_target(entry)
  kinds = spec_lib.kinds()
  known = {"reduction", "coefficient", "classes", "missing", *_LABEL_OPTIONS}
  usual = "allowed" if kind in kinds and kinds[kind].may_be_missing else "refused"
  missing = values.get("missing", usual)
  is_known = set(values) <= known and missing in ("refused", "allowed")
  if not name or kind not in kinds or not is_known:
    meant = (
      "" if kind in kinds else mistakes.did_you_mean(kind, list(kinds), f"{name}=")
    )
    raise command.FlagError(
      f"--target: {entry!r} does not read NAME=KIND[,reduction=sum|mean|max]"
      "[,coefficient=X][,classes=N][,missing=allowed][,key=KEY][,unit=UNIT] with KIND "
      f"one of {', '.join(kinds)}.{meant}"
    )
  try:
    return Target(
      name,
      kind,
      Reduction(values.get("reduction", "sum")),
      float(numbers.parse(values.get("coefficient", "1"), ranges.NOT_NEGATIVE)),
      int(numbers.parse(values.get("classes", "0"), ranges.COUNT)),
      allow_missing=missing == "allowed",
    )
  except ValueError as error:
    raise command.FlagError(f"--target: {entry!r}: {error}") from error
