"""A backbone that the runners do not know of trains, is stored and predicts."""

import ase.build
import jax
import numpy as np
import pytest

from experiments import finetune
from experiments import pretrain
import jmp_hk
from jmp_hk.checkpoints import model_directory
from tests import schnet
from tests.experiments import demo_data
from tests.experiments import finetune_data
from tests.experiments import test_flags

_RUN = (
  "--model=schnet_tiny",
  "--model_override=num_blocks=1,atom_channels=8,num_radial=4",
  "--precision=float32",
  "--num_steps=3",
  "--batch_size=4",
  "--pool_size=8",
  "--streams_per_microbatch=2",
  "--validation_limit=4",
  "--compilation_cache=",
)


@pytest.fixture(name="pretrained", scope="module")
def _pretrained(datasets, tmp_path_factory):
  """The directory of a pre-training of two datasets."""
  workdir = tmp_path_factory.mktemp("schnet")
  pretrain.run(
    test_flags.parse(
      demo_data.dataset_flag(datasets),
      f"--workdir={workdir}",
      "--warmup_steps=1",
      *_RUN,
    )
  )
  return workdir


def test_pretraining(pretrained):
  model = jmp_hk.load(pretrained)
  assert model.heads == ("oc20", "ani1x")
  assert model.config.backbone == schnet.SchNetConfig(
    atom_channels=8, num_blocks=1, num_radial=4, edge_dropout=0.1
  )
  [prediction] = model.predict(ase.build.molecule("CH3OH"), "ani1x")
  assert np.isfinite(prediction.energy) and prediction.forces.shape == (6, 3)
  # It has no scale factors to fit.
  loaded = model_directory.load_model_directory(pretrained)
  assert not jax.tree.leaves(loaded.variables.scales)


def test_fine_tuning_of_it(pretrained, tmp_path):
  data = finetune_data.convert_all(tmp_path)
  workdir = tmp_path / "run"
  finetune.run(
    finetune_data.parse(
      "--target=forces=conservative_forces",
      f"--data={data}",
      f"--workdir={workdir}",
      f"--checkpoint={pretrained}",
      "--decay_epochs=2",
      "--warmup_epochs=1",
      "--test_split=",
      *_RUN[2:],
    )
  )
  assert jmp_hk.load(workdir).heads == ("mine",)
