"""Parses batches of records of the layout in `schema` inside TensorFlow."""

from collections.abc import Mapping
import dataclasses

import numpy as np
import tensorflow as tf

from data.records import schema
from jmp_hk import structure as structure_lib


@dataclasses.dataclass(frozen=True)
class RecordSpec:
  """Which optional features the records of a dataset have.

  Attributes:
    energy: records hold an energy.
    forces: records hold forces.
    targets: length of each label of a structure by name.
    atom_targets: length per atom of each label of atoms by name.
  """

  energy: bool = True
  forces: bool = True
  targets: Mapping[str, int] = dataclasses.field(default_factory=dict)
  atom_targets: Mapping[str, int] = dataclasses.field(default_factory=dict)


def spec_of(structure: structure_lib.Structure) -> RecordSpec:
  """The spec that a structure of a dataset shows; all its records share it."""
  per_atom = {k: v.shape[1] for k, v in structure.targets.items() if np.ndim(v) == 2}
  return RecordSpec(
    energy=structure.energy is not None,
    forces=structure.forces is not None,
    targets={
      k: int(np.size(v)) for k, v in structure.targets.items() if k not in per_atom
    },
    atom_targets=per_atom,
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
    serialized, {name: tf.io.FixedLenFeature([], tf.string) for name in names}
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
    float32. N is the sum of num_atoms.
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
  return parsed


def split_batch(parsed: Mapping[str, np.ndarray]) -> list[structure_lib.Structure]:
  """Structures (views, no copies) of a batch from `parse_batch` as NumPy arrays."""
  bounds = np.concatenate([[0], np.cumsum(parsed["num_atoms"])])
  structures = []
  for i in range(len(bounds) - 1):
    atoms = slice(bounds[i], bounds[i + 1])
    targets = {}
    for key, value in parsed.items():
      if key.startswith(schema.TARGET_PREFIX):
        row = value[i]
        targets[key[len(schema.TARGET_PREFIX) :]] = (
          row.reshape(()) if row.size == 1 else row
        )
      elif key.startswith(schema.ATOM_TARGET_PREFIX):
        targets[key[len(schema.ATOM_TARGET_PREFIX) :]] = value[atoms]
    structures.append(
      structure_lib.Structure(
        positions=parsed["positions"][atoms],
        atomic_numbers=parsed["atomic_numbers"][atoms],
        cell=parsed["cell"][i],
        pbc=parsed["pbc"][i],
        tags=parsed["tags"][atoms],
        fixed=parsed["fixed"][atoms],
        energy=float(parsed["energy"][i]) if "energy" in parsed else None,
        forces=parsed["forces"][atoms] if "forces" in parsed else None,
        targets=targets,
        record_id=parsed["record_id"][i].decode("utf-8"),
      )
    )
  return structures
