"""The tutorials run as they are written, with fewer steps and a smaller model."""

from collections.abc import Mapping
import importlib
import pathlib
import re
import shlex

from absl import flags
import ase.io
import numpy as np
import pytest

from tests import source_imports
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save

_PAGES = source_imports.ROOT / "docs" / "tutorials"
_SMALL = {
  "range(300)": "range(24)",
  "range(400)": "range(24)",
  "--checkpoint=runs/pretrain_demo": (
    "--model=tiny --model_override=num_blocks=1,atom_channels=8,edge_channels=10,"
    "bases.num_radial=6,bases.num_spherical=3 --num_scale_batches=0 "
    "--compilation_cache="
  ),
  "--batch_size=8": "--batch_size=4",
  "--batch_size=16": "--batch_size=4",
  "--num_steps=400": "--num_steps=2",
  "--num_steps=300": "--num_steps=2",
  "--warmup_steps=20": "--warmup_steps=1",
  "--evaluate_every=50": "--evaluate_every=2",
  "steps=50)": "steps=2)",
  "steps=100)": "steps=2)",
  "dynamics.run(2000)": "dynamics.run(10)",
  # One small model is enough for the page on dynamics.
  'load("runs/ethanol")': 'load("raw/weights/jmp-s.pt")',
  "make_calculator(model)\nase.optimize.BFGS": (
    'make_calculator(model, head="transition1x")\nase.optimize.BFGS'
  ),
}
# These are only parsed: one needs the internet, one would train once more.
_NOT_RUN = ("--dataset=weights", "--workdir=runs/ethanol")


def _blocks(page: str) -> list[tuple[str, str]]:
  """Language and content of the blocks of code that a page runs."""
  text = (_PAGES / page).read_text()
  return re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.M | re.S)


def _small(code: str, changes: Mapping[str, str] = _SMALL) -> str:
  for old, new in changes.items():
    code = code.replace(old, new)
  return code


def _programs(script: str) -> list[tuple[str, list[str]]]:
  """The programs of this repository that a script runs, with their arguments."""
  lines = script.replace("\\\n", " ").splitlines()
  commands = [shlex.split(line) for line in lines if line.startswith("python -m ")]
  return [(words[2], words[3:]) for words in commands]


def _run_page(page: str) -> dict:
  """Runs a page in the working directory; returns its Python variables."""
  variables: dict = {}
  for language, code in _blocks(page):
    if language == "python":
      exec(compile(_small(code), page, "exec"), variables)
      continue
    for name, arguments in _programs(_small(code)):
      if not set(arguments) & set(_NOT_RUN):
        program = importlib.import_module(name).PROGRAM
        assert program.execute(arguments) == 0, (name, arguments)
  return variables


def _defined(program) -> flags.FlagValues:
  values = flags.FlagValues()
  program.define(values)
  return values


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tutorials")
  (folder / "runs").mkdir()
  (folder / "raw" / "weights").mkdir(parents=True)
  content = checkpoints.lightning(checkpoints.state_dict("tinyd"))
  torch_save.save(content, folder / "raw" / "weights" / "jmp-s.pt")
  return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch):
  monkeypatch.chdir(folder)


def test_own_structures():
  frames = _run_page("own_structures.md")["frames"]
  run = pathlib.Path("runs/copper_gold")
  assert (run / "test" / "parity.png").exists() and (run / "loss_curves.png").exists()
  predicted = ase.io.read("runs/copper_gold_predicted.extxyz", ":")
  assert len(predicted) == len(frames)
  for frame in predicted:
    error = frame.info["jmp_energy"] - frame.get_potential_energy()
    np.testing.assert_allclose(frame.info["jmp_energy_error"], error, atol=1e-5)


def test_crystal_property():
  prediction = _run_page("crystal_property.md")["prediction"]
  assert np.isfinite(prediction.properties["formation_energy"])


def test_molecular_dynamics():
  variables = _run_page("molecular_dynamics.md")
  assert len(variables["total"]) == 3  # At the start, and after five and ten steps.
  assert np.isfinite(variables["total"]).all()
  assert pathlib.Path("runs/constant_energy.png").exists()


@pytest.mark.parametrize("page", sorted(path.name for path in _PAGES.glob("*.md")))
def test_commands_can_be_parsed(page, monkeypatch):
  monkeypatch.chdir(source_imports.ROOT)  # Where flag files are.
  text = (_PAGES / page).read_text()
  for script in re.findall(r"^```(?:sh|bash)\n(.*?)^```$", text, re.M | re.S):
    # On the cluster, Slurm starts the programs, and counts them.
    script = script.replace("srun --kill-on-bad-exit=1 ", "")
    for name, arguments in _programs(script.replace("$SLURM_ARRAY_TASK_ID", "0")):
      program = importlib.import_module(name).PROGRAM
      program.parse(arguments, _defined(program))
