"""Members of archives that are read where they are."""

import io
import tarfile
import zipfile

import pytest

from data.conversion import base
from data.formats import archives


def _tar(path, files):
  with tarfile.open(path, "w") as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return path


def test_members_of_a_tar_file_are_read_in_any_order(tmp_path):
  files = {f"d/{k}.txt": bytes([k]) * (k * 700) for k in range(5)}
  path = _tar(tmp_path / "a.tar", files)
  found = archives.members(path)
  assert [m.name for m in found] == list(files)
  for member in reversed(found):
    with archives.open_member(path, member.offset, member.size) as file:
      assert file.read() == files[member.name]
      assert file.read(1) == b""
  with archives.open_member(path, found[4].offset, found[4].size) as file:
    assert file.read(3) == b"\x04" * 3 and len(file.read()) == 4 * 700 - 3


def test_a_truncated_tar_file_is_named(tmp_path):
  path = _tar(tmp_path / "a.tar", {"a": b"1" * 600, "b": b"2" * 6000})
  path.write_bytes(path.read_bytes()[:4000])
  with pytest.raises(base.RawDataError, match="a.tar cannot be read.*truncated"):
    archives.members(path)


def test_a_compressed_tar_file_has_no_members_to_enter(tmp_path):
  path = tmp_path / "a.tar"
  with tarfile.open(path, "w:gz"):
    pass
  with pytest.raises(base.RawDataError, match="cannot be read"):
    archives.members(path)


def test_a_file_in_a_zip_file_and_in_a_zip_file_inside_it(tmp_path):
  inner = tmp_path / "inner.zip"
  with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("folder/data.json", "[1, 2]")
  outer = tmp_path / "outer.zip"
  with zipfile.ZipFile(outer, "w") as archive:
    archive.write(inner, "inner.zip")
    archive.writestr("other.txt", "x")
  for path in (inner, outer):
    with archives.open_in_zip(path, "data.json") as file:
      assert file.read() == b"[1, 2]"
    with (
      pytest.raises(base.RawDataError, match="does not hold nothing.json"),
      archives.open_in_zip(path, "nothing.json"),
    ):
      pass


def test_a_name_that_is_there_twice_in_a_zip_file(tmp_path):
  path = tmp_path / "a.zip"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a/data.json", "[]")
    archive.writestr("b/data.json", "[]")
  with (
    pytest.raises(base.RawDataError, match="holds data.json 2 times"),
    archives.open_in_zip(path, "data.json"),
  ):
    pass
