"""Interpreting pickles: as Python does for plain values, and nothing else at all."""

import collections
import math
import pathlib
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from data.formats import pickled
from jmp_hk.interop import inert
from jmp_hk.interop import restricted_pickle
from tests.faults import test_unpicklers

_PLAIN = {
  "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**40, 2**200, 1.5, -0.0, math.inf],
  "texts": ["", "a", "ä€😀", "x" * 300, "line\nend", "back\\slash"],
  "bytes": [b"", b"\x00\xff" * 200, {b"k": 1}],
  "others": (None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}),
  "sets": [set(), {1, 2}, frozenset({"a"})],
  ("a", (1, None)): {1: 2, None: 3, 2.5: 4, False: 6},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_those_of_python(protocol):
  value = dict(_PLAIN)
  if protocol < 3:  # Older pickles make bytes and sets by calls.
    del value["bytes"]
  if protocol < 4:
    del value["sets"]
  data = pickle.dumps(value, protocol)
  assert restricted_pickle.loads(data, {}) == pickle.loads(data) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_shared_and_recursive_values_stay_so(protocol):
  shared = ["x"]
  value = {"a": shared, "b": shared}
  value["self"] = value
  found = restricted_pickle.loads(pickle.dumps(value, protocol), {})
  assert found["a"] is found["b"] and found["self"] is found


def test_dictionaries_of_other_kinds_are_plain():
  value = collections.OrderedDict(a=1, b=collections.defaultdict(list, c=[2]))
  data = pickle.dumps(value, 4)
  found = restricted_pickle.loads(data, inert.DICTIONARIES)
  assert type(found) is dict and list(found.items()) == [("a", 1), ("b", {"c": [2]})]


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
  "array",
  [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(3, dtype=">i8"),
    np.array([True, False]),
    np.zeros((0, 3)),
    np.array(2.5),
  ],
)
def test_arrays_of_numpy_are_read_as_they_are(array, protocol):
  record = {"x": array, "n": np.float64(1.5), "k": np.int32(7)}
  found = pickled.load_record(pickle.dumps(record, protocol))
  np.testing.assert_array_equal(found["x"], array)
  assert found["x"].shape == array.shape and found[
    "x"
  ].dtype == array.dtype.newbyteorder("=")
  assert found["n"] == 1.5 and found["k"] == 7


def _scalar_of_objects() -> bytes:
  """NumPy's `scalar` of a type of objects whose flags are cleared, and an address."""
  minus = b"J\xff\xff\xff\xff"
  dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8K\x00K\x01tR"
  state = b"(K\x03X\x01\x00\x00\x00|NNN" + minus + minus + b"K\x00tb"
  address = b"C\x08" + struct.pack("<Q", 0x4141414141414141)
  return b"\x80\x04cnumpy.core.multiarray\nscalar\n(" + dtype + state + address + b"tR."


def _legacy_storage(count: int) -> bytes:
  """A tensor of a storage that announces `count` numbers and holds one."""
  storage = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
  storage += pickle.dumps({"little_endian": True}, 2)
  storage += b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
  storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01NtQ."
  storage += pickle.dumps(["0"], 2) + struct.pack("<q", count) + bytes(4)
  return (
    b"\x80\x04ctorch.storage\n_load_from_bytes\nB"
    + struct.pack("<I", len(storage))
    + storage
    + b"\x85R."
  )


_DOUBLED = b"N" + b"2\x86" * 100  # 2^100 values
_HOSTILE = {
  "a type of objects": (_scalar_of_objects(), "type of numbers, found 'O8'"),
  "a shared tuple as a key": (b"\x80\x04}" + _DOUBLED + b"Ns.", "more than 32 values"),
  "a shared tuple in a set": (
    b"\x80\x04\x8f(" + _DOUBLED + b"\x90.",
    "more than 32 values",
  ),
  "a shared tuple as a shape": (
    b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(NK\x00" + _DOUBLED + b"NtR.",
    "no storage",
  ),
  "a shared tuple as a persistent id": (b"\x80\x04" + _DOUBLED + b"Q.", "outside"),
  "a shared tuple as the record": (b"\x80\x04" + _DOUBLED + b".", "found a tuple"),
  "keys of equal hashes": (
    b"\x80\x04}("
    + b"".join(
      b"("
      + b"".join(b"J" + struct.pack("<i", -1 - (k >> bit & 1)) for bit in range(12))
      + b"tN"
      for k in range(2000)
    )
    + b"u.",
    "more than 1000 keys are tuples",
  ),
  "lists 900,000 levels deep": (
    b"\x80\x04" + b"]" * 900_000 + b"a" * 899_999 + b".",
    "200 levels",
  ),
  "tuples 100,000 levels deep": (b"\x80\x04N" + b"\x85" * 100_000 + b".", "200 levels"),
  "instructions without end": (b"\x80\x04" + b"N" * 2_000_001 + b".", "instructions"),
  "a long text": (b"\x80\x04\x8d" + struct.pack("<Q", 10**13) + b"x.", "truncated"),
  "long bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"x.", "truncated"),
  "a long part": (b"\x80\x04\x95" + struct.pack("<Q", 10**13) + b"N.", "truncated"),
  "a long integer": (
    b"\x80\x04\x8b" + struct.pack("<I", 10**6) + bytes(10**6) + b".",
    "more than 64",
  ),
  "an integer in digits": (b"L" + b"9" * 10**6 + b"L\n.", "digits"),
  "a long storage": (_legacy_storage(10**13), "expected 10000000000000 numbers"),
  "a negative storage": (_legacy_storage(-1), "truncated"),
  "buffers elsewhere": (b"\x80\x05\x97.", "instruction"),
  "registered classes": (b"\x80\x04\x82\x01.", "instruction"),
  "another protocol": (b"\x80\x09N.", "protocol 5 or older"),
  "nothing": (b"", "truncated"),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_pickles_are_refused_in_a_sentence(name):
  data, message = _HOSTILE[name]
  with pytest.raises(pickled.PickleError, match=message):
    pickled.load_record(data)


def test_a_storage_is_not_multiplied():
  # Every view is allowed, but all together are a thousand times the record.
  storage = _legacy_storage(1)[2:-1]
  one = b"ctorch._utils\n_rebuild_tensor_v2\n(h\x00K\x00M\xe8\x03\x85K\x00\x85tR"
  data = b"\x80\x04" + storage + b"\x94]" + (one + b"a") * 500 + b"."
  with pytest.raises(pickled.PickleError, match="much larger than the data"):
    pickled.load(data)


def test_the_usual_way_would_run_what_they_name():
  # What the mutated pickles begin with is hostile: Python's own machine ends here.
  code = (
    "import pickle; from tests.faults import pickle_mutations as made\n"
    "for data in made.good_records():\n"
    "  if b'detonate' in data: pickle.loads(data)"
  )
  root = pathlib.Path(__file__).parents[3]
  process = subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
  assert process.returncode == 99


def test_mutated_pickles_are_refused_or_read():
  report = test_unpicklers.read_mutations(3000, 1)
  assert report["failures"] == []
  assert sum(n for k, n in report["table"].items() if k.endswith("accepted")) > 100
