"""A split of a converted dataset as a `tf.data.Dataset`, for programs of your own.

Training and evaluation of this repository do not use it: they read single records in
any order (`data.records.source`), in processes that do not import TensorFlow.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import math
import os
import pathlib

import numpy as np
import tensorflow as tf

from data.records import schema
from data.records import shards as shards_lib
from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib

tf.config.set_visible_devices([], "GPU")  # The accelerators belong to JAX.


def tf_dataset(
  directory: str | os.PathLike[str], split: str = "train", parallel_shards: int = 8
) -> tf.data.Dataset:
  """Reads a split with parallel reading and parsing, and prefetches.

  Args:
    directory: folder that `data.convert` wrote.
    split: name of the split.
    parallel_shards: shards that are read side by side; their records alternate. With 1,
      structures come in the order of the files.

  Returns:
    A dataset with one element per structure, the same order every time: a dict of
    atomic_numbers [n] int32, positions [n, 3] float32 (Å), cell [3, 3] float64 (Å), pbc
    [3] bool, tags [n] int32, fixed [n] bool and record_id (string); and, where the
    dataset has them, energy float64 (eV), forces [n, 3] float32 (eV/Å), stress [6]
    float64 (eV/Å³), "target/NAME" [] or [k] float64 and "atom_target/NAME" [n, k]
    float32. A label that a structure lacks is NaN.

  Raises:
    DatasetInfoError: the directory is no converted dataset.
    RecordFileError: a shard is missing or damaged. Where TensorFlow finds damage later,
      the iterator raises `tf.errors.DataLossError`.
  """
  directory = pathlib.Path(directory)
  info = dataset_info.load(directory)
  paths = shards_lib.list_shards(directory, split)
  facts = info.splits.get(split)
  missing = {k: v for k, v in facts.missing.items() if v} if facts else {}
  spec = _find_spec(paths, missing, info.num_structures.get(split, 0))
  names = [str(path) for path in paths]
  serialized = tf.data.Dataset.from_tensor_slices(names).interleave(
    tf.data.TFRecordDataset,
    cycle_length=max(1, min(parallel_shards, len(names))),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  parsed = serialized.map(
    lambda record: _parse(record, spec),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  return parsed.prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class _Spec:
  """Labels of the records of a split.

  Attributes:
    lengths: length of each label by the name of its feature, per atom for those of
      atoms.
    optional: names of features that a record may lack.
  """

  lengths: Mapping[str, int]
  optional: frozenset[str]


def _find_spec(
  paths: Iterable[pathlib.Path], missing: Mapping[str, int], count: int
) -> _Spec:
  """What the first record shows, and later ones about labels that it lacks."""
  lengths: dict[str, int] = {}
  unseen = {name for name, lacking in missing.items() if lacking < count}
  for path in paths:
    for record in shards_lib.read_shard(path):
      structure = schema.decode(record, str(path))
      lengths |= _lengths(structure)
      unseen -= {name for name in unseen if structure.label(name) is not None}
      if not unseen:
        optional = {f for f in lengths if f.rpartition("/")[2] in missing}
        return _Spec(lengths, frozenset(optional))
  raise shards_lib.RecordFileError(
    f"The shards have no record with {', '.join(sorted(unseen))}, which "
    "dataset_info.json promises; convert the dataset again."
    if lengths
    else "The split has no records."
  )


def _lengths(structure: structure_lib.Structure) -> dict[str, int]:
  """Length of each label by the name of its feature."""
  found = {"energy": 1} if structure.energy is not None else {}
  if structure.forces is not None:
    found["forces"] = 3
  if structure.stress is not None:
    found["stress"] = 6
  for name, value in structure.targets.items():
    is_per_atom = np.ndim(value) == 2
    prefix = schema.ATOM_TARGET_PREFIX if is_per_atom else schema.TARGET_PREFIX
    found[prefix + name] = value.shape[1] if is_per_atom else int(np.size(value))
  return found


def _parse(record: tf.Tensor, spec: _Spec) -> dict[str, tf.Tensor]:
  """One record as tensors."""
  raw = tf.io.parse_single_example(
    record,
    {
      name: tf.io.FixedLenFeature(
        [], tf.string, default_value="" if name in spec.optional else None
      )
      for name in (*schema.REQUIRED, "record_id", *spec.lengths)
    },
  )
  num_atoms = tf.strings.length(raw["atomic_numbers"])

  def values(name: str, dtype: np.dtype, *shape: int | tf.Tensor) -> tf.Tensor:
    decoded = tf.io.decode_raw(raw[name], tf.as_dtype(dtype))
    if name not in spec.optional:
      return tf.reshape(decoded, shape)
    return tf.cond(
      tf.strings.length(raw[name]) > 0,
      lambda: tf.reshape(decoded, shape),
      lambda: tf.fill(shape, tf.constant(math.nan, decoded.dtype)),
    )

  def required(name: str, *shape: int | tf.Tensor) -> tf.Tensor:
    return values(name, schema.DTYPES[name], *shape)

  parsed = {
    "atomic_numbers": tf.cast(required("atomic_numbers", num_atoms), tf.int32),
    "positions": required("positions", num_atoms, 3),
    "cell": required("cell", 3, 3),
    "pbc": tf.cast(required("pbc", 3), tf.bool),
    "tags": tf.cast(required("tags", num_atoms), tf.int32),
    "fixed": tf.cast(required("fixed", num_atoms), tf.bool),
    "record_id": raw["record_id"],
  }
  for name, length in spec.lengths.items():
    if name == "forces":
      parsed[name] = required(name, num_atoms, 3)
    elif name.startswith(schema.ATOM_TARGET_PREFIX):
      parsed[name] = values(name, schema.ATOM_TARGET_DTYPE, num_atoms, length)
    else:
      shape = () if length == 1 else (length,)
      parsed[name] = values(name, schema.TARGET_DTYPE, *shape)
  return parsed
