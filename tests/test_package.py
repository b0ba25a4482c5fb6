"""What is declared about the package is true: dependencies, version, shipped files."""

from collections.abc import Iterable
from importlib import metadata
import pathlib
import re
import tomllib

from absl.testing import absltest
from absl.testing import parameterized

import jmp_hk
from tests import source_imports

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TESTING = ("pytest", "pytest-xdist", "hypothesis")


def _project() -> dict:
  return tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]


def _normal(requirement: str) -> str:
  """A requirement in one spelling: no comment, quotes alike."""
  return requirement.partition(" #")[0].strip().replace('"', "'")


def _name(requirement: str) -> str:
  """Name of the distribution that a requirement asks for."""
  match = re.match(r"[A-Za-z0-9_.-]+", requirement)
  assert match, requirement
  return re.sub(r"[-_.]+", "-", match.group()).lower()


def _imported(floors: Iterable[str]) -> set[str]:
  """Distributions that the modules of some floors import, in functions too."""
  installed = metadata.packages_distributions()
  return {
    _name(distribution)
    for entry in source_imports.imports()
    if entry.importer.split(".")[0] in floors
    and entry.is_third_party
    # Scripts that make the demo corpora have requirements of their own.
    and not entry.importer.startswith("data.demo.")
    for distribution in installed.get(entry.target, [entry.target])
  }


class PackageTest(parameterized.TestCase):
  def test_requirements_are_those_of_the_package(self):
    lines = (_ROOT / "requirements.txt").read_text().splitlines()
    listed = {_normal(line) for line in lines if line and not line.startswith("#")}
    extras = _project()["optional-dependencies"]
    testing = [entry for entry in extras["dev"] if _name(entry) in _TESTING]
    self.assertLen(testing, len(_TESTING))
    declared = {*_project()["dependencies"], *extras["data"], *testing}
    self.assertEqual(listed, {_normal(entry) for entry in declared})

  def test_dependencies_are_what_the_library_imports(self):
    declared = {_name(entry) for entry in _project()["dependencies"]}
    self.assertEqual(_imported(["jmp_hk"]), declared)

  def test_programs_import_nothing_undeclared(self):
    extras = _project()["optional-dependencies"]
    declared = {_name(e) for e in [*_project()["dependencies"], *extras["data"]]}
    used = _imported(["data", "experiments", "benchmarks"])
    self.assertContainsSubset(used, declared)

  def test_the_library_declares_neither_tensorflow_nor_absl(self):
    declared = {_name(entry) for entry in _project()["dependencies"]}
    self.assertNoCommonElements(declared, {"tensorflow", "tensorflow-cpu", "absl-py"})

  @parameterized.parameters(
    "LICENSE",
    "CITATION.cff",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    ".pre-commit-config.yaml",
    "jmp_hk/py.typed",
  )
  def test_the_file_is_there(self, name):
    self.assertTrue((_ROOT / name).exists())

  def test_every_folder_of_the_library_is_a_package(self):
    folders = {path.parent for path in (_ROOT / "jmp_hk").rglob("*.py")}
    bare = [str(folder) for folder in folders if not (folder / "__init__.py").exists()]
    self.assertEmpty(bare, "Without __init__.py they are not installed.")

  def test_there_is_one_version(self):
    self.assertRegex(jmp_hk.__version__, r"^\d+\.\d+\.\d+$")
    cited = re.search(r"^version: (.*)$", (_ROOT / "CITATION.cff").read_text(), re.M)
    self.assertIsNotNone(cited)
    self.assertEqual(cited.group(1), jmp_hk.__version__)
    self.assertIn("version", _project()["dynamic"])


if __name__ == "__main__":
  absltest.main()
