"""Random numbers that are functions of seed, purpose and a counter alone."""

import zlib

import numpy as np

MIXTURE = 1
ORDER = 2
DROPOUT = 3


def generator(seed: int, stream: int, counter: int) -> np.random.Generator:
  """Random numbers that depend on nothing but the arguments.

  Args:
    seed: seed of the run.
    stream: what the numbers are for; streams are independent.
    counter: number of the draw, block or epoch.
  """
  key = np.array([seed, stream], np.uint64)
  counters = np.array([0, counter, 0, 0], np.uint64)
  return np.random.Generator(np.random.Philox(key=key, counter=counters))


def edge_dropout(seed: int | None, draw: int) -> np.random.Generator | None:
  """Decides which edges of a structure are left out, whoever builds its graphs.

  Args:
    seed: seed of the run; None leaves all edges in.
    draw: number of the structure in the stream.
  """
  return None if seed is None else generator(seed, DROPOUT, draw)


def stream_seed(seed: int, name: str) -> int:
  """Seed of one dataset's order: datasets are shuffled independently of each other."""
  return (seed ^ (zlib.crc32(name.encode("utf-8")) << 32)) % 2**64
