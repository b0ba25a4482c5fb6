"""Files appear whole or not at all."""

import pytest

from jmp_hk import files


def test_content_and_mode(tmp_path):
  path = tmp_path / "deep" / "file.txt"
  files.write_atomically(path, "Å")
  assert path.read_bytes() == "Å".encode()
  files.write_atomically(path, b"bytes")
  assert path.read_bytes() == b"bytes"
  assert path.stat().st_mode & 0o777 == 0o644
  assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_programs_that_open_files_by_name(tmp_path):
  path = tmp_path / "file.txt"
  with files.named_atomically(path) as temporary:
    assert not temporary.exists() and temporary.suffix == ".txt"
    temporary.write_text("whole")
    assert not path.exists()
  assert path.read_text() == "whole"
  with pytest.raises(RuntimeError), files.named_atomically(path) as temporary:
    temporary.write_text("half")
    raise RuntimeError
  assert path.read_text() == "whole"
  assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_failure_leaves_the_earlier_file(tmp_path):
  path = tmp_path / "file.txt"
  files.write_atomically(path, "earlier")
  with (
    pytest.raises(RuntimeError, match="half-way"),
    files.open_atomically(path, "w") as file,
  ):
    file.write("later")
    raise RuntimeError("half-way")
  assert path.read_text() == "earlier"
  assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_only_what_was_not_finished_is_removed(tmp_path):
  kept = {"file.tmp", ".hidden", "folder/file.txt"}
  left = {".file.txt.abc.tmp", "folder/.file.txt.abc.tmp", ".made.abc.tmp/made"}
  for name in kept | left:
    files.write_atomically(tmp_path / name, "text")
  files.remove_unfinished(tmp_path)
  found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
  assert found == kept
  assert not (tmp_path / ".made.abc.tmp").exists()
  files.remove_unfinished(tmp_path / "missing")
