"""The functions of `jmp_hk` and their examples."""

import doctest
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest

import jmp_hk
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class PublicSurfaceTest(absltest.TestCase):
  def test_the_examples_run(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    path = directory / "jmp.pt"
    torch_save.save(checkpoints.lightning(checkpoints.state_dict("tinyd")), path)
    examples = {"path": str(path)}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    names = set()
    for test in doctest.DocTestFinder().find(jmp_hk, globs=examples):
      if test.examples:
        names.add(test.name.removeprefix("jmp_hk."))
        runner.run(test)
    self.assertEqual(names, set(jmp_hk.__all__))
    self.assertEqual(runner.summarize(verbose=False).failed, 0)

  def test_importing_graphs_imports_no_jax(self):
    program = (
      "import sys, jmp_hk, jmp_hk.graphs.buckets\n"
      "import jmp_hk.models.gemnet_oc.graphs.build\n"
      "for name in ('tensorflow', 'torch', 'jax', 'haiku', 'orbax', 'optax'):\n"
      "  assert name not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=_ROOT, check=True)


if __name__ == "__main__":
  absltest.main()
