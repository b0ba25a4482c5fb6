"""A few labelled structures of two datasets, packed, for tests with the real model."""

import ase.build
import jax
import numpy as np

from jmp_hk import dataset_info as info_lib
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import backbone as gemnet_oc
from jmp_hk.models.gemnet_oc import config as gemnet_config
from jmp_hk.targets import config as tasks_lib
from tests import gemnet_graphs

TASKS = (
  tasks_lib.pretraining_task("slabs", 1.0, 20.0),
  tasks_lib.pretraining_task("molecules", 1.0, 5.0),
)
_GRAPHS = {
  "slabs": graph_config.GraphConfig(cutoff=6.0, max_neighbors=8),
  "molecules": graph_config.GraphConfig(cutoff=6.0),
}
BACKBONE = gemnet_oc.GemNetOCConfig(
  num_blocks=1,
  atom_channels=8,
  edge_channels=10,
  bases=gemnet_config.BasesConfig(
    num_radial=6,
    num_spherical=3,
    radial_channels=4,
    circular_channels=4,
    spherical_channels=4,
  ),
  interaction=gemnet_config.InteractionConfig(
    triplet=gemnet_config.BilinearConfig(4, 4),
    quadruplet=gemnet_config.BilinearConfig(4, 4),
    pair=gemnet_config.BilinearConfig(4, 4),
    num_before_skip=1,
    num_after_skip=1,
    num_atom_embedding=1,
    num_atom_update=1,
  ),
  output=gemnet_config.OutputConfig(
    num_before_skip=1, num_after_skip=1, num_combined=1
  ),
)
MODEL = model_lib.ModelConfig(backbone=BACKBONE, tasks=TASKS)


def info(name: str) -> info_lib.DatasetInfo:
  """Constants of one of the two datasets; "slabs" is evaluated on free atoms."""
  return info_lib.DatasetInfo(
    name=name,
    graph=_GRAPHS[name],
    num_structures={"train": 3, "val": 3},
    elements=(1, 6, 8, 29),
    size_histogram={3: 3},
    energy_references={1: -13.0, 6: -1030.0, 8: -2040.0, 29: -3.5},
    energy_scale={"slabs": 2.5, "molecules": 0.5}[name],
    force_scale={"slabs": 0.4, "molecules": 1.5}[name],
    evaluate_free_atoms_only=name == "slabs",
    average_atoms=3.0,
  )


INFOS = {task.name: info(task.name) for task in TASKS}


def structure(atoms: ase.Atoms, fixed: int = 0) -> structure_lib.Structure:
  """A structure whose first `fixed` atoms are fixed."""
  n = len(atoms)
  return structure_lib.Structure(
    positions=atoms.positions,
    atomic_numbers=atoms.numbers.astype(np.int32),
    cell=atoms.cell.array,
    pbc=atoms.pbc,
    tags=np.full(n, 2, np.int32),
    fixed=np.arange(n) < fixed,
  )


def items(seed: int) -> list[packing.PackItem]:
  """Two slabs and three molecules with random positions and labels."""
  rng = np.random.default_rng(seed)
  slab = ase.build.fcc111("Cu", (1, 1, 3), vacuum=5.0, periodic=True)
  systems = [(slab, 1), (slab, 1)]
  systems += [(ase.build.molecule(name), 0) for name in ("H2O", "CH4", "CH3OH")]
  result = []
  for atoms, fixed in systems:
    atoms = atoms.copy()
    atoms.rattle(0.1, rng=rng)
    record = structure(atoms, fixed)
    task = 0 if fixed else 1
    graphs = gemnet_graphs.BUILDER.build(record, _GRAPHS[TASKS[task].name])
    targets = {
      "energy": rng.normal(),
      "forces": rng.normal(size=(len(atoms), 3)),
    }
    result.append(packing.PackItem(graphs, task, targets))
  return result


def budget() -> gemnet_graphs.Budget:
  """Roomy enough for `items` of any seed."""
  sizes = [gemnet_graphs.BUILDER.sizes(item.graphs) for item in items(0)]
  return budget_lib.choose_budget(sizes, budget_lib.BudgetConfig(structures=7))


def batch(seed: int, microbatches: int = 1) -> batch_lib.Batch:
  """Packed microbatches [microbatches, …] with different numbers of structures."""
  size = budget()
  packed = [
    packing.pack(
      items(100 * seed + microbatch)[microbatch % 2 :], gemnet_graphs.BUILDER, size
    )
    for microbatch in range(microbatches)
  ]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *packed)


def microbatch(values: batch_lib.Batch, index: int = 0) -> batch_lib.Batch:
  """One microbatch."""
  return jax.tree.map(lambda x: x[index], values)
