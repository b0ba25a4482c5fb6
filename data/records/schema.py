"""The record layout: `Structure` ↔ serialized `tf.train.Example`, in NumPy only.

A record is a `tf.train.Example` whose features are raw little-endian bytes, written
here by hand (the message has one shape) so that converter processes need no
TensorFlow, and so that equal structures give equal bytes. `tf_reader` parses
them inside TensorFlow.

  feature           bytes of
  atomic_numbers    uint8 [n]
  positions         float32 [n, 3], Å
  cell              float64 [3, 3], Å
  pbc               uint8 [3]
  tags              uint8 [n]
  fixed             uint8 [n]
  energy            float64 [], eV; absent where there is no energy
  forces            float32 [n, 3], eV/Å; absent where there are no forces
  stress            float64 [6], eV/Å³, xx, yy, zz, yz, xz, xy with ASE's sign; absent
                    where there is no stress
  record_id         UTF-8 text
  target/NAME       float64 [k], a label of the structure (k = 1 for a scalar)
  atom_target/NAME  float32 [n, k], a label of each atom

Positions and forces are float32: 1e-6 Å at 20 Å and 1e-7 relative, far below what
electronic-structure codes resolve, and half the size. Energies and labels of whole
structures are float64, because references are subtracted from them first.
"""

from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np

from jmp_hk import structure as structure_lib

TARGET_PREFIX = "target/"
ATOM_TARGET_PREFIX = "atom_target/"

DTYPES = {
  "atomic_numbers": np.dtype("u1"),
  "positions": np.dtype("<f4"),
  "cell": np.dtype("<f8"),
  "pbc": np.dtype("u1"),
  "tags": np.dtype("u1"),
  "fixed": np.dtype("u1"),
  "energy": np.dtype("<f8"),
  "forces": np.dtype("<f4"),
  "stress": np.dtype("<f8"),
}
TARGET_DTYPE = np.dtype("<f8")
ATOM_TARGET_DTYPE = np.dtype("<f4")
REQUIRED = ("atomic_numbers", "positions", "cell", "pbc", "tags", "fixed")


class SchemaError(ValueError):
  """Bytes are not a record of this layout."""


def encode(structure: structure_lib.Structure) -> bytes:
  """Serializes a structure as a `tf.train.Example`.

  Args:
    structure: a valid structure (see `structure.find_problem`).

  Returns:
    The serialized message; equal structures give equal bytes.
  """
  return encode_features(to_features(structure))


def decode(serialized: bytes, origin: str = "") -> structure_lib.Structure:
  """Inverse of `encode` up to the rounding of the layout.

  Args:
    serialized: one record.
    origin: where the record came from, for the error message.

  Raises:
    SchemaError: the bytes are not such a record.
  """
  try:
    return from_features(decode_features(serialized))
  except (KeyError, ValueError, IndexError) as error:
    where = f" ({origin})" if origin else ""
    raise SchemaError(f"Not a structure record{where}: {error}") from error


def to_features(structure: structure_lib.Structure) -> dict[str, bytes]:
  """Bytes of every feature of a structure by name."""
  features = {name: _bytes(getattr(structure, name), DTYPES[name]) for name in REQUIRED}
  for name in structure_lib.LABELS:
    if (value := getattr(structure, name)) is not None:
      features[name] = _bytes(value, DTYPES[name])
  features["record_id"] = structure.record_id.encode("utf-8")
  for name, value in structure.targets.items():
    if np.ndim(value) == 2:
      features[ATOM_TARGET_PREFIX + name] = _bytes(value, ATOM_TARGET_DTYPE)
    else:
      features[TARGET_PREFIX + name] = _bytes(value, TARGET_DTYPE)
  return features


