"""GemNet-OC's graphs on the host: built, measured and packed."""

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING
from typing import ClassVar

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.models.gemnet_oc.graphs import budget as budget_lib
from jmp_hk.models.gemnet_oc.graphs import build as build_lib
from jmp_hk.models.gemnet_oc.graphs import choice
from jmp_hk.models.gemnet_oc.graphs import measure as measure_lib

if TYPE_CHECKING:
  from jmp_hk.graphs import layout as layout_lib
  from jmp_hk.models.gemnet_oc import device_graphs
  from jmp_hk.models.gemnet_oc.graphs import packing

Budget = budget_lib.GemNetOCBudget

_PUBLISHED = graph_config.Truncation.PUBLISHED
_MORE_NEIGHBORS = 2  # Than the limits, with other truncations, in an estimate.


@dataclasses.dataclass(frozen=True)
class GemNetOCGraphBuilder(builder_lib.GraphBuilder):
  """Builds the main, a2a, a2ee2a and qint graphs.

  Attributes:
    options: symmetrisation and which edges make quadruplets.
  """

  budget_type: ClassVar[type[Budget]] = Budget

  options: choice.GraphOptions = choice.GraphOptions()

  def build(
    self,
    structure: structure_lib.Structure,
    config: graph_config.GraphConfig,
    rng: np.random.Generator | None = None,
  ) -> build_lib.GemNetOCStructureGraphs:
    """See `GraphBuilder`."""
    return build_lib.build_graphs(
      structure, config, self.options, edge_dropout=self.edge_dropout, rng=rng
    )

  def measure(
    self, structure: structure_lib.Structure, config: graph_config.GraphConfig
  ) -> Budget:
    """See `GraphBuilder`."""
    counted = measure_lib.measure(structure, config, self.options)
    return super().measure(structure, config) if counted is None else counted

  def sizes(self, graphs: build_lib.GemNetOCStructureGraphs) -> Budget:
    """See `GraphBuilder`."""
    return graphs.sizes

  def pack(
    self,
    graphs: Sequence[build_lib.GemNetOCStructureGraphs],
    layout: "layout_lib.Layout",
  ) -> "packing.GemNetOCGraphs":
    """See `GraphBuilder`."""
    # Worker processes that only build need neither jax nor jraph.
    from jmp_hk.models.gemnet_oc.graphs import packing

    return packing.pack(graphs, layout)

  def moving(
    self, config: graph_config.GraphConfig, skin: float
  ) -> "device_graphs.GemNetOCMovingGraphs":
    """See `GraphBuilder`."""
    from jmp_hk.models.gemnet_oc import device_graphs

    return device_graphs.GemNetOCMovingGraphs(config, self.options, skin)

  def width_limits(
    self, configs: Sequence[graph_config.GraphConfig], most_atoms: int
  ) -> dict[str, int]:
    """See `GraphBuilder`.

    The main graph's width has no bound, and only published graphs bound the others.
    """
    if any(config.truncation is not _PUBLISHED for config in configs):
      return {"a2a_width": most_atoms}
    limits = [
      choice.neighbor_limits(config, size)
      for config in configs
      for size in (1, *(n + 1 for n, _ in config.max_neighbors_by_size))
    ]
    return {
      "a2ee2a_width": max(limit.a2ee2a for limit in limits),
      "qint_width": max(limit.qint for limit in limits),
      "a2a_width": most_atoms,
    }

  def limits(
    self, structure: structure_lib.Structure, config: graph_config.GraphConfig
  ) -> dict[str, int]:
    """See `GraphBuilder`."""
    atoms = structure.num_atoms
    neighbors = choice.neighbor_limits(config, atoms)
    limits = self.width_limits([config], atoms)
    if config.truncation is _PUBLISHED:
      limits |= {
        "num_a2ee2a": atoms * neighbors.a2ee2a,
        "num_qint": atoms * neighbors.qint,
        "num_main": 2 * atoms * neighbors.main,  # An edge and its reverse.
        "num_a2a": atoms * neighbors.a2a,
      }
    if not np.any(structure.pbc):
      others = max(atoms - 1, 1)
      for name in ("main_width", "a2a_width", "a2ee2a_width", "qint_width"):
        limits[name] = min(limits.get(name, others), others)
      for name in ("num_main", "num_a2a", "num_a2ee2a", "num_qint"):
        limits[name] = min(limits.get(name, atoms * others), atoms * others)
    return {name: max(limit, 1) for name, limit in limits.items()}

  def extrapolate(
    self, known: Budget, num_atoms: int, config: graph_config.GraphConfig
  ) -> Budget:
    """See `GraphBuilder`; edges grow with the square of the atoms up to the limits."""
    growth = num_atoms / known.num_atoms
    limits = choice.neighbor_limits(config, num_atoms)
    if config.truncation is not _PUBLISHED:
      limits = limits.scaled(_MORE_NEIGHBORS)

    def edges(count: int, limit: int) -> int:
      return int(min(count * growth**2, max(limit * num_atoms, count * growth)))

    def width(known: int, limit: int) -> int:
      return int(max(known, min(known * growth, limit)))

    return dataclasses.replace(
      known,
      num_atoms=num_atoms,
      num_main=edges(known.num_main, limits.main),
      num_a2a=edges(known.num_a2a, limits.a2a),
      num_a2ee2a=edges(known.num_a2ee2a, limits.a2ee2a),
      num_qint=edges(known.num_qint, limits.qint),
      main_width=width(known.main_width, limits.main),
      a2a_width=int(min(known.a2a_width * growth, num_atoms)),
      a2ee2a_width=max(known.a2ee2a_width, limits.a2ee2a),
      qint_width=max(known.qint_width, limits.qint),
    )
