"""Whether the forces of a head suit molecular dynamics and relaxations."""

import logging

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import neighbors
from jmp_hk.targets import config as tasks_lib

logger = logging.getLogger(__name__)

Truncation = graph_config.Truncation


def warn(
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
  structure: structure_lib.Structure,
) -> None:
  """Logs a warning where `find_problem` finds something; call it once a run."""
  if problem := find_problem(task, info, structure):
    logger.warning("%s", problem)


def find_problem(
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
  structure: structure_lib.Structure,
) -> str | None:
  """What keeps atoms from moving on a smooth potential energy surface.

  Args:
    task: the head.
    info: constants of its dataset.
    structure: a structure that it is used on.

  Returns:
    What it is, what follows and what to do, in sentences. None where energies are
    smooth functions of the positions and forces are their derivatives, and for heads
    without forces.
  """
  names = [target.name for target in task.targets]
  if "forces" not in names:
    return None
  if not task.is_conservative:
    return (
      f"The head {task.name!r} predicts forces directly; they are not derivatives of "
      "its energy. Relaxations with them come near minima, but molecular dynamics "
      "does not conserve the energy. A head that is fine-tuned on "
      "forces=conservative_forces does."
    )
  if info.graph.truncation is Truncation.SMOOTH or not _is_cut(structure, info.graph):
    return None
  text = (
    f"The head {task.name!r} was trained with the truncation "
    f'"{info.graph.truncation.value}": its energy jumps where a neighbor comes or goes '
    f"({info.graph.cutoff:g} Å, {info.graph.max_neighbors} neighbors), so molecular "
    "dynamics drifts and relaxations may not converge tightly"
  )
  if info.graph.truncation is Truncation.PUBLISHED:
    text += (
      ", and in crystals symmetric sites may have forces and energies per atom depend "
      "on the cell"
    )
  return f'{text}. Fine-tuning with the truncation "smooth" avoids this.'


def _is_cut(
  structure: structure_lib.Structure, graph: graph_config.GraphConfig
) -> bool:
  """Whether some atoms have no edge between them, or are periodic images."""
  count = structure.num_atoms
  if structure.pbc.any() or graph.max_neighbors_of(count) < count - 1:
    return True
  edges = neighbors.find_neighbors(structure, graph.cutoff)
  return len(edges) < count * (count - 1)
