"""Structures of one split through tf.data, shuffled for ever or once in order.

The order of an epoch is made of groups of shards that are read side by side and
shuffled within a buffer. Groups are independent, so the stream can be entered at any
epoch and group at once; only records of the group before the position are skipped,
unparsed.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import itertools
import os
import struct
from typing import cast

import numpy as np
import tensorflow as tf

from data.records import parsing
from data.records import schema
from data.records import shards
from jmp_hk import structure as structure_lib
from jmp_hk.pipeline import random_streams

tf.config.set_visible_devices([], "GPU")  # The accelerators belong to JAX.

_PARSE_AT_ONCE = 64
_HEADER = struct.Struct("<Q")
_FRAME = 16  # Bytes around a TFRecord: length, its checksum, checksum of the data.

_GROUPS_AT_ONCE = 64  # Groups of one tf.data graph; then the next one is made.


def count_records(path: str | os.PathLike) -> int:
  """Number of records of a shard, by walking over their lengths."""
  count, position, size = 0, 0, os.path.getsize(path)
  with open(path, "rb") as file:
    while position < size:
      file.seek(position)
      header = file.read(_HEADER.size)
      if len(header) < _HEADER.size:
        raise shards.RecordFileError(f"Shard {path} is truncated in record {count}.")
      position += _HEADER.unpack(header)[0] + _FRAME
      count += 1
  return count


class ShardReader:
  """The structures of one split."""

  def __init__(
    self,
    source: shards.Split,
    seed: int = 0,
    shuffle_buffer: int = 10_000,
    shards_per_group: int = 16,
  ):
    """Looks at the first records.

    Args:
      source: the shards of the split.
      seed: seed of the order of epochs.
      shuffle_buffer: number of records within which the order is shuffled.
      shards_per_group: number of shards that are read side by side.
    """
    self._source = source
    self._seed = seed
    self._buffer = shuffle_buffer
    self._group_size = shards_per_group
    self._counts: dict[int, int] = {}
    self._spec = self._find_spec()

  def shuffled(self, start: int = 0) -> Iterator[structure_lib.Structure]:
    """Yields structures for ever; each once per epoch, in an order of its own.

    Args:
      start: number of structures of this stream to leave out; epochs and groups that
        lie before it cost nothing.
    """
    groups = self._groups(start)
    while True:
      paths, seeds, skips = zip(*itertools.islice(groups, _GROUPS_AT_ONCE), strict=True)
      ragged = tf.ragged.constant(paths, dtype=tf.string, ragged_rank=1)
      described = tf.data.Dataset.from_tensor_slices(
        (ragged, np.array(seeds, np.int64), np.array(skips, np.int64))
      )
      serialized = described.flat_map(
        self._read_group  # pyright: ignore[reportArgumentType]
      )
      yield from self._structures(serialized)

  def ordered(self, stride: int = 1) -> Iterator[structure_lib.Structure]:
    """Yields every structure once, or every `stride`-th, in the order of the files."""
    paths = [str(path) for path in self._source.shards]
    serialized = tf.data.TFRecordDataset(paths)
    if stride > 1:
      serialized = serialized.shard(stride, 0)
    return self._structures(serialized)

  def spread(self, count: int) -> Iterator[structure_lib.Structure]:
    """Yields up to `count` structures from all over the split, quickly.

    They are the first records of shards that lie evenly over the split.
    """
    paths = [str(path) for path in self._source.shards]
    chosen = paths[:: max(1, len(paths) // 64)]
    serialized = tf.data.Dataset.from_tensor_slices(chosen).interleave(
      tf.data.TFRecordDataset, cycle_length=len(chosen)
    )
    return self._structures(serialized.take(count))

  def _find_spec(self) -> parsing.RecordSpec:
    """What the first record shows, and others about labels that some lack."""
    source, spec = self._source, None
    unseen = {k for k, count in source.missing.items() if count < source.num_structures}
    for shard in source.shards:
      for record in shards.read_shard(shard):
        structure = schema.decode(record, str(shard))
        found = parsing.spec_of(structure, optional=source.missing)
        spec = parsing.merge(spec, found) if spec else found
        unseen -= {name for name in unseen if structure.label(name) is not None}
        if not unseen:
          return spec
    raise shards.RecordFileError(
      f"Dataset {source.name!r}: split {source.split!r} "
      + (f"has no record with {', '.join(sorted(unseen))}." if spec else "is empty.")
    )

  def _structures(
    self, serialized: tf.data.Dataset
  ) -> Iterator[structure_lib.Structure]:
    """Parses many records at once and yields them one by one."""
    parsed = serialized.batch(_PARSE_AT_ONCE).map(
      lambda batch: parsing.parse_batch(batch, self._spec)
    )
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 2
    batches = parsed.prefetch(2).with_options(options).as_numpy_iterator()
    while True:
      try:
        batch = next(batches)
      except StopIteration:
        return
      except tf.errors.OpError as error:
        raise shards.RecordFileError(
          f"Dataset {self._source.name!r}, split {self._source.split!r}, below "
          f"{self._source.shards[0].parent}, cannot be read: {error.message}"
        ) from error
      yield from parsing.split_batch(cast(Mapping[str, np.ndarray], batch))

  def _groups(self, start: int) -> Iterator[tuple[list[str], int, int]]:
    """Yields paths, seed and records to skip of every group from a position on."""
    epoch, skip = divmod(start, self._source.num_structures)
    while True:
      rng = random_streams.generator(self._seed, random_streams.ORDER, epoch)
      order = rng.permutation(len(self._source.shards))
      for first in range(0, len(order), self._group_size):
        group = order[first : first + self._group_size]
        seed = int(rng.integers(1, 2**62))
        if skip:
          count = sum(self._count(int(shard)) for shard in group)
          if skip >= count:
            skip -= count
            continue
        yield [str(self._source.shards[i]) for i in group], seed, skip
        skip = 0
      if skip:
        raise shards.RecordFileError(
          f"Dataset {self._source.name!r}: dataset_info.json promises "
          f"{self._source.num_structures} structures in split "
          f"{self._source.split!r}, but its shards hold fewer; convert it again."
        )
      epoch += 1

  def _count(self, shard: int) -> int:
    if shard not in self._counts:
      self._counts[shard] = count_records(self._source.shards[shard])
    return self._counts[shard]

  def _read_group(
    self, paths: tf.Tensor, seed: tf.Tensor, skip: tf.Tensor
  ) -> tf.data.Dataset:
    """Serialized records of one group, shuffled."""
    serialized = tf.data.Dataset.from_tensor_slices(paths).interleave(
      tf.data.TFRecordDataset,
      cycle_length=self._group_size,
      block_length=1,
    )
    shuffled = serialized.shuffle(
      self._buffer,
      seed=seed,  # pyright: ignore[reportArgumentType]
      reshuffle_each_iteration=False,
    )
    return shuffled.skip(skip)
