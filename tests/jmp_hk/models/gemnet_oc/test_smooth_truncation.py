"""With smooth truncation a model is a smooth potential, in float64.

Random weights show the mathematics; fine-tuned ones are what users run.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import tempfile
from typing import NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import ase
import ase.build
from ase.calculators import emt
import chex
import jax
import numpy as np

from jmp_hk import fine_tuning
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import adaptive
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import neighbors
from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import truncation
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.models.gemnet_oc import small_model

_CONFIG = graph_config.GraphConfig(
  cutoff=5.0, max_neighbors=14, truncation=graph_config.Truncation.SMOOTH
)
_SETTINGS = small_model.GraphSettings(_CONFIG)
# Of perfect fcc crystals of up to 64 atoms, and of all else here.
_BUDGET = gemnet_graphs.Budget(
  num_graphs=2,
  num_atoms=66,
  num_main=66 * 18,
  num_a2a=66 * 54,
  num_a2ee2a=66 * 20,
  num_qint=66 * 12,
  main_width=32,
  a2a_width=42,
  a2ee2a_width=24,
  qint_width=18,
  num_cutoffs=4,
)
_LATTICE_CONSTANT = 3.6


def _structure(atoms: ase.Atoms) -> structure_lib.Structure:
  return helpers.make_structure(
    atoms.positions, atoms.numbers.astype(np.int32), atoms.cell.array, atoms.pbc
  )


def _fcc(num_atoms: int) -> structure_lib.Structure:
  """Copper in cells of 1, 8, 27 and 64 atoms, or the cubic one of 4."""
  if num_atoms == 4:
    return _structure(ase.build.bulk("Cu", a=_LATTICE_CONSTANT, cubic=True))
  repeats = round(num_atoms ** (1 / 3))
  return _structure(ase.build.bulk("Cu", a=_LATTICE_CONSTANT).repeat(repeats))


def _disordered_atoms(seed: int) -> ase.Atoms:
  """Four atoms of two elements in a skewed cell, many more neighbors than wanted."""
  atoms = ase.build.bulk("Cu", a=_LATTICE_CONSTANT, cubic=True)
  atoms.numbers[:2] = 79
  rng = np.random.default_rng(seed)
  atoms.set_cell(atoms.cell.array + rng.uniform(-0.2, 0.2, (3, 3)), scale_atoms=True)
  atoms.positions += rng.uniform(-0.3, 0.3, (4, 3))
  return atoms


def _disordered() -> structure_lib.Structure:
  return _structure(_disordered_atoms(0))


def _moved(structure, displacement):
  return dataclasses.replace(structure, positions=structure.positions + displacement)


def _crowd(distance: float) -> structure_lib.Structure:
  """A dense cluster of more atoms than wanted, and an atom that far from its centre."""
  rng = np.random.default_rng(3)
  cluster = ase.build.bulk("Al", a=3.4, cubic=True).repeat(2).positions
  cluster = cluster - cluster.mean(0) + rng.uniform(-0.1, 0.1, cluster.shape)
  cluster = cluster[np.argsort(np.linalg.norm(cluster, axis=1))[:18]]
  direction = np.array([0.6, 0.64, 0.48])
  direction /= np.linalg.norm(direction)
  positions = np.concatenate([cluster, [distance * direction]])
  return helpers.make_structure(positions, np.array([13] * 18 + [8], np.int32))


class Weights(NamedTuple):
  """What a model predicts with.

  Attributes:
    variables: float64.
    force_scale: eV/Å, and of a conservative model also the eV of its energies.
  """

  variables: model_lib.Variables
  force_scale: float = 1.0


@contextlib.contextmanager
def _quick_compilation() -> Iterator[None]:
  """Compiles what runs for a few steps without most optimisations."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", before)


@functools.cache
def _fine_tuned() -> Weights:
  """The small model after a few steps on EMT's energies and forces."""
  frames = [_disordered_atoms(seed) for seed in range(12)]
  for atoms in frames:
    atoms.calc = emt.EMT()
    atoms.get_forces()  # Labels are what has been computed.
  with tempfile.TemporaryDirectory() as directory, _quick_compilation():
    model = fine_tuning.fine_tune(
      predictors.conservative(),
      frames,
      targets=small_model.conservative_config().tasks[0].targets,
      head_name="only",
      graph=_CONFIG,
      validation=0,
      num_steps=8,
      batch_size=4,
      learning_rate=5e-3,
      workdir=directory,
    )
  variables = jax.tree.map(lambda x: np.asarray(x, np.float64), model.variables)
  return Weights(variables, model.infos["only"].force_scale)


