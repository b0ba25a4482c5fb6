"""Runs one head over structures: graphs, batches, and a check of the numbers."""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

import jax
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import batching
from jmp_hk.inference import preparation
from jmp_hk.inference import single_head
from jmp_hk.inference import spreading

Result = preparation.Result


@dataclasses.dataclass(frozen=True)
class Execution:
  """What one head computes for structures.

  Attributes:
    head: the head.
    graph: settings of the graphs.
    batch_edges: about how many main edges a batch has.
    embed: whether to compute embeddings instead of predictions.
    on_progress: called after each batch, or None.
    devices: devices that share the batches; none stands for the default one of jax.
    records_at_once: how many records have their graphs in memory together.
  """

  head: single_head.SingleHead
  graph: graph_config.GraphConfig
  batch_edges: int
  embed: bool = False
  on_progress: batching.OnProgress | None = None
  devices: Sequence[jax.Device] = ()
  records_at_once: int = 2048

  def run_atoms(
    self, structures: preparation.Structures, policy: preparation.InvalidPolicy
  ) -> list[Result | None]:
    """Runs ASE's structures, all of which are checked before any is run.

    Args:
      structures: any number of structures; a single one counts as a list of one.
      policy: what happens to structures that cannot be predicted.

    Returns:
      Structures with outputs, in their order; None for those that are skipped.

    Raises:
      InvalidStructuresError: structures cannot be predicted and are not to be skipped.
    """
    preparer = batching.Preparer(self.head.builder, self.graph)
    items = preparation.prepare(structures, self.head.info, preparer, policy)
    valid = [item for item in items if item is not None]
    outputs = iter(self._run(valid, preparer, self.on_progress))
    results = [
      None if item is None else (item.structure, next(outputs)) for item in items
    ]
    return preparation.only_finite(results, policy)

  def run_records(self, structures: Iterable[structure_lib.Structure]) -> list[Result]:
    """Runs records of a converted dataset, some at a time.

    Args:
      structures: valid structures.

    Returns:
      Structures with outputs, in their order.

    Raises:
      InvalidStructureError: no graphs can be built of a structure.
      InvalidStructuresError: the model gives numbers that are not finite.
    """
    records = list(structures)
    results: list[Result] = []

    def report(done: int, total: int) -> None:
      del total  # Of this part.
      if self.on_progress is not None:
        self.on_progress(len(results) + done, len(records))

    for start in range(0, len(records), self.records_at_once):
      preparer = batching.Preparer(self.head.builder, self.graph)
      items = [preparer(x) for x in records[start : start + self.records_at_once]]
      outputs = self._run(items, preparer, report)
      results += [(x.structure, y) for x, y in zip(items, outputs, strict=True)]
    preparation.only_finite(results)
    return results

  def _run(
    self,
    items: Sequence[batching.Prepared],
    preparer: batching.Preparer,
    on_progress: batching.OnProgress | None,
  ) -> list[dict[str, np.ndarray]]:
    """Outputs for prepared structures."""
    head = self.head
    name: single_head.Function = "embed" if self.embed else "predict"
    return batching.run(
      items,
      lambda batches: head.run(name, batches, self.devices[: len(batches)]),
      () if self.embed else head.per_atom,
      preparer.make_buckets(items, self.batch_edges, head.budgets),
      preparer,
      head.dtype,
      on_progress,
      lambda number, budget: spreading.choose_count(
        number, max(1, len(self.devices)), head.compiled_for(name, budget)
      ),
    )
