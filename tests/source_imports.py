"""Reads from the source which module imports which, without importing any."""

import ast
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import enum
import functools
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLOORS = ("benchmarks", "experiments", "data", "jmp_hk")


class When(enum.Enum):
  """When an import statement is executed."""

  LOADED = "when the module is loaded"
  CALLED = "when a function is called"
  CHECKED = "by type checkers only"


@dataclasses.dataclass(frozen=True)
class Import:
  """One import statement.

  Attributes:
    importer: module that holds the statement.
    target: what is imported: a module of this repository, or for others the name of
      the top-level package.
    line: line of the statement.
    when: when it is executed.
  """

  importer: str
  target: str
  line: int
  when: When

  @property
  def is_ours(self) -> bool:
    """Whether the target is a module of this repository."""
    return self.target in modules()

  @property
  def is_third_party(self) -> bool:
    """Whether the target comes from a package that has to be installed."""
    return not self.is_ours and self.target not in sys.stdlib_module_names

  def __str__(self) -> str:
    path = modules()[self.importer].relative_to(ROOT)
    return f"{path}:{self.line} imports {self.target} {self.when.value}"


@functools.cache
def modules() -> Mapping[str, pathlib.Path]:
  """Every module of the repository's packages, tests left out."""
  found = {}
  for floor in FLOORS:
    for path in sorted((ROOT / floor).rglob("*.py")):
      parts = path.relative_to(ROOT).with_suffix("").parts
      found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
  return found


@functools.cache
def imports() -> tuple[Import, ...]:
  """Every import statement of every module, one entry per imported name."""
  return tuple(
    entry for name, path in modules().items() for entry in _imports_of(name, path)
  )


def cycle(edges: Mapping[str, set[str]]) -> list[str]:
  """Some circle of a directed graph, its first node repeated at the end, or []."""
  done: set[str] = set()
  path: list[str] = []

  def visit(node: str) -> list[str]:
    if node in path:
      return [*path[path.index(node) :], node]
    if node in done:
      return []
    path.append(node)
    for target in sorted(edges.get(node, ())):
      if found := visit(target):
        return found
    path.pop()
    done.add(node)
    return []

  return next((found for node in sorted(edges) if (found := visit(node))), [])


def _imports_of(name: str, path: pathlib.Path) -> Iterator[Import]:
  tree = ast.parse(path.read_text(), str(path))
  package = name if path.name == "__init__.py" else name.rpartition(".")[0]
  for node, when in _statements(tree, When.LOADED):
    for target in _targets(node, package):
      if target != "__future__":
        yield Import(name, target, node.lineno, when)


def _statements(
  node: ast.AST, when: When
) -> Iterator[tuple[ast.Import | ast.ImportFrom, When]]:
  """Import statements below a node of the syntax tree."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.Import | ast.ImportFrom):
      yield child, when
    elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      yield from _statements(child, When.CALLED)
    elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
      yield from _statements(child, When.CHECKED)
    else:
      yield from _statements(child, when)


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
  """What a statement imports: modules of this repository, or top-level packages."""
  if isinstance(node, ast.Import):
    names = [alias.name for alias in node.names]
  else:
    parents = package.split(".")[: 1 - node.level or None] if node.level else []
    base = ".".join([*parents, *([node.module] if node.module else [])])
    names = [f"{base}.{alias.name}" for alias in node.names]
  for name in names:
    while name not in modules() and "." in name:
      name = name.rpartition(".")[0]
    yield name
