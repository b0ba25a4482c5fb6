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
from jmp_hk import problems as problems_lib
from jmp_hk import structure as structure_lib
from jmp_hk.inference import preparer as preparer_lib

# What users give; a single structure counts as a list of one.
Structures = ase.Atoms | Iterable[ase.Atoms]
# A structure with the model's outputs for it, by name.
Result = tuple[structure_lib.Structure, Mapping[str, np.ndarray]]
# Called with the index of a structure and its problem.
OnInvalid = Callable[[int, str], None]


class InvalidStructuresError(ValueError):
  """Structures cannot be predicted.

  Attributes:
    problems: what is wrong, by the index of the structure.
  """

  def __init__(self, problems: Mapping[int, str]) -> None:
    self.problems = dict(problems)
    named = [problem.partition(": ") for problem in self.problems.values()]
    super().__init__(
      f"{len(self.problems)} of the structures cannot be predicted: "
      + problems_lib.summarise([(name, reason) for name, _, reason in named])
    )


@dataclasses.dataclass(frozen=True)
class InvalidPolicy:
  """What happens to structures that cannot be predicted.

  Attributes:
    skip: whether to leave them out instead of raising `InvalidStructuresError`.
    on_skip: called for each structure that is left out.
  """

  skip: bool = False
  on_skip: OnInvalid | None = None

  def apply(self, problems: Mapping[int, str]) -> None:
    """Raises where there are problems, or reports them.

    Args:
      problems: what is wrong, by the index of the structure.

    Raises:
      InvalidStructuresError: there are problems, and they are not to be skipped.
    """
    if problems and not self.skip:
      raise InvalidStructuresError(problems)
    if self.on_skip is not None:
      for index, problem in problems.items():
        self.on_skip(index, problem)


def prepare(
  structures: Sequence[ase.Atoms],
  info: dataset_info.DatasetInfo,
  preparer: preparer_lib.Preparer,
  policy: InvalidPolicy = InvalidPolicy(),
) -> list[preparer_lib.Prepared | None]:
  """Checks all structures and builds their graphs.

  Args:
    structures: any number of structures.
    info: constants of the dataset of the head that is to predict them.
    preparer: measures their graphs.
    policy: what happens to those that cannot be predicted.

  Returns:
    The prepared structures; None for those that are left out.

  Raises:
    InvalidStructuresError: some cannot be predicted; the message sums them up.
    TypeError: something is no `ase.Atoms`.
  """
  converted: dict[int, structure_lib.Structure] = {}
  problems: dict[int, str] = {}
  for index, atoms in enumerate(structures):
    if not isinstance(atoms, ase.Atoms):
      raise TypeError(
        f"Structures must be ase.Atoms; structure {index} is a {type(atoms).__name__}."
      )
    name = from_ase.name_of(atoms, index)
    try:
      converted[index] = from_ase.from_atoms(atoms, info, name)
    except structure_lib.InvalidStructureError as error:
      problems[index] = str(error)
  items: list[preparer_lib.Prepared | None] = [None] * len(structures)
  found = preparer.prepare(list(converted.values()))
  for index, item in zip(converted, found, strict=True):
    if isinstance(item, preparer_lib.Prepared):
      items[index] = item
    else:
      problems[index] = str(item)
  policy.apply(dict(sorted(problems.items())))
  return items


def only_finite(
  results: Sequence[Result | None], policy: InvalidPolicy = InvalidPolicy()
) -> list[Result | None]:
  """Leaves out what the model computed no finite numbers for.

  Args:
    results: structures with the model's outputs; None for those that were left out.
    policy: what happens to structures with other numbers.

  Returns:
    The results; None for those that were and are left out.

  Raises:
    InvalidStructuresError: numbers are not finite; the message names the structures.
  """
  checked = list(results)
  problems = {}
  for index, result in enumerate(results):
    if result is None:
      continue
    structure, values = result
    if not all(np.isfinite(value).all() for value in values.values()):
      checked[index] = None
      problems[index] = (
        f"{structure.record_id}: the model gives no finite numbers (atoms that lie on "
        "one another, or the wrong weights)"
      )
  policy.apply(problems)
  return checked
