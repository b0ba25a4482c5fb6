"""An ASE calculator for any model of this program."""

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
from jmp_hk.inference import prediction
from jmp_hk.inference import predictor as predictor_lib


class JMPCalculator(ase_calculator.Calculator):
  """Energy, forces and, for conservative heads, stress.

  Graphs are built anew at every call; compiled programs are used again while atoms
  move, although their numbers of neighbors change.

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
      model: a loaded model, or the directory of one.
      head: name of the head; may be left out if there is only one.
      precision: "float32" or "float64", where `model` is a directory.
      **kwargs: passed to ASE.

    Raises:
      ValueError: there is no such head, or it predicts no energy.
      CheckpointError: there is no model in the directory.
    """
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
    self._budget = buckets.MovingBudget(
      self._runner.builder, self._runner.info.graph
    )

  @property
  def num_compilations(self) -> int:
    """Programs compiled so far for this head."""
    return self._runner.num_compilations

  def calculate(
    self,
    atoms: ase.Atoms | None = None,
    properties: Sequence[str] = ("energy",),
    system_changes: Sequence[str] = tuple(ase_calculator.all_changes),
  ) -> None:
    """Computes everything that the head predicts, see ASE.

    Raises:
      InvalidStructureError: the structure cannot be predicted; says why.
      CalculationFailed: the model gives no finite numbers.
      PropertyNotImplementedError: a stress is wanted but there is no volume.
    """
    super().calculate(atoms, properties, system_changes)
    runner = self._runner
    structure = from_ase.from_atoms(self.atoms, runner.info, "the structure")
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
    result = prediction.denormalise(runner.task, runner.info, structure, values)
    self.results = {
      target.spec.calculator_property: result.get(target)
      for target in runner.task.targets
    }
    self.results["free_energy"] = result.energy
    if result.stress is not None:
      self.results["stress"] = result.stress
    elif "stress" in properties:
      raise ase_calculator.PropertyNotImplementedError(
        "There is no stress without a periodic cell of finite volume."
      )
