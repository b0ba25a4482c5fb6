"""Candidates for GemNet-OC's four graphs while atoms move less than a skin.

A far list holds all pairs that can come within the largest cutoff, for the atom-to-atom
graph. A near list holds those that can be among the nearest ones, or within an adaptive
cutoff, for the other three. What depends on neither distances nor selection is prepared
here once for many steps: reverse pairs, distinct senders, and which pair closes a
triangle with two others. `device_graphs` does the rest at every step.
"""

import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import adaptive
from jmp_hk.graphs import candidates as candidates_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import moving as moving_lib
from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors
from jmp_hk.models.gemnet_oc.graphs import choice
from jmp_hk.models.gemnet_oc.graphs import tables

Truncation = graph_config.Truncation

# Distances below which the order of neighbors is not that of their distances, by
# truncation; a chain of such ties is no longer than some times the limit.
_TIES = {
  Truncation.PUBLISHED: nearest.TIE_TOLERANCE,
  Truncation.SHELLS: nearest.SHELL_TOLERANCE,
}
_TIE_CHAIN = 4


@dataclasses.dataclass(frozen=True)
class StructureCandidates:
  """Candidates of one structure; indices count from its first atom or pair.

  Attributes:
    structure: the structure, at the positions of the search.
    far: pairs within R + skin, sorted by receiver.
    near: pairs of the three smaller graphs, sorted by receiver, sender and offset; a
      pair and its reverse are both there.
    reverse: [near] index of the pair with swapped ends.
    is_forward: [near] whether the pair is the forward one of the two.
    qint_column: [near] number of the pair among the possible qint edges into its
      receiver, -1 where it cannot become one.
    third: [near, q] for pair c→a and the q-th possible qint edge b→a: slot of c→b among
      the pairs into b, or -1.
    a2a_pairs: see `GemNetOCStructureGraphs`, of all far pairs.
    a2a_slot: [far] likewise.
    limits: [4] wanted numbers of neighbors, in the order main, a2a, a2ee2a, qint.
    highest: largest distance of neighbors in Å, with its tolerance.
    guess: [n, 4] cutoffs to start from where truncation is smooth, else zeros.
    backgrounds: [4] factors of `adaptive.background`.
  """

  structure: structure_lib.Structure
  far: neighbors.EdgeSet
  near: neighbors.EdgeSet
  reverse: np.ndarray
  is_forward: np.ndarray
  qint_column: np.ndarray
  third: np.ndarray
  a2a_pairs: np.ndarray
  a2a_slot: np.ndarray
  limits: np.ndarray
  highest: float
  guess: np.ndarray
  backgrounds: np.ndarray

  @property
  def widths(self) -> tuple[int, int, int, int]:
    """Largest numbers of far and near pairs, qint columns and senders of an atom."""
    n = self.structure.num_atoms
    senders = np.bincount(self.a2a_pairs[:, 1], minlength=n).max()
    return (
      candidates_lib.widest(self.far, n),
      candidates_lib.widest(self.near, n),
      self.third.shape[1],
      int(senders),
    )


def find_candidates(
  structure: structure_lib.Structure,
  config: graph_config.GraphConfig,
  options: choice.GraphOptions,
  skin: float,
) -> StructureCandidates:
  """Finds the candidates of a structure.

  Args:
    structure: any structure that graphs can be built for.
    config: cutoff, number of neighbors, truncation.
    options: which edges make quadruplets.
    skin: by how much distances may change before candidates are found anew, Å.

  Returns:
    The candidates.

  Raises:
    InvalidStructureError: see `find_neighbors`.
    CandidatesError: a pair at the very end of the search was found once.
  """
  n = structure.num_atoms
  limits = dataclasses.astuple(choice.neighbor_limits(config, n))
  tolerance = neighbors.CUTOFF_TOLERANCE
  periodic = bool(np.any(structure.pbc))
  highest = config.cutoff + (tolerance if periodic else -tolerance)
  far = neighbors.find_neighbors(structure, config.cutoff + skin)
  if config.truncation in _TIES and candidates_lib.widest(far, n) > limits[1]:
    far = candidates_lib.sort_edges(far, n)
  reach = _reaches(far, n, limits, config, skin, highest)
  ends = np.maximum(reach[far.receivers, 0], reach[far.senders, 0])
  near = candidates_lib.sort_edges(far.take(far.distances <= ends), n)
  codes, bound = np.zeros(0, np.intp), 0
  if len(near):
    codes, bound = nearest.offset_codes(near, neighbors.home_cells(structure))
  may_be_qint = near.distances <= reach[near.receivers, 1]
  may_be_qint &= choice.joins_tagged(near, structure.tags, options.qint_tags)
  chosen = may_be_qint.nonzero()[0]
  qint = near.take(chosen)
  column = np.full(len(near), -1, np.int32)
  starts = neighbors.row_starts(qint.receivers, n)
  column[chosen] = np.arange(len(qint)) - starts.take(qint.receivers)
  third = tables.find_quad_exclusion(near, codes, qint, codes[chosen], bound, n)
  pairs, a2a_slot = tables.distinct_senders(far, n)
  smooth = config.truncation is Truncation.SMOOTH
  return StructureCandidates(
    structure=structure,
    far=far,
    near=near,
    reverse=_reverse(near, codes, bound, n),
    is_forward=choice.is_forward(near, codes, bound),
    qint_column=column,
    third=third,
    a2a_pairs=pairs,
    a2a_slot=a2a_slot,
    limits=np.array(limits, np.int32),
    highest=highest,
    guess=_guess(near, n, limits, config) if smooth else np.zeros((n, 4)),
    backgrounds=np.array(
      [adaptive.background(limit, config.cutoff) for limit in limits]
    ),
  )


