"""Imports run one way, and what has to stay light does.

The rules are those of docs/architecture.md. They are read from the source, so that an
import inside a function counts as well.
"""

from collections.abc import Sequence
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from tests import source_imports
from tests.source_imports import When

# A module of jmp_hk may import modules of its own row and of those before it.
_ORDER = (
  (
    "figures",
    "files",
    "geometry",
    "names",
    "problems",
    "published",
    "pytrees",
    "ranges",
    "runtime",
    "serialization",
    "strict_json",
    "statistics",
    "structure",
    "voigt",
    "text_table",
    "voigt",
    "zip_entries",
  ),
  ("graphs",),
  (
    "ase_files",
    "ase_labels",
    "ase_stress",
    "ase_tables",
    "dataset_info",
    "dataset_summary",
    "from_ase",
    "reference_energies",
    "targets",
  ),
  ("models",),
  ("pipeline",),
  ("checkpoints", "inference", "interop", "training"),
  ("dynamics",),
  ("ase_datasets", "ase_structures", "fine_tuning"),
  ("",),  # jmp_hk/__init__.py
)
_BUILDING = ("jmp_hk.graphs.", "jmp_hk.models.gemnet_oc.graphs.")
_LIGHT = {"numpy", "vesin"}
_PACKING = ("batch", "layout", "packing")  # Make jraph graphs of arrays.


def _module_graph(whens: Sequence[When]) -> dict[str, set[str]]:
  """Modules of this repository by the module that imports them."""
  edges: dict[str, set[str]] = {}
  for entry in source_imports.imports():
    if entry.is_ours and entry.when in whens:
      edges.setdefault(entry.importer, set()).add(entry.target)
  return edges


def _shelf(module: str) -> str:
  """The package or module directly below jmp_hk."""
  return (module.split(".") + [""])[1]


def _row(module: str) -> int:
  """The row of `_ORDER` that a module of jmp_hk stands in."""
  for number, shelves in enumerate(_ORDER):
    if _shelf(module) in shelves:
      return number
  raise AssertionError(f"Say in _ORDER where {module} stands.")


def _loaded_with(module: str) -> set[str]:
  """Modules of this repository that are loaded with a module, packages included."""
  graph = _module_graph([When.LOADED])
  found: set[str] = set()
  waiting = {module}
  while waiting:
    name = waiting.pop()
    found.add(name)
    parent = name.rpartition(".")[0]
    waiting |= ({*graph.get(name, ()), *([parent] if parent else [])}) - found
  return found


class ImportsTest(parameterized.TestCase):
  def assert_none(self, offenders: Sequence[source_imports.Import]) -> None:
    self.assertEmpty(offenders, "\n" + "\n".join(map(str, offenders)))

  def test_floors_import_only_those_below(self):
    floors = source_imports.FLOORS
    floor = lambda module: floors.index(module.split(".")[0])
    self.assert_none(
      [
        entry
        for entry in source_imports.imports()
        if entry.is_ours and floor(entry.target) < floor(entry.importer)
      ]
    )

  def test_shelves_of_the_library_import_only_those_before(self):
    self.assert_none(
      [
        entry
        for entry in source_imports.imports()
        if entry.is_ours
        and entry.importer.split(".")[0] == "jmp_hk"
        and _row(entry.target) > _row(entry.importer)
      ]
    )

  def test_nothing_knows_gemnet_oc_but_its_folder_and_the_published_weights(self):
    inside = "jmp_hk.models.gemnet_oc"
    allowed = (inside, "jmp_hk.interop.")
    self.assert_none(
      [
        entry
        for entry in source_imports.imports()
        if entry.target.startswith(inside)
        and entry.importer.startswith("jmp_hk")
        and not entry.importer.startswith(allowed)
      ]
    )

  @parameterized.named_parameters(
    ("when_loaded", [When.LOADED]),
    ("when_functions_are_called", [When.LOADED, When.CALLED]),
    ("for_types", list(When)),
  )
  def test_no_circle_between_modules(self, whens):
    self.assertEqual(source_imports.cycle(_module_graph(whens)), [])

  def test_the_library_needs_neither_tensorflow_nor_absl(self):
    self.assert_none(
      [
        entry
        for entry in source_imports.imports()
        if entry.importer.split(".")[0] == "jmp_hk"
        and entry.target in ("tensorflow", "absl")
      ]
    )
    program = (
      "import sys; sys.modules.update(tensorflow=None)\n"
      "import jmp_hk, jmp_hk.models.model, jmp_hk.inference.predictor\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=source_imports.ROOT, check=True)

  @parameterized.named_parameters(
    ("building", _BUILDING, _LIGHT),
    ("measuring", ("jmp_hk.pipeline.sizes",), {*_LIGHT, "tqdm"}),
  )
  def test_workers_load_little_for(self, prefixes, light):
    # Packing, which makes jraph graphs, may need more.
    building = [
      name
      for name in source_imports.modules()
      if name.startswith(prefixes) and name.rpartition(".")[2] not in _PACKING
    ]
    self.assertNotEmpty(building)
    loaded = set().union(*map(_loaded_with, building))
    self.assert_none(
      [
        entry
        for entry in source_imports.imports()
        if entry.importer in loaded
        and entry.when is When.LOADED
        and entry.is_third_party
        and entry.target not in light
      ]
    )


class CycleTest(absltest.TestCase):
  def test_a_circle_is_found(self):
    edges = {"a": {"b"}, "b": {"c", "d"}, "d": {"b"}}
    self.assertEqual(source_imports.cycle(edges), ["b", "d", "b"])
    self.assertEqual(source_imports.cycle({"a": {"b"}, "b": {"c"}, "d": {"b"}}), [])


if __name__ == "__main__":
  absltest.main()
