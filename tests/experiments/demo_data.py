"""Small converted datasets, made from the shipped raw demo files."""

import pathlib

import pytest

from data import convert

ROOT = pathlib.Path(__file__).resolve().parents[2]
RAW = {
  "oc20": ROOT / "data/demo/raw/oc20",
  "ani1x": ROOT / "data/demo/raw/ani1x/ani1x-release.h5",
}

# The smallest model that has every part.
TINY_FLAGS = (
  "--model=tiny",
  "--model_override=num_blocks=1,atom_channels=8,edge_channels=10,"
  "bases.num_radial=6,bases.num_spherical=3",
  "--precision=float32",
  "--batch_size=6",
  "--streams_per_microbatch=2",
  "--pool_size=8",
  "--learning_rate=1e-3",
  "--warmup_steps=2",
  "--num_scale_batches=1",
  "--validation_limit=10",
)


def converted(directory: pathlib.Path) -> dict[str, pathlib.Path]:
  """Converts the raw files below a directory, once."""
  for name, raw in RAW.items():
    if not raw.exists():
      pytest.skip(f"needs {raw}")
    if not (directory / name / "dataset_info.json").exists():
      convert.run(
        convert.Config(
          dataset=name,
          input=str(raw),
          output=str(directory / name),
          scales="fitted",
        )
      )
  return {name: directory / name for name in RAW}


def dataset_flag(directories: dict[str, pathlib.Path]) -> str:
  """--datasets for converted directories."""
  return "--datasets=" + ",".join(f"{k}={v}" for k, v in directories.items())
