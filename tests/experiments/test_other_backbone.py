"""A backbone that the runners do not know of trains, is stored and predicts."""

import json

from absl import flags
import ase.build
import ase.io
import jax
import numpy as np
import pytest

from experiments import evaluate
from experiments import finetune
from experiments import predict
from experiments import pretrain
from experiments.command_line import command
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


def test_a_committee_of_it(pretrained, tmp_path, capsys):
  data, workdir = finetune_data.convert_all(tmp_path), tmp_path / "run"
  arguments = (
    "--target=forces=conservative_forces",
    f"--data={data}",
    f"--workdir={workdir}",
    f"--checkpoint={pretrained}",
    "--decay_epochs=2",
    "--warmup_epochs=1",
    "--num_members=2",
    *_RUN[2:],
  )
  finetune.run(finetune_data.parse(*arguments))
  members = [workdir / "member_0", workdir / "member_1"]
  seeds = [
    json.loads((path / "config.json").read_text())["trainer"]["train"]["seed"]
    for path in members
  ]
  assert seeds == [42, 43]
  assert all((path / "finetune_result.json").is_file() for path in members)
  metrics = json.loads((workdir / "test" / "metrics.json").read_text())
  assert metrics["structures"] == 6
  assert "Test of the committee of 2 members on 6 structures" in capsys.readouterr().out
  with pytest.raises(command.FlagError, match="holds a committee of 2 members"):
    finetune.run(finetune_data.parse(*arguments, "--num_members=1"))
  # Predicting and evaluating take the directory, or the members.
  together = ",".join(map(str, members))
  shared = ["--compilation_cache="]
  values = _parse(
    evaluate, f"--checkpoint={workdir}", f"--data={data}", "--split=test", *shared
  )
  found = evaluate.run(values)
  assert found["forces"]["mae"] == pytest.approx(metrics["targets"]["forces"]["mae"])
  stored = json.loads(
    (workdir / "evaluation" / "mine_test" / "metrics.json").read_text()
  )
  assert stored["settings"]["checkpoint"].count("member_") == 2
  ase.io.write(tmp_path / "in.xyz", ase.build.molecule("CH3OH"))
  values = _parse(
    predict,
    f"--checkpoint={together}",
    f"--input={tmp_path}/in.xyz",
    f"--output={tmp_path}/out.extxyz",
    *shared,
  )
  predict.run(values)
  atoms = ase.io.read(tmp_path / "out.extxyz")
  assert atoms.arrays["jmp_forces_std"].max() > 0 and "jmp_energy_std" in atoms.info


def _parse(runner, *arguments):
  values = flags.FlagValues()
  runner.define_flags(values)
  values(["program", *arguments])
  return values


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
