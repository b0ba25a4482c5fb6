"""Fine-tunes a model on structures in memory."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import logging
import os
import pathlib
from typing import Literal

from jmp_hk import ase_datasets
from jmp_hk import ase_structures
from jmp_hk.checkpoints import members
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import committee
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import exact
from jmp_hk.runtime import configuration
from jmp_hk.runtime import processes
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from jmp_hk.training import config as train_config
from jmp_hk.training import initial as initial_lib
from jmp_hk.training import losses
from jmp_hk.training import metrics
from jmp_hk.training import preflight
from jmp_hk.training import run_directory
from jmp_hk.training import trainer as trainer_lib

_WARMUP = 0.05  # Part of the steps.
_VALIDATIONS = 20  # In the course of a run.
_FEWEST_STEPS = 10  # From one validation to the next.
_LINES = 50  # Of the log, likewise.
_SCALE_BATCHES = 4

logger = logging.getLogger(__name__)

Model = predictor_lib.Predictor | str | os.PathLike[str] | None
Source = ase_structures.Source


def fine_tune(
  model: Model,
  structures: Source,
  *,
  targets: Mapping[str, str] | Sequence[tasks_lib.TargetConfig],
  workdir: str | os.PathLike[str],
  validation: float | Source = 0.1,
  keys: Mapping[str, str] | None = None,
  num_steps: int | None = None,
  num_epochs: float = 100.0,
  batch_size: int = 8,
  learning_rate: float = 8e-5,
  seed: int = 42,
  head_name: str = "fine_tuned",
  graph: graph_config.GraphConfig | None = None,
  precision: str = "float32",
  frozen: Sequence[str] = (),
  heads: Literal["reuse", "fresh"] = "reuse",
  budget: Mapping[str, int] | None = None,
  num_members: int = 1,
) -> predictor_lib.Predictor:
  """Trains a model on labelled structures.

  Labels are looked for in `atoms.info`, `atoms.arrays`, the results of the attached
  calculator and what ASE databases keep, in eV, Å, eV/Å and (of stress, with ASE's
  sign) eV/Å³. Called again with the same arguments and directory, it continues where it
  was stopped, or returns what it has trained. With a larger `num_steps` it goes on, and
  the learning rate follows the schedule of the new number from there on. Ctrl-C saves a
  checkpoint before it raises `KeyboardInterrupt`.

  Args:
    model: model that is trained further: from `jmp_hk.load`, or what that takes. The
      name of a preset, e.g. "gemnet_oc_small", or None trains from scratch.
    structures: structures to train on: `ase.Atoms`; or a file that ASE reads, a folder
      of such files, or a CSV table of an identifier and values beside its structures.
    targets: kind of each label by its name, e.g. {"energy": "energy", "forces":
      "conservative_forces", "stress": "conservative_stress"} or {"gap": "scalar"}; or
      complete declarations.
    workdir: directory of the run.
    validation: structures to validate on, likewise; or the part of `structures` that is
      drawn for it; zero validates on nothing. The weights that are best in validation
      are kept.
    keys: entries that hold labels, by the name of the label, e.g. {"energy":
      "dft_energy"}. The others are found, under the names of other programs, too
      (`REF_energy` comes before `energy`), and what is not plain is refused.
    num_steps: number of optimiser steps; None takes `num_epochs`.
    num_epochs: number of passes over the training structures.
    batch_size: structures of a step, over all devices; fewer at the end of an epoch.
    learning_rate: peak of the learning rate. It warms up in the first twentieth of the
      steps and follows a cosine to a tenth of the peak. Blocks of a trained backbone
      learn at the published fractions of it, where there are any.
    seed: seed of everything random: drawn validation structures, heads, data order.
    head_name: name of the head in the new model.
    graph: cutoff, number of neighbors and truncation; by default those of the model's
      heads where they agree, else 12 Å and 30 neighbors. Then the truncation is
      "published", but "smooth" for conservative forces that are trained from scratch.
    precision: "float32", "tensorfloat32" or "bfloat16", see `jmp_hk.load`.
    frozen: regular expressions of parameters that are not trained, see
      `training.config.OptimizerConfig`.
    heads: "reuse" takes over the heads of targets that the model was trained on with
      the same name, kind and reduction, see `checkpoints.pretrained.match_heads`; all
      others are drawn, and with "fresh" every one. The published models have several
      heads of each kind, of which none is taken over unless `head_name` names it.
    budget: sizes of a microbatch by name that count in place of the chosen ones, which
      a `BudgetError` may ask for; they may change when the run is continued.
    num_members: number of models, which are trained one after another with the seeds
      `seed`, `seed` + 1 and so on; the structures to validate on are the same. Each has
      a directory of its own, `workdir`/member_0 and so on. More members may be added
      later.

  Returns:
    The model with the best weights, or the last ones where nothing is validated. Of
    several members it is their `committee.Committee`.

  Raises:
    FileError: a file cannot be read.
    LabelError: structures lack labels or cannot be used; names them.
    OtherRunError: the directory holds a run with other settings or data.
    PreflightError: the run would fail later on.
    PatternError: a pattern in `frozen` matches no parameter, or together they match
      all of them.
    ValueError: the targets or settings make no sense.
  """
  configuration.configure()
  settings = _Settings(
    num_steps,
    num_epochs,
    batch_size,
    learning_rate,
    seed,
    precision,
    tuple(frozen),
    dict(budget or {}),
  )
  directories = members.directories(workdir, num_members)
  start = _open_model(model, train_config.Heads(heads))
  task = tasks_lib.TaskConfig(head_name, declare.declare(targets))
  data = ase_datasets.make_datasets(
    structures, validation, task, graph or _graph(start, task), seed, keys
  )
  for member, directory in enumerate(directories):
    own = dataclasses.replace(settings, seed=seed + member)
    if num_members > 1:
      logger.info("Member %d of %d: %s", member + 1, num_members, directory)
    _train(_trainer_config(start, data, own), data, start, directory)
  return committee.load(directories, precision=precision)


def _train(
  config: train_config.TrainerConfig,
  data: ase_datasets.LabelledData,
  start: "_Start",
  workdir: pathlib.Path,
) -> None:
  """Trains one model, or continues its run."""
  config = run_directory.complete(config, workdir)
  preflight.check(config, (*data.training, *data.validation), workdir)
  checked = {"structures": data.fingerprint, "trainer": config}
  run_directory.check_config(checked, workdir)
  if processes.is_first():
    run_directory.store_config(checked, workdir)
  trainer = trainer_lib.Trainer(
    config, data.training, data.validation, workdir, initial=start.initial
  )
  trainer.run()


@dataclasses.dataclass(frozen=True)
class _Settings:
  """Arguments of `fine_tune` about optimisation."""

  num_steps: int | None
  num_epochs: float
  batch_size: int
  learning_rate: float
  seed: int
  precision: str
  frozen: tuple[str, ...]
  budget: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class _Start:
  """What a fine-tuning starts from.

  Attributes:
    backbone: configuration of the backbone.
    initial: its weights; None draws them.
    graph: graph settings of the weights.
  """

  backbone: backbone_lib.BackboneConfig
  initial: initial_lib.InitialModel | None = None
  graph: graph_config.GraphConfig = graph_config.GraphConfig()


def _graph(start: _Start, task: tasks_lib.TaskConfig) -> graph_config.GraphConfig:
  """Graph settings where none are given."""
  if start.initial is not None:
    return start.graph
  truncation = graph_config.Truncation.of_new_model(
    is_conservative=task.is_conservative
  )
  return dataclasses.replace(start.graph, truncation=truncation)


def _open_model(model: Model, heads: train_config.Heads) -> _Start:
  """Finds the model to train."""
  if model is None:
    return _Start(backbone_lib.preset(backbone_lib.presets()[0]))
  if not isinstance(model, predictor_lib.Predictor):
    name = os.fspath(model)
    if name in backbone_lib.presets() and not pathlib.Path(name).exists():
      return _Start(backbone_lib.preset(name))
    model = committee.load(name)
  if isinstance(model, committee.Committee):
    raise ValueError(
      f"A committee of {len(model.members)} models cannot be trained as one: give one "
      "of its members."
    )
  return _Start(
    model.config.backbone,
    initial_lib.InitialModel(
      model.variables, model.config, model.infos, origin=model.origin, heads=heads
    ),
    graph_config.common(info.graph for info in model.infos.values()),
  )


def _trainer_config(
  start: _Start, data: ase_datasets.LabelledData, settings: _Settings
) -> train_config.TrainerConfig:
  """Configuration of the run: the published recipe with a schedule for short runs."""
  task = data.task
  num_structures = data.training[0].num_structures
  epoch = exact.steps_per_epoch(num_structures, settings.batch_size)
  num_steps = settings.num_steps or max(1, round(settings.num_epochs * epoch))
  interval = max(_FEWEST_STEPS, num_steps // _VALIDATIONS)
  return train_config.TrainerConfig(
    model=model_lib.ModelConfig(
      backbone=dataclasses.replace(
        start.backbone, direct_vectors=task.needs_edges, dropout=0.0, edge_dropout=0.0
      ),
      tasks=(task,),
      precision=settings.precision,
      stress=task.is_conservative,
    ),
    train=train_config.TrainConfig(
      num_steps=num_steps,
      batch_size=settings.batch_size,
      seed=settings.seed,
      optimizer=_optimizer_config(start, settings, num_steps),
      primary_metric=metrics.primary_metric(task),
      log_every=max(1, num_steps // _LINES),
      evaluate_every=interval,
      checkpoint_every=interval,
      keep_last=1,
      num_scale_batches=_SCALE_BATCHES,
    ),
    budget=budget_lib.BudgetConfig(overrides=settings.budget),
    loss=losses.LossConfig(structure_wise=False),
  )


def _optimizer_config(
  start: _Start, settings: _Settings, num_steps: int
) -> train_config.OptimizerConfig:
  """AdamW as published for fine-tuning; the cosine ends with the run."""
  return train_config.OptimizerConfig(
    schedule=train_config.ScheduleConfig(
      settings.learning_rate,
      warmup_steps=min(round(_WARMUP * num_steps), num_steps - 1),
      warmup_factor=0.1,
      decay_steps=num_steps,
    ),
    clip=train_config.Clip.VALUE,
    learning_rate_factors=(
      start.backbone.learning_rate_factors if start.initial is not None else ()
    ),
    frozen=settings.frozen,
  )
