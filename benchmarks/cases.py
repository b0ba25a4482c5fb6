"""What is measured: model, tasks and packed batches of each kind of data."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

import numpy as np

from benchmarks import structures as structures_lib
from data.converters import qm9
from data.converters import rmd17
from jmp_hk import dataset_info
from jmp_hk import published
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import budget_search
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib

Kind = tasks_lib.TargetKind
Draw = Callable[[np.random.Generator], structure_lib.Structure]

MODELS = {"tiny": "tiny", "small": "gemnet_oc_small", "large": "gemnet_oc_large"}
PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}

_PERIODIC = dataset_info.PUBLISHED["oc20"].graph
_MOLECULES = dataset_info.PUBLISHED["ani1x"].graph

# Chance of each dataset at temperature 2 with 100 M, 8 M, 2 M and 10 M structures.
_CHANCES = np.sqrt([100.0, 8.0, 2.0, 10.0])
_SAMPLE = 256
_NUM_STEPS = 3
_CONSERVATIVE_TARGETS = (
  tasks_lib.TargetConfig("energy", Kind.ENERGY, loss_coefficient=0.0, head_bias=False),
  tasks_lib.TargetConfig("forces", Kind.CONSERVATIVE_FORCES, loss_coefficient=10.0),
)


@dataclasses.dataclass(frozen=True)
class Source:
  """One dataset of a case.

  Attributes:
    draw: makes one structure.
    graph: graph settings.
    chance: relative chance of being drawn.
  """

  draw: Draw
  graph: graph_config.GraphConfig
  chance: float = 1.0


@dataclasses.dataclass(frozen=True)
class Case:
  """One kind of data with the tasks that are learned on it.

  Attributes:
    tasks: one per source.
    sources: drawn from at random; or, with `fixed`, only for their graph settings.
    fixed: makes the structures of the one batch, given their number; None draws.
    structures: wanted number of structures in a batch on a CPU.
    fills_card: on an accelerator, batches are as large as its memory allows.
    direct_vectors: whether the backbone has an edge branch.
    edge_dropout: rate at which edges are left out.
  """

  tasks: tuple[tasks_lib.TaskConfig, ...]
  sources: tuple[Source, ...]
  fixed: Callable[[int], list[structure_lib.Structure]] | None = None
  structures: int = 8
  fills_card: bool = False
  direct_vectors: bool = True
  edge_dropout: float = 0.0

  @property
  def builder(self) -> builder_lib.GraphBuilder:
    """Builder of the graphs; the same for all sizes of the backbone."""
    return self.model("tiny", "f32").backbone.graph_builder

  def model(
    self, model: str, precision: str, remat: bool = False
  ) -> model_lib.ModelConfig:
    """The model that learns this case's tasks."""
    backbone = dataclasses.replace(
      backbone_lib.preset(MODELS[model]),
      direct_vectors=self.direct_vectors,
      edge_dropout=self.edge_dropout,
      remat=remat,
    )
    return model_lib.ModelConfig(backbone, self.tasks, PRECISIONS[precision])


def _slab_structures(count: int) -> list[structure_lib.Structure]:
  return [structures_lib.bench_slabs()[i % 2] for i in range(count)]


def _organic(mean: float, spread: float, smallest: int, largest: int) -> Draw:
  return lambda rng: structures_lib.sized_molecule(rng, mean, spread, smallest, largest)


def _pretraining_tasks(*names: str) -> tuple[tasks_lib.TaskConfig, ...]:
  return tuple(
    tasks_lib.pretraining_task(
      name, 1.0, published.PRETRAINING[name].force_coefficient
    )
    for name in names
  )


CASES = {
  # The two batches on which the original was timed.
  "slabs": Case(
    _pretraining_tasks("oc20"),
    (Source(structures_lib.random_slab, _PERIODIC),),
    fixed=_slab_structures,
    structures=2,
  ),
  "molecules": Case(
    _pretraining_tasks("ani1x"),
    (Source(_organic(15, 4, 4, 40), _MOLECULES),),
    fixed=structures_lib.toluenes,
    structures=8,
  ),
  # Pre-training by the published recipe: four datasets, T = 2, edge dropout 0.1.
  "mixture": Case(
    _pretraining_tasks("oc20", "oc22", "ani1x", "transition1x"),
    (
      Source(structures_lib.random_slab, _PERIODIC, _CHANCES[0]),
      Source(structures_lib.random_oxide_slab, _PERIODIC, _CHANCES[1]),
      Source(_organic(15, 6, 4, 63), _MOLECULES, _CHANCES[2]),
      Source(_organic(14, 3.5, 4, 23), _MOLECULES, _CHANCES[3]),
    ),
    structures=8,
    fills_card=True,
    edge_dropout=0.1,
  ),
  # Fine-tuning on a scalar of small molecules.
  "qm9": Case(
    (tasks_lib.TaskConfig("qm9", (tasks_lib.TargetConfig("U_0", Kind.SCALAR),)),),
    (Source(_organic(18, 3, 3, 29), qm9.GRAPH),),
    structures=48,
    direct_vectors=False,
  ),
  # Fine-tuning on forces that are derivatives of the energy: second order.
  "rmd17": Case(
    (tasks_lib.TaskConfig("rmd17", _CONSERVATIVE_TARGETS),),
    (Source(lambda rng: structures_lib.random_molecule(rng, 21), rmd17.GRAPH),),
    structures=4,
    fills_card=True,
    direct_vectors=False,
  ),
}


@dataclasses.dataclass(frozen=True)
class Batches:
  """Packed batches of one case.

  Attributes:
    steps: the microbatches of each step, batches of NumPy arrays, all of one budget; the
      first ones of the stream.
    budget: of each microbatch.
    padding_useful: part of the main edges' budget that real edges use, averaged over
      more batches than were packed.
  """

  steps: tuple[tuple[batch_lib.Batch, ...], ...]
  budget: budget_lib.Budget
  padding_useful: float


class Sample:
  """Graphs of a case's structures; batches of any size are packed from them."""

  def __init__(self, case: Case, seed: int = 0):
    """Draws structures and builds their graphs.

    Args:
      case: what to draw.
      seed: of the draws.
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
      structures: wanted number of structures of a step.
      microbatches: microbatches that a step works through one after another.
    """
    if self._case.fixed is not None:
      return self._pack_fixed(self._case.fixed(structures), microbatches)
    sizes = [self._builder.sizes(item.graphs) for item in self._items]
    each = max(structures // microbatches, 1)
    budget = budget_search.search_budget(
      sizes, budget_lib.BudgetConfig(structures=each)
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

  def _specs(self, items):
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
