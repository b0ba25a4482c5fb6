"""Lanes and sources that workers of a test import."""

from collections.abc import Iterator
import dataclasses
import sys

from jax._src import xla_bridge

from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import lanes
from jmp_hk.pipeline import microbatches


class UnpicklableError(Exception):
  """An error that cannot be read back, since it wants two arguments."""

  def __init__(self, what: str, where: str) -> None:
    super().__init__(f"{what} in {where}")


@dataclasses.dataclass(frozen=True)
class OwnLane(lanes.Lane):
  """Gives padding with a text in place of record ids, then raises.

  Attributes:
    spec: what batches look like.
    error: what it raises after its second microbatch.
  """

  spec: microbatches.BatchSpec
  error: str = ""

  def open(
    self, state: microbatches.State | None = None
  ) -> Iterator[microbatches.Microbatch]:
    """See `Lane`."""
    found = {"tensorflow", "jax"} & set(sys.modules)
    if xla_bridge.backends_are_initialized():
      found.add("a backend of jax")
    for _ in range(2):
      made = self.spec.pack([])
      yield made._replace(facts=made.facts._replace(record_ids=tuple(sorted(found))))
    if self.error:
      raise UnpicklableError(self.error, "my data")


class CountingSource:
  """A source that notes what is read of another one."""

  def __init__(self, source: datasets_lib.Source) -> None:
    self._source = source
    self.fetched: list[int] = []

  @property
  def num_structures(self):
    """See `Source`."""
    return self._source.num_structures

  @property
  def identity(self):
    """See `Source`."""
    return self._source.identity

  def fetch(self, indices):
    """See `Source`."""
    self.fetched += map(int, indices)
    return self._source.fetch(indices)
