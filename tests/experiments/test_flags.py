"""Flags become one config; every flag of the recipe and its ablations arrives."""

import dataclasses
import json
import math
import pathlib

from absl import flags
import pytest

from data.records import datasets as datasets_lib
from experiments import pretrain
from experiments.command_line import command
from experiments.command_line import config as config_lib
from experiments.command_line import data_flags
from experiments.command_line import model_flags
from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.training import config as train_config
from tests.experiments import demo_data

_FLAGS = demo_data.ROOT / "experiments" / "flags"
_FLAG_FILES = sorted(_FLAGS.glob("pretrain_*.flags"))
# What each file of experiments/flags/ablations changes.
_ABLATIONS = {
  "atom_wise_loss": {"structure_wise_loss": False},
  "catalysts_only": {"datasets": ["oc20=data_cache/oc20", "oc22=data_cache/oc22"]},
  "molecules_only": {
    "datasets": ["ani1x=data_cache/ani1x", "transition1x=data_cache/transition1x"]
  },
  "naive": {
    "temperature": 1.0,
    "structure_wise_loss": False,
    "edge_dropout": 0.0,
    "ema_decay": 0.0,
    "weight_decay": 0.0,
  },
  "no_averaging": {"ema_decay": 0.0},
  "no_edge_dropout": {"edge_dropout": 0.0},
  "no_weight_decay": {"weight_decay": 0.0},
  "oc20_only": {"datasets": ["oc20=data_cache/oc20"]},
  "temperature_1": {"temperature": 1.0},
  "temperature_inf": {"temperature": math.inf},
}


def parse(*arguments: str) -> flags.FlagValues:
  """Parses arguments of the pre-training runner."""
  values = flags.FlagValues()
  pretrain.define_flags(values)
  values(["pretrain", *arguments])
  return values


def _config(
  datasets, *arguments: str, workdir=pathlib.Path("w")
) -> config_lib.RunConfig:
  values = parse(demo_data.dataset_flag(datasets), "--workdir=w", *arguments)
  return pretrain.make_config(values, data_flags.read_mixture(values, workdir))


@pytest.mark.parametrize("path", _FLAG_FILES, ids=lambda path: path.stem)
def test_flag_files_describe_a_run(path, datasets):
  # The recipe's data are not here, so the same flags are read with other datasets.
  arguments = [
    line
    for line in path.read_text().splitlines()
    if line.startswith("--")
    and not line.startswith(("--datasets", "--convert", "--force_coefficients"))
  ]
  config = _config(datasets, *arguments, "--num_steps=100000").trainer
  assert config.train.num_steps == 100000
  assert config.model.tasks[0].name == "oc20"


def test_ablations_change_the_recipe_in_one_thing():
  files = {path.stem: path for path in (_FLAGS / "ablations").glob("*.flags")}
  assert set(files) == set(_ABLATIONS)
  recipe = f"--flagfile={_FLAGS / 'pretrain_jmp_s.flags'}"
  before = parse(recipe).flag_values_dict()
  for name, path in files.items():
    after = parse(recipe, f"--flagfile={path}").flag_values_dict()
    changed = {k: v for k, v in after.items() if v != before[k]}
    changed.pop("flagfile", None)
    assert changed == _ABLATIONS[name], name
    assert f"ablations/{path.name} --workdir=" in path.read_text(), name


def test_published_recipe_is_the_default(datasets):
  config = _config(datasets, "--num_steps=10000", "--model=gemnet_oc_large").trainer
  optimizer = config.train.optimizer
  assert (optimizer.b1, optimizer.b2, optimizer.weight_decay) == (0.9, 0.95, 0.1)
  assert (optimizer.clip, optimizer.clip_threshold) == (
    train_config.Clip.GLOBAL_NORM,
    1.0,
  )
  schedule = optimizer.schedule
  assert (schedule.learning_rate, schedule.warmup_steps) == (3e-4, 2000)
  assert (schedule.warmup_factor, schedule.final_factor) == (0.2, 0.1)
  assert schedule.decay_steps == 10000
  assert config.train.ema_decay == 0.99
  assert config.pipeline.temperature == 2.0
  assert config.model.backbone.edge_dropout == 0.1
  assert config.model.precision == "bfloat16"
  assert config.loss.structure_wise and not config.loss.free_atoms_only
  coefficients = {t.name: t.targets[1].loss_coefficient for t in config.model.tasks}
  assert coefficients == {"oc20": 73.0, "ani1x": 15.0}


