"""What the documentation names exists: files, modules, flags, links."""

import ast
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized

from data.command_line import mistakes
from tests import source_imports

_ROOT = source_imports.ROOT
_PAGES = (
  *(str(path.relative_to(_ROOT)) for path in sorted(_ROOT.glob("docs/*.md"))),
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "README.md",
  "data/demo/README.md",
)
# Flags of absl, of the demo's tools, and of others' programs.
_FOREIGN_FLAGS = {
  *mistakes.SYNONYMS,
  "cpus-per-task",  # sbatch
  "dependency",  # sbatch
  "flagfile",
  "gpus-per-task",  # sbatch
  "help",
  "kill-on-bad-exit",  # srun
  "ntasks-per-node",  # sbatch
  "num_step",  # Misspelt on purpose in an example.
  "num_lanes",  # The changelog says that it was renamed.
  "signal",  # sbatch
  "xla_disable_hlo_passes",
  "xla_gpu_deterministic_ops",
}
# Functions whose first argument is the name of a flag.
_DEFINES = re.compile(
  r"DEFINE_|^(([a-z]+\.)?define(_settings)?|fraction|integer|number|string)$"
)
# A path in backticks that begins with one of these is a file of the repository.
_FOLDERS = ("benchmarks", "data", "docs", "experiments", "jmp_hk", "tests", ".ci")


def _defined_flags() -> set[str]:
  """Names of all flags: DEFINE_…("name", …), and options of converters."""
  names = set()
  for path in source_imports.modules().values():
    for node in ast.walk(ast.parse(path.read_text())):
      match node:
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
          if _DEFINES.search(ast.unparse(function)):
            names.add(name)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(func=function)):
          if ast.unparse(function).endswith("option"):
            names.add(name)
  return names


def _sentences() -> str:
  """What the programs may print: all texts of the sources, "…" for what varies."""
  texts = []
  for path in source_imports.modules().values():
    for node in ast.walk(ast.parse(path.read_text())):
      match node:
        case ast.Constant(value=str(text)):
          texts.append(text)
        case ast.JoinedStr(values=parts):
          texts.append(
            "".join(
              str(part.value) if isinstance(part, ast.Constant) else "…"
              for part in parts
            )
          )
  return " ".join("\n".join(texts).split())


def _anchors(text: str) -> set[str]:
  """Anchors of a page's headings, as GitHub makes them."""
  headings = re.findall(r"^#+ (.*)$", text, re.M)
  return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def _without_foreign_commands(text: str) -> str:
  """The page without lines of pip, Slurm and other programs that are not ours."""
  return re.sub(
    r"^.*(pip |#SBATCH|git |python3? -m (?:venv|pytest|build)).*$", "", text, 0, re.M
  )


class DocsTest(parameterized.TestCase):
  @parameterized.parameters(*_PAGES)
  def test_links_lead_somewhere(self, page):
    text = (_ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
      path, _, anchor = target.partition("#")
      file = (_ROOT / page).parent / path if path else _ROOT / page
      self.assertTrue(file.exists(), f"{page} links to {target}")
      if anchor:
        self.assertIn(anchor, _anchors(file.read_text()), f"{page} links to {target}")

  @parameterized.parameters(*_PAGES)
  def test_flags_exist(self, page):
    text = _without_foreign_commands((_ROOT / page).read_text())
    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", text)) - _FOREIGN_FLAGS
    defined = _defined_flags()
    unknown = {
      name
      for name in named
      if name not in defined and name.removeprefix("no") not in defined
    }
    self.assertEmpty(unknown, f"{page} names flags that no program has.")

  @parameterized.parameters(*_PAGES)
  def test_programs_and_modules_exist(self, page):
    text = (_ROOT / page).read_text()
    programs = re.findall(r"python -m ((?:benchmarks|data|experiments)\.[\w.]+)", text)
    for program in programs:
      self.assertIn(program.rstrip("."), source_imports.modules(), page)
    for name in re.findall(r"`(jmp_hk(?:\.\w+)+)[`(]", text):
      self.assertTrue(_resolves(name), f"{page} names {name}")

  def test_messages_are_those_that_are_printed(self):
    printed = _sentences()
    text = (_ROOT / "docs/troubleshooting.md").read_text()
    quoted = re.findall(r"^```text\n(.*?)```", text, re.M | re.S)
    quoted += re.findall(r"^\| `([^`]+ [^`]+)`", text, re.M)
    self.assertGreater(len(quoted), 10)
    for message in quoted[1:]:  # The first one has names of flags in it.
      for piece in re.split("…", " ".join(message.split())):
        piece = re.sub(r"^(error|WARNING): ", "", piece.strip(" .;:(),'")).strip()
        if len(piece.split()) >= 3:
          # Not assertIn, which would print all of the sources.
          self.assertTrue(piece in printed, f"docs/troubleshooting.md quotes {piece!r}")

  @parameterized.parameters(*_PAGES)
  def test_files_exist(self, page):
    text = (_ROOT / page).read_text()
    for name in re.findall(r"`([\w.]+/[\w./]*\w)/?`", text):
      if name.split("/")[0] in _FOLDERS and "NAME" not in name:
        path = pathlib.Path(_ROOT, name)
        found = path.exists() or path.with_suffix(".py").exists()
        self.assertTrue(found, f"{page} names {name}")


def _resolves(name: str) -> bool:
  """Whether a dotted name is a module, or a module's or class's member."""
  modules = source_imports.modules()
  parts = name.split(".")
  for length in range(len(parts), 0, -1):
    module = ".".join(parts[:length])
    if module in modules:
      source = modules[module].read_text()
      return all(re.search(rf"\b{part}\b", source) for part in parts[length:])
  return False


if __name__ == "__main__":
  absltest.main()
