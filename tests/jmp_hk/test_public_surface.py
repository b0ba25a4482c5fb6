"""The functions of `jmp_hk` and their examples."""

import doctest
import inspect
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest
import ase.build
import numpy as np

import jmp_hk
from jmp_hk import fine_tuning
from jmp_hk.inference import predictor as predictor_lib
from tests import schnet  # noqa: F401
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _labelled_structures(count):
  """Rattled molecules with energies."""
  structures = []
  for seed in range(count):
    atoms = ase.build.molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    atoms.info["energy"] = float(np.square(atoms.positions).sum())
    structures.append(atoms)
  return structures


def _arguments(function):
  """Default values by name."""
  parameters = inspect.signature(function).parameters
  return {name: (entry.kind, entry.default) for name, entry in parameters.items()}


class PublicSurfaceTest(absltest.TestCase):
  def test_the_examples_run(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    path = directory / "jmp.pt"
    torch_save.save(checkpoints.lightning(checkpoints.state_dict("tinyd")), path)
    given = {
      "path": str(path),
      # What `fine_tune` trains, which is small and fast to compile.
      "model": "schnet_tiny",
      "structures": _labelled_structures(20),
      "workdir": str(directory / "run"),
    }
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    names = set()
    for test in doctest.DocTestFinder().find(jmp_hk, globs=given):
      if test.examples:
        names.add(test.name.removeprefix("jmp_hk."))
        runner.run(test)
    self.assertEqual(names, set(jmp_hk.__all__))
    self.assertEqual(runner.summarize(verbose=False).failed, 0)

  def test_arguments_are_those_of_the_functions_that_do_the_work(self):
    for outer, inner, more in (
      (jmp_hk.fine_tune, fine_tuning.fine_tune, set()),
      (jmp_hk.load, predictor_lib.load, {"batch_edges"}),
    ):
      ours, theirs = _arguments(outer), _arguments(inner)
      self.assertEqual(set(theirs) - set(ours), more)
      self.assertEqual(ours, {name: theirs[name] for name in ours})

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
