"""Settings of the pipeline from structures to packed batches."""

from collections.abc import Mapping
import dataclasses
import enum
from typing import ClassVar

from jmp_hk import ranges
from jmp_hk import serialization


class Packing(enum.Enum):
  """How many structures a step has.

  EXACT: as many as wanted, and what is left at the end of an epoch. Microbatches are
  padded to one of a few budgets. The sizes of all structures are measured once.
  FULL: as many as fill a budget, which is chosen so that there are as many as wanted on
  average.
  """

  EXACT = "exact"
  FULL = "full"


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
  """How structures are read, mixed and prepared; changes no batch but its contents.

  Attributes:
    packing: whether a step has exactly the wanted number of structures, or as many as
      fill its batch.
    temperature: T in p_i ∝ (n_i/N)^(1/T), the probability of a draw from dataset i; 1
      is proportional to size, infinity uniform.
    num_workers: processes that read structures and make batches of them; 0 makes them
      in this process.
    streams_per_microbatch: lanes that take turns in making a microbatch; so many
      processes can work for one microbatch at a time. Other batches come of it where
      they are filled.
    pool_size: structures per lane that wait for a batch they fit into, where batches
      are filled and in evaluations.
    prefetch_batches: packed batches that are made ahead; 0 makes them on demand. With
      workers they lie in shared memory, together with those that are being made.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "temperature": ranges.Range(above=0, is_finite=False),
    "num_workers": ranges.COUNT,
    "streams_per_microbatch": ranges.POSITIVE_COUNT,
    "pool_size": ranges.POSITIVE_COUNT,
    "prefetch_batches": ranges.COUNT,
  }

  packing: Packing = Packing.EXACT
  temperature: float = 2.0
  num_workers: int = 0
  streams_per_microbatch: int = 8
  pool_size: int = 24
  prefetch_batches: int = 2

  @classmethod
  def upgrade_json(cls, data: serialization.Json) -> serialization.Json:
    """Earlier versions filled batches, and stored how records were shuffled."""
    gone = ("shuffle_buffer", "shards_per_group")
    if "shuffle_buffer" in data:
      data = {"packing": Packing.FULL.value, **data}
    return {name: value for name, value in data.items() if name not in gone}

  def __post_init__(self) -> None:
    ranges.check(self)
