"""import_torch, predict, embed and export_torch, one after another, as commands."""

import functools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from absl import flags
from absl.testing import absltest
from absl.testing import parameterized
import ase.build
import ase.io
import chex
import numpy as np

from experiments import embed
from experiments import export_torch
from experiments import import_torch
from experiments import predict
from experiments.command_line import command
from jmp_hk.inference import prediction_files
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import preparation
from jmp_hk.interop import recognise
from jmp_hk.interop import torch_file
from jmp_hk.models import shapes as shapes_lib
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save
from tests.jmp_hk.parity import golden_case

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(module, **arguments):
  """Runs a runner with these flags."""
  values = flags.FlagValues()
  module.define_flags(values)
  given = {"compilation_cache": "", **arguments}
  if "compilation_cache" not in values:
    del given["compilation_cache"]
  values(["program", *(f"--{name}={value}" for name, value in given.items())])
  module.run(values)


@functools.cache
def _workspace() -> tempfile.TemporaryDirectory:
  """A folder with a released-format file, its import, and structures."""
  folder = tempfile.TemporaryDirectory()
  directory = pathlib.Path(folder.name)
  state = checkpoints.state_dict("tinyd")
  torch_save.save(checkpoints.lightning(state, state), directory / "jmp.pt")
  _run(import_torch, input=directory / "jmp.pt", output=directory / "model")
  structures = []
  for index, name in enumerate(("CH3CH2OH", "H2O", "C6H6", "CH4")):
    atoms = ase.build.molecule(name)
    atoms.rattle(0.05, seed=index)
    atoms.info["origin"] = name
    structures.append(atoms)
  ase.io.write(directory / "molecules.extxyz", structures)
  ase.io.write(directory / "mixed.traj", [*structures, ase.build.bulk("Cu")])
  return folder


class RunnersTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(_workspace().name)
    self.output = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def _predict(self, name="molecules.extxyz", **arguments):
    given = {
      "checkpoint": self.directory / "model",
      "input": self.directory / name,
      "output": self.output / "out.extxyz",
      "head": "ani1x",
      **arguments,
    }
    _run(predict, **given)
    return ase.io.read(given["output"], ":")

  def _energies(self, structures):
    return np.array([atoms.info["jmp_energy"] for atoms in structures])

  @parameterized.parameters("model", "jmp.pt")
  def test_predict_keeps_order_and_says_what_energies_mean(self, name):
    structures = ase.io.read(self.directory / "molecules.extxyz", ":")
    results = self._predict(checkpoint=self.directory / name)
    expected = predictor_lib.load(self.directory / "model").predict(structures, "ani1x")
    for before, after, value in zip(structures, results, expected, strict=True):
      self.assertEqual(after.info["origin"], before.info["origin"])
      self.assertTrue(after.info["jmp_energy_is_relative_to_references"])
      self.assertEqual(after.info["jmp_head"], "ani1x")
      chex.assert_trees_all_close(
        after.positions, before.positions, rtol=1e-7, atol=1e-8
      )
      self.assertAlmostEqual(after.info["jmp_energy"], value.energy, places=5)
      chex.assert_trees_all_close(
        after.arrays["jmp_forces"], value.forces, rtol=1e-7, atol=1e-5
      )

  def test_references(self):
    relative = self._predict()
    np.savez(self.output / "references.npz", coeff=np.arange(10) * 10.0)
    absolute = self._predict(references=self.output / "references.npz", overwrite=True)
    for one, other in zip(relative, absolute, strict=True):
      self.assertNotIn("jmp_energy_is_relative_to_references", other.info)
    expected = [10.0 * atoms.numbers.sum() for atoms in relative]
    chex.assert_trees_all_close(
      self._energies(absolute) - self._energies(relative),
      np.array(expected),
      atol=1e-4,
    )

  def test_a_second_prediction_replaces_neither_file_nor_names(self):
    first = self._predict()
    again = {"name": self.output / "out.extxyz", "output": self.output / "both.db"}
    with self.assertRaisesRegex(command.FlagError, "exists already.*--overwrite"):
      self._predict()
    with self.assertRaisesRegex(command.FlagError, "--output=.* is --input"):
      self._predict(self.output / "out.extxyz", overwrite=True)
    with self.assertRaisesRegex(command.FlagError, "jmp_energy, jmp_forces already"):
      self._predict(**again)
    self._predict(**again, prefix="second_")
    both = list(prediction_files.read_db(self.output / "both.db"))
    for before, after in zip(first, both, strict=True):
      self.assertEqual(after.info["origin"], before.info["origin"])
      self.assertAlmostEqual(after.info["jmp_energy"], before.info["jmp_energy"])
      self.assertAlmostEqual(
        after.info["second_energy"], before.info["jmp_energy"], places=4
      )

  def test_invalid_structures_stop_the_run_or_are_left_out(self):
    with self.assertRaisesRegex(
      preparation.InvalidStructuresError, r"structure 4 \(Cu\).*elements Cu"
    ):
      self._predict("mixed.traj")
    self.assertFalse((self.output / "out.extxyz").exists())
    self.assertLen(self._predict("mixed.traj", skip_invalid=True), 4)

  @parameterized.parameters(
    ({"head": "oc23"}, "--head=oc23.*oc20, oc22, ani1x, transition1x"),
    ({"input": "missing.cif"}, "--input=missing.cif does not exist"),
    ({"output": "out.cif"}, "must end in .extxyz or .xyz or .csv or .db"),
    ({"output": "missing/out.xyz"}, "folder does not exist"),
    ({"checkpoint": "missing"}, "--checkpoint=missing"),
  )
  def test_wrong_flags_say_what_to_do(self, arguments, message):
    with self.assertRaisesRegex(command.FlagError, message):
      self._predict(**arguments)

  def test_embed(self):
    names = "ani1x", "transition1x"
    path = self.directory / "molecules.extxyz"
    _run(
      embed,
      checkpoint=self.directory / "model",
      output=self.output / "embedding.npz",
      datasets=",".join(f"{name}={path}" for name in names),
    )
    with np.load(self.output / "embedding.npz") as data:
      self.assertEqual(data["nodes"].shape, (8, 20))
      self.assertEqual(data["edges"].shape, (8, 28))
      self.assertEqual(
        data["dataset"].tolist(), [name for name in names for _ in range(4)]
      )
      chex.assert_trees_all_close(data["nodes"][:4], data["nodes"][4:], rtol=1e-5)
    picture = (self.output / "embedding.png").read_bytes()
    self.assertStartsWith(picture, b"\x89PNG")

  def test_export_gives_the_imported_file_back(self):
    path = self.output / "back.pt"
    _run(export_torch, checkpoint=self.directory / "model", output=path)
    state = checkpoints.state_dict("tinyd")
    weights = {k: v for k, v in state.items() if not k.startswith("task_steps")}
    with torch_file.TorchFile(path) as file:
      self.assertEqual(set(file.root), set(weights))
      for name, tensor in file.root.items():
        chex.assert_trees_all_close(file.read(tensor), weights[name], rtol=1e-6)

  @parameterized.parameters(
    ({"tasks": "oc20,oc22,ani1x,mine"}, "mine=DIR"),
    ({"references": "oc20"}, "NAME=VALUE"),
    ({"references": "other=file.npz"}, "no task 'other'"),
    ({"input": "missing.pt"}, "--input=missing.pt"),
    ({"output": "."}, "exists already"),
  )
  def test_wrong_import_flags(self, arguments, message):
    given = {"input": self.directory / "jmp.pt", "output": self.output / "new"}
    with self.assertRaisesRegex(command.FlagError, message):
      _run(import_torch, **{**given, **arguments})

  @unittest.skipUnless(os.path.exists("/proc/self/status"), "reads Linux's /proc")
  def test_memory_stays_below_two_and_a_half_times_the_file(self):
    path = self.output / "large.pt"
    values = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
    config = golden_case.pretrain_config("base")
    shapes = recognise.weight_shapes(shapes_lib.abstract_variables(config))
    constants = recognise.radial_constants(config)
    state = {n: np.resize(values, shape).copy() for n, shape in shapes.items()}
    for name in recognise.redundant_shapes({}, constants):
      state[name] = constants[".".join(name.split(".")[-2:])].copy()
    torch_save.save({n: torch_save.Tensor(v) for n, v in state.items()}, path)
    program = (
      "import sys\n"
      "from absl import flags\n"
      "from experiments import import_torch\n"
      "import_torch.define_flags()\n"
      "import_torch.run(flags.FLAGS(sys.argv) and flags.FLAGS)\n"
      "print(open('/proc/self/status').read())\n"
    )
    command = [
      sys.executable,
      "-c",
      program,
      f"--input={path}",
      f"--output={self.output / 'model'}",
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
      command, cwd=_ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
    peak = 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", output).group(1))
    ratio = peak / path.stat().st_size
    print(f"peak memory {ratio:.2f} times the file of {path.stat().st_size} bytes")
    self.assertLess(ratio, 2.5)


if __name__ == "__main__":
  absltest.main()