def _reaches(
  far: neighbors.EdgeSet,
  num_atoms: int,
  limits: tuple[int, ...],
  config: graph_config.GraphConfig,
  skin: float,
  highest: float,
) -> np.ndarray:
  """[n, 2] distance now beyond which no pair gets into the main and the qint graph."""
  wanted = limits[0], limits[3]
  if config.truncation is Truncation.SMOOTH:
    # Cutoffs grow with distances, so that this bounds them.
    farther = dataclasses.replace(far, distances=far.distances + skin)
    most = adaptive.adaptive_cutoffs(farther, num_atoms, wanted, config.cutoff)
    return np.where(most > 0, most + skin + 1e-6, -1.0)
  starts = neighbors.row_starts(far.receivers, num_atoms)
  degree = starts[1:] - starts[:-1]
  width = max(int(degree.max(initial=0)), *wanted, 1)
  table = np.full((num_atoms, width), np.inf)
  table[np.arange(width) < degree[:, None]] = far.distances
  columns = [max(limit - 1, 0) for limit in wanted]
  table.partition(sorted(set(columns)), axis=1)
  last = table[:, columns]
  chain = _TIES[config.truncation] * _TIE_CHAIN * np.maximum(wanted, 1)
  reach = np.minimum(last + skin + chain, highest) + skin
  return np.where(np.array(wanted) > 0, reach, -1.0)


def _guess(
  near: neighbors.EdgeSet,
  num_atoms: int,
  limits: tuple[int, ...],
  config: graph_config.GraphConfig,
) -> np.ndarray:
  """[n, 4] cutoffs at the positions of the search; the largest one for a2a."""
  main, _, a2ee2a, qint = limits
  solved = adaptive.adaptive_cutoffs(
    near, num_atoms, (main, a2ee2a, qint), config.cutoff
  )
  guess = np.full((num_atoms, 4), float(config.cutoff))
  guess[:, [0, 2, 3]] = solved
  return guess


def _reverse(
  near: neighbors.EdgeSet, codes: np.ndarray, bound: int, num_atoms: int
) -> np.ndarray:
  """[near] index of each pair's reverse; pairs are sorted by receiver, sender, code."""
  key = near.senders.astype(np.int64) * num_atoms + near.receivers
  order = (key * (2 * bound + 1) - codes).argsort()
  reverse = np.empty(len(near), np.int64)
  reverse[order] = np.arange(len(near))
  if not (
    np.array_equal(near.senders[reverse], near.receivers)
    and np.array_equal(codes[reverse], -codes)
  ):
    raise moving_lib.CandidatesError("The search found a pair in one direction only.")
  return reverse


@dataclasses.dataclass(frozen=True)
class Widths:
  """Static widths of the tables of candidates.

  Attributes:
    far: far pairs of an atom.
    near: near pairs of an atom.
    qint: possible qint edges of an atom.
    senders: distinct senders of far pairs of an atom.
  """

  far: int
  near: int
  qint: int
  senders: int

  def holds(self, needed: "Widths") -> bool:
    """Whether every width is at least as large as needed."""
    ours, theirs = dataclasses.astuple(self), dataclasses.astuple(needed)
    return all(a >= b for a, b in zip(ours, theirs, strict=True))


def needed_widths(entries: list[StructureCandidates]) -> Widths:
  """The smallest widths that hold the candidates of some structures."""
  columns = zip(*(entry.widths for entry in entries), strict=True)
  return Widths(*map(max, columns))


