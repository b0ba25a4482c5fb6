"""Flag files of all tasks, and what flags of fine-tuning become."""

import dataclasses

import jax
import pytest

from data.records import datasets as datasets_lib
from experiments import finetune
from experiments.command_line import command
from experiments.command_line import finetune_flags
from experiments.command_line import tasks
from jmp_hk.graphs import config as graph_config
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import devices as devices_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import batch_sources
from jmp_hk.training import config as train_config
from jmp_hk.training import objective
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import run_directory
from jmp_hk.training import sharding
from tests.experiments import finetune_data

_FILES = sorted(finetune.FLAG_FILES.glob("*.flags"))


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
  return finetune_data.convert_all(tmp_path_factory.mktemp("all_labels"))


def _config(data, *arguments):
  values = finetune_data.parse("--workdir=w", *arguments, f"--data={data}")
  return finetune.make_config(values, finetune_flags.read_data(values, "w"))


def _open(config, directory):
  """Batches of a run."""
  datasets = datasets_lib.open_datasets(config.datasets, config.trainer.model.tasks)
  trainer = run_directory.complete(config.trainer, directory)
  mesh = sharding.make_mesh(jax.devices()[:1])
  return batch_sources.open_datasets(trainer, datasets, (), directory, mesh)


_traced: dict[str, tuple] = {}


def _unnamed(task):
  """The task under another name, and its scalars under others, too."""
  targets = [
    dataclasses.replace(target, name=f"scalar{i}")
    if target.kind == "scalar"
    else target
    for i, target in enumerate(task.targets)
  ]
  return dataclasses.replace(task, name="task", targets=tuple(targets))


def _shapes(config, directory):
  """Shapes of variables and predictions on an example batch.

  Models that differ in names alone are traced once.
  """
  unnamed = tuple(_unnamed(task) for task in config.trainer.model.tasks)
  model_config = dataclasses.replace(config.trainer.model, tasks=unnamed)
  key = repr(model_config)
  if key not in _traced:
    batch = objective.first_microbatch(_open(config, directory).padding().batch)
    model = model_lib.build_model(model_config)
    variables = jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)
    predictions = jax.eval_shape(model.apply, variables, None, batch)
    _traced[key] = variables, predictions
  return _traced[key]


def test_every_task_has_a_flag_file():
  assert {path.stem for path in _FILES} == set(tasks.TASKS)
  counts = {}
  for task in tasks.TASKS.values():
    counts[task.dataset] = counts.get(task.dataset, 0) + 1
  # One of MatBench's nine is not among the published forty.
  assert counts == {
    "qm9": 12,
    "rmd17": 10,
    "md22": 7,
    "spice": 2,
    "matbench": 9,
    "qmof": 1,
  }


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_flag_files_build_model_head_and_optimizer(path, data, tmp_path):
  small = (
    "--model=tiny",
    "--model_override=num_blocks=1,atom_channels=8,"
    "edge_channels=10,bases.num_radial=6,bases.num_spherical=3",
    "--num_workers=0",
  )
  config = _config(data, f"--task={path.stem}", *small)
  task = tasks.TASKS[path.stem]
  model = config.trainer.model
  assert model.tasks == (task.config,)
  variables, predictions = _shapes(config, tmp_path)
  train = config.trainer.train
  optimizer = optimizer_lib.make_optimizer(train.optimizer, variables.params)
  jax.eval_shape(optimizer.init, variables.params)
  for target in _unnamed(model.tasks[0]).targets:
    assert target.name in predictions
  conservative = any(t.kind == "conservative_forces" for t in task.targets)
  # Derivatives need float32, and a conservative head has no biases.
  assert model.precision == "float32" or not conservative
  assert ("out_energy/linear_0" in variables.params) == conservative
  if conservative:
    assert "b" not in variables.params["out_energy/linear_0"]
  assert not config.trainer.loss.structure_wise
  # However many devices there are, some of them share out the published batch.
  for count in (1, 2, 4, 8):
    machine = devices_lib.Machine(num_processes=1, devices_each=count)
    num_microbatches = machine.follow(train.batch_size)
    assert num_microbatches == min(count, train.batch_size)
    assert machine.used_each(num_microbatches) == num_microbatches