class _Surface(parameterized.TestCase):
  """Predicts with random weights."""

  def _weights(self) -> Weights:
    return Weights(small_model.conservative().variables)

  def _predict(self, structure, settings=_SETTINGS) -> dict[str, np.ndarray]:
    """Energy [] in eV, forces and stress [3, 3] of one structure."""
    weights = self._weights()
    batch = small_model.make_batch([structure], settings, budget=_BUDGET)
    outputs = small_model.conservative().apply(batch, weights.variables)
    return {
      name: weights.force_scale
      * (value[: structure.num_atoms] if name == "forces" else value[0])
      for name, value in outputs.items()
    }

  def _slope(self, path, step=1e-4) -> float:
    """Derivative of the energy along a path at zero, by a fourth-order difference."""
    energies = [self._predict(path(n * step))["energy"] for n in (-2, -1, 1, 2)]
    return (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)

  def _check_cells(self):
    energies = [self._predict(_fcc(n))["energy"] / n for n in (1, 4, 8, 27, 64)]
    self.assertGreater(abs(energies[0]), 1e-3)
    chex.assert_trees_all_close(energies, [energies[0]] * 5, rtol=0, atol=1e-8)

  def _check_symmetric_sites(self, num_atoms):
    predictions = self._predict(_fcc(num_atoms))
    self.assertLess(np.abs(predictions["forces"]).max(), 1e-8)
    pressure = predictions["stress"].trace() / 3
    self.assertGreater(abs(pressure), 1e-6)
    chex.assert_trees_all_close(
      predictions["stress"], pressure * np.eye(3), rtol=0, atol=1e-8
    )

  def _check_rotation(self, determinant):
    matrix, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    matrix *= np.sign(np.linalg.det(matrix)) * determinant
    structure = _disordered()
    turned = dataclasses.replace(
      structure, positions=structure.positions @ matrix, cell=structure.cell @ matrix
    )
    expected, actual = self._predict(structure), self._predict(turned)
    chex.assert_trees_all_close(actual["energy"], expected["energy"], atol=1e-9, rtol=0)
    chex.assert_trees_all_close(
      actual["forces"], expected["forces"] @ matrix, atol=1e-9, rtol=0
    )
    chex.assert_trees_all_close(
      actual["stress"], matrix.T @ expected["stress"] @ matrix, atol=1e-9, rtol=0
    )

  def _check_permutation_and_lattice_vectors(self):
    structure, order = _disordered(), np.array([2, 0, 3, 1])
    moves = np.array([[0, 2, -1], [-3, 0, 0], [1, 1, 5], [0, 0, 1]])
    changed = dataclasses.replace(
      structure,
      positions=(structure.positions + moves @ structure.cell)[order],
      atomic_numbers=structure.atomic_numbers[order],
    )
    expected, actual = self._predict(structure), self._predict(changed)
    for name in ("energy", "stress"):
      chex.assert_trees_all_close(actual[name], expected[name], atol=1e-9, rtol=0)
    chex.assert_trees_all_close(
      actual["forces"], expected["forces"][order], atol=1e-9, rtol=0
    )

  def _check_forces(self, structure, directions=3):
    rng = np.random.default_rng(1)
    structure = _moved(structure, 0.0)
    forces = self._predict(structure)["forces"]
    for _ in range(directions):
      direction = rng.standard_normal(forces.shape)
      direction /= np.linalg.norm(direction)
      expected = self._slope(lambda step, to=direction: _moved(structure, step * to))
      self.assertLess(abs((forces * direction).sum() + expected), 1e-6)

  def _check_path(self, path, span, direction, limit=12):
    events = _events(path, *span)
    self.assertGreater(len(events), 3)
    for place in events[:limit]:
      sides = [self._predict(path(place + shift)) for shift in (-1e-9, 1e-9)]
      slope = -np.mean([(side["forces"] * direction).sum() for side in sides])
      jump = sides[1]["energy"] - sides[0]["energy"] - 2e-9 * slope
      self.assertLess(abs(jump), 1e-9)
      expected = self._slope(lambda step, at=place: path(at + step))
      self.assertLess(abs(slope - expected), 1e-6)


