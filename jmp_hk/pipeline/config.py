"""Settings of the pipeline from structures to packed batches."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
  """How batches are made from datasets.

  The global batch consists of `num_microbatches` microbatches, each packed to the budget. Draw
  t belongs to microbatch t % num_microbatches, whatever processes and devices serve the microbatches.

  Attributes:
    seed: of order, mixture and edge dropout.
    num_microbatches: microbatches of one step over all processes.
    temperature: T in p_i ∝ (n_i/N)^(1/T); 1 is proportional to size, inf uniform.
    edge_dropout: probability of leaving out each directed edge.
    num_workers: processes that build graphs; 0 builds them in this one.
    pool_size: structures per microbatch that wait for a batch they fit into.
    shuffle_buffer: records within which the order is shuffled.
    shards_per_group: shards that are read side by side.
    prefetch_batches: packed batches that are made ahead; 0 makes them on demand.
  """

  seed: int = 0
  num_microbatches: int = 1
  temperature: float = 2.0
  edge_dropout: float = 0.0
  num_workers: int = 0
  pool_size: int = 64
  shuffle_buffer: int = 10_000
  shards_per_group: int = 16
  prefetch_batches: int = 2

  def __post_init__(self):
    positive = (
      "num_microbatches",
      "temperature",
      "pool_size",
      "shuffle_buffer",
      "shards_per_group",
    )
    for name in positive:
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
    for name in ("seed", "num_workers", "prefetch_batches"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
    if not 0.0 <= self.edge_dropout < 1.0:
      raise ValueError(f"edge_dropout must lie in [0, 1), got {self.edge_dropout}.")