@pytest.mark.parametrize(
  "path",
  sorted((finetune.FLAG_FILES.parent / "evidence").glob("[mqr]*.flags")),
  ids=lambda path: path.stem,
)
def test_flag_files_of_the_evidence_build_models(path, data, tmp_path, monkeypatch):
  folder = tmp_path / "raw"
  for name in ("rmd17", "matbench", "evidence/qm9_2000"):
    (folder / name).mkdir(parents=True)
  for name in ("matbench/matbench_jdft2d", "matbench/matbench_phonons"):
    (folder / f"{name}.json.gz").touch()
  (folder / "evidence" / "matbench_perovskites.json.gz").touch()
  # Flag files name each other from the root of the repository.
  (tmp_path / "experiments").symlink_to(finetune.FLAG_FILES.parents[1])
  monkeypatch.chdir(tmp_path)
  values = finetune_data.parse(f"--flagfile={path}", "--workdir=w", "--fold=3")
  given = finetune_flags.read_data(values, "w")
  assert given.directory.startswith("data_cache/") and "{" not in given.directory
  for conversion in given.conversions:
    assert "{" not in "".join(conversion.options.values())
  config = _config(data, f"--flagfile={path}")
  mini = dataclasses.replace(backbone_lib.preset("mini"), direct_vectors=False)
  assert config.trainer.model.backbone == mini
  (task,) = config.trainer.model.tasks
  assert path.stem.startswith(task.name)
  (dataset,) = config.datasets
  assert dataset.truncation is graph_config.Truncation.SMOOTH


@pytest.mark.parametrize(
  ("task", "model", "blocks"),
  [("rmd17_aspirin", "gemnet_oc_large", 6), ("matbench_phonons", "gemnet_oc_small", 4)],
)
def test_published_sizes_and_rates(task, model, blocks, data, tmp_path):
  config = _config(data, f"--task={task}", f"--model={model}", "--num_workers=0")
  backbone = config.trainer.model.backbone
  assert backbone.num_blocks == blocks
  variables, _ = _shapes(config, tmp_path)
  # Factors count where a checkpoint is loaded; all their patterns must match.
  factors = backbone.learning_rate_factors
  optimizer = config.trainer.train.optimizer
  assert not optimizer.learning_rate_factors
  changed = dataclasses.replace(optimizer, learning_rate_factors=factors)
  optimizer_lib.make_optimizer(changed, variables.params)
  of = lambda path: optimizer_lib.group_factor(factors, path)
  assert of("atom_embedding/embeddings") == 0.3
  expected = {4: (0.35, 0.4, 0.55, 0.625), 6: (0.55, 0.4, 0.3, 0.4, 0.55, 0.625)}[
    blocks
  ]
  for i, factor in enumerate(expected):
    assert of(f"backbone/int_blocks_{i}/dense_ca/w") == factor
    assert of(f"backbone/out_blocks_{i + 1}/dense_rbf/w") == factor
  assert of("backbone/out_blocks_0/dense_rbf/w") == expected[0]
  assert of("backbone/bases/mlp_rbf_h/w") == of("out_energy/linear_0/w") == 1.0
  assert of("backbone/out_mlp_E/out_mlp_0/w") == 1.0


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (("--target=energy=energy", "--target=forces=conservative_forces"), "smooth"),
    (("--target=energy=energy",), None),
    (("--target=energy=energy", "--truncation=shells"), "shells"),
    (("--task=rmd17_aspirin",), None),
    (("--task=rmd17_aspirin", "--truncation=smooth"), "smooth"),
  ],
)
def test_truncation_in_place_of_that_of_converted_data(data, arguments, expected):
  (dataset,) = _config(data, *arguments).datasets
  assert dataset.truncation == (expected and graph_config.Truncation(expected))
  (opened,) = datasets_lib.open_datasets(
    (dataset,), _config(data, *arguments).trainer.model.tasks
  )
  assert opened.info.graph.truncation.value == (expected or "published")


