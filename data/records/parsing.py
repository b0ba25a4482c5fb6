"""Parses batches of records of the layout in `schema` inside TensorFlow."""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses

import numpy as np
import tensorflow as tf

from data.records import schema
from jmp_hk import structure as structure_lib

_HAS = "has/"  # Prefix of what says which records have an optional label.


@dataclasses.dataclass(frozen=True)
class RecordSpec:
  """Which optional features the records of a dataset have.

  Attributes:
    energy: records hold an energy.
    forces: records hold forces.
    targets: length of each label of a structure by name.
    atom_targets: length per atom of each label of atoms by name.
    optional: names of those of these labels that a record may lack.
  """

  energy: bool = True
  forces: bool = True
  targets: Mapping[str, int] = dataclasses.field(default_factory=dict)
  atom_targets: Mapping[str, int] = dataclasses.field(default_factory=dict)
  optional: frozenset[str] = frozenset()


def spec_of(
  structure: structure_lib.Structure, optional: Iterable[str] = ()
) -> RecordSpec:
  """The spec that a structure of a dataset shows; all its records share it.

  Args:
    structure: the structure.
    optional: names of labels that records may lack, as this one may.
  """
  per_atom = {k: v.shape[1] for k, v in structure.targets.items() if np.ndim(v) == 2}
  return RecordSpec(
    energy=structure.energy is not None,
    forces=structure.forces is not None,
    targets={
      k: int(np.size(v)) for k, v in structure.targets.items() if k not in per_atom
    },
    atom_targets=per_atom,
    optional=frozenset(optional),
  )


def merge(first: RecordSpec, second: RecordSpec) -> RecordSpec:
  """The spec of a dataset that two of its structures show together."""
  return RecordSpec(
    energy=first.energy or second.energy,
    forces=first.forces or second.forces,
    targets={**first.targets, **second.targets},
    atom_targets={**first.atom_targets, **second.atom_targets},
    optional=first.optional | second.optional,
  )


def parse_bytes(serialized: tf.Tensor, spec: RecordSpec) -> dict[str, tf.Tensor]:
  """Splits many records into their features, still as raw bytes.

  Args:
    serialized: [b] string, records.
    spec: which features to read.

  Returns:
    feature name → [b] string; row i of all features is what
    `schema.from_features` takes.
  """
  names = [*schema.REQUIRED, "record_id"]
  names += ["energy"] * spec.energy + ["forces"] * spec.forces
  names += [schema.TARGET_PREFIX + name for name in spec.targets]
  names += [schema.ATOM_TARGET_PREFIX + name for name in spec.atom_targets]
  return tf.io.parse_example(  # pyright: ignore[reportReturnType]
    serialized,
    {
      name: tf.io.FixedLenFeature(
        [], tf.string, default_value="" if _label(name) in spec.optional else None
      )
      for name in names
    },
  )


def parse_batch(serialized: tf.Tensor, spec: RecordSpec) -> dict[str, tf.Tensor]:
  """Parses many records at once; quantities of atoms lie one after the other.

  Args:
    serialized: [b] string, records.
    spec: which features to read; a record that lacks one is an error.

  Returns:
    num_atoms [b] int32; atomic_numbers, tags [N] int32; fixed [N] bool;
    positions [N, 3] float32; cell [b, 3, 3] float64; pbc [b, 3] bool;
    record_id [b] string; where the spec has them energy [b] float64, forces
    [N, 3] float32, "target/NAME" [b, k] float64, "atom_target/NAME" [N, k]
    float32. N is the sum of num_atoms. For optional labels there is "has/NAME" [b]
    bool, and arrays hold only the records that have the label.
  """
  raw = parse_bytes(serialized, spec)

  def values(name: str, dtype: tf.DType, shape: tuple[int, ...]) -> tf.Tensor:
    flat = tf.io.decode_raw(tf.strings.reduce_join(raw[name]), dtype)
    return tf.reshape(flat, (-1, *shape))

  parsed = {
    "num_atoms": tf.strings.length(raw["atomic_numbers"]),
    "atomic_numbers": tf.cast(values("atomic_numbers", tf.uint8, ()), tf.int32),
    "tags": tf.cast(values("tags", tf.uint8, ()), tf.int32),
    "fixed": tf.cast(values("fixed", tf.uint8, ()), tf.bool),
    "positions": values("positions", tf.float32, (3,)),
    "cell": values("cell", tf.float64, (3, 3)),
    "pbc": tf.cast(values("pbc", tf.uint8, (3,)), tf.bool),
    "record_id": raw["record_id"],
  }
  if spec.energy:
    parsed["energy"] = values("energy", tf.float64, ())
  if spec.forces:
    parsed["forces"] = values("forces", tf.float32, (3,))
  for name, length in spec.targets.items():
    key = schema.TARGET_PREFIX + name
    parsed[key] = values(key, tf.float64, (length,))
  for name, length in spec.atom_targets.items():
    key = schema.ATOM_TARGET_PREFIX + name
    parsed[key] = values(key, tf.float32, (length,))
  for key in raw:
    if _label(key) in spec.optional:
      parsed[_HAS + _label(key)] = tf.strings.length(raw[key]) > 0
  return parsed


