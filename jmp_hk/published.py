"""Published constants of the four pre-training datasets, in one table.

Converters declare their datasets with these constants, the import of published weights
takes them for its heads, and `dataset_info` reads old files with them.
"""

from collections.abc import Mapping
import dataclasses

LICENCE = (
  "The JMP weights that are published as jmp-s.pt and jmp-l.pt (Shoghi et al., "
  '"From Molecules to Materials", ICLR 2024, arXiv 2310.16802) are distributed by '
  "their authors under CC BY-NC 4.0: not for commercial use, and the authors must be "
  "named. Whatever is fine-tuned from them is a derivative of them. Weights of "
  "another origin have the licence of that origin."
)


@dataclasses.dataclass(frozen=True)
class PublishedDataset:
  """Constants of one dataset of the published pre-training.

  Attributes:
    elements: atomic numbers with published linear references of the energy.
    cutoff: cutoff of the neighbor graphs in Å.
    energy_scale: eV, by which energies are divided after the references are
      subtracted.
    force_scale: eV/Å, by which forces are divided.
    force_coefficient: factor of the force loss beside an energy loss of factor 1; the
      average number of atoms of a structure.
    max_neighbors: largest number of neighbors of an atom in the main graph.
    evaluate_free_atoms_only: whether force metrics leave out fixed atoms.
    periodic_in_3d: whether slabs are periodic across their vacuum, too.
  """

  elements: tuple[int, ...]
  cutoff: float
  energy_scale: float
  force_scale: float
  force_coefficient: float
  max_neighbors: int = 30
  evaluate_free_atoms_only: bool = False
  periodic_in_3d: bool = False


def _numbers(ranges: str) -> tuple[int, ...]:
  """Atomic numbers of ranges such as "1 5-8"."""
  bounds = [[int(z) for z in part.split("-")] for part in ranges.split()]
  return tuple(z for bound in bounds for z in range(bound[0], bound[-1] + 1))


# In the order of the published weights' heads.
PRETRAINING: Mapping[str, PublishedDataset] = {
  "oc20": PublishedDataset(
    elements=_numbers("1 5-8 11 13-17 19-34 37-52 55 72-83"),
    cutoff=12.0,
    energy_scale=24.901469505465872,
    force_scale=0.5111534595489502,
    force_coefficient=73.0,
    evaluate_free_atoms_only=True,
    periodic_in_3d=True,
  ),
  "oc22": PublishedDataset(
    elements=_numbers("1 3-4 6-8 11-14 19-34 37-42 44-52 55-56 58 71-83"),
    cutoff=12.0,
    energy_scale=25.229595396538468,
    force_scale=0.25678861141204834,
    force_coefficient=80.0,
    evaluate_free_atoms_only=True,
    periodic_in_3d=True,
  ),
  "ani1x": PublishedDataset(
    elements=(1, 6, 7, 8),
    cutoff=8.0,
    energy_scale=2.8700712783472118,
    force_scale=2.131422996520996,
    force_coefficient=15.0,
  ),
  "transition1x": PublishedDataset(
    elements=(1, 6, 7, 8),
    cutoff=8.0,
    energy_scale=1.787466168382901,
    force_scale=0.3591422140598297,
    force_coefficient=14.0,
  ),
}
