"""A whole run of a small SchNet; also a program: toy_run.py WORKDIR NUM_STEPS."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import pathlib
import sys

import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import batch_sources
from jmp_hk.training import config as config_lib
from jmp_hk.training import trainer as trainer_lib
from tests import schnet

MICROBATCHES = 2
VALIDATION = 1000  # Where the batches of validation begin.
TASK = tasks_lib.pretraining_task("toy")
INFO = dataset_info.DatasetInfo(
  name="toy",
  graph=graph_config.GraphConfig(cutoff=4.0, max_neighbors=8),
  num_structures={"train": 1},
  elements=(1, 6),
  size_histogram={5: 1},
  energy_references={},
  energy_scale=1.0,
  force_scale=1.0,
)
BACKBONE = schnet.SchNetConfig(
  atom_channels=8, num_blocks=1, num_radial=4, radial_cutoff=4.0, dropout=0.1
)
_BUDGET = schnet.SchNetBudget(num_graphs=4, num_atoms=16, num_edges=64)
_OPTIMIZER = config_lib.OptimizerConfig(
  schedule=config_lib.ScheduleConfig(1e-2, 2, 0.2, 50)
)


def make_config(num_steps: int, **kwargs) -> config_lib.TrainerConfig:
  """Logs at every step; saves and evaluates at intervals that do not coincide."""
  defaults = {
    "batch_size": 2 * MICROBATCHES,
    "num_microbatches": MICROBATCHES,
    "optimizer": _OPTIMIZER,
    "ema_decay": 0.9,
    "log_every": 1,
    "evaluate_every": 7,
    "checkpoint_every": 3,
  }
  return config_lib.TrainerConfig(
    model=model_lib.ModelConfig(backbone=BACKBONE, tasks=(TASK,)),
    train=config_lib.TrainConfig(num_steps=num_steps, **(defaults | kwargs)),
  )


def structure(seed: int, record_id: str, num_atoms: int = 5) -> structure_lib.Structure:
  """A random molecule whose labels follow from its geometry."""
  rng = np.random.default_rng(seed)
  positions = rng.normal(size=(num_atoms, 3))
  return structure_lib.Structure(
    positions=positions,
    atomic_numbers=rng.choice([1, 6], num_atoms).astype(np.int32),
    cell=np.zeros((3, 3)),
    pbc=np.zeros(3, bool),
    tags=np.full(num_atoms, 2, np.int32),
    fixed=np.zeros(num_atoms, bool),
    energy=3.0 + float(np.square(positions).sum()) / 50,
    forces=-positions / 5,
    record_id=record_id,
  )


def microbatch(structures: Sequence[structure_lib.Structure]):
  """Packs structures with their labels as they are."""
  builder = BACKBONE.graph_builder
  items = [
    packing.PackItem(
      builder.build(entry, INFO.graph),
      targets={"energy": np.float64(entry.energy), "forces": entry.forces},
    )
    for entry in structures
  ]
  return packing.pack(items, builder, _BUDGET)


def batches(
  position, bad_step: int | None = None, local: Sequence[int] = range(MICROBATCHES)
) -> Iterator[batches_lib.PipelineBatch]:
  """An endless stream that depends on its position alone; structures vary in number."""
  step = position["position"] if position else 0
  while True:
    parts, ids = [], []
    for index in local:
      names = [f"file:{step}:{index}:{i}" for i in range(1 + (step + index) % 2)]
      found = [
        structure(1000 * step + 10 * index + i, name) for i, name in enumerate(names)
      ]
      parts.append(microbatch(found))
      ids.append(tuple(names))
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    if step == bad_step:
      batch.targets["energy"][-1, 0] = np.inf
    step += 1
    info = batches_lib.BatchInfo(
      record_ids=tuple(ids),
      draws=tuple(tuple(range(len(names))) for names in ids),
      num_structures=sum(map(len, ids)),
      num_atoms=5 * sum(map(len, ids)),
      utilisation={"num_graphs": 0.5, "num_atoms": 0.5, "num_edges": 0.5},
      state={"position": step},
    )
    yield batches_lib.PipelineBatch(batch=batch, info=info)


def source(
  bad_step: int | None = None,
  on_batch: Callable[[int], None] = lambda position: None,
) -> batch_sources.ReadyBatches:
  """Training batches, and three of them from far on for validation.

  Args:
    bad_step: position of a batch with an infinite label.
    on_batch: called with the position of every batch, those of validation included.
  """

  def read(position) -> Iterator[batches_lib.PipelineBatch]:
    for item in batches(position, bad_step):
      on_batch(item.info.state["position"])
      yield item

  return batch_sources.ReadyBatches(
    {"toy": INFO},
    read,
    lambda: (next(read({"position": VALIDATION + i})) for i in range(3)),
  )


def run(
  workdir: pathlib.Path, config: config_lib.TrainerConfig, *args
) -> trainer_lib.Trainer:
  """Starts or continues a run; further arguments are those of `source`."""
  trainer = trainer_lib.Trainer.from_batches(config, source(*args), workdir)
  trainer.run()
  return trainer


if __name__ == "__main__":
  run(pathlib.Path(sys.argv[1]), make_config(int(sys.argv[2])))
