"""How often a limited number of neighbors cuts neighborhoods, and what is better."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors

Truncation = graph_config.Truncation

SAMPLE = 32  # Structures that say enough of a dataset.
_MOST_ATOMS = 4000  # Of all of them together, so that looking takes no time.
_AFFORDABLE = 2  # Times as many neighbors are worth mentioning.


@dataclasses.dataclass(frozen=True)
class Cuts:
  """What the limit of the main graph leaves out.

  Attributes:
    atoms: number of atoms that were looked at.
    cut: number of those with more neighbors inside the cutoff than the limit.
    in_shells: number of those where the limit divides a shell of neighbors at equal
      distances.
    neighbors: number of neighbors inside the cutoff, of all atoms together.
    most: largest number of neighbors of an atom.
  """

  atoms: int = 0
  cut: int = 0
  in_shells: int = 0
  neighbors: int = 0
  most: int = 0

  def __add__(self, other: "Cuts") -> "Cuts":
    return Cuts(
      self.atoms + other.atoms,
      self.cut + other.cut,
      self.in_shells + other.in_shells,
      self.neighbors + other.neighbors,
      max(self.most, other.most),
    )


def measure(
  structures: Iterable[structure_lib.Structure], config: graph_config.GraphConfig
) -> Cuts:
  """Looks at structures until there are a few thousand atoms.

  Args:
    structures: a sample of a dataset; what comes after enough atoms is not read.
    config: cutoff and number of neighbors.

  Raises:
    InvalidStructureError: see `find_neighbors`.
  """
  total = Cuts()
  for structure in structures:
    total += _of_structure(structure, config)
    if total.atoms >= _MOST_ATOMS:
      break
  return total


def _of_structure(
  structure: structure_lib.Structure, config: graph_config.GraphConfig
) -> Cuts:
  edges = neighbors.find_neighbors(structure, config.cutoff)
  table = neighbors.distance_table(edges, structure.num_atoms)
  limit = config.max_neighbors_of(structure.num_atoms)
  cut = in_shells = 0
  if table.shape[1] > limit:
    table = table[np.isfinite(table[:, limit])]
    cut = len(table)
    gaps = table[:, limit] - table[:, limit - 1]
    in_shells = int((gaps < nearest.SHELL_TOLERANCE).sum())
  degree = np.bincount(edges.receivers, minlength=1)
  return Cuts(structure.num_atoms, cut, in_shells, len(edges), int(degree.max()))


def describe(config: graph_config.GraphConfig) -> str:
  """Cutoff, number of neighbors and truncation, e.g. for a log."""
  about = "about" if config.truncation is Truncation.SMOOTH else "at most"
  return (
    f"a cutoff of {config.cutoff:g} Å, {about} {config.max_neighbors} neighbors and "
    f'"{config.truncation.value}" truncation'
  )


def advice(cuts: Cuts, config: graph_config.GraphConfig) -> str:
  """What the limit does to these structures and what would be better, in sentences.

  Args:
    cuts: from `measure`.
    config: the settings that it was measured with.

  Returns:
    The sentences; nothing where no neighborhood is cut, or all end smoothly.
  """
  if not cuts.cut or config.truncation is Truncation.SMOOTH:
    return ""
  mean = cuts.neighbors / cuts.atoms
  text = (
    f"{_percent(cuts.cut, cuts.atoms)} of the atoms have more neighbors inside "
    f"{config.cutoff:g} Å than the {config.max_neighbors} that are taken "
    f"({mean:.0f} on average, {cuts.most} at most)"
  )
  if config.truncation is Truncation.SHELLS:
    return (
      f"{text}: energies jump where the distances of neighbors change places. For "
      'dynamics and relaxations the truncation "smooth" is better.'
    )
  if cuts.in_shells:
    text += (
      f", and for {_percent(cuts.in_shells, cuts.atoms)} that cuts through a shell of "
      "equally distant ones"
    )
  text += (
    ": energies jump when atoms move, and symmetric sites may have forces. For "
    'dynamics and relaxations the truncation "smooth" is better'
  )
  if cuts.most <= _AFFORDABLE * config.max_neighbors:
    text += f"; {cuts.most} neighbors would leave none out"
  return f"{text}."


def _percent(part: int, whole: int) -> str:
  """A share, never rounded to nothing or all."""
  if part == whole:
    return "100 %"
  return f"{min(max(round(100 * part / whole), 1), 99)} %"
