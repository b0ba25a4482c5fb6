"""Finds the labels of `ase.Atoms`, under whatever names other programs store them.

  survey = Survey()
  for atoms in frames:
    survey.add(atoms)
  keys = choose_keys(survey, ["energy", "forces"])
  energy = find(frames[0], keys["energy"])

Labels lie in `atoms.info`, `atoms.arrays`, the results of the attached calculator
(where ASE puts the `energy` and `forces` of an extxyz file), and the key-value pairs
and data of an ASE database.
"""

from collections import Counter
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any

import ase
import numpy as np

from jmp_hk import ase_tables
from jmp_hk import dataset_summary
from jmp_hk import voigt

_VECTOR = 3
_STRESS = "stress"
_VIRIAL = "virial"  # In the names of entries that hold -V times the stress.
# What `Atoms` and file formats keep beside positions and labels.
_NOT_LABELS = frozenset(
  {
    "numbers",
    "positions",
    "tags",
    "initial_magmoms",
    "initial_charges",
    "masses",
    "momenta",
    "spacegroup",
    "unit_cell",
    "occupancy",
    "unique_id",
    "key_value_pairs",
    "data",
  }
)


@dataclasses.dataclass(frozen=True)
class _Names:
  """Names of a label in the files of other programs, in lower case.

  Attributes:
    reference: names that say that it is what shall be learned; they come first.
    usual: the name that ASE has.
    other: names of some programs; with any of these beside the usual one, nothing says
      which is meant.
    secondary: names that count only where there is no other.
  """

  reference: frozenset[str]
  usual: str
  other: frozenset[str]
  secondary: frozenset[str] = frozenset()


_KNOWN: Mapping[str, _Names] = {
  "energy": _Names(
    reference=frozenset({"ref_energy", "reference_energy", "energy_ref"}),
    usual="energy",
    other=frozenset(
      {
        "dft_energy",
        "energy_dft",
        "e_dft",
        "qm_energy",
        "total_energy",
        "energy_total",
        "potential_energy",
        "etot",
        "e_tot",
        "e_total",
        "corrected_total_energy",
      }
    ),
    secondary=frozenset({"free_energy"}),
  ),
  "forces": _Names(
    reference=frozenset({"ref_forces", "reference_forces", "forces_ref", "ref_force"}),
    usual="forces",
    other=frozenset({"force", "dft_forces", "forces_dft", "dft_force", "qm_forces"}),
  ),
  _STRESS: _Names(
    reference=frozenset(
      {
        "ref_stress",
        "reference_stress",
        "stress_ref",
        "ref_virial",
        "ref_virials",
        "reference_virial",
      }
    ),
    usual=_STRESS,
    other=frozenset({"dft_stress", "stress_dft", "qm_stress"}),
    secondary=frozenset({"virial", "virials", "dft_virial", "dft_virials"}),
  ),
}


class KeyNotFoundError(dataset_summary.LabelError):
  """Nothing, or too much, could be the label that is looked for.

  Attributes:
    label: name of the label.
  """

  def __init__(self, label: str, message: str) -> None:
    super().__init__(message)
    self.label = label


@dataclasses.dataclass
class Survey:
  """How many structures have which entries that could be labels.

  Attributes:
    structures: number of structures.
    numbers: structures by name of an entry that is one number.
    vectors: structures by name of an entry that is a vector for each atom.
    arrays: structures by name of any other numerical entry.
  """

  structures: int = 0
  numbers: Counter[str] = dataclasses.field(default_factory=Counter)
  vectors: Counter[str] = dataclasses.field(default_factory=Counter)
  arrays: Counter[str] = dataclasses.field(default_factory=Counter)

  def add(self, atoms: ase.Atoms) -> None:
    """Counts the entries of one structure."""
    self.structures += 1
    seen: set[str] = set()
    for name, value in _entries(atoms):
      if name in seen or not _is_numerical(value):
        continue
      seen.add(name)
      if np.size(value) == 1 and np.ndim(value) < 2:
        self.numbers[name] += 1
      elif np.shape(value) == (len(atoms), _VECTOR):
        self.vectors[name] += 1
      else:
        self.arrays[name] += 1

  @property
  def names(self) -> Counter[str]:
    """Structures by name of any entry."""
    return self.numbers + self.vectors + self.arrays

  def describe(self) -> str:
    """All entries, with the number of structures where not all have them."""
    shown = [
      name if count == self.structures else f"{name} (in {count} of {self.structures})"
      for name, count in sorted(self.names.items())
    ]
    return ", ".join(shown) or "no numbers but their positions"