def test_ablations_arrive(datasets):
  run = _config(
    datasets,
    "--num_steps=5000",
    "--temperature=inf",
    "--nostructure_wise_loss",
    "--weight_decay=0",
    "--dropout=0.2",
    "--edge_dropout=0",
    "--ema_decay=0",
    "--train_on_free_atoms_only",
    "--energy_coefficient=0",
    "--force_coefficients=ani1x=2,7",
    "--batch_size=12",
    "--budget=num_atoms=512",
    "--precision=float32",
    "--seed=5",
    "--num_microbatches=4",
    "--clip=value",
    "--frozen=atom_embedding",
    "--learning_rate_factors=int_blocks_0=0.5",
  )
  config = run.trainer
  assert math.isinf(config.pipeline.temperature)
  assert not config.loss.structure_wise and config.loss.free_atoms_only
  assert config.train.optimizer.weight_decay == 0 and config.train.ema_decay == 0
  assert config.train.optimizer.clip is train_config.Clip.VALUE
  assert config.train.optimizer.frozen == ("atom_embedding",)
  assert config.train.optimizer.learning_rate_factors == (("int_blocks_0", 0.5),)
  assert config.model.backbone.dropout == 0.2
  assert config.model.backbone.edge_dropout == 0
  assert [t.loss_coefficient for t in config.model.tasks[0].targets] == [0.0, 7.0]
  assert [t.loss_coefficient for t in config.model.tasks[1].targets] == [0.0, 2.0]
  assert config.structures_per_microbatch == 3 and config.budget.overrides == {
    "num_atoms": 512
  }
  assert config.train.seed == 5 and config.train.num_microbatches == 4


def test_steps_follow_from_epochs(datasets):
  # Two sizes, drawn in proportion to them: an epoch is one draw of every structure.
  config = _config(
    datasets, "--temperature=1", "--num_epochs=3", "--batch_size=10", "--warmup_steps=1"
  )
  total = sum(
    json.loads((path / "dataset_info.json").read_text())["num_structures"]["train"]
    for path in datasets.values()
  )
  assert config.trainer.train.num_steps == pytest.approx(3 * total / 10, abs=1)


def test_config_round_trips_and_guards_its_directory(datasets, tmp_path):
  config = _config(datasets, "--num_steps=3000")
  config_lib.store(config, tmp_path)
  assert serialization.load(config_lib.RunConfig, tmp_path / "config.json") == config
  # How fast, and what is reported, may change.
  config_lib.store(
    _config(datasets, "--num_steps=3000", "--log_every=7", "--num_workers=2"), tmp_path
  )
  # What is computed may not.
  with pytest.raises(command.FlagError, match=r"learning_rate: 0.0003 → 0.1"):
    config_lib.store(
      _config(datasets, "--num_steps=3000", "--learning_rate=0.1"), tmp_path
    )


def test_saved_flags_give_the_same_config(datasets, tmp_path):
  arguments = [
    "--num_steps=3000",
    "--model_override=num_blocks=2,bases.num_radial=9",
    "--force_coefficients=ani1x=2,oc20=3",
    "--nostructure_wise_loss",
  ]
  values = parse(demo_data.dataset_flag(datasets), "--workdir=w", *arguments)
  path = command.save_flags(tmp_path, values)
  assert "chex" not in path.read_text()  # Flags of libraries are no part of a run.
  again = parse(f"--flagfile={path}")
  first, second = (
    pretrain.make_config(v, data_flags.read_mixture(v, pathlib.Path("w")))
    for v in (values, again)
  )
  assert first == second
  assert first.trainer.model.backbone.bases.num_radial == 9


@pytest.mark.parametrize(
  ("name", "names"),
  [
    ("mini", ["oc20", "oc22", "ani1x", "transition1x", "rmd17", "qm9"]),
    ("molecules", ["ani1x", "transition1x", "rmd17", "qm9"]),
    ("catalysts", ["oc20", "oc22"]),
  ],
)
def test_flag_files_of_the_evidence_name_mixtures(name, names, monkeypatch):
  # Flag files name each other from the root of the repository.
  monkeypatch.chdir(_FLAGS.parents[1])
  path = f"experiments/flags/evidence/pretrain_{name}.flags"
  values = parse(f"--flagfile={path}", "--workdir=w")
  assert [entry.partition("=")[0] for entry in values.convert] == names
  mini = dataclasses.replace(backbone_lib.preset("mini"), direct_vectors=False)
  assert model_flags.pretraining_backbone(values) == mini
  assert values.temperature == 2.0 and values.structure_wise_loss


