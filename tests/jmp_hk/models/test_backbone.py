"""Any backbone that keeps the contract works with the rest of the library."""

from absl.testing import parameterized
import ase.build
import chex
import jax
import numpy as np

from jmp_hk import serialization
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import backbone as gemnet_oc
from jmp_hk.targets import config as tasks_lib
from tests import schnet

_GRAPH = graph_config.GraphConfig(cutoff=5.0, max_neighbors=12)


def _structures() -> list[structure_lib.Structure]:
  atoms = [
    ase.build.molecule("CH3OH"),
    ase.build.bulk("NaCl", "rocksalt", a=5.6),
    ase.build.molecule("H2O"),
  ]
  rng = np.random.default_rng(0)
  result = []
  for entry in atoms:
    entry.rattle(0.05, rng=rng)
    result.append(
      structure_lib.Structure(
        positions=entry.positions,
        atomic_numbers=entry.numbers.astype(np.int32),
        cell=entry.cell.array,
        pbc=entry.pbc,
        tags=np.full(len(entry), structure_lib.TAG_ADSORBATE, np.int32),
        fixed=np.zeros(len(entry), bool),
      )
    )
  return result


def _batch(backbone: backbone_lib.BackboneConfig, padding: int = 0):
  """All structures in one batch, with at least that much padding in every count."""
  builder = backbone.graph_builder
  graphs = [builder.build(structure, _GRAPH) for structure in _structures()]
  sizes = [builder.sizes(entry) for entry in graphs]
  together = budget_lib.total(sizes, builder.budget_type)
  needs = {
    name: getattr(together, name) + 1 + padding
    for name in budget_lib.padded_names(builder.budget_type)
  }
  items = [packing.PackItem(entry, task=0) for entry in graphs]
  return packing.pack(items, builder, builder.budget_type(**needs))


def _model(backbone: backbone_lib.BackboneConfig) -> model_lib.Model:
  tasks = (tasks_lib.pretraining_task("any"),)
  return model_lib.build_model(model_lib.ModelConfig(backbone, tasks))


_BACKBONES = {
  "schnet": schnet.SchNetConfig(atom_channels=16),
  "gemnet_oc": backbone_lib.preset("tiny"),
}


class ContractTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_predictions_do_not_depend_on_padding(self):
    backbone = _BACKBONES["schnet"]
    model = _model(backbone)
    variables = model.init(jax.random.PRNGKey(0), _batch(backbone))
    apply = self.variant(lambda batch: model.apply(variables, None, batch))
    tight, loose = apply(_batch(backbone)), apply(_batch(backbone, padding=9))
    num_atoms = sum(structure.num_atoms for structure in _structures())
    chex.assert_shape(tight["energy"], (4,))
    chex.assert_shape(tight["forces"], (num_atoms + 1, 3))
    chex.assert_trees_all_close(
      {"energy": tight["energy"][:3], "forces": tight["forces"][:num_atoms]},
      {"energy": loose["energy"][:3], "forces": loose["forces"][:num_atoms]},
      rtol=1e-5,
      atol=1e-5,
    )
    chex.assert_trees_all_equal(
      loose["forces"][num_atoms:], 0 * loose["forces"][num_atoms:]
    )

  def test_gradients_of_everything_are_finite(self):
    backbone = _BACKBONES["schnet"]
    model = _model(backbone)
    batch = _batch(backbone, padding=5)
    variables = model.init(jax.random.PRNGKey(0), batch)

    def total(params):
      predictions = model.apply(variables._replace(params=params), None, batch)
      return sum((value**2).sum() for value in predictions.values())

    gradients = jax.grad(total)(variables.params)
    chex.assert_tree_all_finite(gradients)
    chex.assert_trees_all_equal_shapes(gradients, variables.params)

  @parameterized.named_parameters(_BACKBONES.items())
  def test_configs_are_stored_with_the_name_of_their_class(self, backbone):
    config = _model(backbone).config
    data = serialization.to_json(config)
    self.assertEqual(data["backbone"]["type"], backbone.type_name)
    self.assertEqual(serialization.from_json(model_lib.ModelConfig, data), config)

  def test_a_stored_config_without_a_name_is_gemnet_oc(self):
    data = serialization.to_json(_BACKBONES["gemnet_oc"])
    del data["type"]
    read = serialization.from_json(backbone_lib.BackboneConfig, data)
    self.assertEqual(read, _BACKBONES["gemnet_oc"])

  def test_flat_configs_of_earlier_versions_are_read(self):
    flat = {
      "num_blocks": 2,
      "num_radial": 32,
      "num_spherical": 5,
      "atom_channels": 48,
      "edge_channels": 64,
      "triplet_in_channels": 16,
      "triplet_out_channels": 16,
      "quad_in_channels": 8,
      "quad_out_channels": 8,
      "pair_in_channels": 16,
      "pair_out_channels": 16,
      "radial_channels": 8,
      "circular_channels": 8,
      "spherical_channels": 8,
      "num_before_skip": 1,
      "num_after_skip": 1,
      "num_concat": 1,
      "num_atom": 1,
      "num_output_after_atom": 1,
      "num_atom_embedding": 1,
      "num_global_output": 1,
      "radial_cutoff": 12.0,
      "envelope_exponent": 5,
      "num_elements": 120,
      "edge_dropout": 0.0,
      "dropout": 0.0,
      "direct_vectors": True,
      "remat": False,
    }
    read = serialization.from_json(backbone_lib.BackboneConfig, flat)
    self.assertEqual(read, backbone_lib.preset("tiny"))

  def test_a_name_can_be_registered_once(self):
    with self.assertRaisesRegex(ValueError, "already a backbone 'gemnet_oc'"):
      backbone_lib.register("gemnet_oc")(schnet.SchNetConfig)
    self.assertIs(
      backbone_lib.BackboneConfig.registry["gemnet_oc"], gemnet_oc.GemNetOCConfig
    )

  def test_presets_of_all_backbones_are_known_by_name(self):
    self.assertContainsSubset(
      {"gemnet_oc_small", "gemnet_oc_large", "tiny", "schnet_tiny"},
      backbone_lib.presets(),
    )
    with self.assertRaisesRegex(ValueError, "gemnet_oc_small"):
      backbone_lib.preset("gemnet_oc_medium")

  def test_a_budget_of_another_backbone_is_refused(self):
    builder = _BACKBONES["gemnet_oc"].graph_builder
    item = packing.PackItem(builder.build(_structures()[0], _GRAPH))
    with self.assertRaises((TypeError, AttributeError)):
      packing.pack([item], builder, schnet.SchNetBudget(2, 30, 100))
