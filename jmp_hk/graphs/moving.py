"""How graphs follow moving atoms without the host.

A backbone may offer `MovingGraphs`: the host finds candidates that stay good until
distances have changed by a skin, and a function that is traced into the step makes a
packed batch's graphs of them.
"""

import abc
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib

if TYPE_CHECKING:
  import jax

  from jmp_hk.graphs import batch as batch_lib


class CandidatesError(RuntimeError):
  """Candidates cannot be found, although graphs can be built."""


Arrays = Mapping[str, np.ndarray]


class Atoms(NamedTuple):
  """What of a packed batch the graphs depend on.

  Attributes:
    positions: [N, 3] float64, Å.
    cell: [G, 3, 3] float64, Å.
    node_graph: [N] int32, structure of each atom.
    n_node: [G] int32, atoms of each structure.
    num_real: [] int32, number of atoms that are no padding.
  """

  positions: "jax.Array"
  cell: "jax.Array"
  node_graph: "jax.Array"
  n_node: "jax.Array"
  num_real: "jax.Array"


class MovingGraphs(abc.ABC):
  """Graphs of a fixed set of structures whose atoms move.

  Attributes:
    skin: by how much distances may change before candidates are found anew, Å.
    reach: distance of the farthest candidates, Å.
  """

  skin: float
  reach: float

  @abc.abstractmethod
  def find(self, structure: structure_lib.Structure) -> Any:
    """Finds the candidates of one structure on the host.

    Raises:
      InvalidStructureError: positions or cell cannot be used.
    """

  @abc.abstractmethod
  def widths(self, entries: Sequence[Any], known: Sequence[Any] = ()) -> Any:
    """Static widths for candidates: known ones where they fit, or new ones with room.

    Args:
      entries: candidates of a batch's structures.
      known: widths that something is compiled for, in the order of preference.
    """

  def fits(self, widths: Any, budget: budget_lib.Budget) -> bool:
    """Whether a budget has room for what follows from the widths alone."""
    del widths, budget
    return True

  @abc.abstractmethod
  def pack(self, entries: Sequence[Any], widths: Any, num_atoms: int) -> Arrays:
    """Puts candidates into arrays of static shapes.

    Args:
      entries: candidates of the structures, in the order of the batch.
      widths: from `widths`.
      num_atoms: atoms of the batch, with padding.
    """

  @abc.abstractmethod
  def estimate(self, entries: Sequence[Any], widths: Any) -> budget_lib.Budget:
    """Sizes that the graphs of a batch's structures need now, without padding."""

  @abc.abstractmethod
  def build(
    self,
    arrays: Mapping[str, "jax.Array"],
    atoms: Atoms,
    budget: budget_lib.Budget,
    dtype: Any,
  ) -> "tuple[batch_lib.PackedGraphs, jax.Array]":
    """Makes the graphs of a batch; traced, with 64 bits enabled.

    Args:
      arrays: from `pack`.
      atoms: where atoms are.
      budget: static sizes of the batch.
      dtype: data type of lengths in the graphs.

    Returns:
      The graphs, and [fields] what they need in the order of `budget.names`: where any
      is larger than the budget, the graphs are wrong.
    """
