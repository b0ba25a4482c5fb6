"""An ASE calculator for a trained model."""

from collections.abc import Sequence
from typing import Any

import ase
from ase.calculators import calculator as ase_calculator
import numpy as np

from jmp_hk import from_ase
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import candidates
from jmp_hk.inference import committee
from jmp_hk.inference import moving
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import smoothness
from jmp_hk.runtime import configuration
from jmp_hk.targets import config as tasks_lib


class JMPCalculator(ase_calculator.Calculator):
  """Computes all that a head predicts, and the stress if it is conservative.

  Results have ASE's names where ASE has one (`energy`, `forces`, `stress`, `charges`,
  `magmoms`, …), else those of the targets: `calc.get_property("bandgap", atoms)`. A
  committee gives means, and standard deviations over its members as `energy_std`,
  `forces_std` and so on.

  Neighbors are searched for when an atom has moved by a quarter of an Å or so; in
  between, graphs are built on the device. Compiled programs are used again while atoms
  move, although their numbers of neighbors change. When forces are first asked for, a
  warning is logged if they do not suit molecular dynamics, see `smoothness`.

  Example:
    atoms.calc = JMPCalculator("DIR", head="ani1x")
    ase.optimize.BFGS(atoms).run(fmax=0.05)
  """

  def __init__(
    self,
    model: predictor_lib.Predictor | committee.Source,
    head: str | None = None,
    *,
    precision: str = "float32",
    skin: float | None = candidates.DEFAULT_SKIN,
    **kwargs: Any,
  ) -> None:
    """Makes a calculator.

    Args:
      model: a loaded model or committee, or what `jmp_hk.load` takes.
      head: name of the head; may be left out if the model has one.
      precision: see `jmp_hk.load`; only where `model` is a path.
      skin: neighbors are searched for when an atom has moved by half of it, Å; None
        searches for them at every step.
      **kwargs: arguments of ASE's calculators.

    Raises:
      ValueError: there is no such head.
      CheckpointError: the path leads to no model.
    """
    configuration.configure()
    super().__init__(**kwargs)
    if not isinstance(model, predictor_lib.Predictor):
      model = committee.load(model, precision=precision)
    self._runner = model.head(head)
    names = property_names(self._runner.task)
    self.implemented_properties = list(names.values())
    if isinstance(model, committee.Committee):
      self.implemented_properties += [f"{name}_std" for name in names.values()]
    if "energy" in names:
      self.implemented_properties.append("free_energy")
    self._stepper = moving.Stepper(self._runner, skin)
    self._structure: structure_lib.Structure | None = None
    self._known: list[np.ndarray] = []  # What must not change while atoms move.
    self._has_warned = False

  @property
  def num_compilations(self) -> int:
    """Number of programs compiled so far, for all heads of the model."""
    return self._runner.num_compilations + len(self._runner.moving_programs)

  @property
  def device_seconds(self) -> float:
    """Time that compiled programs ran; all else was spent on the host."""
    return self._stepper.device_seconds

  def calculate(
    self,
    atoms: ase.Atoms | None = None,
    properties: Sequence[str] = ("energy",),
    system_changes: Sequence[str] = tuple(ase_calculator.all_changes),
  ) -> None:
    """Computes everything that the head predicts, see ASE's `Calculator`.

    Raises:
      InvalidStructureError: the structure cannot be predicted; the message says why.
      CalculationFailed: the model gives numbers that are not finite.
      PropertyNotImplementedError: a stress is wanted but there is no volume.
    """
    super().calculate(atoms, properties, system_changes)
    if self.atoms is None:
      raise ase_calculator.CalculatorSetupError("There are no atoms to calculate.")
    runner = self._runner
    structure, is_same = self._follow(self.atoms)
    if "forces" in properties and not self._has_warned:
      self._has_warned = True
      smoothness.warn(runner.task, runner.info, structure)
    outputs = self._stepper.predict(structure, is_same)
    self._structure = structure
    values = {
      name: value[: structure.num_atoms] if name in runner.per_atom else value[0]
      for name, value in outputs.items()
    }
    if not all(np.isfinite(value).all() for value in values.values()):
      raise ase_calculator.CalculationFailed(
        "The model gives no finite numbers for this structure; do atoms lie on one "
        "another?"
      )
    result = runner.denormalise(structure, values)
    self.results = results_of(runner.task, result)
    if "stress" in properties and "stress" not in self.results:
      raise ase_calculator.PropertyNotImplementedError(
        "There is no stress without a periodic cell of finite volume."
      )

  def _follow(self, atoms: ase.Atoms) -> tuple[structure_lib.Structure, bool]:
    """The structure, and whether it is the last one with atoms that have moved a bit.

    Then it needs no checks: those were made when its neighbors were searched for.
    """
    known = [np.array(atoms.numbers), np.array(atoms.pbc), atoms.get_tags()]
    before, self._known = self._known, known
    last, self._structure = self._structure, None
    if last is not None and all(map(np.array_equal, before, known)):
      positions, cell = atoms.positions, np.array(atoms.cell)
      if self._stepper.is_near(positions, cell):
        return moving.moved(last, positions, cell), True
    return from_ase.from_atoms(atoms, self._runner.info, "the structure"), False


def property_names(task: tasks_lib.TaskConfig) -> dict[str, str]:
  """What the calculator of a head calls its predictions, by name of the target.

  That is ASE's name where ASE has one and no other target is called so.

  Args:
    task: task of the head.
  """
  given = {target.name for target in task.predicted}
  names: dict[str, str] = {}
  for target in task.predicted:
    name = target.spec.calculator_property
    is_taken = name in names.values() or (name != target.name and name in given)
    names[target.name] = target.name if is_taken else name
  return names


def results_of(
  task: tasks_lib.TaskConfig, prediction: prediction_lib.Prediction
) -> dict[str, Any]:
  """Results of a calculator.

  Args:
    task: task of the head that predicted.
    prediction: what it predicted.

  Returns:
    Everything that was predicted, by the names of `property_names`, with `NAME_std` of
    committees; and the energy as `free_energy`, which ASE's optimisers ask for.
  """
  results: dict[str, Any] = {}
  names = property_names(task)
  for target in task.predicted:
    value = prediction.get(target)
    if value is None:
      continue
    results[names[target.name]] = value
    if target.name in prediction.std:
      results[f"{names[target.name]}_std"] = prediction.std[target.name]
  if "energy" in results:
    results["free_energy"] = results["energy"]
  return results
