"""Packed batches of the cases, of any size."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from benchmarks import cases
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import budget_search
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import packing
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.targets import config as tasks_lib

_SAMPLE = 256  # Structures that random cases draw from.
_NUM_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Batches:
  """Packed batches of one case.

  Attributes:
    steps: microbatches of each step, of NumPy arrays and of one budget; the first steps
      of the stream.
    budget: static sizes of a microbatch.
    padding_useful: part of the budget's main edges that real edges use, averaged over
      more batches than were packed.
  """

  steps: tuple[tuple[batch_lib.Batch, ...], ...]
  budget: budget_lib.Budget
  padding_useful: float


class Sample:
  """Graphs of a case's structures; batches of any size are packed from them."""

  def __init__(self, case: cases.Case, seed: int = 0):
    """Draws structures and builds their graphs.

    Args:
      case: what to draw.
      seed: seed of the draws.
    """
    self._case = case
    self._builder = case.builder
    self._rng = np.random.default_rng(seed)
    self._items: list[packing.PackItem] = []
    if case.fixed is None:
      chances = np.array([source.chance for source in case.sources])
      tasks = self._rng.choice(len(chances), _SAMPLE, p=chances / chances.sum())
      for task in tasks:
        self._items.append(self._item(case.sources[task].draw(self._rng), int(task)))

  def batches(self, structures: int, microbatches: int = 1) -> Batches:
    """Packs the batches of a few steps.

    Args:
      structures: wanted number of structures in a step.
      microbatches: number of microbatches that a step works through one after another.
    """
    if self._case.fixed is not None:
      return self._pack_fixed(self._case.fixed(structures), microbatches)
    sizes = [self._builder.sizes(item.graphs) for item in self._items]
    each = max(structures // microbatches, 1)
    limits = self._builder.width_limits(
      [source.graph for source in self._case.sources],
      max(entry.num_atoms for entry in sizes),
    )
    budget = budget_search.search_budget(
      sizes, budget_lib.BudgetConfig(structures=each), limits=limits
    )
    return self._pack_stream(sizes, budget, pool_lib.least_size(each), microbatches)

  def _pack_fixed(
    self, structures: Sequence[structure_lib.Structure], microbatches: int
  ) -> Batches:
    """Packs the same structures into the microbatches of one step."""
    items = [self._item(s, 0) for s in structures]
    shares = [items[i::microbatches] for i in range(microbatches)]
    needs = [
      exact_budget(self._builder, [item.graphs for item in share]) for share in shares
    ]
    budget = budget_lib.largest(needs)
    specs = self._specs(items)
    step = tuple(
      packing.pack(share, self._builder, budget, targets=specs) for share in shares
    )
    total = sum(self._builder.sizes(item.graphs).num_main_items for item in items)
    used = total / (budget.num_main_items * microbatches)
    return Batches((step,), budget, used)

  def _pack_stream(
    self,
    sizes: Sequence[budget_lib.Budget],
    budget: budget_lib.Budget,
    pool_size: int,
    microbatches: int,
  ) -> Batches:
    """Packs the first steps of a stream of random draws."""
    pool = pool_lib.Pool(budget, pool_size)
    packed, used = [], []
    while len(used) < max(12, _NUM_STEPS * microbatches):
      while not pool.is_full:
        index = int(self._rng.integers(len(self._items)))
        pool.add(0, index, sizes[index])
      _, chosen = pool.take()
      used.append(sum(sizes[i].num_main_items for i in chosen) / budget.num_main_items)
      if len(packed) < _NUM_STEPS * microbatches:
        items = [self._items[i] for i in chosen]
        packed.append(
          packing.pack(items, self._builder, budget, targets=self._specs(self._items))
        )
    steps = [
      tuple(packed[i : i + microbatches]) for i in range(0, len(packed), microbatches)
    ]
    return Batches(tuple(steps), budget, float(np.mean(used)))

  def _specs(self, items: Sequence[packing.PackItem]) -> dict[str, packing.LabelShape]:
    return {
      name: packing.LabelShape.of(value) for name, value in items[0].targets.items()
    }

  def _item(self, structure: structure_lib.Structure, task: int) -> packing.PackItem:
    case = self._case
    graphs = self._builder.build(structure, case.sources[task].graph, self._rng)
    return packing.PackItem(graphs, task, _targets(structure, case.tasks[task]))


def _targets(
  structure: structure_lib.Structure, task: tasks_lib.TaskConfig
) -> dict[str, np.ndarray]:
  """Labels of a task; any number does for timing."""
  values = {"energy": np.float32(structure.energy), "forces": structure.forces}
  return {
    target.name: values.get(target.name, values["energy"]) for target in task.targets
  }


def exact_budget(
  builder: builder_lib.GraphBuilder, graphs: Sequence[builder_lib.StructureGraphs]
) -> budget_lib.Budget:
  """A budget that holds just these structures, rounded up as budgets are."""
  sizes = [builder.sizes(entry) for entry in graphs]
  together = budget_lib.total(sizes, builder.budget_type)
  config = budget_lib.BudgetConfig(
    1, headroom=1.0, graph_headroom=1.0, width_headroom=1.0, single_headroom=1.0
  )
  return budget_lib.choose_budget([together], config)
