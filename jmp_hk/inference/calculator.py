"""An ASE calculator for a trained model."""

from collections.abc import Sequence
import os
from typing import Any

import ase
from ase.calculators import calculator as ase_calculator
import jax
import numpy as np

from jmp_hk import from_ase
from jmp_hk.graphs import buckets
from jmp_hk.graphs import packing
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import smoothness
from jmp_hk.runtime import configuration


class JMPCalculator(ase_calculator.Calculator):
  """Computes all that a head predicts, and the stress if it is conservative.

  Graphs are built anew at every call. Compiled programs are used again while atoms
  move, although their numbers of neighbors change. When forces are first asked for, a
  warning is logged if they do not suit molecular dynamics, see `smoothness`.

  Example:
    atoms.calc = JMPCalculator("DIR", head="ani1x")
    ase.optimize.BFGS(atoms).run(fmax=0.05)
  """

  def __init__(
    self,
    model: predictor_lib.Predictor | str | os.PathLike[str],
    head: str | None = None,
    *,
    precision: str = "float32",
    **kwargs: Any,
  ) -> None:
    """Makes a calculator.

    Args:
      model: a loaded model, or a path that `jmp_hk.load` takes.
      head: name of the head; may be left out if the model has one.
      precision: see `jmp_hk.load`; only where `model` is a path.
      **kwargs: arguments of ASE's calculators.

    Raises:
      ValueError: there is no such head, or it predicts no energy.
      CheckpointError: the path leads to no model.
    """
    configuration.configure()
    super().__init__(**kwargs)
    if not isinstance(model, predictor_lib.Predictor):
      model = predictor_lib.load(model, precision=precision)
    self._runner = model.head(head)
    task = self._runner.task
    names = [target.name for target in task.targets]
    if "energy" not in names:
      raise ValueError(
        f"The head {task.name!r} predicts {', '.join(names)} but no energy; use "
        "jmp_hk.predict for it."
      )
    specs = [target.spec for target in task.targets]
    self.implemented_properties = [spec.calculator_property for spec in specs]
    self.implemented_properties.append("free_energy")
    if task.is_conservative:
      self.implemented_properties.append("stress")
    self._budget = buckets.MovingBudget(self._runner.builder, self._runner.info.graph)
    self._has_warned = False

  @property
  def num_compilations(self) -> int:
    """Number of programs compiled so far, for all heads of the model."""
    return self._runner.num_compilations

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
    structure = from_ase.from_atoms(self.atoms, runner.info, "the structure")
    if "forces" in properties and not self._has_warned:
      self._has_warned = True
      smoothness.warn(runner.task, runner.info, structure)
    graphs = runner.builder.build(structure, runner.info.graph)
    budget = self._budget.fit(runner.builder.sizes(graphs), structure)
    item = packing.PackItem(graphs)
    batch = packing.pack([item], runner.builder, budget, runner.dtype)
    outputs = jax.device_get(runner.predict(batch))
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
    self.results = {
      target.spec.calculator_property: result.get(target)
      for target in runner.task.targets
    }
    self.results["free_energy"] = self.results["energy"]
    if result.stress is not None:
      self.results["stress"] = result.stress
    elif "stress" in properties:
      raise ase_calculator.PropertyNotImplementedError(
        "There is no stress without a periodic cell of finite volume."
      )
