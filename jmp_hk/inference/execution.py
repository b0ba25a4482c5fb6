"""Runs one head over structures: graphs, batches, and a check of the numbers."""

from collections.abc import Iterable
from collections.abc import Sequence
import contextlib
import dataclasses

import ase
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import batching
from jmp_hk.inference import preparation
from jmp_hk.inference import preparer as preparer_lib
from jmp_hk.inference import single_head
from jmp_hk.inference import spreading
from jmp_hk.runtime import devices as devices_lib

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
    num_workers: processes that build graphs and batches where there are many
      structures; 0 makes them in this one.
    records_at_once: how many records have their graphs in memory together.
  """

  head: single_head.SingleHead
  graph: graph_config.GraphConfig
  batch_edges: int
  embed: bool = False
  on_progress: batching.OnProgress | None = None
  devices: Sequence[devices_lib.Device] = ()
  num_workers: int = 0
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
    if isinstance(structures, ase.Atoms):  # It would be iterated over by its atoms.
      structures = [structures]
    structures = list(structures)
    with self._open_preparer(len(structures)) as preparer:
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

    with self._open_preparer(len(records)) as preparer:
      # Workers keep no graphs.
      at_once = len(records) if preparer.num_ahead else self.records_at_once
      for start in range(0, len(records), at_once):
        part = records[start : start + at_once]
        outputs = self._run(_valid(preparer.prepare(part)), preparer, report)
        results += zip(part, outputs, strict=True)
    preparation.only_finite(results)
    return results

  def _open_preparer(
    self, num_structures: int
  ) -> contextlib.AbstractContextManager[preparer_lib.Preparer]:
    return preparer_lib.open_preparer(
      self.head.builder, self.graph, num_structures, self.num_workers
    )

  def _run(
    self,
    items: Sequence[preparer_lib.Prepared],
    preparer: preparer_lib.Preparer,
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


def _valid(
  items: Iterable[preparer_lib.Prepared | structure_lib.InvalidStructureError],
) -> list[preparer_lib.Prepared]:
  """All items; raises the first error among them."""
  found = []
  for item in items:
    if isinstance(item, structure_lib.InvalidStructureError):
      raise item
    found.append(item)
  return found