def results(atoms: ase.Atoms) -> dict[str, Any]:
  """Results of the calculator that belong to the present structure."""
  if atoms.calc is None or atoms.calc.check_state(atoms):
    return {}
  return {k: v for k, v in atoms.calc.results.items() if v is not None}


def survey(structures: Iterable[ase.Atoms]) -> Survey:
  """The entries of some structures."""
  result = Survey()
  for atoms in structures:
    result.add(atoms)
  return result


def is_virial(key: str) -> bool:
  """Whether an entry of this name holds virials, in a unit of energy, not stress."""
  return _VIRIAL in key.lower()


def find_stress(
  atoms: ase.Atoms, key: str, unit: float = 1.0, virial_unit: float = 1.0
) -> np.ndarray | None:
  """The stress of a structure from an entry.

  Args:
    atoms: the structure.
    key: name of the entry: six components in ASE's order (xx, yy, zz, yz, xz, xy) or a
      symmetric matrix. Of a virial, which has that word in its name, the stress is
      -virial / V.
    unit: the eV/Å³ in the unit of stress.
    virial_unit: the eV in the unit of virials.

  Returns:
    [6] eV/Å³ with ASE's sign; None where there is none, where it is NaN, and where
    some program has written zeros for a structure that can have none.

  Raises:
    ValueError: it is no stress, or the structure has no periodic cell of finite volume;
      half a sentence.
  """
  value = find(atoms, key)
  if value is None:
    return None
  try:
    if np.isnan(np.asarray(value, np.float64)).all():
      return None
    stress = voigt.parse(value)
  except (TypeError, ValueError) as error:
    raise ValueError(f"{error} as the label {key!r}") from error
  volume = atoms.cell.volume if atoms.pbc.any() else 0.0
  if not volume > 0:
    if not stress.any():
      return None
    raise ValueError(
      f"expected no label {key!r}, because a structure without a periodic cell of "
      "finite volume has no stress; found one: leave it out"
    )
  return stress * (-virial_unit / volume if is_virial(key) else unit)


def find(atoms: ase.Atoms, key: str) -> Any:
  """The value of an entry wherever ASE keeps it, or None where there is none."""
  for name, value in _entries(atoms):
    if name == key:
      return value
  return None


def names(atoms: ase.Atoms) -> list[str]:
  """Names of everything in a structure that could be a label."""
  return sorted({name for name, _ in _entries(atoms)})


def choose_keys(found: Survey, labels: Collection[str]) -> dict[str, str]:
  """Chooses the entries that labels are read from.

  Energies and forces have many names: `REF_energy` and the like, which say that this is
  the reference, come before `energy`, as in MACE; `free_energy` counts only where there
  is nothing else, and a virial where there is no stress. Other labels are entries of
  their own name, in upper or lower case, or the values of a table without a header.
  Where several remain, nothing is guessed.

  Args:
    found: entries of the structures, or of a sample of them.
    labels: names of the labels.

  Returns:
    The key of each label.

  Raises:
    KeyNotFoundError: a label has no entry, or several could be meant; names them.
  """
  keys = {label: _choose(found, label) for label in labels}
  _check_family(found, keys)
  return keys


def can_choose(found: Survey, label: str) -> bool:
  """Whether `choose_keys` finds a label that all structures have."""
  try:
    return found.names[_choose(found, label)] == found.structures
  except KeyNotFoundError:
    return False


