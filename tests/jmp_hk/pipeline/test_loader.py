"""Workers give the same batches, errors and endings as this process does."""

import dataclasses
import gc
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import chex
import jax
import numpy as np
import pytest

from data.records import index_file
from data.records import shards
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import evaluation_stream
from jmp_hk.pipeline import loader as loader_lib
from jmp_hk.pipeline import sizes
from jmp_hk.pipeline import slots as slots_lib
from jmp_hk.pipeline import training_stream
from jmp_hk.runtime import shared_memory
from jmp_hk.runtime import workers
from jmp_hk.training import sharding
from tests.jmp_hk.pipeline import corpus
from tests.jmp_hk.pipeline import own_lanes

CONFIG = config_lib.PipelineConfig(
  pool_size=9, streams_per_microbatch=3, prefetch_batches=0
)
SPEC = dataclasses.replace(corpus.SPEC, num_microbatches=4)
STEPS = 14


def _stream(datasets, num_workers=0, **kwargs):
  config = dataclasses.replace(CONFIG, num_workers=num_workers)
  return training_stream.TrainingStream(datasets, SPEC, config, seed=3, **kwargs)


def _take(stream, count):
  with stream:
    return list(itertools.islice(stream, count))


def _assert_equal(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert a.info == b.info
    chex.assert_trees_all_equal(a.batch, b.batch)


def _in_memory(datasets):
  made = (
    [corpus.slab(0, i) for i in range(20)],
    [corpus.molecule(0, i) for i in range(45)],
  )
  return [
    dataclasses.replace(dataset, source=datasets_lib.MemorySource(structures))
    for dataset, structures in zip(datasets, made, strict=True)
  ]


@pytest.fixture(scope="module")
def batches(datasets):
  return _take(_stream(datasets), STEPS)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(datasets, batches, num_workers):
  # More batches are held than there are slots: none is written to while it is held.
  _assert_equal(batches, _take(_stream(datasets, num_workers), STEPS))


def test_structures_in_memory_reach_the_workers(datasets):
  memory = _in_memory(datasets)
  _assert_equal(_take(_stream(memory), 3), _take(_stream(memory, 2), 3))


@pytest.mark.parametrize("stop", range(STEPS - 1))
def test_a_stream_goes_on_after_every_step(datasets, batches, stop):
  state = json.loads(json.dumps(batches[stop].info.state))
  num_workers = 2 if stop == 4 else 0
  rest = _take(_stream(datasets, num_workers, state=state), STEPS - 1 - stop)
  _assert_equal(batches[stop + 1 :], rest)


def test_batches_do_not_depend_on_how_processes_share_them(datasets, batches):
  states = []
  for local in ([0, 1, 2], [3]):
    part = _take(_stream(datasets, local_microbatches=local), 6)
    for mine, whole in zip(part, batches, strict=False):
      chex.assert_trees_all_equal(
        mine.batch, jax.tree.map(lambda x, rows=local: x[rows], whole.batch)
      )
    states.append(part[-1].info.state)
  merged = training_stream.merge_states(states)
  assert merged == batches[5].info.state
  # Other processes than before go on.
  rest = _take(_stream(datasets, state=merged, local_microbatches=[1, 2]), 2)
  for mine, whole in zip(rest, batches[6:], strict=False):
    chex.assert_trees_all_equal(
      mine.batch, jax.tree.map(lambda x: x[[1, 2]], whole.batch)
    )


def test_arrays_on_devices_are_not_written_to(datasets, batches):
  # On a CPU, arrays on the device may be those in shared memory.
  mesh = sharding.make_mesh(jax.devices()[:1])
  moved = []
  with (
    _stream(datasets, 2) as stream,
    sharding.to_devices(itertools.islice(stream, STEPS), mesh) as prefetched,
  ):
    moved.extend(prefetched)
  for there, here in zip(moved, batches, strict=True):
    chex.assert_trees_all_equal(jax.device_get(there.batch), here.batch)


def test_only_so_many_slots_are_lent(datasets):
  template = SPEC.pack([]).batch
  slots = slots_lib.Slots([template], rows=2, count=3)
  lender = slots_lib.Lender(slots, most=1)
  assert sorted([lender.take(), lender.take(), lender.take()]) == [0, 1, 2]
  assert lender.take() is None
  held = lender.lend(0, 0)
  copied = lender.lend(1, 0)
  assert np.shares_memory(held[0], slots.arrays(0, 0)[0])
  assert not np.shares_memory(copied[0], slots.arrays(1, 0)[0])
  assert lender.take() == 1 and lender.take() is None
  part = held[0][:1]
  del held
  assert lender.take() is None  # A part of an array keeps the slot.
  del part
  gc.collect()
  assert lender.take() == 0


def test_too_little_shared_memory_says_what_to_do():
  template = SPEC.pack([]).batch
  with pytest.raises(
    shared_memory.SharedMemoryError,
    match="MiB of shared memory.*free.*prefetch",
  ):
    slots_lib.Slots([template], rows=2, count=2**45)


def _broken(datasets):
  slabs = [corpus.slab(0, i) for i in range(20)]
  slabs[7] = dataclasses.replace(slabs[7], cell=np.zeros((3, 3)))
  source = datasets_lib.MemorySource(slabs)
  return [dataclasses.replace(datasets[0], source=source)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_invalid_structure_is_named(datasets, num_workers):
  with pytest.raises(structure_lib.InvalidStructureError, match="slabs:7"):
    _take(_stream(_broken(datasets), num_workers), 30)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_structure_that_does_not_fit_is_named(datasets, num_workers):
  small = dataclasses.replace(
    SPEC, budget=dataclasses.replace(corpus.BUDGET, num_atoms=10)
  )
  config = dataclasses.replace(CONFIG, num_workers=num_workers)
  stream = training_stream.TrainingStream(datasets, small, config)
  with pytest.raises(budget_lib.BudgetError, match=r"slabs:\d+ .*num_atoms=1[0-2]"):
    _take(stream, 3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_record_is_named(corpus_directory, tmp_path, num_workers):
  shutil.copytree(corpus_directory, tmp_path / "copy")
  (dataset,) = corpus.open_all(tmp_path / "copy", names=["molecules"])
  shard: pathlib.Path = dataset.source.shards[2]
  content = bytearray(shard.read_bytes())
  content[index_file.load(shard).offsets[4] + 40] ^= 1
  shard.write_bytes(content)
  with pytest.raises(shards.RecordFileError, match="train-00002.*record 4"):
    _take(_stream([dataset], num_workers), 20)


def test_errors_come_at_their_step_with_where_they_happened():
  config = dataclasses.replace(CONFIG, num_workers=1)
  lanes = [[own_lanes.OwnLane(corpus.SPEC, "A mistake")]]
  loader = loader_lib.open_lanes(lanes, corpus.SPEC, config)
  try:
    assert [len(next(loader).microbatches) for _ in range(2)] == [1, 1]
    for _ in range(2):  # It stays.
      with pytest.raises(RuntimeError, match="UnpicklableError: A mistake") as caught:
        next(loader)
      assert "own_lanes.py" in "".join(caught.value.__notes__)
  finally:
    loader.close()


def test_workers_import_no_tensorflow_and_use_no_device():
  config = dataclasses.replace(CONFIG, num_workers=1)
  lanes = [[own_lanes.OwnLane(corpus.SPEC)]]
  loader = loader_lib.open_lanes(lanes, corpus.SPEC, config)
  try:
    steps = list(loader)
  finally:
    loader.close()
  assert [step.microbatches[0].record_ids for step in steps] == [("jax",)] * 2


def test_a_killed_worker_is_told_with_advice(datasets):
  with _stream(datasets, 2) as stream:
    next(stream)
    os.kill(stream.worker_ids[1], signal.SIGKILL)
    with pytest.raises(workers.WorkerError, match="fewer workers"):
      for _ in range(100):
        next(stream)


def test_leaving_early_ends_the_workers(datasets):
  mesh = sharding.make_mesh(jax.devices()[:1])
  with _stream(datasets, 2) as stream:
    ids = stream.worker_ids
    with sharding.to_devices(stream, mesh) as moved:
      next(moved)
  for worker in ids:
    with pytest.raises(ProcessLookupError):
      os.kill(worker, 0)


def test_evaluation_is_the_same_with_workers(datasets, monkeypatch):
  monkeypatch.setattr(evaluation_stream, "_FEW", 0)
  monkeypatch.setattr(evaluation_stream, "_POOLS_PER_STREAM", 1)
  found = []
  for num_workers in (0, 3):
    config = dataclasses.replace(CONFIG, num_workers=num_workers, pool_size=6)
    found.append(list(evaluation_stream.EvaluationStream(datasets[1], SPEC, config)))
  _assert_equal(*found)
  assert sum(entry.info.num_structures for entry in found[0]) == 45


def test_each_process_reads_its_own_records_only(datasets):
  whole = [corpus.molecule(0, i) for i in range(1200)]
  for process in range(4):
    source = own_lanes.CountingSource(datasets_lib.MemorySource(whole))
    dataset = dataclasses.replace(datasets[1], source=source, num_structures=1200)
    for entry in _stream([dataset], local_microbatches=[process]):
      if entry.info.epoch >= 1:
        break
    assert len(source.fetched) < 1.3 * 1200 / 4


def _bytes_read():
  """Bytes that this process has asked the system for, whatever held them."""
  lines = pathlib.Path("/proc/self/io").read_text().splitlines()
  return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="needs Linux")
def test_each_process_reads_hardly_more_bytes_than_its_records_have(tmp_path):
  count = 1200
  whole = [corpus.molecule(0, i) for i in range(count)]
  folder = corpus.write(tmp_path / "molecules", "molecules", whole, 8.0)
  # Indices have tables of sizes, which are longer than the records' places.
  sizes.measure(corpus.open_all(tmp_path, ["molecules"])[0], corpus.SPEC.builder)
  stored = sum(shard.stat().st_size for shard in folder.glob("*.tfrecord"))
  for process in range(4):
    before = _bytes_read()
    opened = corpus.open_all(tmp_path, ["molecules"])
    for entry in _stream(opened, local_microbatches=[process]):
      if entry.info.epoch >= 1:
        break
    assert 0.95 * stored / 4 < _bytes_read() - before < 1.3 * stored / 4


_KILLED = textwrap.dedent("""
    import pathlib, sys, time
    sys.path.insert(0, {root!r})
    from tests.jmp_hk.pipeline import corpus, test_loader
    stream = test_loader._stream(corpus.open_all(pathlib.Path({folder!r})), 2)
    next(stream)
    print(*stream.worker_ids, flush=True)
    time.sleep(600)
""")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_nothing_is_left_of_a_killed_process(corpus_directory):
  root = str(pathlib.Path(__file__).parents[3])
  shared = set(os.listdir("/dev/shm"))
  code = _KILLED.format(root=root, folder=str(corpus_directory))
  with subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  ) as parent:
    ids = [int(word) for word in parent.stdout.readline().split()]
    assert len(ids) == 2
    # The memory has no name: with its last process it is gone.
    maps = pathlib.Path(f"/proc/{ids[0]}/maps").read_text()
    assert "memfd:jmp_hk (deleted)" in maps
    parent.send_signal(signal.SIGKILL)
    # Workers share the other end of the pipe: this waits until they have ended.
    assert parent.stdout.read() == ""
  assert set(os.listdir("/dev/shm")) <= shared


def test_what_workers_cannot_load_is_said(corpus_directory):
  code = textwrap.dedent(f"""
      import dataclasses, pathlib, sys
      sys.path.insert(0, {str(pathlib.Path(__file__).parents[3])!r})
      from tests.jmp_hk.pipeline import corpus, own_lanes, test_loader
      class Mine(own_lanes.CountingSource):
        pass
      datasets = [
        dataclasses.replace(dataset, source=Mine(dataset.source))
        for dataset in corpus.open_all(pathlib.Path({str(corpus_directory)!r}))
      ]
      try:
        next(test_loader._stream(datasets, 1))
      except RuntimeError as error:
        print(error)
  """)
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert "Define sources" in result.stdout and "num_workers=0" in result.stdout
