"""From drawn structures to packed microbatches."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import packing
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import random_streams
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels

State = Mapping[str, Any]  # JSON values.


@dataclasses.dataclass(frozen=True)
class BatchSpec:
  """What every batch of a run looks like, in training and evaluation alike.

  Attributes:
    tasks: tasks of the model, which say what labels a batch has.
    builder: the backbone's builder of graphs.
    budget: static sizes of a microbatch, the largest where there are several.
    num_microbatches: microbatches of one step, over all devices and processes.
    dtype: data type of positions, cells and labels.
    smaller_budgets: further budgets, see `budgets`.
  """

  tasks: tuple[tasks_lib.TaskConfig, ...]
  builder: builder_lib.GraphBuilder
  budget: budget_lib.Budget
  num_microbatches: int = 1
  dtype: npt.DTypeLike = np.float32
  smaller_budgets: tuple[budget_lib.Budget, ...] = ()

  def __post_init__(self) -> None:
    if self.num_microbatches < 1:
      raise ValueError(
        f"num_microbatches must be positive, got {self.num_microbatches}."
      )

  @property
  def budgets(self) -> tuple[budget_lib.Budget, ...]:
    """All budgets; those of one step's microbatches are the same."""
    return (*self.smaller_budgets, self.budget)

  def pack(
    self,
    items: Sequence["Item"],
    bucket: int = -1,
    state: State | None = None,
  ) -> "Microbatch":
    """Packs structures; none gives a microbatch of padding.

    Args:
      items: the structures.
      bucket: which of `budgets` they are packed to; by default the largest.
      state: of the lane after this microbatch.

    Raises:
      BudgetError: they do not fit.
    """
    bucket %= len(self.budgets)
    items = [items[i] for i in packing.task_order([item.item.task for item in items])]
    return Microbatch(
      batch=packing.pack(
        [item.item for item in items],
        self.builder,
        self.budgets[bucket],
        self.dtype,
        labels.label_shapes(self.tasks),
      ),
      facts=Facts(
        draws=tuple(item.draw for item in items),
        record_ids=tuple(item.record_id for item in items),
        sizes=budget_lib.total([item.sizes for item in items], type(self.budget)),
        bucket=bucket,
        state=state or {},
      ),
    )


class Draw(NamedTuple):
  """One structure of a stream.

  Attributes:
    number: its number in the stream; together with the seed it decides everything
      random about it.
    dataset: index of the dataset that it comes from.
    index: its place in the dataset's source.
  """

  number: int
  dataset: int
  index: int


class Item(NamedTuple):
  """A structure with its graphs and labels, ready to be packed.

  Attributes:
    draw: its number in the stream.
    item: what is packed.
    sizes: what it needs.
  """

  draw: int
  item: packing.PackItem
  sizes: budget_lib.Budget

  @property
  def record_id(self) -> str:
    """Names the structure in messages."""
    return self.item.graphs.structure.record_id


class Facts(NamedTuple):
  """What a microbatch holds.

  Attributes:
    draws: numbers in the stream of its structures, in the order of the batch.
    record_ids: record ids of its structures, in the same order.
    sizes: what all its structures need together.
    bucket: which of `BatchSpec.budgets` it is packed to.
    state: JSON values from which its lane goes on after it.
  """

  draws: tuple[int, ...]
  record_ids: tuple[str, ...]
  sizes: budget_lib.Budget
  bucket: int
  state: State


class Microbatch(NamedTuple):
  """Structures that are packed together, one part of a step's batch.

  Attributes:
    batch: the packed structures, NumPy arrays.
    facts: what they are.
  """

  batch: batch_lib.Batch
  facts: Facts


@dataclasses.dataclass(frozen=True)
class Preparation:
  """Reads structures, normalises their labels and builds their graphs.

  A small value that is sent to worker processes; sources open their files there.

  Attributes:
    datasets: where the structures are.
    spec: what batches look like.
    seed: seed of the edge dropout; None leaves all edges in.
    with_labels: whether labels are read; batches have zeros without.
  """

  datasets: tuple[datasets_lib.Dataset, ...]
  spec: BatchSpec
  seed: int | None = None
  with_labels: bool = True

  def items(self, draws: Sequence[Draw]) -> Iterator[Item]:
    """Yields structures ready to be packed, in the order of the draws.

    Raises:
      InvalidStructureError: graphs of a structure cannot be built.
      LabelError: a structure lacks a label.
    """
    builder = self.spec.builder
    structures: list[Any] = [None] * len(draws)
    for index in sorted({draw.dataset for draw in draws}):
      places = [i for i, draw in enumerate(draws) if draw.dataset == index]
      found = self.datasets[index].source.fetch([draws[i].index for i in places])
      for place, structure in zip(places, found, strict=True):
        structures[place] = structure
    for draw, structure in zip(draws, structures, strict=True):
      dataset = self.datasets[draw.dataset]
      targets = {}
      if self.with_labels:
        task = self.spec.tasks[dataset.task]
        targets = labels.normalise_labels(structure, dataset.info, task)
      graphs = builder.build_fitting(
        structure,
        dataset.info.graph,
        random_streams.edge_dropout(self.seed, draw.number),
        self.spec.budget,
      )
      sizes = builder.sizes(graphs)
      item = packing.PackItem(graphs, dataset.task, targets)
      yield Item(draw.number, item, sizes)