def roomy_widths(needed: Widths, most_atoms: int) -> Widths:
  """Widths with room for atoms that move, in steps of eight."""
  room = lambda width: 8 * -(-int(1.1 * width + 1) // 8)
  return Widths(
    far=room(needed.far),
    near=room(needed.near),
    qint=room(needed.qint),
    senders=max(min(room(needed.senders), most_atoms), needed.senders, 1),
  )


def pack_candidates(
  entries: list[StructureCandidates], widths: Widths, num_atoms: int
) -> dict[str, np.ndarray]:
  """Puts the candidates of a batch's structures into tables of static widths.

  Args:
    entries: candidates of the structures, in the order of the batch.
    widths: static widths, which hold them.
    num_atoms: atoms of the batch, N, with padding.

  Returns:
    Arrays by name: `far_senders` [N, F], `far_offsets` [3, N, F], `far_mask`,
    `a2a_slot` [N, F], `a2a_senders` [N, P], `near_senders` [N, C], `near_offsets`
    [3, N, C], `near_mask`, `is_forward`, `reverse` [N, C] (row times C plus slot),
    `qint_column` [N, C], `third` [N, C, Q], `limits` [N, 4], `highest` [N], `guess`
    and `backgrounds` [N, 4].
  """
  parts: dict[str, list[np.ndarray]] = {}
  first = 0
  for entry in [*entries, _nothing(num_atoms - _count(entries))]:
    for name, value in _tables(entry, widths, first).items():
      parts.setdefault(name, []).append(value)
    first += entry.structure.num_atoms
  axes = {"far_offsets": 1, "near_offsets": 1}
  return {
    name: np.concatenate(values, axis=axes.get(name, 0))
    for name, values in parts.items()
  }


def _count(entries: list[StructureCandidates]) -> int:
  return sum(entry.structure.num_atoms for entry in entries)


def _tables(
  entry: StructureCandidates, widths: Widths, first: int
) -> dict[str, np.ndarray]:
  """Tables of one structure whose first atom has the number `first` in the batch."""
  n = entry.structure.num_atoms
  far = candidates_lib.make_table(entry.far, n, widths.far)
  near = candidates_lib.make_table(entry.near, n, widths.near)
  far_place = candidates_lib.flat_slots(entry.far, n, widths.far)
  place = candidates_lib.flat_slots(entry.near, n, widths.near)

  def table(place, values, width, fill, dtype):
    result = np.full(n * width, fill, dtype)
    result[place] = values
    return result.reshape(n, width)

  reverse = np.arange(n * widths.near, dtype=np.int32)
  reverse[place] = place[entry.reverse]
  third = np.full((n * widths.near, widths.qint), -1, np.int16)
  third[place, : entry.third.shape[1]] = entry.third
  starts = neighbors.row_starts(entry.a2a_pairs[:, 1], n)
  column = np.arange(len(entry.a2a_pairs)) - starts.take(entry.a2a_pairs[:, 1])
  senders = np.full((n, widths.senders), -1, np.int32)
  senders[entry.a2a_pairs[:, 1], column] = (
    entry.a2a_pairs[:, 0].astype(np.int32) + first
  )
  return {
    "far_senders": far.senders + np.int32(first),
    "far_offsets": far.offsets,
    "far_mask": far.mask,
    "a2a_slot": table(far_place, entry.a2a_slot, widths.far, 0, np.int32),
    "a2a_senders": senders,
    "near_senders": near.senders + np.int32(first),
    "near_offsets": near.offsets,
    "near_mask": near.mask,
    "is_forward": table(place, entry.is_forward, widths.near, False, bool),
    "reverse": (reverse + first * widths.near).reshape(n, widths.near),
    "qint_column": table(place, entry.qint_column, widths.near, -1, np.int32),
    "third": third.reshape(n, widths.near, widths.qint),
    "limits": np.tile(entry.limits, (n, 1)),
    "highest": np.full(n, entry.highest),
    "guess": entry.guess,
    "backgrounds": np.tile(entry.backgrounds, (n, 1)),
  }


def _nothing(num_atoms: int) -> StructureCandidates:
  """Padding: atoms without candidates."""
  index, none = np.zeros(0, np.intp), np.zeros((0, 3), np.int32)
  edges = neighbors.EdgeSet(index, index, none, np.zeros(0))
  return StructureCandidates(
    structure=structure_lib.molecule(
      np.zeros((num_atoms, 3)), np.ones(num_atoms, int), "padding"
    ),
    far=edges,
    near=edges,
    reverse=index,
    is_forward=np.zeros(0, bool),
    qint_column=index,
    third=np.zeros((0, 0), np.int16),
    a2a_pairs=np.zeros((0, 2), np.int32),
    a2a_slot=index,
    limits=np.zeros(4, np.int32),
    highest=0.0,
    guess=np.zeros((num_atoms, 4)),
    backgrounds=np.zeros(4),
  )
