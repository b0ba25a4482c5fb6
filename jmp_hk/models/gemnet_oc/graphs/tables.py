"""Tables of one structure's edges that the interactions look things up in."""

import numpy as np

from jmp_hk.graphs import neighbors


def index_dtype(num_atoms: int) -> type[np.signedinteger]:
  """The smallest sensible integers for atoms, to send and to sort."""
  return np.int16 if num_atoms < 2**15 else np.int32


def distinct_senders(
  edges: neighbors.EdgeSet, num_atoms: int
) -> tuple[np.ndarray, np.ndarray]:
  """Distinct (sender, receiver) pairs and each edge's slot among its receiver's."""
  dtype = index_dtype(num_atoms)
  flat = edges.receivers * num_atoms + edges.senders
  if (flat[1:] > flat[:-1]).all():  # Sorted and distinct, as those of molecules are.
    starts = neighbors.row_starts(edges.receivers, num_atoms)
    slots = np.arange(len(flat), dtype=dtype) - starts.astype(dtype).take(
      edges.receivers
    )
    return _pairs(edges.senders, edges.receivers, dtype), slots
  present = np.zeros((num_atoms, num_atoms), bool)
  present.ravel()[flat] = True
  receivers, senders = present.nonzero()
  slots = present.cumsum(axis=1, dtype=dtype).ravel()
  slots -= 1
  return _pairs(senders, receivers, dtype), slots.take(flat)


def _pairs(senders, receivers, dtype: type[np.signedinteger]) -> np.ndarray:
  """[p, 2] in the smallest sensible integers."""
  pairs = np.empty((len(senders), 2), dtype)
  pairs[:, 0], pairs[:, 1] = senders, receivers
  return pairs


def find_quad_exclusion(
  main: neighbors.EdgeSet,
  main_codes: np.ndarray,
  qint: neighbors.EdgeSet,
  qint_codes: np.ndarray,
  bound: int,
  num_atoms: int,
) -> np.ndarray:
  """For main edge c→a and each qint edge b→a: slot of main edge c→b, or -1.

  c→b must start at the same image of c, so its offset is that of c→a less that of
  b→a. A table (pair of atoms, offset code) → slot answers all questions at once. If
  there are offsets, only the pairs with main edges have a place in it; pair 0 stands
  for all others.
  """
  starts = neighbors.row_starts(qint.receivers, num_atoms)
  width = int((starts[1:] - starts[:-1]).max(initial=0))
  if not width or not len(main):
    return np.full((len(main), width), -1, np.int16)
  column = np.arange(len(qint)) - starts.take(qint.receivers)
  cell = qint.receivers * width + column
  middle = np.full(num_atoms * width, num_atoms * num_atoms, np.intp)  # n × atom b
  middle[cell] = qint.senders * num_atoms

  degree = neighbors.row_starts(main.receivers, num_atoms)
  slot = np.arange(len(main)) - degree.take(main.receivers)
  answered = main.receivers * num_atoms + main.senders
  question = middle.reshape(num_atoms, width).take(main.receivers, axis=0)
  question += main.senders[:, None]
  size = (num_atoms + 1) * num_atoms
  if bound:
    present = np.zeros(size, bool)
    present[answered] = True
    pair = present.cumsum(dtype=np.intp)
    stride = 2 * bound + 1
    size = (int(pair[-1]) + 1) * stride
    pair *= present
    pair *= stride
    shifted = main_codes + bound
    answered = pair.take(answered) + shifted
    question = pair.take(question)
    question += shifted[:, None]
    middle_codes = np.zeros(num_atoms * width, np.intp)
    middle_codes[cell] = qint_codes
    question -= middle_codes.reshape(num_atoms, width).take(main.receivers, axis=0)
  table = np.full(size, -1, np.int16)
  table[answered] = slot
  return table.take(question)
