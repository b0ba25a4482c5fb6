"""A very small model, structures and one shared static budget.

All structures are packed to the same few budgets, so that a whole test module
compiles each function once.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import ase.build
import jax
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import backbone as gemnet_oc
from jmp_hk.models.gemnet_oc import config as gemnet_config
from jmp_hk.models.gemnet_oc.graphs import builder as gemnet_builder
from jmp_hk.targets import config as tasks_lib
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.parity import formula_init

# Every width differs, so that a mixed-up axis fails.
BACKBONE = gemnet_oc.GemNetOCConfig(
  num_blocks=1,
  atom_channels=12,
  edge_channels=10,
  bases=gemnet_config.BasesConfig(
    num_radial=8,
    num_spherical=4,
    radial_channels=6,
    circular_channels=4,
    spherical_channels=5,
  ),
  interaction=gemnet_config.InteractionConfig(
    triplet=gemnet_config.BilinearConfig(5, 6),
    quadruplet=gemnet_config.BilinearConfig(4, 3),
    pair=gemnet_config.BilinearConfig(5, 7),
    num_before_skip=1,
    num_after_skip=1,
    num_concat=1,
    num_atom_embedding=1,
    num_atom_update=1,
  ),
  output=gemnet_config.OutputConfig(
    num_before_skip=1, num_after_skip=1, num_combined=1
  ),
)


class GraphSettings(NamedTuple):
  """How the graphs of a structure are built."""

  config: graph_config.GraphConfig
  builder: gemnet_builder.GemNetOCGraphBuilder = gemnet_graphs.BUILDER

  def build(self, structure: structure_lib.Structure):
    """The graphs of one structure."""
    return self.builder.build(structure, self.config)


# The number of neighbors is never limited in the graphs of these tests.
UNCAPPED = GraphSettings(graph_config.GraphConfig(cutoff=4.5, max_neighbors=150))
# Both of these limit it in crystals.
PUBLISHED = GraphSettings(graph_config.GraphConfig(cutoff=4.5, max_neighbors=8))
UNION = PUBLISHED._replace(builder=gemnet_graphs.UNION)

BUDGET = gemnet_graphs.Budget(
  num_graphs=4,
  num_atoms=26,
  num_main=256,
  num_a2a=416,
  num_a2ee2a=256,
  num_qint=256,
  main_width=18,
  a2a_width=13,
  a2ee2a_width=18,
  qint_width=18,
)


def direct_config(**changes) -> model_lib.ModelConfig:
  """Energy and direct forces on two tasks."""
  tasks = (tasks_lib.pretraining_task("first"), tasks_lib.pretraining_task("second"))
  return model_lib.ModelConfig(**{"backbone": BACKBONE, "tasks": tasks} | changes)


def conservative_config(**changes) -> model_lib.ModelConfig:
  """Energy with forces and stress that are its derivatives."""
  backbone = dataclasses.replace(BACKBONE, direct_vectors=False)
  targets = (
    tasks_lib.TargetConfig("energy", "energy", head_bias=False),
    tasks_lib.TargetConfig("forces", "conservative_forces"),
  )
  tasks = (tasks_lib.TaskConfig("only", targets),)
  fields = {"backbone": backbone, "tasks": tasks, "stress": True}
  return model_lib.ModelConfig(**fields | changes)


def variables(
  model: model_lib.Model, batch: batch_lib.Batch, seed: int = 0, dtype=np.float64
) -> model_lib.Variables:
  """Random parameters, and scale factors that let every branch matter."""
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path)
    if "embedding" in name:
      return rng.standard_normal(leaf.shape).astype(dtype)
    if len(leaf.shape) == 3 and "linear" not in name:  # basis projections
      fan_in = leaf.shape[0] * leaf.shape[2]
    else:
      fan_in = leaf.shape[-2] if len(leaf.shape) > 1 else 1
    return (rng.standard_normal(leaf.shape) / fan_in**0.5).astype(dtype)

  params = jax.tree_util.tree_map_with_path(draw, shapes.params)
  scales = {
    module: {
      "scale_factor": np.asarray(_typical_scale(module) * rng.uniform(0.8, 1.2), dtype)
    }
    for module in sorted(shapes.scales)
  }
  return model_lib.Variables(params, scales)


def _typical_scale(module: str) -> float:
  """Roughly what fitting gives (close to one), by the kind of factor."""
  return formula_init.typical(module.replace("/", ".") + ".scale_factor")


def molecule(name: str = "CH3CH2OH", seed: int = 0, amplitude: float = 0.1):
  """A molecule of ASE's database, displaced at random."""
  atoms = ase.build.molecule(name)
  noise = np.random.default_rng(seed).uniform(-amplitude, amplitude, (len(atoms), 3))
  return helpers.make_structure(atoms.positions + noise, atoms.numbers.astype(np.int32))


