"""Very small models for prediction: random weights, one or several heads."""

import functools

import numpy as np

from jmp_hk import dataset_info
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.models import model as model_lib
from tests.jmp_hk.models.gemnet_oc import small_model

# No pair of a small molecule is ever outside, so that the energy is smooth.
WIDE = graph_config.GraphConfig(cutoff=12.0, max_neighbors=150)


def make_info(name: str, **changes) -> dataset_info.DatasetInfo:
  """Constants of a data set; energy and force scale differ."""
  fields = {
    "name": name,
    "graph": WIDE,
    "num_structures": {},
    "elements": (),
    "size_histogram": {},
    "energy_references": {},
    "energy_scale": 2.0,
    "force_scale": 0.5,
  }
  return dataset_info.DatasetInfo(**fields | changes)


def make_predictor(
  config: model_lib.ModelConfig, *, precision: str = "float64", **info_changes
) -> predictor_lib.Predictor:
  """A predictor with random weights."""
  model = model_lib.build_model(config)
  batch = small_model.make_batch([small_model.molecule()], dtype=np.float32)
  variables = small_model.variables(model, batch, dtype=np.float32)
  infos = {task.name: make_info(task.name, **info_changes) for task in config.tasks}
  return predictor_lib.Predictor(config, infos, variables, precision=precision)


@functools.cache
def direct() -> predictor_lib.Predictor:
  """Two heads, "first" and "second", with energies and direct forces."""
  return make_predictor(small_model.direct_config())


@functools.cache
def conservative() -> predictor_lib.Predictor:
  """One head with conservative forces and stress."""
  return make_predictor(small_model.conservative_config())