def from_features(features: Mapping[str, bytes]) -> structure_lib.Structure:
  """Rebuilds a structure from the bytes of its features.

  Args:
    features: bytes by feature name. Empty bytes of `energy`, `forces`, `stress` and
      targets mean absent, as `tf.io.parse_example` with an empty default gives them.

  Returns:
    The structure; a label of length 1 comes back as a 0-d array. Floating arrays are
    read-only views of the bytes.
  """
  numbers = np.frombuffer(features["atomic_numbers"], np.uint8).astype(np.int32)
  n = len(numbers)
  targets = {}
  for name, value in features.items():
    if name.startswith(TARGET_PREFIX) and value:
      array = np.frombuffer(value, TARGET_DTYPE)
      targets[name[len(TARGET_PREFIX) :]] = (
        array.reshape(()) if array.size == 1 else array
      )
    elif name.startswith(ATOM_TARGET_PREFIX) and value:
      array = np.frombuffer(value, ATOM_TARGET_DTYPE).reshape(n, -1)
      targets[name[len(ATOM_TARGET_PREFIX) :]] = array
  energy = features.get("energy")
  forces = features.get("forces")
  stress = features.get("stress")
  return structure_lib.Structure(
    positions=np.frombuffer(features["positions"], DTYPES["positions"]).reshape(n, 3),
    atomic_numbers=numbers,
    cell=np.frombuffer(features["cell"], DTYPES["cell"]).reshape(3, 3),
    pbc=np.frombuffer(features["pbc"], np.uint8).reshape(3).astype(bool),
    tags=np.frombuffer(features["tags"], np.uint8).reshape(n).astype(np.int32),
    fixed=np.frombuffer(features["fixed"], np.uint8).reshape(n).astype(bool),
    energy=float(np.frombuffer(energy, DTYPES["energy"])[0]) if energy else None,
    forces=(np.frombuffer(forces, DTYPES["forces"]).reshape(n, 3) if forces else None),
    stress=(np.frombuffer(stress, DTYPES["stress"]).reshape(6) if stress else None),
    targets=targets,
    record_id=features.get("record_id", b"").decode("utf-8"),
  )


def encode_features(features: Mapping[str, bytes]) -> bytes:
  """Serializes bytes features as a `tf.train.Example`, names in ascending order."""
  entries = []
  for name in sorted(features):
    value = _field(2, _field(1, _field(1, features[name])))
    entries.append(_field(1, _field(1, name.encode("utf-8")) + value))
  return _field(1, b"".join(entries))


def decode_features(serialized: bytes) -> dict[str, bytes]:
  """Reads the bytes features of a serialized `tf.train.Example`.

  Raises:
    ValueError: the bytes are not such a message.
  """
  features = {}
  for entry in _fields(_only_field(serialized)):
    parts = list(_fields(entry, with_number=True))
    if [number for number, _ in parts] != [1, 2]:
      raise ValueError("a feature lacks its name or its value")
    features[parts[0][1].decode("utf-8")] = _only_field(_only_field(parts[1][1]))
  return features


def count_atoms(serialized: bytes | memoryview) -> int:
  """Number of atoms of a record, without decoding the rest of it.

  Raises:
    SchemaError: the bytes are not such a record.
  """
  try:
    # The one field of the message, in it one entry for each feature, and so on.
    start, stop = _span(serialized, 0, len(serialized))
    while start < stop:
      entry, entry_stop = _span(serialized, start, stop)
      name, name_stop = _span(serialized, entry, entry_stop)
      if serialized[name:name_stop] == b"atomic_numbers":
        first, last = _span(serialized, name_stop, entry_stop)
        for _ in range(2):
          first, last = _span(serialized, first, last)
        return last - first
      start = entry_stop
  except (IndexError, ValueError) as error:
    raise SchemaError(f"Not a structure record: {error}.") from error
  raise SchemaError("Not a structure record: it has no atomic numbers.")


def _bytes(value: object, dtype: np.dtype) -> bytes:
  return np.asarray(value, dtype).tobytes()


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 0x7F:
    out.append((value & 0x7F) | 0x80)
    value >>= 7
  out.append(value)
  return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
  """A length-delimited protobuf field."""
  return bytes((number << 3 | 2,)) + _varint(len(payload)) + payload


def _fields(message: bytes, with_number: bool = False) -> Iterator:
  """Payloads of the length-delimited fields of a message."""
  position, end = 0, len(message)
  while position < end:
    number = message[position] >> 3
    start, position = _span(message, position, end)
    payload = message[start:position]
    yield (number, payload) if with_number else payload


def _span(message: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
  """Where the payload of the length-delimited field at a position begins and ends."""
  key = message[position]
  if key & 7 != 2 or key > 0x7F:
    raise ValueError(f"unexpected protobuf key {key}")
  position, length, shift = position + 1, 0, 0
  while True:
    byte = message[position]
    position += 1
    length |= (byte & 0x7F) << shift
    shift += 7
    if byte < 0x80:
      break
  if position + length > end:
    raise ValueError(f"a field of {length} bytes passes the end of the message")
  return position, position + length


def _only_field(message: bytes) -> bytes:
  payloads = list(_fields(message))
  if len(payloads) != 1:
    raise ValueError(f"expected one field, found {len(payloads)}")
  return payloads[0]
