"""Every benchmark runs, at a tiny size; nothing is asserted about time."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import cases
from benchmarks import convert
from benchmarks import graphs
from benchmarks import inference
from benchmarks import input_pipeline
from benchmarks import samples
from benchmarks import structures
from benchmarks import train_step
from jmp_hk.models import backbone as backbone_lib
from tests.jmp_hk.training import small

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_KEYS = {
  "case",
  "utilisation",
  "matmul_gflops",
  "structures_per_s",
  "atoms_per_s",
  "padding_useful",
  "compile_s",
  "peak_memory_mib",
}


@pytest.fixture(autouse=True)
def _smallest_model(monkeypatch):
  """A model of one block, which compiles in half the time of the tiny one."""
  monkeypatch.setitem(backbone_lib._PRESETS, "smallest", small.BACKBONE)
  monkeypatch.setitem(cases.MODELS, "smallest", "smallest")


def test_train_step():
  result = train_step.run_case(
    "smallest", "molecules", "bf16", structures=2, rounds=1, microbatches=2
  )
  assert set(result) >= _KEYS
  name = "smallest/molecules/bf16/2 microbatches"
  assert json.loads(json.dumps(result))["case"] == name
  assert result["structures"] == 2 and result["atoms"] == 30
  numbers = [v for v in result.values() if isinstance(v, float)]
  assert all(math.isfinite(v) and v >= 0 for v in numbers)
  assert 0 < result["padding_useful"] <= 1


def test_labels_of_cases_that_are_not_trained_here():
  (batch,) = samples.Sample(cases.CASES["qm9"]).batches(2).steps[0]
  assert np.isfinite(batch.targets["U_0"][batch.graph_mask]).all()


def test_microbatches_share_the_structures_of_a_step():
  whole = samples.Sample(cases.CASES["molecules"]).batches(4).steps[0]
  microbatches = (
    samples.Sample(cases.CASES["molecules"]).batches(4, microbatches=2).steps[0]
  )
  atoms = lambda step: [int(batch.atom_mask.sum()) for batch in step]
  assert atoms(whole) == [60] and atoms(microbatches) == [30, 30]
  for step in samples.Sample(cases.CASES["mixture"]).batches(4, microbatches=2).steps:
    assert len(step) == 2 and len({batch.budget for batch in step}) == 1


def test_inference(tmp_path, capsys):
  results = inference.run(
    "smallest", "f32", [9], steps=2, plot_path=str(tmp_path / "plot.png")
  )
  assert [r["atoms"] for r in results] == [9]
  assert results[0]["ms_per_step_compiled"] > results[0]["ms_host_compiled"] > 0
  assert len(capsys.readouterr().out.splitlines()) == 1
  assert (tmp_path / "plot.png").stat().st_size > 0


@pytest.mark.parametrize("data", ["slabs", "molecules"])
def test_input_pipeline(data):
  result = input_pipeline.run_case(data, structures=8, batch_size=4, distinct=16)
  assert result["structures"] >= 8
  assert result["structures_per_s_per_core"] > 0


@pytest.mark.parametrize("data", ["slabs", "molecules", "slabs74"])
def test_graphs(data):
  result = graphs.run_case(data, structures=2, repetitions=1)
  assert result["structures"] == 2
  assert result["build_ms"] > 0 and result["pack_ms"] > 0


def test_convert():
  result = convert.run(frames=10, files=2)
  assert result["structures"] == 20
  assert result["peak_memory_mib"] > 0


def test_runs_without_tensorflow():
  program = (
    "import sys; sys.modules.update(tensorflow=None, h5py=None, lmdb=None); "
    "from benchmarks import inference, memory, train_step"
  )
  subprocess.run([sys.executable, "-c", program], cwd=_ROOT, check=True)


def test_structures_are_those_that_the_published_implementation_was_timed_with():
  slabs = structures.bench_slabs()
  assert [s.num_atoms for s in slabs] == [74, 74]
  assert [int((s.tags == 2).sum()) for s in slabs] == [2, 2]
  assert [s.num_atoms for s in structures.toluenes()] == [15] * 8


def test_random_structures_have_the_sizes_of_the_datasets():
  rng = np.random.default_rng(0)
  sizes = [structures.random_slab(rng).num_atoms for _ in range(50)]
  assert 60 < np.mean(sizes) < 90
  molecule = structures.random_molecule(rng, 21)
  apart = np.linalg.norm(
    molecule.positions[:, None] - molecule.positions[None], axis=-1
  )
  assert molecule.num_atoms == 21
  assert apart[np.triu_indices(21, 1)].min() > 0.8
