"""Small raw files of every dataset, in every form that is read, to be damaged."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import json
import lzma
import pathlib
import shutil
import tarfile

import ase.db
import ase.io
import h5py
import numpy as np

from tests.data import raw_files
from tests.data.converters import test_matbench
from tests.data.converters import test_md22
from tests.data.converters import test_qm9
from tests.data.converters import test_qmof
from tests.data.converters import test_rmd17
from tests.data.converters import test_spice
from tests.experiments import finetune_data

Make = Callable[[pathlib.Path], object]


@dataclasses.dataclass(frozen=True)
class Source:
  """Raw files of a dataset.

  Attributes:
    name: what it is called in the table.
    dataset: `--dataset`.
    make: writes the files into a folder.
    flags: further flags of the conversion.
    damaged: patterns of the files that are damaged; others lie beside them.
    most_changed: structures that one flipped bit may change or lose without a word,
      because the format has no checksum; 0 where it has one.
    most_cut: structures that a truncation may take away without a word.
  """

  name: str
  dataset: str
  make: Make
  flags: tuple[str, ...] = ()
  damaged: tuple[str, ...] = ("*",)
  most_changed: int = 0
  most_cut: int = 0


def _ani1x(folder: pathlib.Path) -> None:
  raw_files.write_ani1x(folder / "ani1x-release.h5", raw_files.ani1x_groups(6, 4))


def _transition1x(folder: pathlib.Path) -> None:
  raw_files.write_transition1x(folder / "Transition1x.h5", frames=4)


def _spice(folder: pathlib.Path) -> None:
  with h5py.File(folder / "SPICE-1.1.4.hdf5", "w") as file:
    for name, count in (("a", 12), ("b", 9)):
      test_spice._add_molecule(file, name, count, test_spice.DIPEPTIDES)


def _oc20(folder: pathlib.Path) -> pathlib.Path:
  return raw_files.oc20_folder(folder / "s2ef_train", files=2, frames=3)


def _oc20_tar(folder: pathlib.Path) -> None:
  unpacked = _oc20(folder)
  raw_files.write_tar(folder / "s2ef_train.tar", unpacked)
  shutil.rmtree(unpacked)


def _oc20_text(folder: pathlib.Path) -> None:
  for path in sorted(_oc20(folder).iterdir()):
    path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
    path.unlink()


def _oc22(folder: pathlib.Path) -> None:
  records = [raw_files.oc22_record(seed) for seed in range(4)]
  raw_files.write_oc22(folder / "train" / "data.0000.lmdb", records)


def _qm9(folder: pathlib.Path) -> None:
  test_qm9._write_archive(folder / "dsgdb9nsd.xyz.tar.bz2", range(1, 15))
  (folder / "uncharacterized.txt").write_text(test_qm9.LIST)


def _qm9_tar(folder: pathlib.Path) -> None:
  _qm9(folder)
  packed = folder / "dsgdb9nsd.xyz.tar.bz2"
  with (
    tarfile.open(packed) as old,
    tarfile.open(folder / "dsgdb9nsd.xyz.tar", "w") as new,
  ):
    for member in old:
      new.addfile(member, old.extractfile(member))
  packed.unlink()


def _matbench(folder: pathlib.Path) -> None:
  values = np.random.default_rng(0).normal(size=14).tolist()
  raw = test_matbench._raw("dielectric", values)
  test_matbench._write(folder, "dielectric", raw)


def _matbench_text(folder: pathlib.Path) -> None:
  values = np.random.default_rng(0).normal(size=14).tolist()
  raw = test_matbench._raw("dielectric", values)
  (folder / "matbench_dielectric.json").write_text(json.dumps(raw))


def _qmof(folder: pathlib.Path) -> None:
  labels = [test_qmof._label(i) for i in range(12)]
  test_qmof._write(folder, labels, [test_qmof._structure(i) for i in range(12)])


def _qmof_zip(folder: pathlib.Path) -> None:
  _qmof(folder)
  shutil.make_archive(str(folder / "qmof_database"), "zip", folder, "qmof_database")
  shutil.rmtree(folder / "qmof_database")


def _md22(folder: pathlib.Path) -> None:
  np.savez(folder / "md22_AT-AT.npz", **test_md22._arrays(12))


def _md22_text(folder: pathlib.Path) -> None:
  test_md22._write_xyz(folder / "md22_AT-AT.xyz", test_md22._arrays(12))


def _rmd17(folder: pathlib.Path) -> None:
  (folder / "npz_data").mkdir()
  (folder / "splits").mkdir()
  rng = np.random.default_rng(0)
  arrays = test_rmd17._oscillator(60, rng)
  np.savez_compressed(folder / "npz_data" / "rmd17_oxide.npz", **arrays)
  order = rng.permutation(60)
  for part, indices in (("train", order[:40]), ("test", order[40:])):
    text = "\n".join(map(str, indices)) + "\n"
    (folder / f"splits/index_{part}_02.csv").write_text(text)


def _ase(name: str) -> Make:
  def make(folder: pathlib.Path) -> None:
    frames = finetune_data.molecules(8)
    for atoms in frames:
      atoms.info.clear()
      atoms.arrays.pop("shift")
    ase.io.write(folder / name, frames)

  return make


_SIZES = ("--train_size=6", "--val_size=3")
_PARTS = ("--split_fractions=0.6,0.2,0.2",)
# One record of a text is one structure. In HDF5 a molecule has several conformers,
# which share atomic numbers and name. A list that is cut at the end of a line is
# another list.
SOURCES: Sequence[Source] = (
  Source("ANI-1x, HDF5", "ani1x", _ani1x, most_changed=4),
  Source("Transition1x, HDF5", "transition1x", _transition1x, most_changed=4),
  Source(
    "SPICE, HDF5",
    "spice",
    _spice,
    ("--subset=dipeptides",),
    most_changed=12,
  ),
  Source("OC20, extxyz.xz and txt.xz", "oc20", _oc20),
  Source("OC20, tar of these", "oc20", _oc20_tar, damaged=("*.tar",)),
  Source("OC20, extxyz and txt", "oc20", _oc20_text, most_changed=1, most_cut=1),
  Source("OC22, LMDB", "oc22", _oc22, most_changed=1),
  Source("QM9, tar.bz2", "qm9", _qm9, damaged=("*.bz2",)),
  Source("QM9, tar", "qm9", _qm9_tar, damaged=("*.tar",), most_changed=1),
  Source(
    "QM9, uncharacterized.txt",
    "qm9",
    _qm9,
    damaged=("*.txt",),
    most_changed=2,
    most_cut=2,
  ),
  Source("MatBench, json.gz", "matbench", _matbench),
  Source("MatBench, json", "matbench", _matbench_text, most_changed=1),
  Source("QMOF, two json", "qmof", _qmof, most_changed=1),
  Source("QMOF, zip", "qmof", _qmof_zip),
  Source("MD22, npz", "md22", _md22, _SIZES),
  Source("MD22, xyz", "md22", _md22_text, _SIZES, most_changed=1, most_cut=1),
  Source("rMD17, npz", "rmd17", _rmd17, _SIZES, ("*.npz",)),
  Source(
    "rMD17, csv of splits",
    "rmd17",
    _rmd17,
    ("--splits=official:02",),
    ("*.csv",),
    most_changed=1,
    most_cut=40,
  ),
  Source("own data, extxyz", "ase", _ase("mine.extxyz"), _PARTS, most_changed=1),
  Source("own data, traj", "ase", _ase("mine.traj"), _PARTS, most_changed=1),
  Source("own data, db", "ase", _ase("mine.db"), _PARTS, most_changed=1),
)
