"""Unpacking: what is wanted, once, whole, and never outside its folder."""

import bz2
import io
import stat
import tarfile
import zipfile

import pytest

from data.conversion import base
from data.formats import archives
from data.formats import unpacking

FILES = {
  "release/a.dat": b"a" * 70_000,
  "release/sub/b.dat": b"b" * 10,
  "release/readme.txt": b"read me",
}


def _add(tar, name, content=b"", **fields):
  member = tarfile.TarInfo(name)
  member.size = len(content)
  for key, value in fields.items():
    setattr(member, key, value)
  tar.addfile(member, io.BytesIO(content))


def _write_tar(path, files=FILES, mode="w:bz2"):
  with tarfile.open(path, mode) as tar:
    for name, content in files.items():
      _add(tar, name, content)
  return path


def _write_zip(path, files=FILES):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return path


def _is_data(name):
  return name.endswith(".dat")


def _unpack(archive, tmp_path, wanted=_is_data):
  return unpacking.unpacked(archive, tmp_path / "out" / "dataset", wanted, False)


def _contents(folder):
  return {
    p.relative_to(folder).as_posix(): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file() and not p.name.startswith(".")
  }


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
def test_wanted_members_are_written_beside_the_output(tmp_path, suffix):
  archive = tmp_path / f"release{suffix}"
  if suffix == ".zip":
    _write_zip(archive)
  else:
    _write_tar(archive, mode=f"w:{suffix[5:]}")
  folder = _unpack(archive, tmp_path)
  assert folder == tmp_path / "out" / f"release{suffix}.unpacked"
  assert _contents(folder) == {k: v for k, v in FILES.items() if _is_data(k)}


def test_archives_in_archives_are_unpacked(tmp_path):
  inner = _write_tar(tmp_path / "inner.tar.bz2").read_bytes()
  archive = _write_zip(tmp_path / "outer.zip", {"inner.tar.bz2": inner})
  assert set(_contents(_unpack(archive, tmp_path))) == {
    "release/a.dat",
    "release/sub/b.dat",
  }


def test_a_folder_is_used_again(tmp_path):
  archive = _write_tar(tmp_path / "release.tar.bz2")
  folder = _unpack(archive, tmp_path)
  before = (folder / "release/a.dat").stat().st_ino
  assert _unpack(archive, tmp_path) == folder
  assert (folder / "release/a.dat").stat().st_ino == before


def test_a_folder_of_another_archive_is_not_taken(tmp_path):
  archive = _write_tar(tmp_path / "release.tar.bz2")
  _unpack(archive, tmp_path)
  _write_tar(archive, {"release/a.dat": b"new"})
  with pytest.raises(base.PlanError, match="but of another archive.*Delete the folder"):
    _unpack(archive, tmp_path)


def test_unpacking_goes_on_with_what_is_missing(tmp_path):
  archive = _write_tar(tmp_path / "release.tar.bz2")
  # As a kill leaves it: one member whole, one not yet.
  folder = _unpack(archive, tmp_path)
  unfinished = folder.with_name(folder.name + ".part")
  folder.rename(unfinished)
  (unfinished / "release/sub/b.dat").write_bytes(b"cut")
  (unfinished / "release/.x.tmp").write_bytes(b"left over")
  kept = (unfinished / "release/a.dat").stat().st_ino
  assert _unpack(archive, tmp_path) == folder
  assert (folder / "release/a.dat").stat().st_ino == kept
  assert _contents(folder) == {k: v for k, v in FILES.items() if _is_data(k)}
  assert not list(folder.rglob("*.tmp"))


def test_an_unfinished_folder_of_another_archive_is_begun_anew(tmp_path):
  archive = _write_tar(tmp_path / "release.tar.bz2")
  folder = _unpack(archive, tmp_path)
  folder.rename(folder.with_name(folder.name + ".part"))
  _write_tar(archive, {"release/c.dat": b"new"})
  assert _contents(_unpack(archive, tmp_path)) == {"release/c.dat": b"new"}