def test_recipe_of_the_paper(data):
  config = _config(data, "--task=rmd17_aspirin")
  train = config.trainer.train
  optimizer = train.optimizer
  assert optimizer.schedule.learning_rate == 8e-5
  assert (optimizer.b1, optimizer.b2, optimizer.weight_decay) == (0.9, 0.95, 0.1)
  assert optimizer.clip is train_config.Clip.VALUE and optimizer.clip_threshold == 1.0
  # 18 structures in batches of one: an epoch has 18 steps.
  assert optimizer.schedule.warmup_steps == 5 * 18
  assert optimizer.schedule.decay_steps == 32 * 18
  assert train.plateau == train_config.PlateauConfig(0.8, 10, 1e-4, 32 * 18)
  assert train.early_stopping == train_config.EarlyStoppingConfig(1000, 1e-8, 1e-10)
  assert train.evaluate_every == 18
  assert train.primary_metric == "rmd17_aspirin/force_mae_mev_per_angstrom"
  energy, forces = config.trainer.model.tasks[0].targets
  assert (energy.loss_coefficient, forces.loss_coefficient) == (0.0, 10.0)
  train = _config(data, "--task=qm9_mu", "--batch_size=4").trainer.train
  assert train.plateau.patience == 3 and train.early_stopping.patience == 50
  # The last batch of an epoch holds the two that are left.
  assert train.num_steps == 500 * 5


def test_command_line_counts_more_than_the_tasks_file(data):
  arguments = ["--task=qm9_mu", "--batch_size=3"]
  batch_size = lambda *flags: _config(data, *flags).trainer.train.batch_size
  assert batch_size(*arguments) == 3
  assert batch_size(*reversed(arguments)) == 3
  assert batch_size("--task=qm9_mu") == 48


def test_folds_are_filled_in():
  values = finetune_data.parse(
    "--task=matbench_jdft2d", "--fold=3", "--workdir=runs/jdft2d_{fold}"
  )
  directory = lambda name: finetune_flags.directory(values, name)
  assert directory("data") == "data_cache/matbench_jdft2d_fold3"
  assert directory("workdir") == "runs/jdft2d_3"


def test_targets_of_ones_own(data):
  config = _config(
    data,
    "--target=mu=scalar,reduction=mean,coefficient=2",
    "--target=kind=multiclass",
    "--target=shift=vector",
    "--target=energy=energy,coefficient=0.5",
    "--target=forces=conservative_forces,coefficient=10",
    "--name=all",
  )
  (task,) = config.trainer.model.tasks
  by_name = {target.name: target for target in task.targets}
  assert task.name == "all" and len(by_name) == 5
  assert by_name["mu"].reduction is tasks_lib.Reduction.MEAN
  assert by_name["mu"].loss_coefficient == 2
  assert by_name["kind"].num_classes == 3
  assert not by_name["energy"].head_bias and by_name["energy"].loss_coefficient == 0.5
  assert config.trainer.model.backbone.direct_vectors  # For the vector.
  assert config.trainer.train.primary_metric == "all/score"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "Say what to learn"),
    (["--task=qm9_u0", "--target=mu=scalar"], "not both"),
    (["--task=qm9_u00"], "no task 'qm9_u00'"),
    (["--target=mu=number"], "does not read NAME=KIND"),
    (["--target=mu=scalar,power=2"], "does not read NAME=KIND"),
    (["--target=mu=energy"], "for the label 'energy'"),
    (["--target=mu=scalar,reduction=median"], "median"),
    (["--target=mu=scalar", "--target=mu=scalar"], "named twice"),
    (["--target=dipole=scalar"], "no label 'dipole'"),
    (["--target=mu=multiclass"], "holds no classes"),
    (["--target=kind=binary"], "has 3 classes"),
    (["--target=mu=scalar", "--checkpoint=nowhere"], "no checkpoint in nowhere"),
  ],
)
def test_wrong_flags_say_what_to_do(arguments, message, data):
  with pytest.raises(command.FlagError, match=message):
    values = finetune_data.parse("--workdir=w", f"--data={data}", *arguments)
    finetune.check_flags(values)
