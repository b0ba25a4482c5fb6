"""Directories of finished fine-tuning runs, with the files that the report reads."""

import json
import pathlib
from typing import Any

from experiments.command_line import tasks
from experiments.reports import origins
from experiments.reports import result as result_lib
from jmp_hk import serialization
from jmp_hk.models import backbone as backbone_lib

METRIC = "score"
JOINT = origins.Origin("oc20+ani1x", {"pipeline.temperature": 2.0}, seed=0)


def config(model: str = "tiny", seed: int = 1, **train: Any) -> dict[str, Any]:
  """The stored configuration of a run."""
  return {
    "datasets": [{"name": "d", "directory": f"data/{seed}", "split": "train"}],
    "trainer": {
      "model": {
        "backbone": serialization.to_json(backbone_lib.preset(model)),
        "tasks": [{"name": "d", "targets": [{"name": "e", "kind": "energy"}]}],
        "precision": "float32",
      },
      "train": {
        "num_steps": 1000,
        "num_microbatches": 2,
        "seed": seed,
        "optimizer": {"schedule": {"learning_rate": 1e-3}, "frozen": []},
        "plateau": None,
        "log_every": 10 + seed,
        **train,
      },
      "budget": {"structures": 4.0, "headroom": 1.2},
      "pipeline": {"temperature": 1.0, "num_workers": seed},
      "initial": None,
    },
  }


def write(
  directory: pathlib.Path,
  task: str,
  error: float,
  values: list[float],
  *,
  origin: origins.Origin | None = None,
  fold: int = 0,
  devices: int = 2,
  num_structures: int = 950,
  num_parameters: int = 0,
  stored: dict[str, Any] | None = None,
) -> str:
  """A run directory as the runner leaves it, with a validation every 1800 s."""
  declared = tasks.TASKS.get(task)
  result = result_lib.Result(
    task=task,
    dataset=declared.dataset if declared else task,
    unit=declared.unit if declared else "eV",
    model="a backbone",
    initial="some/where" if origin else "",
    fold=fold,
    num_structures=num_structures,
    num_devices=devices,
    seconds=1800.0 * len(values),
    steps=100 * len(values),
    best_step=100,
    validation_metric=METRIC,
    validation=min(values),
    error=error,
    metrics={},
    num_parameters=num_parameters,
    origin=origin,
  )
  directory.mkdir(parents=True)
  serialization.save(result, directory / result_lib.FILE)
  (directory / "config.json").write_text(json.dumps(stored or config()))
  lines = [
    {"step": 100 * (i + 1), "kind": "val", "seconds": 1800.0 * (i + 1), METRIC: value}
    for i, value in enumerate(values)
  ]
  (directory / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
  return str(directory)
