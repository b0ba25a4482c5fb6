"""OC22 S2EF-Total from its release: `{train,val_id,…}/data.XXXX.lmdb`.

The release is LMDB already; energies are total energies (eV). Its archive is unpacked
beside the output, without the test splits: they have neither energies nor forces, and
are left out of a folder that holds them, too.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import logging
import pathlib

from data.conversion import base
from data.formats import archives
from data.formats import lmdb_records
from data.formats import unpacking
from jmp_hk import dataset_summary

_LOG = logging.getLogger(__name__)


class OC22(base.Converter):
  """OC22, structure to total energy and forces."""

  name = "oc22"

  def declare(self) -> dataset_summary.Declaration:
    return base.published_declaration("oc22")

  def packed(self) -> pathlib.Path | None:
    return archives.find(self.source, "*.lmdb")

  def prepare(self, output: pathlib.Path, progress: bool = True) -> base.Converter:
    archive = self.packed()
    if archive is None:
      return self
    folder = unpacking.unpacked(archive, output, _is_labelled, progress)
    return dataclasses.replace(self, source=folder)

  def units(self) -> Sequence[base.Unit]:
    paths = base.find_files(self.source, "*.lmdb")
    splits = base.split_by_folder(self.source, self.split, paths)
    unlabelled = [
      split for split, files in splits.items() if not lmdb_records.has_labels(files[0])
    ]
    if self.split in unlabelled or len(unlabelled) == len(splits):
      raise base.PlanError(
        f"--input={self.source}: the records of {', '.join(unlabelled)} have neither "
        "energies nor forces, so that there is nothing to learn or to evaluate."
      )
    if unlabelled:
      _LOG.warning(
        "The records of %s have neither energies nor forces and are left out.",
        " and ".join(unlabelled),
      )
    return [
      unit
      for split, files in splits.items()
      if split not in unlabelled
      for unit in lmdb_records.units(self, split, files)
    ]

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    (name,) = unit.files
    return lmdb_records.read(self.root / name, name, *unit.payload)


def _is_labelled(member: str) -> bool:
  """Whether a member of the released archive holds records with labels."""
  path = pathlib.PurePosixPath(member)
  splits = [base.split_of(folder) for folder in path.parts[:-1]]
  return path.suffix == ".lmdb" and not any(s.startswith("test") for s in splits)


CONVERTER = OC22
