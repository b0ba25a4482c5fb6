"""Flipped bits, truncations and lost files in everything that a run stores.

Run by `python -m pytest tests/faults`, not by `python -m pytest`. Every damaged file is
refused in a sentence, or read as if nothing had happened.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import shutil
from typing import Any

import chex
import numpy as np
import pytest

from data.conversion import base
from data.conversion import registry
from data.conversion import runner
from data.records import schema
from data.records import shards
from data.records import source as source_lib
from experiments.reports import result as result_lib
from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk.checkpoints import loading
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import parameters
from jmp_hk.training import config as train_config
from jmp_hk.training import run_directory
from tests.data import raw_files
from tests.experiments import run_files
from tests.faults import outcomes as outcomes_lib
from tests.jmp_hk import test_dataset_info
from tests.jmp_hk.checkpoints import runs
from tests.jmp_hk.interop import checkpoints as torch_checkpoints
from tests.jmp_hk.interop import torch_save
from tests.jmp_hk.training import small

pytestmark = pytest.mark.slow

REFUSED, EQUAL = outcomes_lib.REFUSED, outcomes_lib.EQUAL

_TRAINER = train_config.TrainerConfig(small.MODEL, train_config.TrainConfig(1, 2))
_REFUSALS = (
  serialization.SerializationError,
  run_directory.OtherRunError,
  model_directory.CheckpointError,
  base.PlanError,
  shards.RecordFileError,
)
Damage = Callable[[pathlib.Path, np.random.Generator], None]


def flip(path: pathlib.Path, rng: np.random.Generator) -> None:
  """Flips one bit."""
  content = bytearray(path.read_bytes())
  position = int(rng.integers(8 * len(content)))
  content[position // 8] ^= 1 << position % 8
  path.write_bytes(content)


def truncate(path: pathlib.Path, rng: np.random.Generator) -> None:
  """Cuts off the end; what is left may be nothing."""
  content = path.read_bytes()
  path.write_bytes(content[: int(rng.integers(len(content)))])


@dataclasses.dataclass(frozen=True)
class Stored:
  """Something on disk that is read.

  Attributes:
    name: what it is called in the table.
    path: file or folder.
    read: reads a copy of it and says what came of it: `EQUAL`, or what is wrong; it
      raises where it refuses.
    part: the part of the folder that is damaged, a folder or a pattern of files.
    flips: number of flipped bits to try.
    truncations: number of truncations to try.
  """

  name: str
  path: pathlib.Path
  read: Callable[[pathlib.Path], str]
  part: str = "."
  flips: int = 100
  truncations: int = 30

  def files(self, root: pathlib.Path) -> list[pathlib.Path]:
    """Files that may be damaged in a copy."""
    if root.is_file():
      return [root]
    if "*" in self.part:
      found = root.glob(self.part)
    else:
      found = (root / self.part).rglob("*")
    return sorted(path for path in found if path.is_file() and path.stat().st_size)


@pytest.fixture(name="stored", scope="module")
def _stored(tmp_path_factory) -> dict[str, Stored]:
  """Everything that is read, by name."""
  root = tmp_path_factory.mktemp("stored")
  entries = [*_of_runs(root), *_of_conversions(root)]
  return {entry.name: entry for entry in entries}


def _of_runs(root: pathlib.Path) -> list[Stored]:
  """What runs store."""
  state = runs.fresh_state()
  runs.make(root / "run", state)
  step = f"{model_directory.CHECKPOINTS}/{{}}"
  model = root / "model"
  shutil.copytree(root / "run" / step.format(runs.BEST), model)
  torch = root / "jmp.pt"
  torch_save.save(
    torch_checkpoints.lightning(torch_checkpoints.state_dict("tinyd")), torch
  )
  info, budget, config = root / "dataset_info.json", root / "budget.json", root / "own"
  dataset_info.save(test_dataset_info.INFO, info)
  serialization.save(small.budget(), budget)
  run_directory.store_config({"trainer": _TRAINER}, config)
  result = _store_result(root / "result")
  return [
    Stored(
      "checkpoint that is loaded", model, _loads(model), flips=250, truncations=80
    ),
    Stored(
      "checkpoint that a run continues",
      root / "run",
      lambda path: _continues(path, state),
      part=step.format(runs.NEWEST),
      flips=250,
      truncations=80,
    ),
    Stored(
      "metrics of the best checkpoint",
      root / "run",
      _loads(root / "run"),
      part=step.format(runs.BEST) + "/metrics",
    ),
    Stored("PyTorch file", torch, _loads(torch)),
    Stored(
      "dataset_info.json",
      info,
      lambda path: _is_equal(dataset_info.load(path), test_dataset_info.INFO),
    ),
    Stored(
      "budget.json",
      budget,
      lambda path: _is_equal(
        serialization.load(type(small.budget()), path), small.budget()
      ),
    ),
    Stored("config.json", config, _checks_config),
    Stored(
      "finetune_result.json",
      root / "result" / result_lib.FILE,
      lambda path: _is_equal(serialization.load(result_lib.Result, path), result),
    ),
  ]


def _store_result(folder: pathlib.Path) -> result_lib.Result:
  """Stores the result of a fine-tuning as its end does."""
  run_files.write(folder, "qm9_mu", 0.01, [0.3, 0.2])
  path = folder / result_lib.FILE
  result = serialization.load(result_lib.Result, path)
  serialization.save(result, path, store_checksum=True)
  return result


def _of_conversions(root: pathlib.Path) -> list[Stored]:
  """What conversions store."""
  raw = raw_files.oc20_folder(root / "raw", files=2, frames=5)
  _convert(raw, root / "converted")
  expected = _read_dataset(root / "converted")

  def read(path: pathlib.Path) -> str:
    return _is_equal(_read_dataset(path), expected)

  def convert_again(path: pathlib.Path) -> str:
    for name in (dataset_info.FILE_NAME, "train.sources.json"):
      (path / name).unlink()
    _convert(raw, path)
    return read(path)

  return [
    Stored("TFRecord shards", root / "converted", read, "*.tfrecord", 150, 50),
    Stored("indices of shards", root / "converted", read, "*.index", 100, 40),
    Stored(
      "notes of a conversion", root / "converted", convert_again, ".conversion/*.json"
    ),
  ]


def _convert(raw: pathlib.Path, output: pathlib.Path) -> None:
  runner.convert(registry.make("oc20", raw, "train"), output, progress=False)


def _read_dataset(path: pathlib.Path) -> tuple[dataset_info.DatasetInfo, list[bytes]]:
  """Constants and all structures of a converted dataset, as training reads them."""
  info = dataset_info.load(path)
  source = source_lib.ShardSource(
    info.name,
    "train",
    tuple(shards.list_shards(path, "train")),
    info.num_structures["train"],
  )
  structures = source.fetch(range(source.num_structures))
  return info, [schema.encode(structure) for structure in structures]


NAMES = [
  "checkpoint that is loaded",
  "checkpoint that a run continues",
  "metrics of the best checkpoint",
  "PyTorch file",
  "dataset_info.json",
  "budget.json",
  "config.json",
  "finetune_result.json",
  "TFRecord shards",
  "indices of shards",
  "notes of a conversion",
]


@pytest.mark.parametrize("name", NAMES)
def test_flipped_bits(stored, tmp_path, outcomes, name):
  entry = stored[name]
  _try(entry, "flipped bit", flip, entry.flips, tmp_path, outcomes)


@pytest.mark.parametrize("name", NAMES)
def test_truncations(stored, tmp_path, outcomes, name):
  entry = stored[name]
  _try(entry, "truncation", truncate, entry.truncations, tmp_path, outcomes)


@pytest.mark.parametrize("name", NAMES[:2])
def test_lost_and_renamed_files(stored, tmp_path, outcomes, name):
  entry = stored[name]
  whole = entry.path / entry.part
  for path in sorted(whole.rglob("*")):
    relative = path.relative_to(entry.path)
    with _copy(entry, tmp_path) as copy:
      (copy / relative).rename(copy / relative.with_name(f"{path.name}.old"))
      _note(entry, "renamed file or folder", copy, str(relative), outcomes)
    with _copy(entry, tmp_path) as copy:
      lost = copy / relative
      shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
      _note(entry, "lost file or folder", copy, str(relative), outcomes)


def test_files_of_another_checkpoint(stored, tmp_path, outcomes):
  entry = stored["checkpoint that a run continues"]
  whole = entry.path / entry.part
  for path in sorted(whole.rglob("*")):
    relative = path.relative_to(whole)
    with _copy(entry, tmp_path) as copy:
      mine, other = copy / entry.part / relative, copy / "checkpoints/2" / relative
      if not other.exists():
        continue
      for source, target in ((mine, tmp_path / "x"), (other, mine)):
        source.rename(target)
      (tmp_path / "x").rename(other)
      _note(entry, "file or folder of another step", copy, str(relative), outcomes)


def _try(
  entry: Stored,
  kind: str,
  damage: Damage,
  count: int,
  folder: pathlib.Path,
  outcomes: outcomes_lib.Outcomes,
) -> None:
  """Damages copies, each at one random place."""
  rng = np.random.default_rng(len(kind))
  files = entry.files(entry.path)
  sizes = np.array([path.stat().st_size for path in files], float)
  # Small files as often as large ones: half of the places are drawn by size.
  weights = 0.5 / len(files) + 0.5 * sizes / sizes.sum()
  for _ in range(count):
    path = files[rng.choice(len(files), p=weights)]
    with _copy(entry, folder) as copy:
      damage(copy / path.relative_to(entry.path) if copy.is_dir() else copy, rng)
      _note(entry, kind, copy, path.name, outcomes)


@contextlib.contextmanager
def _copy(entry: Stored, folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A copy that may be changed."""
  place = folder / "copy"
  place.mkdir()
  target = place / entry.path.name
  copy = shutil.copytree if entry.path.is_dir() else shutil.copy
  copy(entry.path, target)
  yield target
  shutil.rmtree(place)


