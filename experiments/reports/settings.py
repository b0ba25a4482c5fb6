"""Settings of a training run that decide how good its model is, by dotted names.

They come from the stored configuration as JSON, so that runs of other versions can be
compared: a setting that one of them does not know is taken for equal.
"""

from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

from jmp_hk import serialization

Settings = Mapping[str, Any]

# They tell models apart, or nothing, whatever else is in the backbone.
_FREE_BACKBONE = ("direct_vectors", "edge_dropout", "dropout", "remat")
_SAME_MODEL = ("edge_dropout", "dropout")
# Of the trainer: how it is watched, stored, spread over devices and fed.
_WITHOUT_INFLUENCE = (
  "model.backbone.",
  "model.stress",
  "train.seed",
  "train.log_every",
  "train.checkpoint_every",
  "train.checkpoint_minutes",
  "train.profile_steps",
  "train.keep_last",
  "train.keep_best",
  "train.num_microbatches",
  "train.num_devices",
  "train.batch_size",
  "budget.",
  "pipeline.num_workers",
  "pipeline.prefetch_batches",
  "pipeline.pool_size",
  "pipeline.shuffle_buffer",
  "pipeline.shards_per_group",
  "pipeline.streams_per_microbatch",
  "initial.checkpoint",
)
# They follow from the number of structures, which differs a little between folds.
_COUNTS = (
  "num_steps",
  "warmup_steps",
  "decay_steps",
  "start_step",
  "evaluate_every",
  "num_structures",
)
_TOLERANCE = 0.02
_MOST_SHOWN = 4  # Settings in a label.


def of_run(config: Mapping[str, Any]) -> dict[str, Any]:
  """Settings in the stored configuration of a run, apart from model and seed.

  Raises:
    KeyError: it is no configuration of a run.
  """
  trainer = config["trainer"]
  train = trainer["train"]
  flat = flatten(trainer)
  kept = {k: v for k, v in flat.items() if not k.startswith(_WITHOUT_INFLUENCE)}
  backbone = trainer["model"]["backbone"]
  kept |= {name: backbone[name] for name in _SAME_MODEL if name in backbone}
  size = train.get("batch_size")
  if size is None:  # An older version counted the structures of a microbatch.
    size = trainer["budget"]["structures"] * train["num_microbatches"]
  return kept | {"batch_size": float(size)}


def of_model(config: Mapping[str, Any]) -> dict[str, Any]:
  """Sizes of the backbone in the stored configuration of a run.

  Raises:
    KeyError: it is no configuration of a run.
  """
  return of_backbone(config["trainer"]["model"]["backbone"])


def of_backbone(stored: Mapping[str, Any]) -> dict[str, Any]:
  """Sizes in a stored backbone: what decides how many parameters it has, and so on."""
  return flatten({k: v for k, v in stored.items() if k not in _FREE_BACKBONE})


def flatten(value: serialization.Json, prefix: str = "") -> dict[str, Any]:
  """Numbers, texts and None in nested JSON values by dotted names."""
  if isinstance(value, Mapping):
    items = [(str(key), item) for key, item in value.items()]
  elif isinstance(value, list) and any(isinstance(x, (Mapping, list)) for x in value):
    items = [(str(index), item) for index, item in enumerate(value)]
  else:
    return {prefix: value}
  result: dict[str, Any] = {}
  for name, item in items:
    result |= flatten(item, f"{prefix}.{name}" if prefix else name)
  return result


def differences(first: Settings, second: Settings) -> list[str]:
  """Names of settings that differ by more than the folds of one dataset do."""
  return [
    *(name for name in first if _differs(name, first, second)),
    *(n for n in second if n not in first and _differs(n, second, first)),
  ]


def is_same_count(first: float, second: float) -> bool:
  """Whether two numbers of structures or steps are as close as those of two folds."""
  return abs(first - second) <= max(1.0, _TOLERANCE * max(first, second))


def distinguish(items: Sequence[tuple[str, Settings]]) -> list[str]:
  """Labels of things that may have the same name: the settings that differ are added.

  Args:
    items: name and settings of each.

  Returns:
    A label each. Things of the same name and settings have the same label, all others
    have different ones.
  """
  labels = []
  for name, own in items:
    namesakes = [other for other_name, other in items if other_name == name]
    varying = list(dict.fromkeys(n for s in namesakes for n in differences(own, s)))
    # Names without what nobody else is called: "learning_rate".
    texts = [f"{_short(key, varying)}={_text(own.get(key))}" for key in varying]
    if len(texts) > _MOST_SHOWN:
      texts = [*texts[:_MOST_SHOWN], f"and {len(texts) - _MOST_SHOWN} more"]
    labels.append(f"{name} ({', '.join(texts)})" if texts else name)
  return _numbered(labels, items)


def _numbered(labels: list[str], items: Sequence[tuple[str, Settings]]) -> list[str]:
  """Numbers labels that are the same although the settings differ."""
  result = []
  for label, (_, own) in zip(labels, items, strict=True):
    kinds: list[Settings] = []
    for other_label, (_, other) in zip(labels, items, strict=True):
      if other_label == label and all(differences(other, kind) for kind in kinds):
        kinds.append(other)
    index = next(i for i, kind in enumerate(kinds) if not differences(own, kind))
    result.append(f"{label} #{index + 1}" if len(kinds) > 1 else label)
  return result


def _differs(name: str, own: Settings, other: Settings) -> bool:
  if name in other:
    a, b = own[name], other[name]
    if name.rpartition(".")[2] in _COUNTS and _are_numbers(a, b):
      return not is_same_count(a, b)
    return _plain(a) != _plain(b)
  # Parts of what the other one has switched off, e.g. of the plateau.
  parts = name.split(".")
  ancestors = (".".join(parts[:count]) for count in range(1, len(parts)))
  return any(key in other and other[key] is None for key in ancestors)


def _are_numbers(*values: Any) -> bool:
  return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _plain(value: Any) -> Hashable:
  """A value whose equals are equal however they were written: 1 and 1.0."""
  return float(value) if _are_numbers(value) else json.dumps(value)


def _short(name: str, others: Sequence[str]) -> str:
  """The last part of a dotted name where no other has the same."""
  last = name.rpartition(".")[2]
  alike = [other for other in others if other.rpartition(".")[2] == last]
  return last if len(alike) == 1 else name


def _text(value: Any) -> str:
  if value is None:
    return "none"
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float):
    return f"{value:g}"
  return json.dumps(value) if isinstance(value, list) else str(value)