def describe_keys(found: Survey, keys: Mapping[str, str]) -> str:
  """Says where labels are read from, as a line; "" where the keys are their names.

  Args:
    found: entries of the structures.
    keys: what `choose_keys` gave.
  """
  sentences = []
  for label, key in keys.items():
    unused = [name for name in candidates(found, label) if name != key]
    if key == label and not unused:
      continue
    sentence = f"{label!r} is read from {key!r}"
    if unused:
      sentence += f", not from {' or '.join(map(repr, unused))}"
    sentences.append(sentence)
  return f"The label {'; '.join(sentences)}." if sentences else ""


def _choose(found: Survey, label: str) -> str:
  """The entry of one label."""
  possible = candidates(found, label)
  if not possible:
    raise KeyNotFoundError(
      label,
      f"there is no label {label!r}, nor one like it; the structures have: "
      f"{found.describe()}",
    )
  if label in _KNOWN:
    possible = _prefer(possible, _KNOWN[label], found)
  elif label in possible:
    possible = [label]
  if len(possible) > 1:
    counts = ", ".join(
      f"{name!r} (in {found.names[name]} of {found.structures} structures)"
      for name in possible
    )
    raise KeyNotFoundError(label, f"{label!r} could be any of {counts}")
  return possible[0]


def candidates(found: Survey, label: str) -> list[str]:
  """Names of the entries that could be a label, by their names and shapes."""
  if label not in _KNOWN:
    same = [name for name in found.names if name.lower() == label.lower()]
    return same or [name for name in found.numbers if name == ase_tables.VALUE]
  known = _KNOWN[label]
  accepted = known.reference | known.other | known.secondary | {known.usual}
  entries = list(found.numbers if label == "energy" else found.vectors)
  if label == _STRESS:  # Of three atoms, a matrix looks like vectors.
    entries += [name for name in found.arrays if name not in entries]
  return [name for name in entries if name.lower() in accepted]


def _prefer(candidates: list[str], known: _Names, found: Survey) -> list[str]:
  """The candidates of the first group that has any and is in all of the structures."""
  groups = (
    [name for name in candidates if name.lower() in known.reference],
    [name for name in candidates if name.lower() not in known.secondary],
    candidates,
  )
  best = next(group for group in groups if group)
  # A stress beside its virial says the same, without a volume.
  best = [name for name in best if not is_virial(name)] or best
  most = max(found.names[name] for name in candidates)
  # A preferred name that fewer structures have is not clearly what is meant.
  return best if found.names[best[0]] == most else candidates


def _check_family(found: Survey, keys: Mapping[str, str]) -> None:
  """Refuses energies of one calculation beside forces or stress of another.

  Raises:
    KeyNotFoundError: some of them alone are called references, though what would go
      with the others is there.
  """
  is_reference = {
    label: keys[label].lower() in _KNOWN[label].reference
    for label in _KNOWN
    if label in keys
  }
  if len(set(is_reference.values())) <= 1:
    return
  label = next(name for name, value in is_reference.items() if value)
  other = next(name for name, value in is_reference.items() if not value)
  if _KNOWN[label].usual in found.names:
    raise KeyNotFoundError(
      label,
      f"{label!r} could be {keys[label]!r} or {_KNOWN[label].usual!r}, and {other!r} "
      f"is {keys[other]!r} alone, so that they may come from different calculations",
    )


def _entries(atoms: ase.Atoms) -> Iterator[tuple[str, Any]]:
  """All entries that could be labels, in the order in which they count."""
  row = atoms.info.get("key_value_pairs", {}), atoms.info.get("data", {})
  for place in (atoms.info, atoms.arrays, results(atoms), *row):
    for name, value in place.items():
      if name not in _NOT_LABELS and value is not None:
        yield name, value


def _is_numerical(value: Any) -> bool:
  try:
    return np.asarray(value).dtype.kind in "biuf"
  except ValueError:  # Ragged lists.
    return False
