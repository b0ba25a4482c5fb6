"""Datasets from labelled structures in memory and in files."""

import dataclasses
import pathlib
import tempfile

from absl.testing import absltest
import ase
import ase.build
from ase.calculators import singlepoint
import ase.io
import numpy as np

from jmp_hk import ase_datasets
from jmp_hk.graphs import config as graph_config
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from jmp_hk.targets import spec as spec_lib

_GRAPH = graph_config.GraphConfig(cutoff=4.0, max_neighbors=8)
_BOTH = {"energy": "energy", "forces": "conservative_forces"}


def _molecules(count: int, reference: bool = False) -> list[ase.Atoms]:
  """Rattled molecules with labels as ASE or as MACE names them."""
  rng = np.random.default_rng(0)
  result = []
  for index in range(count):
    atoms = ase.build.molecule(("H2O", "CH4")[index % 2])
    atoms.rattle(0.05, rng=rng)
    energy, forces = float(index), rng.normal(size=atoms.positions.shape)
    if reference:
      atoms.info["REF_energy"], atoms.arrays["REF_forces"] = energy, forces
    else:
      atoms.calc = singlepoint.SinglePointCalculator(
        atoms, energy=energy, forces=forces
      )
    result.append(atoms)
  return result


def _make(structures, validation=0.25, targets=None, missing=(), keys=None, seed=0):
  declared = declare.declare(targets or _BOTH)
  declared = tuple(
    dataclasses.replace(target, allow_missing=target.name in missing)
    for target in declared
  )
  task = tasks_lib.TaskConfig("mine", declared)
  return ase_datasets.make_datasets(
    structures, validation, task, _GRAPH, seed=seed, keys=keys
  )


class MakeDatasetsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def test_a_file_is_what_its_structures_are(self):
    path = self.folder / "mine.traj"
    ase.io.write(path, _molecules(8))
    from_file, in_memory = _make(path), _make(_molecules(8))
    self.assertEqual(from_file.fingerprint, in_memory.fingerprint)
    self.assertEqual(
      from_file.training[0].info.energy_references,
      in_memory.training[0].info.energy_references,
    )
    self.assertEqual(from_file.training[0].num_structures, 6)

  def test_every_element_of_the_validation_is_in_the_training(self):
    structures = [*_molecules(8), ase.build.molecule("HF")]
    structures[-1].calc = singlepoint.SinglePointCalculator(
      structures[-1], energy=-2700.0, forces=np.zeros((2, 3))
    )
    for seed in range(10):
      found = _make(structures, validation=0.5, seed=seed)
      held_out = found.validation[0].source.fetch(range(4))
      self.assertFalse(any(9 in entry.atomic_numbers for entry in held_out))
      self.assertIn(9, found.training[0].info.energy_references)

  def test_names_of_other_programs_are_said(self):
    with self.assertLogs("jmp_hk", "INFO") as logs:
      found = _make(_molecules(8, reference=True))
    self.assertRegex(logs.output[0], "'energy' is read from 'REF_energy'; 'forces' is")
    self.assertEqual(found.fingerprint, _make(_molecules(8)).fingerprint)

  def test_structures_that_are_trained_and_validated_on_are_told(self):
    structures = _molecules(8)
    with self.assertLogs("jmp_hk", "WARNING") as logs:
      _make(structures, validation=structures[5:7])
    self.assertRegex(logs.output[0], "2 of 2 structures to validate on are also among")
    with self.assertNoLogs("jmp_hk", "WARNING"):
      _make(structures[:5], validation=structures[5:7])

  def test_keys_can_be_given(self):
    structures = _molecules(8)
    for atoms in structures:
      atoms.info["dft_energy"] = 7.0
    with self.assertRaisesRegex(
      spec_lib.LabelError, r"could be any of.*Say which with keys=\{'energy': …\}"
    ):
      _make(structures)
    found = _make(structures, keys={"energy": "dft_energy"})
    energies = {s.energy for s in found.training[0].evenly()}
    self.assertEqual(energies, {7.0})

  def test_validation_has_the_same_keys(self):
    with self.assertRaisesRegex(spec_lib.LabelError, "no label 'REF_energy'"):
      _make(_molecules(8, reference=True), validation=_molecules(2))

  def test_missing_labels_are_counted_and_left_out(self):
    structures = _molecules(8)
    for atoms in structures[::4]:
      del atoms.calc.results["energy"]
    with self.assertRaisesRegex(spec_lib.LabelError, "2 of 8 records: it has no label"):
      _make(structures)
    with self.assertLogs("jmp_hk", "INFO") as logs:
      found = _make(structures, missing=("energy",))
    self.assertRegex(logs.output[0], "'energy' is missing in . of 6 structures")
    splits = found.training[0].info.splits
    counts = [splits[name].missing["energy"] for name in ("train", "val")]
    self.assertEqual(sum(counts), 2)

  def test_energies_that_are_not_learned_are_read_where_all_have_them(self):
    structures, targets = _molecules(8), {"forces": "conservative_forces"}
    self.assertNotEmpty(
      _make(structures, targets=targets).training[0].info.energy_references
    )
    del structures[3].calc.results["energy"]
    self.assertEmpty(
      _make(structures, targets=targets).training[0].info.energy_references
    )


if __name__ == "__main__":
  absltest.main()
