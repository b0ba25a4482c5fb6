"""QMOF: PBE band gaps of metal–organic frameworks.

Reads `qmof_database.zip` of the figshare release as it is, or the folder that it holds:
labels from `qmof.json`, structures from `qmof_structure_data.json` (3.2 GB, read as a
stream).
All entries are shuffled with seed 42 and split as JMP does: the first 80 % for
training, then validation, the last 10 % for testing. Rosen et al., Matter 4, 1578.
"""

from collections.abc import Iterator
import itertools
import pathlib
from typing import Any

from data.conversion import base
from data.conversion import splits
from data.formats import archives
from data.formats import crystal_json
from data.formats import json_stream
from jmp_hk import dataset_summary
from jmp_hk.graphs import config as graph_config

LABELS = "qmof.json"
STRUCTURES = "qmof_structure_data.json"
_UNIT_SIZE = 8_192  # every unit reads both files from the start


class Qmof(base.Converter):
  """Converts QMOF."""

  name = "qmof"

  @property
  def files(self) -> tuple[pathlib.Path, ...]:
    """The raw files: both, or the archive that holds both."""
    archive = archives.find(self.source, STRUCTURES)
    if archive:
      return (archive,)
    found = base.find_files(
      self.source if self.source.is_dir() else self.source.parent, STRUCTURES
    )
    folder = found[0].parent
    if len(found) > 1 or not (folder / LABELS).is_file():
      raise base.PlanError(
        f"--input={self.source} must hold {LABELS} and {STRUCTURES}, once, in one "
        "folder or one zip file."
      )
    return folder / LABELS, folder / STRUCTURES

  def _items(self, name: str, prefix: str) -> Iterator[Any]:
    """Streams items of one of the two files."""
    if len(self.files) == 1:
      return json_stream.items(self.files[0], prefix, name)
    return json_stream.items(self.files[0].with_name(name), prefix)

  def declare(self) -> dataset_summary.Declaration:
    return dataset_summary.Declaration(
      name="qmof",
      graph=graph_config.GraphConfig(
        cutoff=19.0, max_neighbors_by_size=((200, 10), (300, 5))
      ),
      energy=False,
      forces=False,
      targets={"bandgap": dataset_summary.Label("eV")},
      notes={"bandgap": "outputs.pbe.bandgap", "deuterium": "stored as hydrogen"},
    )

  def units(self) -> list[base.Unit]:
    if len(self.files) == 1:
      json_stream.verify(self.files[0], STRUCTURES)
    count = sum(1 for _ in self._items(LABELS, "item.qmof_id"))
    files = tuple(map(self.relative, self.files))
    return splits.units(splits.eighty_ten_ten(count), files, _UNIT_SIZE, "qmof")

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    labels = self._items(LABELS, "item")
    structures = self._items(STRUCTURES, "item")
    wanted = set(unit.payload)
    for index, (label, entry) in enumerate(itertools.zip_longest(labels, structures)):
      if not wanted:
        return
      ids = [x.get("qmof_id") if isinstance(x, dict) else None for x in (label, entry)]
      if ids[0] != ids[1] or ids[0] is None:
        raise base.RawDataError(
          f"{self.source}: entry {index} is {ids[0]} in {LABELS} but {ids[1]} in "
          f"{STRUCTURES}; take both files from one release."
        )
      if index in wanted:
        yield _item(label, entry, f"{ids[0]}")
        wanted.remove(index)
    if wanted:
      raise base.RawDataError(f"{self.source}: entry {min(wanted)} is missing.")


def _item(label: dict[str, Any], entry: dict[str, Any], record_id: str) -> base.Item:
  try:
    gap = label["outputs"]["pbe"]["bandgap"]
    if gap is None:
      return base.Invalid(record_id, "expected a band gap, found none")
    targets = {"bandgap": crystal_json.number(gap, "outputs.pbe.bandgap")}
    return crystal_json.parse(entry["structure"], record_id, targets)
  except crystal_json.CrystalError as error:
    return base.Invalid(record_id, str(error))
  except (KeyError, TypeError, ValueError) as error:
    reason = f"expected outputs.pbe.bandgap and structure: {error!r}"
    return base.Invalid(record_id, reason)


CONVERTER = Qmof
