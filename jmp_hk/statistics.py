"""Streaming statistics of a dataset, exact and mergeable in any order.

Energies of one dataset differ by 1e5 eV while the residuals that the scale is made of
are around 1 eV, so that float64 sums of squares over 1e8 structures would lose them.
Labels are therefore rounded to multiples of 2^-40 (1e-12) and all sums are Python
integers: no cancellation, and merging gives the same bits in every order.
"""

from collections import Counter
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
from fractions import Fraction

import numpy as np

from jmp_hk import serialization
from jmp_hk import structure as structure_lib

_BITS = 40
_ONE = 1 << _BITS
_COUNTERS = ("sizes", "atoms_by_element", "gram")
_PAIR = 1000  # Larger than any atomic number, so that a pair of them is one key.
# Directions of composition space below this share of the largest are not resolved.
_RELATIVE_CUTOFF = 1e-11


@dataclasses.dataclass
class Moments:
  """Sums over one label, in units of 2^-40.

  Attributes:
    count: number of values.
    total: sum of the values.
    square: sum of their squares, in units of 2^-80.
    by_element: sum over structures of (value × atoms of an element); for labels of
      one value per structure.
    largest: largest value seen, for class indices.
  """

  count: int = 0
  total: int = 0
  square: int = 0
  by_element: dict[int, int] = dataclasses.field(default_factory=Counter)
  largest: serialization.Unbounded = float("-inf")

  def __post_init__(self) -> None:
    self.by_element = Counter(self.by_element)  # Read from JSON, it is a mapping.

  def add_scalar(self, value: float, elements: Mapping[int, int]) -> None:
    """Adds the label of one structure with its element counts."""
    fixed = round(value * _ONE)
    self.count += 1
    self.total += fixed
    self.square += fixed * fixed
    for element, number in elements.items():
      self.by_element[element] += fixed * number
    self.largest = max(self.largest, value)

  def add_array(self, values: np.ndarray) -> None:
    """Adds all entries of an array."""
    flat = np.asarray(values, np.float64).ravel()
    self.count += flat.size
    self.total += round(float(flat.sum()) * _ONE)
    self.square += round(float(flat @ flat) * _ONE) << _BITS

  def merge(self, other: "Moments") -> None:
    """Adds the sums of another instance."""
    self.count += other.count
    self.total += other.total
    self.square += other.square
    self.by_element.update(other.by_element)
    self.largest = max(self.largest, other.largest)

  def mean_std(self) -> tuple[float, float]:
    """Mean and standard deviation over all values; (0, 0) where there are none."""
    if not self.count:
      return 0.0, 0.0
    mean = Fraction(self.total, self.count * _ONE)
    variance = Fraction(self.square, self.count * _ONE * _ONE) - mean * mean
    return float(mean), float(max(variance, 0)) ** 0.5

  def rms(self) -> float:
    """Root mean square; 0 where there are no values."""
    if not self.count:
      return 0.0
    return float(Fraction(self.square, self.count * _ONE * _ONE)) ** 0.5


@dataclasses.dataclass
class Unlabelled:
  """Composition of the structures that lack a label; linear fits leave them out.

  Attributes:
    structures: number of structures.
    atoms_by_element: atoms per atomic number.
    gram: see `Statistics`.
  """

  structures: int = 0
  atoms_by_element: dict[int, int] = dataclasses.field(default_factory=Counter)
  gram: dict[int, int] = dataclasses.field(default_factory=Counter)

  def __post_init__(self) -> None:
    self.atoms_by_element = Counter(self.atoms_by_element)
    self.gram = Counter(self.gram)

  def add(self, elements: Mapping[int, int]) -> None:
    """Adds a structure by its element counts."""
    self.structures += 1
    self.atoms_by_element.update(elements)
    self.gram.update(_gram(elements))

  def merge(self, other: "Unlabelled") -> None:
    """Adds another instance."""
    self.structures += other.structures
    self.atoms_by_element.update(other.atoms_by_element)
    self.gram.update(other.gram)