@pytest.mark.parametrize("name", ["../x.dat", "/tmp/x.dat", "a/../../x.dat"])
@pytest.mark.parametrize("write", [_write_tar, _write_zip])
def test_members_that_leave_the_folder_are_refused(tmp_path, name, write):
  suffix = ".zip" if write is _write_zip else ".tar.bz2"
  archive = write(tmp_path / f"bad{suffix}", {"a.dat": b"fine", name: b"bad"})
  with pytest.raises(base.RawDataError, match="refused: its member.*leads out"):
    _unpack(archive, tmp_path)
  assert not (tmp_path / "out" / "x.dat").exists()
  assert not (tmp_path / "out" / f"bad{suffix}.unpacked").exists()


@pytest.mark.parametrize(
  ("kind", "reason"),
  [
    (tarfile.SYMTYPE, "is a link"),
    (tarfile.LNKTYPE, "is a link"),
    (tarfile.CHRTYPE, "is no plain file"),
    (tarfile.FIFOTYPE, "is no plain file"),
  ],
)
def test_links_and_devices_are_refused(tmp_path, kind, reason):
  archive = tmp_path / "bad.tar"
  with tarfile.open(archive, "w") as tar:
    _add(tar, "a.dat", type=kind, linkname="/etc/passwd")
  with pytest.raises(base.RawDataError, match=reason):
    _unpack(archive, tmp_path)


def test_links_in_zip_files_are_refused(tmp_path):
  archive = tmp_path / "bad.zip"
  info = zipfile.ZipInfo("a.dat")
  info.external_attr = (stat.S_IFLNK | 0o777) << 16
  with zipfile.ZipFile(archive, "w") as file:
    file.writestr(info, "/etc/passwd")
  with pytest.raises(base.RawDataError, match="is a link"):
    _unpack(archive, tmp_path)


def test_what_is_not_wanted_does_no_harm(tmp_path):
  archive = tmp_path / "release.tar"
  with tarfile.open(archive, "w") as tar:
    _add(tar, "../evil.txt", b"x")
    _add(tar, "link.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    _add(tar, "a.dat", b"fine")
  assert _contents(_unpack(archive, tmp_path)) == {"a.dat": b"fine"}


def test_a_member_that_is_there_twice_is_refused(tmp_path):
  archive = tmp_path / "bad.tar"
  with tarfile.open(archive, "w") as tar:
    _add(tar, "a.dat", b"1")
    _add(tar, "./a.dat", b"22")
  with pytest.raises(base.RawDataError, match="is there twice"):
    _unpack(archive, tmp_path)


def test_a_member_larger_than_the_disk_is_refused_before_writing(tmp_path):
  # A header may promise any size; only a header is there.
  member = tarfile.TarInfo("a.dat")
  member.size = 10**17
  archive = tmp_path / "bomb.tar.bz2"
  archive.write_bytes(bz2.compress(member.tobuf(tarfile.GNU_FORMAT)))
  with pytest.raises(base.PlanError, match="takes 100000000000000000 bytes"):
    _unpack(archive, tmp_path)


@pytest.mark.parametrize("suffix", [".tar.bz2", ".tar.gz", ".tar.xz", ".tar", ".zip"])
def test_truncated_archives_are_named(tmp_path, suffix):
  archive = tmp_path / f"cut{suffix}"
  if suffix == ".zip":
    _write_zip(archive)
  else:
    _write_tar(archive, mode=f"w:{suffix[5:]}")
  content = archive.read_bytes()
  archive.write_bytes(content[: len(content) // 2])
  with pytest.raises(base.RawDataError, match=f"cut{suffix} cannot be read.*truncated"):
    _unpack(archive, tmp_path)
  assert not (tmp_path / "out" / f"cut{suffix}.unpacked").exists()


def test_an_archive_of_something_else(tmp_path):
  archive = _write_tar(tmp_path / "other.tar.bz2", {"readme.txt": b"x"})
  with pytest.raises(base.RawDataError, match="holds none of the files"):
    _unpack(archive, tmp_path)


def test_the_archive_of_a_folder(tmp_path):
  assert archives.find(tmp_path, "*.dat") is None
  archive = _write_tar(tmp_path / "one.tar.bz2")
  assert archives.find(tmp_path, "*.dat") == archive
  assert archives.find(archive) == archive
  (tmp_path / "a.dat").write_bytes(b"unpacked already")
  assert archives.find(tmp_path, "*.dat") is None
  assert archives.find(tmp_path / "a.dat") is None
