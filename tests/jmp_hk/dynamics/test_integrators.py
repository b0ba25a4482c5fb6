"""Integrators on a harmonic potential, without a model."""

from absl.testing import absltest
from ase import units
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.dynamics import integrators

_SPRING = 2.0  # eV/Å²
_ATOMS = 2000


def _run(ensemble, momenta, steps):
  """Positions and momenta of independent oscillators after some steps."""
  fixed = np.ones((_ATOMS, 1))
  fixed[0] = 0
  parameters = ensemble.parameters() | {
    "masses": np.full((_ATOMS, 1), 12.0),
    "movable": fixed,
    "key": np.array([0, 7], np.uint32),
  }
  start = integrators.State(
    positions=np.zeros((_ATOMS, 3)),
    momenta=momenta * fixed,
    cell=np.zeros((2, 3, 3)),
    forces=np.zeros((_ATOMS, 3)),
    energy=np.float64(0),
    stress=np.zeros((3, 3)),
    step=np.int64(0),
  )

  def step(state, _):
    state = integrators.advance(ensemble, state, parameters)
    state = state.replace(forces=-_SPRING * state.positions)
    return integrators.finish(state, jnp.array(True), parameters), None

  with jax.enable_x64(True):
    return jax.device_get(
      jax.jit(lambda state: jax.lax.scan(step, state, length=steps)[0])(start)
    )


class IntegratorsTest(absltest.TestCase):
  def test_langevin_reaches_the_temperature(self):
    ensemble = integrators.Langevin(1.0, 400.0, 0.05)
    state = _run(ensemble, np.zeros((_ATOMS, 3)), steps=300)
    thermal = units.kB * 400
    kinetic = (state.momenta[1:] ** 2).mean() / 12.0
    potential = _SPRING * (state.positions[1:] ** 2).mean()
    # 6 000 degrees of freedom: the standard deviation is 2 %.
    self.assertAlmostEqual(kinetic / thermal, 1, delta=0.1)
    self.assertAlmostEqual(potential / thermal, 1, delta=0.1)
    self.assertFalse(state.positions[0].any() or state.momenta[0].any())

  def test_constant_energy_conserves_it(self):
    momenta = np.random.default_rng(0).normal(0, 1, (_ATOMS, 3))
    state = _run(integrators.NVE(0.5), momenta, steps=400)
    energy = lambda p, x: (p[1:] ** 2 / 24 + _SPRING * x[1:] ** 2 / 2).sum()
    before = energy(momenta, np.zeros_like(momenta))
    # Velocity Verlet conserves a nearby energy; the difference is (ωΔt)²/4 here.
    self.assertAlmostEqual(
      energy(state.momenta, state.positions) / before, 1, delta=3e-4
    )
    self.assertEqual(state.step, 400)

  def test_nothing_moves_before_the_first_forces(self):
    ensemble = integrators.NPT(1.0, 300.0, 0.01, 1.0, 500.0, 0.01)
    state = integrators.State(
      positions=np.ones((2, 3)),
      momenta=np.ones((2, 3)),
      cell=np.eye(3)[None],
      forces=np.zeros((2, 3)),
      energy=np.float64(0),
      stress=np.eye(3),
      step=np.int64(-1),
    )
    parameters = ensemble.parameters() | {
      "masses": np.ones((2, 1)),
      "movable": np.ones((2, 1)),
      "key": np.array([0, 1], np.uint32),
    }
    with jax.enable_x64(True):
      moved = integrators.advance(ensemble, state, parameters)
    for name in ("positions", "momenta", "cell"):
      np.testing.assert_array_equal(getattr(moved, name), getattr(state, name))


if __name__ == "__main__":
  absltest.main()
