"""Finds files that are not shipped with the project; tests skip without them."""

import os
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path(os.environ.get("JMP_SHARED_DIR", _ROOT.parent / "shared"))
GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"


def shared_file(*parts: str) -> pathlib.Path:
  """Path below the shared folder; skips the calling test where it is absent."""
  path = SHARED.joinpath(*parts)
  if not path.exists():
    pytest.skip(f"needs {path}, which is not shipped (set JMP_SHARED_DIR)")
  return path


def golden_file(name: str) -> pathlib.Path:
  """A golden file: shipped with the tests where small, else from the shared folder."""
  shipped = GOLDEN / name
  return shipped if shipped.exists() else shared_file("golden", name)
