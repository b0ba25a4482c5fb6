"""CRC-32C (Castagnoli), the checksum of TFRecord files, in NumPy.

The checksum is linear: that of a block is the exclusive or of one table entry per
byte, chosen by the byte's value and its distance from the end. A block is one gather.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78
_BLOCK = 1024


def crc32c(data: bytes) -> int:
  """CRC-32C of some bytes."""
  table = _table()
  state = 0xFFFFFFFF
  values = np.frombuffer(data, np.uint8)
  for start in range(0, len(values), _BLOCK):
    block = values[start : start + _BLOCK]
    size = len(block)
    head = int.from_bytes(block[:4].tobytes(), "little") ^ state
    parts = table[_BLOCK - size :].reshape(-1)[_OFFSETS[:size] + block]
    result = int(np.bitwise_xor.reduce(parts[4:])) if size > 4 else 0
    for k in range(min(size, 4)):
      result ^= int(table[_BLOCK - size + k, (head >> (8 * k)) & 0xFF])
    # Fewer than four bytes leave the upper part of the state to be shifted down.
    state = result ^ (state >> (8 * size) if size < 4 else 0)
  return state ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
  """The rotated and shifted CRC-32C that TFRecord stores."""
  value = crc32c(data)
  return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


_OFFSETS = np.arange(_BLOCK, dtype=np.int64) * 256


@functools.cache
def _table() -> np.ndarray:
  """[_BLOCK, 256] uint32: effect of a byte that _BLOCK − 1 − row bytes follow."""
  first = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    first = np.where(first & 1, (first >> 1) ^ np.uint32(_POLYNOMIAL), first >> 1)
  table = np.empty((_BLOCK, 256), np.uint32)
  table[-1] = first
  for row in range(_BLOCK - 2, -1, -1):
    later = table[row + 1]
    table[row] = first[later & 0xFF] ^ (later >> 8)
  return table