class SmoothSurfaceTest(_Surface):
  def test_energies_per_atom_do_not_depend_on_the_cell(self):
    self._check_cells()

  @parameterized.parameters(4, 8, 27)
  def test_symmetric_sites_have_no_forces(self, num_atoms):
    self._check_symmetric_sites(num_atoms)

  @parameterized.parameters(1, -1)
  def test_rotations_and_mirrors(self, determinant):
    self._check_rotation(determinant)

  def test_permutations_and_lattice_vectors(self):
    self._check_permutation_and_lattice_vectors()

  @parameterized.parameters("disordered", "perfect", "molecule", "crowd", "linear")
  def test_forces_are_derivatives_of_the_energy(self, name):
    if name == "molecule":
      structure = small_model.molecule()
    elif name == "linear":  # Nearly: dihedrals about its axis are smooth, too.
      bend = np.array([[0, 0, 0], [2e-4, 0, 0], [0, 1e-4, 0], [0, 0, 0]])
      along = np.array([[0, 0, z] for z in (-1.67, -0.6, 0.6, 1.66)])
      structure = helpers.make_structure(along + bend, np.array([1, 6, 6, 1], np.int32))
    else:
      makers = {"disordered": _disordered, "perfect": lambda: _fcc(8)}
      structure = makers[name]() if name in makers else _crowd(3.4)
    self._check_forces(structure)

  def test_stress_is_the_derivative_with_respect_to_strain(self):
    structure = _disordered()
    stress = self._predict(structure)["stress"]
    strain = np.random.default_rng(0).standard_normal((3, 3))
    strain += strain.T
    strain /= np.abs(strain).max()

    def deformed(step):
      matrix = np.eye(3) + step * strain
      return dataclasses.replace(
        structure, positions=structure.positions @ matrix, cell=structure.cell @ matrix
      )

    volume = abs(np.linalg.det(structure.cell))
    self.assertLess(
      abs((stress * strain).sum() * volume - self._slope(deformed)), 1e-6 * volume
    )

  @parameterized.parameters("arrival", "crystal")
  def test_energies_are_smooth_where_edges_come_and_go(self, name):
    # Edges appear along the path. Around each event the energy has no jump, and its
    # slope on both sides is the force.
    if name == "arrival":
      path, span = _crowd, (2.2, 7.5)
      direction = np.zeros((19, 3))
      direction[-1] = _crowd(1.0).positions[-1]
    else:
      base = _disordered()
      direction = np.random.default_rng(2).standard_normal((4, 3))
      direction /= np.linalg.norm(direction)
      path, span = lambda s: _moved(base, s * direction), (0.0, 0.5)
    self._check_path(path, span, direction)


class FineTunedSurfaceTest(_Surface):
  """The same of weights that have learned."""

  def _weights(self) -> Weights:
    return _fine_tuned()

  def test_it_has_learned(self):
    first, last = small_model.conservative().variables, self._weights().variables
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, last)
    self.assertGreater(max(jax.tree.leaves(changes.params)), 1e-3)
    self.assertBetween(self._weights().force_scale, 0.5, 10)

  def test_cells_and_symmetric_sites(self):
    self._check_cells()
    self._check_symmetric_sites(8)

  def test_rotations_permutations_and_lattice_vectors(self):
    self._check_rotation(1)
    self._check_permutation_and_lattice_vectors()

  def test_forces_are_derivatives_also_where_edges_come_and_go(self):
    self._check_forces(_disordered(), directions=1)
    direction = np.random.default_rng(2).standard_normal((4, 3))
    direction /= np.linalg.norm(direction)
    path = lambda s: _moved(_disordered(), s * direction)
    self._check_path(path, (0.0, 0.5), direction, limit=3)


