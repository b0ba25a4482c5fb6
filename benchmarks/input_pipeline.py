"""Speed of the data pipeline: structures per second and core, TFRecord to packed batch.

  python -m benchmarks.input_pipeline --data=slabs,molecules --num_workers=0,1,2,4

Writes records of structures that it makes itself, then reads them as training does, and
prints one line of JSON for each case. Times are processor time of user and system, in
milliseconds for each structure, so that other load on the machine counts little:

main_process_ms_per_structure  this process, all threads, from asking for a batch to
    having it and facts about it: messages, views of shared memory and, without workers,
    everything
transfer_ms_per_structure      this process, moving the batch to a device
worker_ms_per_structure        all workers together

Workers have nothing in common but this process. If a structure costs them the same
however many they are, then N of them, each on a core of its own, deliver N times the
rate of one, until this process has no time left. `structures_per_s_with_cores` says how
many structures a second that makes, and `structures_per_s` how many there were on the
cores of this machine.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
import time

from absl import flags
import jax
import numpy as np

from benchmarks import cases
from benchmarks import structures as structures_lib
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk.pipeline import config as stream_config
from jmp_hk.runtime import configuration
from jmp_hk.training import sharding

_CASES = ("slabs", "molecules")

_DISTINCT = 512  # Structures that are made; training reads them again and again.
_SHARDS = 4
_NOT_COUNTED = 10  # Batches.
_BATCH_SIZES = {"slabs": 16, "molecules": 64}
_LIKE = {"slabs": "oc20", "molecules": "ani1x"}


def make_structures(data: str, count: int) -> list[structures_lib.Structure]:
  """OC20-like slabs, or molecules of 15 atoms."""
  rng = np.random.default_rng(0)
  if data == "slabs":
    return [structures_lib.random_slab(rng) for _ in range(count)]
  return [structures_lib.random_molecule(rng, 15) for _ in range(count)]


def write_dataset(directory: pathlib.Path, data: str, count: int) -> None:
  """Writes a converted dataset of one split."""
  from data.records import schema
  from data.records import shards
  from jmp_hk import dataset_info

  structures = make_structures(data, count)
  for shard in range(_SHARDS):
    path = directory / shards.shard_name("train", shard, _SHARDS)
    with shards.shard_writer(path) as append:
      for structure in structures[shard::_SHARDS]:
        append(schema.encode(structure))
  elements = sorted({int(z) for s in structures for z in s.atomic_numbers})
  sizes = [structure.num_atoms for structure in structures]
  info = dataset_info.DatasetInfo(
    name=data,
    graph=dataset_info.PUBLISHED[_LIKE[data]].graph,
    num_structures={"train": count},
    elements=tuple(elements),
    size_histogram={n: sizes.count(n) for n in sorted(set(sizes))},
    energy_references=dict.fromkeys(elements, 0.0),
    energy_scale=1.0,
    force_scale=1.0,
    average_atoms=float(np.mean(sizes)),
  )
  dataset_info.save(info, directory / dataset_info.FILE_NAME)


def run_case(
  data: str,
  structures: int,
  batch_size: int = 0,
  num_workers: int = 0,
  edge_dropout: float = 0.1,
  distinct: int = _DISTINCT,
) -> dict[str, object]:
  """Measures one kind of data.

  Args:
    data: "slabs" or "molecules".
    structures: number of structures that are timed.
    batch_size: wanted number of structures in a batch; 0 takes the default.
    num_workers: number of processes beside this one.
    edge_dropout: probability with which an edge is left out.
    distinct: number of structures in the files.

  Returns:
    The line of results.
  """
  with tempfile.TemporaryDirectory() as directory:
    write_dataset(pathlib.Path(directory), data, distinct)
    batch_size = batch_size or _BATCH_SIZES[data]
    stream = _open(pathlib.Path(directory), data, batch_size, num_workers, edge_dropout)
    with stream:
      timing = _time(stream, structures)
  count, main = timing["structures"], timing["main_s"]
  making = timing["workers_s"] if num_workers else main
  return {
    "case": data,
    "structures_per_s_per_core": round(count / making, 1),
    "structures_per_s": round(count / timing["wall_s"], 1),
    "structures_per_s_with_cores": round(
      min(max(num_workers, 1) * count / making, count / (main + timing["moving_s"])), 1
    ),
    "main_process_ms_per_structure": round(1e3 * main / count, 4),
    "transfer_ms_per_structure": round(1e3 * timing["moving_s"] / count, 4),
    "worker_ms_per_structure": round(1e3 * timing["workers_s"] / count, 4),
    "mib_per_structure": round(timing["bytes"] / count / 2**20, 3),
    "padding_useful": round(timing["useful"], 4),
    "structures": count,
    "mean_atoms": round(timing["atoms"] / count, 1),
    "batch_size": batch_size,
    "num_workers": num_workers,
    "cores": os.cpu_count(),
  }


def _open(directory, data, batch_size, num_workers, edge_dropout):
  """A training stream over the written dataset."""
  from data.records import datasets as datasets_lib
  from jmp_hk.graphs import budget as budget_lib
  from jmp_hk.graphs import pool as pool_lib
  from jmp_hk.models import backbone as backbone_lib
  from jmp_hk.pipeline import budgets
  from jmp_hk.pipeline import microbatches
  from jmp_hk.pipeline import training_stream
  from jmp_hk.targets import config as tasks_lib

  tasks = (tasks_lib.pretraining_task(data),)
  configs = [datasets_lib.DatasetConfig(data, str(directory))]
  opened = datasets_lib.open_datasets(configs, tasks)
  builder = dataclasses.replace(
    backbone_lib.preset("tiny"), edge_dropout=edge_dropout
  ).graph_builder
  budget = budgets.choose(
    opened, np.ones(1), builder, budget_lib.BudgetConfig(structures=batch_size)
  )
  settings = stream_config.PipelineConfig(
    num_workers=num_workers,
    prefetch_batches=2 if num_workers else 0,
    pool_size=pool_lib.least_size(batch_size),
  )
  spec = microbatches.BatchSpec(tasks, builder, budget)
  return training_stream.TrainingStream(opened, spec, settings)


def _time(stream, structures: int) -> dict[str, float]:
  """Reads batches until enough structures came; those that fill pools do not count."""
  for _ in range(_NOT_COUNTED):
    batch = next(stream).batch
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
  mesh = sharding.make_mesh(jax.devices()[:1])
  count = atoms = main = moving = 0
  useful = []
  wall, others = time.perf_counter(), stream.worker_seconds
  while count < structures:
    before = time.process_time()
    entry = next(stream)
    main += time.process_time() - before
    info = entry.info
    count += info.num_structures
    atoms += info.num_atoms
    useful.append(info.utilisation["num_main"])
    before = time.process_time()
    jax.block_until_ready(sharding.put_batch(entry.batch, mesh))
    moving += time.process_time() - before
  return {
    "structures": count,
    "atoms": atoms,
    "useful": float(np.mean(useful)),
    "bytes": size * len(useful),
    "wall_s": time.perf_counter() - wall,
    "main_s": main,
    "moving_s": moving,
    "workers_s": stream.worker_seconds - others,
  }


@flag_help.group("What is measured")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this benchmark."""
  cases.define_names("data", _CASES, _CASES, "Kinds of data", values)
  flags.DEFINE_integer(
    "structures", 4000, "Number of timed structures.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    "batch_size",
    0,
    "Wanted number of structures in a batch; 0 means 16 slabs or 64 molecules.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_list(
    "num_workers",
    ["0"],
    "N,…: Numbers of processes that make batches beside this one, one line for each.",
    flag_values=values,
  )
  flags.register_validator(
    "num_workers",
    lambda given: all(number.isdecimal() for number in given),
    "expected whole numbers, separated by commas.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "edge_dropout",
    0.1,
    "Probability with which an edge is left out.",
    flag_values=values,
  )


def _measure(values: flags.FlagValues) -> None:
  configuration.configure()
  for data in values.data:
    for num_workers in map(int, values.num_workers):
      result = run_case(
        data,
        values.structures,
        values.batch_size,
        num_workers,
        values.edge_dropout,
      )
      print(json.dumps(result), flush=True)


PROGRAM = program_lib.Program(
  name="benchmarks.input_pipeline",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
)

if __name__ == "__main__":
  PROGRAM.start()