def _label(feature: str) -> str:
  """Name of the label that a feature holds."""
  prefixes = (schema.TARGET_PREFIX, schema.ATOM_TARGET_PREFIX)
  return next((feature[len(p) :] for p in prefixes if feature.startswith(p)), feature)


def split_batch(parsed: Mapping[str, np.ndarray]) -> list[structure_lib.Structure]:
  """Structures (views, no copies) of a batch from `parse_batch` as NumPy arrays."""
  sizes = parsed["num_atoms"]
  rows, atoms = _Rows(parsed, np.ones_like(sizes)), _Rows(parsed, sizes)
  structures = []
  for i in range(len(sizes)):
    targets = {}
    for key in parsed:
      if key.startswith(schema.TARGET_PREFIX):
        value = rows.get(key, i)
        if value is not None:
          row = value[0]
          targets[_label(key)] = row.reshape(()) if row.size == 1 else row
      elif key.startswith(schema.ATOM_TARGET_PREFIX):
        value = atoms.get(key, i)
        if value is not None:
          targets[_label(key)] = value
    energy = rows.get("energy", i)
    structures.append(
      structure_lib.Structure(
        positions=atoms["positions", i],
        atomic_numbers=atoms["atomic_numbers", i],
        cell=parsed["cell"][i],
        pbc=parsed["pbc"][i],
        tags=atoms["tags", i],
        fixed=atoms["fixed", i],
        energy=None if energy is None else float(energy[0]),
        forces=atoms.get("forces", i),
        targets=targets,
        record_id=parsed["record_id"][i].decode("utf-8"),
      )
    )
  return structures


class _Rows:
  """Rows of each structure in arrays that hold those of all structures in turn."""

  def __init__(self, parsed: Mapping[str, np.ndarray], counts: np.ndarray) -> None:
    """Finds where the rows of each structure begin and end.

    Args:
      parsed: arrays of `parse_batch`.
      counts: [b] rows of each structure in arrays that lack none.
    """
    self._parsed = parsed
    self._bounds = {"": np.concatenate([[0], np.cumsum(counts)])}
    for key, has in parsed.items():
      if key.startswith(_HAS):
        bounds = np.concatenate([[0], np.cumsum(np.where(has, counts, 0))])
        self._bounds[key.removeprefix(_HAS)] = bounds

  def __getitem__(self, key_and_index: tuple[str, int]) -> np.ndarray:
    """Rows of a structure in an array that lacks none."""
    key, i = key_and_index
    start, stop = self._bounds[""][i : i + 2]
    return self._parsed[key][start:stop]

  def get(self, key: str, i: int) -> np.ndarray | None:
    """Rows of a structure in the array of a label; None where it has none."""
    if key not in self._parsed:
      return None
    bounds = self._bounds.get(_label(key), self._bounds[""])
    start, stop = bounds[i : i + 2]
    return self._parsed[key][start:stop] if stop > start else None
