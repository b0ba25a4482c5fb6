"""OC22 S2EF-Total from its release: `{train,val_id,…}/data.XXXX.lmdb`.

The release is LMDB already; energies are total energies (eV).
"""

from collections.abc import Iterator
from collections.abc import Sequence

from data.conversion import base
from data.formats import lmdb_records
from jmp_hk import dataset_summary


class OC22(base.Converter):
  """OC22, structure to total energy and forces."""

  name = "oc22"

  def declare(self) -> dataset_summary.Declaration:
    return base.published_declaration("oc22")

  def units(self) -> Sequence[base.Unit]:
    paths = base.find_files(self.source, "*.lmdb")
    splits = base.split_by_folder(self.source, self.split, paths)
    return [
      unit
      for split, files in splits.items()
      for unit in lmdb_records.units(self, split, files)
    ]

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    (name,) = unit.files
    return lmdb_records.read(self.root / name, name, *unit.payload)


CONVERTER = OC22
