"""What a dataset's constants are made of."""

import dataclasses

import chex
import numpy as np
import pytest

from jmp_hk import dataset_summary
from jmp_hk import statistics
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

DECLARATION = dataset_summary.Declaration(
  name="mine",
  graph=graph_config.GraphConfig(cutoff=8.0),
  targets={
    "gap": dataset_summary.Label("eV"),
    "charges": dataset_summary.Label("e", kind="atoms"),
    "phase": dataset_summary.Label("", kind="class"),
  },
  published_scales=dataset_summary.Scales(2.0, 3.0),
  force_coefficient=15.0,
  notes={"functional": "PBE"},
)


def _structure(seed: int, **changes) -> structure_lib.Structure:
  rng = np.random.default_rng(seed)
  numbers = np.array([8, 1, 1][: 2 + seed % 2])
  structure = structure_lib.molecule(
    rng.normal(size=(len(numbers), 3)),
    numbers,
    f"m{seed}",
    energy=float(-numbers.sum() + rng.normal()),
    forces=rng.normal(size=(len(numbers), 3)),
    targets={
      "gap": np.array(rng.normal()),
      "charges": rng.normal(size=(len(numbers), 1)),
      "phase": np.array(seed % 3),
    },
  )
  return dataclasses.replace(structure, **changes)


def _splits(train: int = 6, val: int = 2) -> dict[str, statistics.Statistics]:
  return {
    "train": statistics.of_structures(map(_structure, range(train))),
    "val": statistics.of_structures(map(_structure, range(train, train + val))),
  }


def test_constants_come_from_the_training_split():
  info = dataset_summary.build_info(DECLARATION, _splits(), "fitted", {"by": "me"})
  train = [_structure(seed) for seed in range(6)]
  assert info.num_structures == {"train": 6, "val": 2}
  assert info.elements == (1, 8) and info.size_histogram == {2: 4, 3: 4}
  assert info.average_atoms == 2.5 and info.force_coefficient == 15.0
  forces = np.concatenate([s.forces for s in train])
  assert info.force_scale == pytest.approx(np.sqrt(np.mean(forces**2)))
  gaps = np.array([s.targets["gap"] for s in train])
  chex.assert_trees_all_close(
    (info.targets["gap"].mean, info.targets["gap"].std),
    (gaps.mean(), gaps.std()),
    rtol=1e-9,
  )
  assert info.targets["phase"].num_classes == 3
  assert info.units["charges"] == "e" and info.units["forces"] == "eV/Å"
  assert info.provenance["by"] == "me"
  assert info.provenance["notes"] == {"functional": "PBE"}


def test_published_scales_leave_fitted_ones_in_the_provenance():
  fitted = dataset_summary.build_info(DECLARATION, _splits(), "fitted")
  published = dataset_summary.build_info(DECLARATION, _splits())
  assert (published.energy_scale, published.force_scale) == (2.0, 3.0)
  stored = published.provenance["fitted_on_train"]
  assert stored["force_scale"] == fitted.force_scale
  assert published.energy_references == fitted.energy_references


@pytest.mark.parametrize("train, val", [(0, 2), (0, 0)])
def test_datasets_without_structures_to_train_on_are_refused(train, val):
  with pytest.raises(dataset_summary.EmptyError, match=r"mine.*train: 0.*skip_invalid"):
    dataset_summary.build_info(DECLARATION, _splits(train, val))


def test_without_training_split_nothing_is_fitted():
  info = dataset_summary.build_info(DECLARATION, {"val": _splits()["val"]}, "fitted")
  assert info.energy_references == {} and info.average_atoms == 0.0
  assert (info.energy_scale, info.force_scale) == (1.0, 1.0)


def test_class_indices_beyond_the_training_split_are_refused():
  with pytest.raises(dataset_summary.LabelError, match="'val' has class 2 of 'phase'"):
    dataset_summary.build_info(DECLARATION, _splits(train=2, val=1))


@pytest.mark.parametrize(
  "changes, message",
  [
    ({}, None),
    ({"energy": None}, "an energy label"),
    ({"targets": {}}, r"expected the targets \['charges', 'gap', 'phase'\]"),
    ({"targets": {"gap": np.zeros((2, 1))}}, "'gap' of kind structure"),
    ({"targets": {"phase": np.array(-1)}}, "a class index"),
    ({"targets": {"phase": np.array(0.5)}}, "a class index"),
  ],
)
def test_labels_that_differ_from_the_declaration(changes, message):
  structure = _structure(0)
  if changes.get("targets"):
    changes = {"targets": {**structure.targets, **changes["targets"]}}
  problem = DECLARATION.find_problem(dataclasses.replace(structure, **changes))
  if message is None:
    assert problem is None
  else:
    with pytest.raises(ValueError, match=message):
      raise ValueError(problem)
