"""Flags about fine-tuning: task, data, start, schedule in epochs."""

import pathlib

from absl import flags

from experiments.command_line import config as config_lib
from experiments.command_line import data_flags
from experiments.command_line import model_flags
from experiments.command_line import tasks as declarations
from experiments.command_line import training_flags
from jmp_hk import serialization
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import config as gemnet_config
from jmp_hk.pipeline import config as stream_config
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib
from jmp_hk.training import config as train_config

PUBLISHED = "published"
# Learning-rate factors of the paper by number of blocks: JMP-S and JMP-L.
_EMBEDDING_FACTOR = 0.3
_BLOCK_FACTORS = {
  4: (0.35, 0.40, 0.55, 0.625),
  6: (0.55, 0.40, 0.30, 0.40, 0.55, 0.625),
}
# Recipe A of the paper, where it differs from pre-training.
_DEFAULTS = {
  "precision": "float32",
  "edge_dropout": 0.0,
  "structure_wise_loss": False,
  "learning_rate": 8e-5,
  "warmup_steps": 0,
  "warmup_factor": 0.1,
  "clip": train_config.Clip.VALUE,
  "learning_rate_factors": [PUBLISHED],
  "num_epochs": 500.0,
  "evaluate_every": 0,
  "checkpoint_every": 10_000,
  "primary_metric": "",
  "keep_last": 1,
  "seed": 42,
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of fine-tuning; defaults are the paper's recipe."""
  data_flags.define_batches(values)
  model_flags.define_model(values)
  model_flags.define_averages(values)
  training_flags.define_optimizer(values)
  training_flags.define_run(values)
  training_flags.define_environment(values)
  _define_task(values)
  _define_schedule(values)
  for name, default in _DEFAULTS.items():
    values.set_default(name, default)


def _define_task(values: flags.FlagValues) -> None:
  string = lambda name, default, text: flags.DEFINE_string(
    name, default, text, flag_values=values
  )
  string(
    "task",
    "",
    "Task of the paper, e.g. qm9_u0; on the command line it also reads "
    "the task's flag file. All: " + ", ".join(declarations.TASKS),
  )
  flags.DEFINE_multi_string(
    "target",
    [],
    "NAME=KIND[,reduction=sum|mean|max][,coefficient=X][,classes=N]: "
    f"what is learned on data of your own. Kinds: {', '.join(spec_lib.kinds())}.",
    flag_values=values,
  )
  string(
    "name",
    "",
    "Name of a task of your own in the model and in reports; by default "
    "that of the data.",
  )
  string(
    "data",
    "",
    "Directory of the converted data (python -m data.convert); {fold} "
    "in it stands for --fold.",
  )
  string(
    "convert",
    "",
    "CONVERTER:INPUT[,OPTION=VALUE]…: before training, convert "
    "INPUT to --data (by default WORKDIR/data), unless that is done.",
  )
  flags.DEFINE_integer(
    "fold",
    0,
    "Number that {fold} in --data, --convert and --workdir stands for.",
    lower_bound=0,
    flag_values=values,
  )
  string("train_split", "train", "Split to train on.")
  string(
    "test_split",
    "test",
    "Split that the best weights are evaluated on at the end, "
    "if the data have it; empty evaluates on none.",
  )
  string(
    "checkpoint",
    "",
    "Trained model to start from: the --workdir of a run, or a "
    "checkpoint in there. Without it the training starts from scratch.",
  )
  flags.DEFINE_bool(
    "ema",
    True,
    "Start from the averaged weights of the checkpoint.",
    flag_values=values,
  )


def _define_schedule(values: flags.FlagValues) -> None:
  number = lambda name, default, text: flags.DEFINE_float(
    name, default, text, lower_bound=0, flag_values=values
  )
  number("warmup_epochs", 5, "Warm-up, where --warmup_steps is 0.")
  number("decay_epochs", 32, "End of the cosine, counted from the start.")
  number(
    "evaluate_every_epochs",
    1,
    "Epochs between validations, where --evaluate_every is 0.",
  )
  number(
    "plateau_factor",
    0.8,
    "Multiplies the rate when validation stagnates after "
    "the cosine; 1 switches that off.",
  )
  flags.DEFINE_integer(
    "plateau_patience",
    3,
    "Validations without improvement that are tolerated.",
    lower_bound=0,
    flag_values=values,
  )
  number("plateau_threshold", 1e-4, "Relative improvement that counts as one.")
  flags.DEFINE_integer(
    "early_stopping_patience",
    50,
    "Validations without improvement after which the run ends; 0 never ends it.",
    lower_bound=0,
    flag_values=values,
  )
  number("early_stopping_min_delta", 1e-8, "Improvement that counts as one.")
  number("min_learning_rate", 1e-8, "The run ends when the rate falls below this.")


def directory(values: flags.FlagValues, name: str) -> str:
  """The flag --data, --convert or --workdir with the fold filled in."""
  return values[name].value.replace("{fold}", str(values.fold))


def conversion(values: flags.FlagValues, dataset: str) -> config_lib.Conversion | None:
  """Reads --convert; errors as of `data_flags.conversion`."""
  if not values.convert:
    return None
  return data_flags.conversion(f"{dataset}={directory(values, 'convert')}")


def dataset(values: flags.FlagValues, workdir: pathlib.Path) -> str:
  """Directory of the converted data.

  Raises:
    FlagError: nothing is given.
  """
  if values.data:
    return directory(values, "data")
  if values.convert:
    return str(workdir / data_flags.CONVERTED)
  raise config_lib.FlagError(
    "No data: name a converted dataset with --data=DIR, or raw files with "
    "--convert=CONVERTER:INPUT."
  )


def targets(values: flags.FlagValues) -> tuple[tasks_lib.TargetConfig, ...]:
  """What is learned.

  Raises:
    FlagError: neither or both of --task and --target are given, or one is wrong.
  """
  if bool(values.task) == bool(values.target):
    raise config_lib.FlagError(
      "Say what to learn: either --task=NAME, a task of the paper, or "
      "--target=NAME=KIND, a label of your own data; not both."
    )
  if values.task:
    return declarations.find(values.task).targets
  return declarations.parse_targets(values.target)


def backbone(
  values: flags.FlagValues, trained: gemnet_config.GemNetOCConfig | None, *, edges: bool
) -> gemnet_config.GemNetOCConfig:
  """The backbone: that of the checkpoint, else --model.

  Args:
    values: parsed flags.
    trained: backbone of the checkpoint, if there is one.
    edges: whether a head needs edge embeddings.

  Raises:
    FlagError: --model or --model_override contradict the checkpoint.
  """
  wanted = model_flags.backbone(values)
  own = {
    "direct_vectors": edges,
    "dropout": values.dropout,
    "edge_dropout": values.edge_dropout,
    "remat": values.remat,
  }
  data = serialization.to_json(trained or wanted) | own
  if trained and (values["model"].present or values["model_override"].present):
    changes = serialization.differences(data, serialization.to_json(wanted) | own)
    if changes:
      raise config_lib.FlagError(
        "--model and --model_override do not fit the backbone of --checkpoint: "
        f"{'; '.join(changes)}. Leave them out, the checkpoint knows its sizes."
      )
  return serialization.from_json(gemnet_config.GemNetOCConfig, data)


def pipeline(values: flags.FlagValues) -> stream_config.PipelineConfig:
  """Settings of the pipeline."""
  return stream_config.PipelineConfig(
    seed=values.seed,
    num_microbatches=values.num_microbatches,
    edge_dropout=values.edge_dropout,
    num_workers=values.num_workers,
    pool_size=pool_lib.least_size(values.batch_size, values.pool_size),
    shuffle_buffer=values.shuffle_buffer,
  )


def train(
  values: flags.FlagValues,
  model: model_lib.ModelConfig,
  num_structures: int,
  primary_metric: str,
) -> train_config.TrainConfig:
  """Optimiser, schedule, plateau and early stopping.

  Args:
    values: parsed flags.
    model: of the run.
    num_structures: of the training split; an epoch of it decides the schedule.
    primary_metric: what validation goes by, unless a flag says otherwise.

  Raises:
    FlagError: values that make no sense.
  """
  epoch = max(1.0, num_structures / (values.batch_size * values.num_microbatches))
  steps = lambda epochs: round(epochs * epoch)
  warmup = values.warmup_steps or steps(values.warmup_epochs)
  schedule = training_flags.schedule(values, warmup, max(steps(values.decay_epochs), 1))
  factors = _factors(values, model.backbone.num_blocks)
  return training_flags.train(
    values,
    values.num_steps or max(1, steps(values.num_epochs)),
    optimizer=training_flags.optimizer(values, schedule, factors),
    plateau=_plateau(values, schedule.decay_steps),
    early_stopping=_early_stopping(values),
    primary_metric=values.primary_metric or primary_metric,
    evaluate_every=values.evaluate_every or max(1, steps(values.evaluate_every_epochs)),
  )


def block_factors(num_blocks: int) -> tuple[tuple[str, float], ...]:
  """The published layer-wise learning-rate factors as (pattern, factor).

  Args:
    num_blocks: interaction blocks of the backbone; there are factors for 4 and 6.

  Returns:
    "Block i" is interaction block i and output block i + 1; block 0 has output block 0
    too. Empty for other numbers of blocks.
  """
  if num_blocks not in _BLOCK_FACTORS:
    return ()
  patterns = [("^atom_embedding/", _EMBEDDING_FACTOR)]
  for i, factor in enumerate(_BLOCK_FACTORS[num_blocks]):
    outputs = "[01]" if i == 0 else str(i + 1)
    patterns.append((f"^backbone/(int_blocks_{i}|out_blocks_{outputs})/", factor))
  return tuple(patterns)


def _factors(
  values: flags.FlagValues, num_blocks: int
) -> tuple[tuple[str, float], ...]:
  """--learning_rate_factors; the published ones count where weights are loaded."""
  if values.learning_rate_factors != [PUBLISHED]:
    return training_flags.parse_factors(values.learning_rate_factors)
  return block_factors(num_blocks) if values.checkpoint else ()


def _plateau(values: flags.FlagValues, start: int) -> train_config.PlateauConfig | None:
  if values.plateau_factor == 1:
    return None
  return train_config.PlateauConfig(
    values.plateau_factor, values.plateau_patience, values.plateau_threshold, start
  )


def _early_stopping(
  values: flags.FlagValues,
) -> train_config.EarlyStoppingConfig | None:
  if not values.early_stopping_patience:
    return None
  return train_config.EarlyStoppingConfig(
    values.early_stopping_patience,
    values.early_stopping_min_delta,
    values.min_learning_rate,
  )
