"""Checks structures before any model time is spent, and predictions after it."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import ase
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk import structure as structure_lib
from jmp_hk.inference import batching

OnInvalid = Callable[[int, str], None]  # Index of a structure, its problem.


class InvalidStructuresError(ValueError):
  """Structures cannot be predicted.

  Attributes:
    problems: by the index of the structure.
  """

  def __init__(self, problems: Mapping[int, str]) -> None:
    self.problems = dict(problems)
    super().__init__(
      f"{len(self.problems)} of the structures cannot be predicted: "
      + "; ".join(self.problems.values())
      + "."
    )


@dataclasses.dataclass(frozen=True)
class InvalidPolicy:
  """What happens to structures that cannot be predicted.

  Attributes:
    skip: leave them out instead of raising `InvalidStructuresError`.
    on_skip: called for each that is left out.
  """

  skip: bool = False
  on_skip: OnInvalid | None = None

  def apply(self, problems: Mapping[int, str]) -> None:
    """Raises if there are problems, or reports them."""
    if problems and not self.skip:
      raise InvalidStructuresError(problems)
    if self.on_skip is not None:
      for index, problem in problems.items():
        self.on_skip(index, problem)


def prepare(
  structures: Iterable[ase.Atoms],
  info: dataset_info.DatasetInfo,
  preparer: batching.Preparer,
  policy: InvalidPolicy = InvalidPolicy(),
) -> list[batching.Prepared | None]:
  """Checks all structures and builds their graphs.

  Args:
    structures: any number of structures.
    info: of the head that is to predict them.
    preparer: builds their graphs.
    policy: what happens to those that cannot be predicted.

  Returns:
    What was prepared; None for those that are left out.

  Raises:
    InvalidStructuresError: some cannot be predicted; names all of them.
  """
  items: list[batching.Prepared | None] = []
  problems: dict[int, str] = {}
  for index, atoms in enumerate(structures):
    name = f"structure {index} ({atoms.get_chemical_formula()})"
    try:
      items.append(preparer(from_ase.from_atoms(atoms, info, name)))
    except structure_lib.InvalidStructureError as error:
      items.append(None)
      problems[index] = str(error)
  policy.apply(problems)
  return items


def only_finite(
  items: Sequence[batching.Prepared | None],
  outputs: Sequence[Mapping[str, np.ndarray] | None],
  policy: InvalidPolicy = InvalidPolicy(),
) -> list[Mapping[str, np.ndarray] | None]:
  """Leaves out what the model computed no finite numbers for; arguments as above."""
  results = list(outputs)
  problems = {}
  for index, (item, values) in enumerate(zip(items, outputs, strict=True)):
    if values and not all(np.isfinite(value).all() for value in values.values()):
      results[index] = None
      problems[index] = (
        f"{item.structure.record_id}: the model gives no finite numbers (atoms that lie "
        "on one another, or the wrong weights)"
      )
  policy.apply(problems)
  return results
