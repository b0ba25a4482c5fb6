"""The mapping between published tensor names and the Haiku tree."""

import json

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from jmp_hk.graphs import config as graph_config
from jmp_hk.interop import torch_names
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters
from tests import shared_files
from tests.jmp_hk.parity import golden_case


def _abstract(kind):
  model = model_lib.build_model(golden_case.pretrain_config(kind))
  batch = golden_case.make_batch(
    [golden_case.water()], [2], graph_config.GraphConfig(cutoff=8.0), dtype=np.float32
  )
  return jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)


class TorchNamesTest(parameterized.TestCase):
  @parameterized.parameters("tiny", "tinyd")
  def test_names_and_shapes_are_those_of_the_reference(self, kind):
    abstract = _abstract(kind)
    ours = torch_names.torch_shapes(abstract.params, abstract.scales)
    self.assertEqual(ours, golden_case.torch_shapes(kind))

  @parameterized.parameters("tiny", "tinyd", "base", "large")
  def test_parameter_counts_are_those_of_the_reference(self, kind):
    counts = json.loads(shared_files.golden_file("param_counts.json").read_text())
    abstract = _abstract(kind)
    backbone = {
      name: leaf
      for name, leaf in abstract.params.items()
      if name.startswith("backbone")
    }
    expected = counts[kind]
    self.assertEqual(parameters.count(backbone), expected["backbone"])
    self.assertEqual(
      parameters.count(abstract.params), expected["total_pretrain_4_tasks"]
    )
    self.assertLen(jax.tree.leaves(abstract.scales), expected["n_scale_factors"])

  def test_round_trip_gives_every_tensor_back_exactly(self):
    tensors = {
      name: value
      for name, value in golden_case.tensors("tinyd").items()
      if not torch_names.is_redundant(name)
    }
    trees = torch_names.import_state_dict(tensors)
    back = torch_names.export_state_dict(*trees, tensors)
    chex.assert_trees_all_equal(back, tensors)

  @parameterized.parameters(
    "head.weight", "backbone.out_blocks.0.layers.0.linear.bias", "ema.decay"
  )
  def test_a_foreign_name_is_an_error_that_names_it(self, name):
    with self.assertRaisesRegex(KeyError, name):
      torch_names.to_haiku(name)


if __name__ == "__main__":
  absltest.main()