@dataclasses.dataclass
class Statistics:
  """Everything that `dataset_info.json` needs about a set of structures.

  Attributes:
    structures: number of structures.
    atoms: number of atoms.
    sizes: structures per number of atoms.
    atoms_by_element: atoms per atomic number.
    gram: Σ counts(z) counts(z') by 1000 z + z', z ≤ z', of the linear fits.
    energy: moments of the energy, eV.
    forces: moments of the force components, eV/Å.
    targets: moments of further labels.
    missing: structures that lack a label that others have, by its name.
  """

  structures: int = 0
  atoms: int = 0
  sizes: dict[int, int] = dataclasses.field(default_factory=Counter)
  atoms_by_element: dict[int, int] = dataclasses.field(default_factory=Counter)
  gram: dict[int, int] = dataclasses.field(default_factory=Counter)
  energy: Moments = dataclasses.field(default_factory=Moments)
  forces: Moments = dataclasses.field(default_factory=Moments)
  targets: dict[str, Moments] = dataclasses.field(default_factory=dict)
  missing: dict[str, Unlabelled] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    for name in _COUNTERS:
      setattr(self, name, Counter(getattr(self, name)))

  def add(
    self, structure: structure_lib.Structure, optional: Collection[str] = ()
  ) -> None:
    """Adds one structure.

    Args:
      structure: the structure.
      optional: names of labels that it may lack though others have them.
    """
    elements = Counter(np.asarray(structure.atomic_numbers).tolist())
    self.structures += 1
    self.atoms += structure.num_atoms
    self.sizes[structure.num_atoms] += 1
    self.atoms_by_element.update(elements)
    self.gram.update(_gram(elements))
    if structure.energy is not None:
      self.energy.add_scalar(structure.energy, elements)
    if structure.forces is not None:
      self.forces.add_array(structure.forces)
    for name, value in structure.targets.items():
      moments = self.targets.setdefault(name, Moments())
      if np.size(value) == 1 and np.ndim(value) < 2:
        moments.add_scalar(float(np.reshape(value, ())), elements)
      else:
        moments.add_array(value)
    for name in optional:
      unlabelled = self.missing.setdefault(name, Unlabelled())
      if structure.label(name) is None:
        unlabelled.add(elements)

  def merge(self, other: "Statistics") -> None:
    """Adds another instance; the result does not depend on the order."""
    self.structures += other.structures
    self.atoms += other.atoms
    for name in _COUNTERS:
      getattr(self, name).update(getattr(other, name))
    self.energy.merge(other.energy)
    self.forces.merge(other.forces)
    for name, moments in other.targets.items():
      self.targets.setdefault(name, Moments()).merge(moments)
    for name, unlabelled in other.missing.items():
      self.missing.setdefault(name, Unlabelled()).merge(unlabelled)


def of_structures(
  structures: Iterable[structure_lib.Structure], optional: Collection[str] = ()
) -> Statistics:
  """Statistics of some structures, for example of a split.

  Args:
    structures: the structures.
    optional: names of labels that some of them may lack.
  """
  statistics = Statistics()
  for structure in structures:
    statistics.add(structure, optional)
  return statistics


def _gram(elements: Mapping[int, int]) -> dict[int, int]:
  """Products of the element counts of one structure, see `Statistics.gram`."""
  ordered = sorted(elements.items())
  return {
    _PAIR * first + second: number * other
    for i, (first, number) in enumerate(ordered)
    for second, other in ordered[i:]
  }


@dataclasses.dataclass(frozen=True)
class LinearFit:
  """A per-element linear fit without intercept.

  Attributes:
    references: coefficient by atomic number.
    mean: mean residual.
    std: standard deviation of the residuals about their mean.
  """

  references: dict[int, float]
  mean: float
  std: float


def fit_references(
  statistics: Statistics, moments: Moments, label: str = ""
) -> LinearFit:
  """Least squares of one label per structure on the element counts.

  Where compositions do not determine the coefficients (for example one molecule
  only), the solution of least norm is taken.

  Args:
    statistics: holds the element counts of the same structures as `moments`.
    moments: sums over a label that has one value per structure.
    label: its name, by which structures that lack it are left out.
  """
  without = statistics.missing.get(label, Unlabelled())
  atoms = Counter(statistics.atoms_by_element)
  atoms.subtract(without.atoms_by_element)
  gram = Counter(statistics.gram)
  gram.subtract(without.gram)
  elements = sorted(z for z, count in atoms.items() if count)
  if not elements or not moments.count:
    return LinearFit({}, *moments.mean_std())
  rows = [[gram[_PAIR * min(a, b) + max(a, b)] for b in elements] for a in elements]
  right = [Fraction(moments.by_element[z], _ONE) for z in elements]
  inverse = _pseudo_inverse(np.array(rows, np.float64))
  solution = np.zeros(len(elements))
  for _ in range(4):  # refine with residuals of the exact normal equations
    residual = [float(r) for r in _residual(rows, right, solution)]
    solution = solution + inverse @ np.array(residual)
  exact = [Fraction(float(value)) for value in solution]
  rest = _residual(rows, right, solution)
  count = moments.count
  square = Fraction(moments.square, _ONE * _ONE) - sum(
    c * (r + d) for c, r, d in zip(exact, right, rest, strict=True)
  )
  total = Fraction(moments.total, _ONE) - sum(
    c * atoms[z] for c, z in zip(exact, elements, strict=True)
  )
  mean = total / count
  variance = max(square / count - mean * mean, 0)
  references = {z: float(c) for z, c in zip(elements, solution, strict=True)}
  return LinearFit(references, float(mean), float(variance) ** 0.5)


def _residual(
  rows: list[list[int]], right: list[Fraction], solution: np.ndarray
) -> list[Fraction]:
  exact = [Fraction(float(value)) for value in solution]
  return [
    b - sum(a * c for a, c in zip(row, exact, strict=True))
    for row, b in zip(rows, right, strict=True)
  ]


def _pseudo_inverse(gram: np.ndarray) -> np.ndarray:
  """Pseudo-inverse of a symmetric matrix whose columns differ widely in size."""
  scale = 1.0 / np.sqrt(np.diag(gram))
  values, vectors = np.linalg.eigh(gram * scale[:, None] * scale)
  kept = values > _RELATIVE_CUTOFF * values.max()
  vectors = vectors[:, kept]
  return (vectors / values[kept]) @ vectors.T * scale[:, None] * scale
