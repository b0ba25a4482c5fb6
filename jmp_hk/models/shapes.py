"""Shapes and names of a model's variables, without computing or drawing any."""

import functools

import jax
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib


@functools.cache
def abstract_variables(config: model_lib.ModelConfig) -> model_lib.Variables:
  """Shapes of a model's variables, which are not computed."""
  molecule = structure_lib.Structure(
    positions=np.eye(4, 3),
    atomic_numbers=np.ones(4, np.int32),
    cell=np.zeros((3, 3)),
    pbc=np.zeros(3, bool),
    tags=np.full(4, structure_lib.TAG_ADSORBATE, np.int32),
    fixed=np.zeros(4, bool),
  )
  builder = config.backbone.graph_builder
  graphs = builder.build(molecule, graph_config.GraphConfig())
  sizes = [builder.sizes(graphs)]
  budget = budget_lib.choose_budget(sizes, budget_lib.BudgetConfig(structures=1))
  batch = packing.pack([packing.PackItem(graphs)], builder, budget)
  model = model_lib.build_model(config)
  return jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)