def _note(
  entry: Stored,
  kind: str,
  copy: pathlib.Path,
  place: str,
  outcomes: outcomes_lib.Outcomes,
) -> None:
  """Reads a damaged copy and notes what came of it."""
  try:
    outcome = entry.read(copy)
  except _REFUSALS as error:
    outcome = _refusal(error)
  outcomes.add(kind, entry.name, outcome)
  assert outcome in (REFUSED, EQUAL), (entry.name, kind, place, outcome)


def _refusal(error: Exception) -> str:
  """Whether an error is a sentence."""
  message = str(error)
  is_sentence = message.endswith(".") and "\n" not in message and " " in message
  return REFUSED if is_sentence else f"no sentence: {message!r}"


def _loads(path: pathlib.Path) -> Callable[[pathlib.Path], str]:
  """Compares models with the one that a path holds."""
  wanted: list[Any] = []

  def read(copy: pathlib.Path) -> str:
    if not wanted:
      wanted.append(loading.load_model(path))
    found, expected = loading.load_model(copy), wanted[0]
    _equal_arrays(found.variables, expected.variables)
    return _is_equal(
      (found.config, found.infos, found.step),
      (expected.config, expected.infos, expected.step),
    )

  return read


def _continues(workdir: pathlib.Path, state: Any) -> str:
  """Continues a run, and compares the state with that of its step."""
  reader = runs.open_checkpoints(workdir)
  try:
    restored, host = reader.restore(state)
  finally:
    reader.close()
  step = int(restored.step)
  expected = runs.state_at(state, step)
  _equal_arrays(parameters.flatten(restored), parameters.flatten(expected))
  assert host == runs.host_at(step)
  damaged = workdir / "damaged_checkpoints" / str(runs.NEWEST)
  assert damaged.is_dir() == (step != runs.NEWEST)
  return EQUAL  # To the newest step, or to an older one, which is said.


def _checks_config(directory: pathlib.Path) -> str:
  run_directory.check_config({"trainer": _TRAINER}, directory)
  return EQUAL


def _equal_arrays(found: Any, expected: Any) -> None:
  chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
  chex.assert_trees_all_equal(found, expected)


def _is_equal(found: Any, expected: Any) -> str:
  return EQUAL if found == expected else f"other content: {found}"
