"""How a backbone turns structures into the graphs that it reads.

Training, prediction and the data pipeline ask a `GraphBuilder` for everything that
depends on the backbone; they know nothing of its edges and tables. Building imports
NumPy alone, so that worker processes start fast; packing may import more.
"""

import abc
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING
from typing import Any
from typing import ClassVar

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config

if TYPE_CHECKING:
  from jmp_hk.graphs import batch as batch_lib
  from jmp_hk.graphs import layout as layout_lib
  from jmp_hk.graphs import moving as moving_lib


@dataclasses.dataclass(frozen=True)
class StructureGraphs:
  """The graphs of one structure; backbones add what they need.

  Attributes:
    structure: the structure that the graphs belong to.
  """

  structure: structure_lib.Structure


@dataclasses.dataclass(frozen=True)
class GraphBuilder(abc.ABC):
  """Builds the graphs of single structures and packs those of several.

  Builders are small values: they are compared, hashed and sent to worker processes.

  Attributes:
    edge_dropout: probability with which each directed edge is left out in training.
  """

  # The static sizes that the graphs of this backbone need.
  budget_type: ClassVar[type[budget_lib.Budget]]
  # Raised where the same settings give other graphs than before: stored sizes of an
  # earlier version are measured anew.
  version: ClassVar[int] = 1

  edge_dropout: float = 0.0

  def __post_init__(self) -> None:
    if not 0.0 <= self.edge_dropout < 1.0:
      raise ValueError(f"edge_dropout must lie in [0, 1), got {self.edge_dropout}.")

  @abc.abstractmethod
  def build(
    self,
    structure: structure_lib.Structure,
    config: graph_config.GraphConfig,
    rng: np.random.Generator | None = None,
  ) -> StructureGraphs:
    """Builds the graphs of a structure.

    Args:
      structure: any number of atoms, with or without neighbors.
      config: cutoff and number of neighbors, from the structure's dataset.
      rng: source of the edge dropout's draws; None leaves all edges in.

    Returns:
      The graphs.

    Raises:
      InvalidStructureError: positions or cell cannot be used.
      ValueError: the settings or the number of atoms cannot be used.
    """

  def build_fitting(
    self,
    structure: structure_lib.Structure,
    config: graph_config.GraphConfig,
    rng: np.random.Generator | None,
    budget: budget_lib.Budget,
  ) -> StructureGraphs:
    """Builds graphs with edge dropout that fit into an empty batch.

    Where near edges are left out, far ones take their place, and an atom can get more
    edges than without dropout. Graphs that exceed a budget which the structure fits
    into without dropout are built without it, so that no draw ends a run.

    Args:
      structure: see `build`.
      config: likewise.
      rng: likewise.
      budget: static sizes of the batch.
    """
    if rng is None or not self.edge_dropout:
      return self.build(structure, config)
    graphs = self.build(structure, config, rng)
    if budget_lib.fits(self.sizes(graphs), budget):
      return graphs
    return self.build(structure, config)

  def measure(
    self, structure: structure_lib.Structure, config: graph_config.GraphConfig
  ) -> Any:
    """What a structure's graphs need without edge dropout, as `sizes` of `build`.

    Backbones that can count faster than they can build do.

    Args:
      structure: see `build`.
      config: likewise.

    Raises:
      InvalidStructureError, ValueError: see `build`.
    """
    return self.sizes(self.build(structure, config))

  @abc.abstractmethod
  def sizes(self, graphs: Any) -> budget_lib.Budget:
    """What one structure's graphs need, without padding."""

  @abc.abstractmethod
  def pack(
    self, graphs: Sequence[Any], layout: "layout_lib.Layout"
  ) -> "batch_lib.PackedGraphs":
    """Packs the graphs of several structures.

    Args:
      graphs: graphs of the structures in the order of the batch.
      layout: where the atoms of each structure lie, and the budget.

    Returns:
      A pytree of arrays with static shapes, `Batch.graphs`.
    """

  def moving(
    self, config: graph_config.GraphConfig, skin: float
  ) -> "moving_lib.MovingGraphs | None":
    """How graphs follow moving atoms on the device; by default they cannot.

    Args:
      config: graph settings of the structures.
      skin: by how much distances may change before the host is asked again, Å.
    """
    del config, skin
    return None

  @abc.abstractmethod
  def width_limits(
    self, configs: Sequence[graph_config.GraphConfig], most_atoms: int
  ) -> dict[str, int]:
    """Widths that no structure exceeds.

    Args:
      configs: graph settings of all datasets.
      most_atoms: number of atoms of the largest structure.

    Returns:
      Largest possible widths by field name of the budget, for those that are bounded.
    """

  @abc.abstractmethod
  def limits(
    self, structure: structure_lib.Structure, config: graph_config.GraphConfig
  ) -> Mapping[str, int]:
    """Sizes that no arrangement of a structure's atoms exceeds, by field name."""

  @abc.abstractmethod
  def extrapolate(
    self, known: Any, num_atoms: int, config: graph_config.GraphConfig
  ) -> budget_lib.Budget:
    """Estimates the sizes of a larger structure than those that were looked at.

    Args:
      known: sizes of the largest structure that was looked at.
      num_atoms: number of atoms of the larger one.
      config: graph settings of the dataset.
    """