def test_settings_of_several_flags_add_up(tmp_path):
  flag_file = tmp_path / "recipe.flags"
  flag_file.write_text("--model_override=num_blocks=2,bases.num_radial=9\n")
  values = parse(
    f"--flagfile={flag_file}",
    "--model_override=atom_channels=24",
    "--model_override=num_blocks=3",
  )
  backbone = model_flags.backbone(values)
  assert (backbone.num_blocks, backbone.atom_channels) == (3, 24)
  assert backbone.bases.num_radial == 9
  again = parse(f"--flagfile={command.save_flags(tmp_path, values)}")
  assert model_flags.backbone(again) == backbone
  assert model_flags.backbone(parse()) != backbone


def test_truncation_takes_the_place_of_what_the_data_say(datasets):
  arguments = [demo_data.dataset_flag(datasets), "--num_steps=3000"]
  own = _config(datasets, "--num_steps=3000")
  values = parse(*arguments, "--truncation=smooth")
  mixture = data_flags.read_mixture(values, pathlib.Path("w"))
  chosen = pretrain.make_config(values, mixture)
  for configs, expected in (
    (own.datasets, "published"),
    (chosen.datasets, "smooth"),
    (chosen.validation_datasets, "smooth"),
  ):
    opened = datasets_lib.open_datasets(configs, own.trainer.model.tasks)
    found = {dataset.info.graph.truncation.value for dataset in opened}
    assert found == {expected}


def test_conservative_forces_are_derivatives_on_smooth_graphs(datasets):
  arguments = ["--num_steps=3000", "--forces=conservative", "--precision=float32"]
  config = _config(datasets, *arguments)
  model = config.trainer.model
  assert model.is_conservative and not model.backbone.direct_vectors
  assert all(task.is_conservative for task in model.tasks)
  opened = datasets_lib.open_datasets(config.datasets, model.tasks)
  assert {d.info.graph.truncation.value for d in opened} == {"smooth"}
  config = _config(datasets, *arguments, "--truncation=shells")
  assert {d.truncation.value for d in config.datasets} == {"shells"}
  direct = _config(datasets, "--num_steps=3000")
  assert not direct.trainer.model.is_conservative
  assert direct.trainer.model.backbone.direct_vectors
  values = parse(
    demo_data.dataset_flag(datasets), "--workdir=w", "--forces=conservative"
  )
  with pytest.raises(command.FlagError, match="needs --precision=float32"):
    pretrain.check_flags(values)


def test_force_coefficients_come_from_the_datasets(datasets):
  values = parse("--force_coefficients=")
  published = dataset_info.load(datasets["ani1x"])
  other = dataclasses.replace(published, force_coefficient=None)
  tasks = model_flags.make_tasks(values, {"published": published, "other": other})
  assert tasks[0].targets[1].loss_coefficient == 15.0
  # Without a published one it is the average size.
  assert tasks[1].targets[1].loss_coefficient == pytest.approx(other.average_atoms)


def test_datasets_are_learned_by_the_labels_they_have(datasets):
  published = dataset_info.load(datasets["ani1x"])
  without = lambda *labels: dataclasses.replace(
    published, units={k: v for k, v in published.units.items() if k not in labels}
  )
  some = dataclasses.replace(
    published, splits={"val": dataset_info.SplitFacts((1,), {"forces": 3})}
  )
  values = parse("--force_coefficients=")
  infos = {"all": published, "energies": without("forces"), "some": some}
  tasks = model_flags.make_tasks(values, infos)
  assert [[t.name for t in task.targets] for task in tasks] == [
    ["energy", "forces"],
    ["energy"],
    ["energy", "forces"],
  ]
  assert [task.targets[-1].allow_missing for task in tasks] == [False, False, True]
  with pytest.raises(command.FlagError, match="'none' has neither energies nor"):
    model_flags.make_tasks(values, {"none": without("energy", "forces")})