def crystal(seed: int = 0, tags=None) -> structure_lib.Structure:
  """Three atoms in a skewed periodic cell, no two distances alike."""
  rng = np.random.default_rng(seed)
  cell = np.diag([4.1, 4.6, 5.2]) + rng.uniform(-0.5, 0.5, (3, 3))
  fractions = np.array([[0.1, 0.1, 0.1], [0.5, 0.6, 0.4], [0.2, 0.5, 0.8]])
  return helpers.make_structure(
    fractions @ cell + rng.uniform(-0.1, 0.1, (3, 3)),
    numbers=np.array([11, 8, 29], np.int32),
    cell=cell,
    pbc=True,
    tags=[2, 2, 2] if tags is None else tags,
  )


def make_batch(
  structures: Sequence[structure_lib.Structure],
  settings: GraphSettings = UNCAPPED,
  *,
  budget: gemnet_graphs.Budget = BUDGET,
  tasks: Sequence[int] | None = None,
  dtype=np.float64,
) -> batch_lib.Batch:
  """Builds graphs and packs them."""
  tasks = [0] * len(structures) if tasks is None else tasks
  items = [
    packing.PackItem(graphs=settings.build(structure), task=task)
    for structure, task in zip(structures, tasks, strict=True)
  ]
  return packing.pack(items, gemnet_graphs.BUILDER, budget, dtype)


class Evaluator:
  """A jitted model with fixed random variables."""

  def __init__(self, config: model_lib.ModelConfig, dtype=np.float64, seed: int = 0):
    self.model = model_lib.build_model(config)
    self.dtype = dtype
    with self._precision():
      self.variables = variables(
        self.model, make_batch([molecule()], dtype=dtype), seed, dtype
      )
    self._apply = jax.jit(
      lambda variables, batch: self.model.apply(variables, None, batch)
    )

  def _precision(self):
    return jax.enable_x64(self.dtype == np.float64)

  def apply(self, batch: batch_lib.Batch, variables=None) -> dict[str, np.ndarray]:
    """Predictions for a batch, padding included."""
    with self._precision():
      return jax.device_get(
        self._apply(self.variables if variables is None else variables, batch)
      )

  def __call__(
    self, structures, settings=UNCAPPED, *, tasks=None, budget=BUDGET
  ) -> dict[str, np.ndarray]:
    """Predictions for structures; without padding, in the order given."""
    batch = make_batch(
      structures, settings, budget=budget, tasks=tasks, dtype=self.dtype
    )
    predictions = self.apply(batch)
    num_atoms = sum(structure.num_atoms for structure in structures)
    return {
      name: value[:num_atoms] if name == "forces" else value[: len(structures)]
      for name, value in predictions.items()
    }


@functools.cache
def direct(dtype=np.float64) -> Evaluator:
  """The shared direct model."""
  return Evaluator(direct_config(), dtype)


@functools.cache
def conservative(dtype=np.float64) -> Evaluator:
  """The shared conservative model."""
  return Evaluator(conservative_config(), dtype)
