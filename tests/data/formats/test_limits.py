"""Files that are small, and would become huge, deep or somebody else's."""

import bz2
import gzip
import importlib
import io
import lzma
import pathlib
import re
import tarfile
import zipfile

import h5py
import pytest

from data.conversion import base
from data.converters import qm9
from data.formats import archives
from data.formats import expansion
from data.formats import extxyz
from data.formats import hdf5
from data.formats import json_stream
from data.formats import npz_rows
from data.formats import unpacking
from tests.data import raw_files

_ZEROS = bytes(120 << 20)


@pytest.mark.parametrize(
  "suffix, compress",
  [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_streams_do_not_grow_without_end(tmp_path, suffix, compress):
  path = tmp_path / f"a{suffix}"
  path.write_bytes(compress(b"text" * 1000))
  with open(path, "rb") as file:
    assert expansion.open_stream(file, path.name).read() == b"text" * 1000
  path.write_bytes(compress(_ZEROS))
  with open(path, "rb") as file:
    content = expansion.open_stream(file, path.name)
    with pytest.raises(base.RawDataError, match="more than 200 times as many"):
      while content.read(1 << 20):
        pass
  path.write_bytes(b"plain text")
  with open(path, "rb") as file, pytest.raises(base.RawDataError, match="damaged"):
    expansion.open_stream(file, path.name)


@pytest.mark.parametrize(
  "text", ["[" * 10**6, '[{"a":' * 10**5, '{"data": [' + "[" * 200]
)
@pytest.mark.parametrize("prefix", ["item", "data.item"])
def test_deep_json_is_refused(tmp_path, text, prefix):
  path = tmp_path / "a.json"
  path.write_text(text)
  with pytest.raises(base.RawDataError, match="a.json is refused: .* 100 levels"):
    list(json_stream.items(path, prefix))


def test_brackets_in_texts_are_no_levels(tmp_path):
  path = tmp_path / "a.json"
  text = '["' + "[{" * 500 + r"\"[\\" + '", {"a": "' + "]" * 500 + '"}]'
  path.write_text(text)
  assert len(list(json_stream.items(path, "item"))) == 2


def test_an_item_without_end_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(json_stream, "MAX_ITEM_BYTES", 3 << 20)
  path = tmp_path / "a.json"
  path.write_text('["' + "a" * (1 << 20) + '", "' + "a" * (5 << 20) + '"]')
  with pytest.raises(base.RawDataError, match="an item has more than"):
    list(json_stream.items(path, "item"))


def _header(shape: str) -> bytes:
  text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117)
  return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.encode() + b"\n"


@pytest.mark.parametrize(
  "content, message",
  [
    (_header("(10000000000000,)"), "expected 80000000000000 bytes"),
    (_header("(-1,)"), "directions"),
    (_header("(1,) * 99999999"), "cannot be read"),
    (_header("(" + "1," * 9 + ")") + bytes(8), "up to 8 directions"),
    (_header("(200,)") + bytes(8), "expected 1600 bytes"),
    (b"", "cannot be read"),
  ],
)
def test_arrays_are_as_long_as_they_say(tmp_path, content, message):
  with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
    archive.writestr("x.npy", content)
  for read in (npz_rows.array, lambda path, key: npz_rows.shapes(path, [key])):
    with pytest.raises(base.RawDataError, match=message):
      read(tmp_path / "a.npz", "x")


def _zip(path, method=zipfile.ZIP_DEFLATED, content=_ZEROS):
  with zipfile.ZipFile(path, "w", method) as archive:
    archive.writestr("a.lmdb", content)
  return path


@pytest.mark.parametrize(
  "method, content, message",
  [
    (zipfile.ZIP_DEFLATED, _ZEROS, "more than 100 times"),
    (zipfile.ZIP_LZMA, b"x", "compressed by method 14"),
    (zipfile.ZIP_BZIP2, b"x", "compressed by method 12"),
  ],
)
def test_zip_files_do_not_grow_without_end(tmp_path, method, content, message):
  path = _zip(tmp_path / "a.zip", method, content)
  with pytest.raises(base.RawDataError, match=message):
    unpacking.unpacked(path, tmp_path / "out", lambda name: True, False)
  with (
    pytest.raises(base.RawDataError, match=message),
    archives.open_in_zip(path, "a.lmdb"),
  ):
    pass


def test_members_of_a_zip_file_do_not_share_bytes(tmp_path):
  path = tmp_path / "a.zip"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a.lmdb", b"x" * 1000)
    archive.filelist += [archive.filelist[0]] * 50
  with pytest.raises(base.RawDataError, match="lies in the bytes of a.lmdb"):
    unpacking.unpacked(path, tmp_path / "out", lambda name: True, False)


def test_a_molecule_of_gigabytes_is_refused(tmp_path):
  info = tarfile.TarInfo("dsgdb9nsd_000001.xyz")
  info.size = 10 << 30
  path = tmp_path / "a.tar"
  path.write_bytes(info.tobuf() + bytes(10240))
  with pytest.raises(base.RawDataError, match="found 10737418240"):
    list(qm9.members(path))


def test_links_and_values_in_other_files_are_refused(tmp_path):
  raw_files.write_ani1x(tmp_path / "other.h5", raw_files.ani1x_groups(1, 2))
  (tmp_path / "values").write_bytes(bytes(1 << 20))
  with h5py.File(tmp_path / "a.h5", "w") as file:
    file["link"] = h5py.ExternalLink("other.h5", "/C1H3")
    group = file.create_group("group")
    file["soft"] = h5py.SoftLink("/soft")
    group.create_dataset("x", (4,), "f8", external=str(tmp_path / "values"))
    group["texts"] = ["a", "b"]
    group.create_dataset("huge", (1 << 40,), "f8", chunks=True, compression="gzip")
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "C1H3/wb97x_dz.energy", (2,))
    group.create_virtual_dataset("virtual", layout)
  with hdf5.open_hdf5(tmp_path / "a.h5") as file:
    for path in ("link", "link/coordinates"):
      with pytest.raises(base.RawDataError, match="another file, 'other.h5'"):
        hdf5.group(file, path)
    with pytest.raises(base.RawDataError, match="a group 'soft'|cannot be read"):
      hdf5.group(file, "soft")
    group = hdf5.group(file, "group")
    for key in ("x", "virtual"):
      with pytest.raises(base.RawDataError, match="values in another file"):
        hdf5.dataset(group, key)
    with pytest.raises(base.RawDataError, match="0 bytes become 8796093022208"):
      hdf5.dataset(group, "huge")
    with pytest.raises(base.RawDataError, match="expected numbers"):
      hdf5.frames(group, "texts", [], 0, 1)