class OtherGraphsTest(_Surface):
  def test_published_graphs_jump_on_the_same_path(self):
    # Otherwise the test above would say little.
    config = dataclasses.replace(_CONFIG, truncation=graph_config.Truncation.PUBLISHED)
    settings = small_model.GraphSettings(config)
    base = _disordered()
    direction = np.random.default_rng(2).standard_normal((4, 3))
    direction /= np.linalg.norm(direction)
    path = lambda s: _moved(base, s * direction)
    jumps = []
    for place in _events(path, 0.0, 0.5, settings):
      sides = [self._predict(path(place + s), settings) for s in (-1e-9, 1e-9)]
      jumps.append(abs(sides[1]["energy"] - sides[0]["energy"]))
    self.assertGreater(max(jumps), 1e-4)

  def test_other_structures_of_a_batch_may_be_published(self):
    molecule, crystal = small_model.molecule("H2O"), _fcc(4)
    evaluate = small_model.conservative()
    items = [
      packing.PackItem(settings.build(structure))
      for settings, structure in (
        (small_model.UNCAPPED, molecule),
        (_SETTINGS, crystal),
      )
    ]
    budget = dataclasses.replace(_BUDGET, num_graphs=3)
    both = evaluate.apply(
      packing.pack(items, gemnet_graphs.BUILDER, budget, np.float64)
    )
    published = evaluate([molecule], small_model.UNCAPPED)
    smooth = self._predict(crystal)
    chex.assert_trees_all_close(
      both["energy"][:2],
      np.array([published["energy"][0], smooth["energy"]]),
      rtol=1e-10,
    )
    chex.assert_trees_all_close(
      both["forces"][:7],
      np.concatenate([published["forces"], smooth["forces"]]),
      rtol=0,
      atol=1e-10,
    )


class ImplicitCutoffsTest(absltest.TestCase):
  def test_derivatives_equal_those_of_the_solver(self):
    # To second order, which the training on forces does not need but users may.
    structure = _disordered()
    edges = neighbors.find_neighbors(structure, _CONFIG.cutoff)
    limits = (14, 3)
    factors = [adaptive.background(limit, _CONFIG.cutoff) for limit in limits]
    rng = np.random.default_rng(0)
    change = 0.05 * rng.standard_normal(len(edges))

    def solve(step):
      moved = dataclasses.replace(edges, distances=edges.distances + step * change)
      return adaptive.adaptive_cutoffs(moved, 4, limits, _CONFIG.cutoff)

    with jax.enable_x64(True):

      def on_device(step):
        return truncation.implicit_cutoffs(
          edges.distances + step * change,
          np.ones(len(edges), bool),
          edges.receivers.astype(np.int32),
          np.tile(factors, (4, 1)),
          solve(0.0),
        )

      first = jax.jacfwd(on_device)(0.0)
      second = jax.jacfwd(jax.jacfwd(on_device))(0.0)
      reverse = jax.jacrev(on_device)(0.0)
    step = 1e-4
    chex.assert_trees_all_close(
      first, (solve(step) - solve(-step)) / (2 * step), atol=1e-7
    )
    chex.assert_trees_all_close(reverse, first, atol=1e-12)
    expected = (solve(step) - 2 * solve(0.0) + solve(-step)) / step**2
    self.assertGreater(np.abs(expected).max(), 1e-3)
    chex.assert_trees_all_close(second, expected, atol=1e-5)


def _events(path, start: float, end: float, settings=_SETTINGS) -> list[float]:
  """Places on a path where edges come or go, to 1e-10, at most twelve."""

  def edges(place):
    graphs = settings.build(path(place))
    return tuple(
      frozenset(helpers.edge_set(getattr(graphs, name)))
      for name in ("main", "a2a", "a2ee2a", "qint")
    )

  places = np.linspace(start, end, 60)
  found = [edges(place) for place in places]
  changes = np.flatnonzero([a != b for a, b in zip(found, found[1:], strict=False)])
  events = []
  for i in changes[:: max(1, -(-len(changes) // 12))]:
    low, high = places[i], places[i + 1]
    before = found[i]
    while high - low > 1e-10:
      middle = (low + high) / 2
      if edges(middle) == before:
        low = middle
      else:
        high = middle
    events.append(high)
  return events


if __name__ == "__main__":
  absltest.main()
