import dataclasses

import numpy as np
import pytest

from jmp_hk.graphs import packing
from jmp_hk.pipeline import normalise
from jmp_hk.targets import config as tasks
from tests.jmp_hk.pipeline import corpus

KIND = tasks.TargetKind


def _normalise(dataset, structure, *targets):
  return normalise.normalise(
    structure, dataset.info, [tasks.TargetConfig(*target) for target in targets]
  )


def test_energies_and_forces(datasets):
  structure = corpus.molecule(0, 4)
  labels = normalise.normalise(structure, datasets[1].info, datasets[1].targets)
  reference = datasets[1].info.reference_energy(structure.atomic_numbers)
  assert labels["energy"] == (structure.energy - reference) / 2.5
  np.testing.assert_array_equal(labels["forces"], structure.forces.astype(float) / 0.5)


def test_large_energies_keep_their_digits(datasets):
  # -1e5 eV with a residual of 0.1 eV would be off by 8e-3 in float32.
  info = dataclasses.replace(datasets[1].info, energy_references={6: -1e5})
  structure = dataclasses.replace(
    corpus.molecule(0, 0), atomic_numbers=np.array([6], np.int32), energy=-1e5 + 0.1
  )
  labels = normalise.normalise(structure, info, datasets[1].targets[:1])
  np.testing.assert_allclose(np.float32(labels["energy"]), 0.1 / 2.5, rtol=1e-7)


def test_further_labels(datasets):
  structure = corpus.molecule(0, 2)
  labels = _normalise(
    datasets[1], structure, ("gap", KIND.SCALAR), ("kind", KIND.MULTICLASS)
  )
  references = {1: 0.5, 6: 1.0, 8: 2.0}
  reference = sum(references[z] for z in structure.atomic_numbers)
  expected = structure.targets["gap"] - reference
  np.testing.assert_allclose(labels["gap"], (expected - 0.25) / 2.0, rtol=1e-14)
  assert labels["kind"] == 2 and labels["kind"].dtype == np.int64


def test_what_is_missing_is_named(datasets):
  structure = dataclasses.replace(corpus.molecule(0, 2), energy=None)
  with pytest.raises(normalise.LabelError, match="molecules:2 .*'energy'.*forces.*gap"):
    _normalise(datasets[1], structure, ("energy", KIND.ENERGY))
  unknown = dataclasses.replace(
    corpus.molecule(0, 2), atomic_numbers=np.full(3, 79, np.int32)
  )
  with pytest.raises(normalise.LabelError, match="molecules:2.*atomic number 79"):
    _normalise(datasets[1], unknown, ("energy", KIND.ENERGY))


def test_specs_cover_all_tasks():
  specs = normalise.target_specs(
    [*corpus.TASKS, tasks.TaskConfig("c", (tasks.TargetConfig("kind", KIND.BINARY),))]
  )
  assert specs == {
    "energy": packing.TargetSpec(False),
    "forces": packing.TargetSpec(True, (3,)),
    "kind": packing.TargetSpec(False, (), True),
  }
  with pytest.raises(ValueError, match="disagree.*'energy'"):
    normalise.target_specs(
      [
        *corpus.TASKS,
        tasks.TaskConfig("d", (tasks.TargetConfig("energy", KIND.VECTOR),)),
      ]
    )