def test_numbers_that_numpy_does_not_have_are_refused(tmp_path):
  kind = h5py.h5t.IEEE_F32LE.copy()
  kind.set_ebias(1 << 16)
  with h5py.File(tmp_path / "a.h5", "w") as file:
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(file.create_group("group").id, b"odd", kind, space)
  with hdf5.open_hdf5(tmp_path / "a.h5") as file:
    group = hdf5.group(file, "group")
    with pytest.raises(base.RawDataError, match="group/odd: expected numbers or texts"):
      hdf5.dataset(group, "odd")


@pytest.mark.parametrize(
  "text, message",
  [
    ("9" * 10_000 + "\n", "at most 1000000 atoms"),
    ("10000000000000\n\n", "at most 1000000 atoms"),
    ("1\nProperties=pos:R:99999999999\nH 0 0 0\n", "at most 1000 entries"),
    ("0\nProperties=pos:R:3\n", "at least one atom"),
    ("1\n" + "a" * 900_000 + "\nH 0 0 0\n", "expected Properties"),
  ],
)
def test_frames_have_possible_sizes(text, message):
  file = io.BufferedReader(io.BytesIO(text.encode()))  # pyright: ignore
  with pytest.raises((extxyz.FileError, extxyz.FrameError), match=message):
    for frame in extxyz.read_frames(file):
      if isinstance(frame, extxyz.FrameError):
        raise frame


def test_the_documentation_states_the_limits():
  page = pathlib.Path(__file__).parents[3] / "docs" / "reliability.md"
  rows = re.findall(r"^\| `([\w.]+)\.(\w+)` \| ([\d.,]+) \|", page.read_text(), re.M)
  assert len(rows) > 20
  for module, name, value in rows:
    stated = float(value.replace(",", ""))
    assert getattr(importlib.import_module(module), name) == stated, (module, name)
