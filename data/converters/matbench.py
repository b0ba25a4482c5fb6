"""MatBench v0.1: one fold of one of its nine tasks with structures.

Reads `matbench_<task>.json.gz` as released. The five folds are those of the benchmark
(scikit-learn's KFold, shuffled with seed 18012019, stratified for the one class
label). A fold's training rows, ascending, are shuffled with seed 42; 90 % train and
the rest validates, as in JMP. A file that holds only some rows of a task, told by its
`index`, is split like the whole task. Dunn et al., npj Comput. Mater. 6, 138.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

import numpy as np

from data.conversion import base
from data.conversion import splits
from data.formats import crystal_json
from data.formats import json_stream
from jmp_hk import dataset_summary
from jmp_hk import ranges
from jmp_hk.graphs import config as graph_config

NUM_FOLDS = 5
FOLD_SEED = 18012019
_MOST_SHOWN = 80  # Letters of a value in a message.
_UNIT_SIZE = 32_768  # every unit reads the file from the start


@dataclasses.dataclass(frozen=True)
class Task:
  """One task: rows of the whole file, name of its target column, its declaration."""

  rows: int
  column: str
  target: dataset_summary.Label


TASKS = {
  "jdft2d": Task(636, "exfoliation_en", dataset_summary.Label("meV/atom")),
  "phonons": Task(1265, "last phdos peak", dataset_summary.Label("1/cm")),
  "dielectric": Task(4764, "n", dataset_summary.Label("1")),
  "log_gvrh": Task(10987, "log10(G_VRH)", dataset_summary.Label("log10(GPa)")),
  "log_kvrh": Task(10987, "log10(K_VRH)", dataset_summary.Label("log10(GPa)")),
  "perovskites": Task(18928, "e_form", dataset_summary.Label("eV/cell")),
  "mp_gap": Task(106113, "gap pbe", dataset_summary.Label("eV")),
  "mp_e_form": Task(132752, "e_form", dataset_summary.Label("eV/atom")),
  "mp_is_metal": Task(
    106113, "is_metal", dataset_summary.Label("class", kind="class", num_classes=2)
  ),
}


@dataclasses.dataclass(frozen=True)
class MatbenchOptions(base.Options):
  """Options of `--dataset=matbench`."""

  task: str = base.option(
    "", f"NAME: Task, by default from the file name: {', '.join(TASKS)}."
  )
  fold: int = base.option(
    0,
    "Number of the fold for testing.",
    ranges.Range(0, most=NUM_FOLDS - 1, is_whole=True),
  )


def split(
  rows: int, fold: int, labels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
  """Row numbers of a fold.

  Args:
    rows: rows of the task.
    fold: 0 to 4.
    labels: [rows] classes to stratify the folds by, or None.

  Raises:
    PlanError: there is no such fold, or fewer than ten rows.
  """
  if not 0 <= fold < NUM_FOLDS:
    raise base.PlanError(f"--fold={fold} is not one of the folds 0 to {NUM_FOLDS - 1}.")
  if rows < 2 * NUM_FOLDS:
    raise base.PlanError(f"{rows} rows are too few for {NUM_FOLDS} folds.")
  from sklearn import model_selection  # Takes a second to import.

  kind = model_selection.KFold if labels is None else model_selection.StratifiedKFold
  folds = kind(NUM_FOLDS, shuffle=True, random_state=FOLD_SEED)
  try:
    rest, test = list(folds.split(np.zeros(rows), labels))[fold]
  except ValueError as error:  # a class with fewer members than folds
    raise base.PlanError(f"Cannot make {NUM_FOLDS} folds: {error}") from error
  train = int(0.9 * len(rest))
  sizes = {"train": train, "val": len(rest) - train}
  return splits.cut(rest[splits.shuffled(len(rest))], sizes) | {"test": test}


class Matbench(base.Converter):
  """Converts one fold of a MatBench task."""

  name = "matbench"
  options_type = MatbenchOptions

  @property
  def path(self) -> pathlib.Path:
    """The .json.gz (or unpacked .json) file."""
    stem = f"matbench_{self.options.task or '*'}"
    found = base.find_files(self.source, f"{stem}.json.gz", f"{stem}.json")
    if len(found) > 1:
      names = [self.relative(path) for path in found]
      raise base.PlanError(
        f"--input={self.source} holds several files: {names}; choose with --task."
      )
    return found[0]

  @property
  def task(self) -> str:
    """Name of the task: given, or the longest one that the file name begins with.

    Raises:
      PlanError: it is none of the nine.
    """
    stem = self.path.name.removeprefix("matbench_")
    fits = [t for t in TASKS if stem.startswith(t)]
    task = self.options.task or max(fits, key=len, default="")
    if task not in TASKS:
      raise base.PlanError(
        f"{task or self.path.name} is not one of the tasks {', '.join(TASKS)}; name "
        "it with --task."
      )
    return task

  def declare(self) -> dataset_summary.Declaration:
    return dataset_summary.Declaration(
      name=f"matbench_{self.task}",
      graph=graph_config.GraphConfig(
        cutoff=12.0, max_neighbors_by_size=((200, 10), (300, 5))
      ),
      energy=False,
      forces=False,
      targets={self.task: TASKS[self.task].target},
      notes={
        "task": self.task,
        "fold": self.options.fold,
        "column": TASKS[self.task].column,
      },
    )

  def units(self) -> list[base.Unit]:
    json_stream.verify(self.path)
    columns = json_stream.first(self.path, "columns")
    expected = ["structure", TASKS[self.task].column]
    if columns != expected:
      raise base.RawDataError(
        f"{self.path}: expected the columns {expected} of {self.task}, found {columns}."
      )
    by_split = self._split(self._index())
    file = self.relative(self.path)
    return splits.units(by_split, (file,), _UNIT_SIZE, file)

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    wanted = set(unit.payload)
    file = unit.files[0]
    for position, row in enumerate(json_stream.items(self.path, "data.item")):
      if position in wanted:
        yield _item(row, self.task, f"{file}:{position}")
        wanted.remove(position)
        if not wanted:
          return
    raise base.RawDataError(
      f"{self.path}: 'index' promises row {min(wanted)}, 'data' ends before."
    )

  def _index(self) -> list[int]:
    """Numbers of the rows in the whole task.

    Raises:
      RawDataError: they are no distinct whole numbers.
    """
    index = json_stream.first(self.path, "index")
    is_list = isinstance(index, list) and all(type(row) is int for row in index)
    if not is_list or len(set(index)) != len(index):
      raise base.RawDataError(
        f"{self.path}: expected a list of distinct whole numbers as 'index', found "
        f"{str(index)[:_MOST_SHOWN]}."
      )
    return index

  def _split(self, index: list[int]) -> dict[str, np.ndarray]:
    """Positions in the file by split."""
    count = len(index)
    whole = index == list(range(count))
    task = TASKS[self.task]
    if whole:
      labels = self._labels() if task.target.kind == "class" else None
      return split(count, self.options.fold, labels)
    if task.target.kind == "class" or not set(index) <= set(range(task.rows)):
      raise base.RawDataError(
        f"{self.path}: expected 'index' 0, 1, 2, …, since the folds of "
        f"{self.task} need all rows, found {index[:3]}…"
      )
    position = {row: k for k, row in enumerate(index)}
    by_split = split(task.rows, self.options.fold)
    return {
      name: np.array([position[r] for r in rows.tolist() if r in position], np.int64)
      for name, rows in by_split.items()
    }

  def _labels(self) -> np.ndarray:
    """The class of every row; -1 where it is none, which `read` will name."""
    rows = json_stream.items(self.path, "data.item")
    values = [row[1] if isinstance(row, list) and len(row) == 2 else -1 for row in rows]
    return np.array([int(v) if v in (0, 1) else -1 for v in values])


def _item(row: Any, target: str, record_id: str) -> base.Item:
  try:
    crystal, value = row
    labels = {target: _value(value, target)}
    return crystal_json.parse(crystal, record_id, labels)
  except crystal_json.CrystalError as error:
    return base.Invalid(record_id, str(error))
  except (TypeError, ValueError):
    return base.Invalid(record_id, "expected [structure, number]")


def _value(value: Any, target: str) -> np.ndarray:
  """The label of a row: a number, or true or false where there are two classes."""
  is_class = TASKS[target].target.kind == "class"
  return crystal_json.number(
    int(value) if is_class and isinstance(value, bool) else value, target
  )


CONVERTER = Matbench
