import dataclasses

import jax
import numpy as np
import pytest

from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import evaluation_stream
from jmp_hk.targets import labels as labels_lib
from tests.jmp_hk.pipeline import corpus


def _stream(dataset, num_microbatches=1, config=None, **kwargs):
  settings = {"prefetch_batches": 0, "pool_size": 6} | (config or {})
  return evaluation_stream.EvaluationStream(
    dataset,
    dataclasses.replace(corpus.SPEC, num_microbatches=num_microbatches),
    config_lib.PipelineConfig(**settings),
    **kwargs,
  )


def _seen(batches):
  return {
    draw: name
    for entry in batches
    for microbatch, ids in zip(entry.info.draws, entry.info.record_ids)
    for draw, name in zip(microbatch, ids)
  }


ORDER = [f"molecules:{i}" for shard in range(5) for i in range(shard, 45, 5)]


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"num_microbatches": 3},
    {"config": {"num_workers": 1, "prefetch_batches": 2}},
  ],
)
def test_everything_comes_exactly_once(datasets, settings):
  stream = _stream(datasets[1], **settings)
  batches = list(stream)
  assert stream.num_structures == 45
  assert sum(entry.info.num_structures for entry in batches) == 45
  assert [name for _, name in sorted(_seen(batches).items())] == ORDER
  assert batches[-1].info.num_structures < batches[0].info.num_structures
  # A second pass is the same.
  assert [e.info for e in stream] == [e.info for e in batches]


def test_predictions_can_be_mapped_to_records(datasets):
  for entry in _stream(datasets[1], num_microbatches=2):
    for microbatch in range(2):
      for graph, name in enumerate(entry.info.record_ids[microbatch]):
        structure = corpus.molecule(0, int(name.split(":")[1]))
        label = labels_lib.normalise_labels(
          structure, datasets[1].info, corpus.TASKS[1]
        )
        assert entry.batch.targets["energy"][microbatch, graph] == np.float32(
          label["energy"]
        )
        assert entry.batch.task[microbatch, graph] == 1


def test_processes_share_a_split(datasets):
  both = _stream(datasets[1], num_microbatches=2)
  parts = [
    _stream(datasets[1], num_microbatches=2, local_microbatches=[microbatch])
    for microbatch in range(2)
  ]
  seen = [_seen(part) for part in parts]
  assert not set(seen[0]) & set(seen[1])
  assert seen[0] | seen[1] == _seen(both)
  empty, real = parts[0].empty(), next(iter(parts[0]))
  shapes = lambda entry: jax.tree.map(lambda a: (a.shape, a.dtype), entry.batch)
  assert shapes(empty) == shapes(real)
  assert not empty.batch.atom_mask.any() and empty.info.num_structures == 0


def test_limit_takes_structures_from_all_over_the_split(datasets):
  stream = _stream(datasets[1], limit=10)
  assert stream.num_structures == 10
  seen = _seen(stream)
  assert [name for _, name in sorted(seen.items())] == ORDER[::4][:10]
  assert _stream(datasets[1], limit=999).num_structures == 45


def test_labels_can_be_left_out(datasets):
  unknown = dataclasses.replace(datasets[1].info, energy_references={})
  dataset = dataclasses.replace(datasets[1], info=unknown)
  with pytest.raises(labels_lib.LabelError):
    list(_stream(dataset))
  entry = next(iter(_stream(dataset, with_labels=False)))
  assert not entry.batch.targets["energy"].any()
