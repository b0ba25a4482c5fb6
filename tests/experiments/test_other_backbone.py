"""A backbone that the program does not know trains through the same runner."""

from absl import flags
import ase.build
import chex
import jax
import numpy as np

from experiments import pretrain
import jmp_hk
from jmp_hk.training import writers
from tests import schnet
from tests.experiments import demo_data


def test_schnet_trains_is_validated_stored_and_loaded(datasets, tmp_path):
  values = flags.FlagValues()
  pretrain.define_flags(values)
  values(
    [
      "pretrain",
      f"--workdir={tmp_path}",
      demo_data.dataset_flag(datasets),
      "--model=schnet_tiny",
      "--model_override=num_radial=8,atom_channels=16",
      "--edge_dropout=0.1",
      "--batch_size=6",
      "--precision=float32",
      "--learning_rate=5e-3",
      "--warmup_steps=2",
      "--num_steps=30",
      "--log_every=10",
      "--evaluate_every=15",
      "--validation_limit=10",
      "--compilation_cache=",
    ]
  )
  pretrain.run(values)
  lines = writers.read_metrics(tmp_path / writers.METRICS_FILE)
  losses = [line["loss"] for line in lines if line["kind"] == "train"]
  assert losses[-1] < losses[0]
  assert all(
    "utilisation/num_edges" in line for line in lines if line["kind"] == "train"
  )
  model = jmp_hk.load(tmp_path)
  backbone = model.config.backbone
  assert isinstance(backbone, schnet.SchNetConfig) and backbone.num_radial == 8
  # Prediction packs the backbone's own graphs, too; a rotation turns the forces.
  water = ase.build.molecule("H2O")
  water.rattle(0.1, seed=0)
  turned = water.copy()
  turned.rotate(90, "z")
  one, other = jmp_hk.predict(model, [water, turned], head="ani1x")
  rotation = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
  chex.assert_shape(one.forces, (3, 3))
  chex.assert_trees_all_close(other.energy, one.energy, rtol=1e-5)
  chex.assert_trees_all_close(other.forces, one.forces @ rotation, rtol=1e-3, atol=1e-4)
  assert len(jax.tree.leaves(model.variables.params)) > 5
