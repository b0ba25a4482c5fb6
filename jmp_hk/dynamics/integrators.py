"""One step of molecular dynamics in each ensemble, as traced functions.

A step ends with the forces at its new positions: `advance` does everything before they
are computed, `finish` the last half kick. Units are ASE's: eV, Å, amu, and with them Å
(amu/eV)^½ of time. References: velocity Verlet as `ase.md.verlet`; BAOAB of Leimkuhler
and Matthews (Appl. Math. Res. eXpress 2013, 34); stochastic cell rescaling of Bernetti
and Bussi (J. Chem. Phys. 153, 114107, 2020), isotropic.
"""

from collections.abc import Mapping
import dataclasses

from ase import units
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import pytrees

Parameters = Mapping[str, jax.Array]


@pytrees.dataclass
class State:
  """Where a simulation is; all float64.

  Sizes: N atoms and G structures with the padding of the batch.

  Attributes:
    positions: [N, 3] Å.
    momenta: [N, 3] amu Å per ASE's unit of time.
    cell: [G, 3, 3] Å.
    forces: [N, 3] eV/Å, of fixed atoms too.
    energy: [] eV, without per-element references.
    stress: [3, 3] eV/Å³; zero where the head has none.
    step: [] int64, steps done; -1 before the first forces.
  """

  positions: jax.Array
  momenta: jax.Array
  cell: jax.Array
  forces: jax.Array
  energy: jax.Array
  stress: jax.Array
  step: jax.Array


@dataclasses.dataclass(frozen=True)
class NVE:
  """Constant energy and volume: velocity Verlet.

  Attributes:
    timestep_fs: time step in fs.
  """

  timestep_fs: float

  cell_moves = False

  def parameters(self) -> dict[str, np.float64]:
    """Numbers that enter a step, in ASE's units."""
    return {"timestep": np.float64(self.timestep_fs * units.fs)}


@dataclasses.dataclass(frozen=True)
class Langevin(NVE):
  """Constant temperature: Langevin dynamics, BAOAB.

  Attributes:
    timestep_fs: time step in fs.
    temperature_K: temperature in K.
    friction_per_fs: friction in 1/fs; its inverse is the time in which velocities are
      forgotten.
  """

  temperature_K: float
  friction_per_fs: float

  def parameters(self) -> dict[str, np.float64]:
    """See `NVE`."""
    return super().parameters() | {
      "thermal": np.float64(units.kB * self.temperature_K),
      "friction": np.float64(self.friction_per_fs / units.fs),
    }


@dataclasses.dataclass(frozen=True)
class NPT(Langevin):
  """Constant temperature and pressure: BAOAB with stochastic cell rescaling.

  The cell is scaled isotropically. Only the ratio of the compressibility and the time
  matters.

  Attributes:
    timestep_fs: time step in fs.
    temperature_K: temperature in K.
    friction_per_fs: see `Langevin`.
    pressure_GPa: external pressure in GPa.
    pressure_time_fs: relaxation time of the pressure in fs.
    compressibility_per_GPa: about that of the material, in 1/GPa.
  """

  pressure_GPa: float
  pressure_time_fs: float
  compressibility_per_GPa: float

  cell_moves = True

  def parameters(self) -> dict[str, np.float64]:
    """See `NVE`."""
    return super().parameters() | {
      "pressure": np.float64(self.pressure_GPa * units.GPa),
      "rate": np.float64(
        self.compressibility_per_GPa / units.GPa / (self.pressure_time_fs * units.fs)
      ),
    }


def advance(ensemble: NVE, state: State, parameters: Parameters) -> State:
  """Moves atoms and cell to where the next forces are computed; traced.

  Args:
    ensemble: what is kept constant.
    state: the present state.
    parameters: those of the ensemble; with `masses` [N, 1] in amu, `movable` [N, 1],
      one or zero, and `key`, a jax random key. Before the first forces (step -1)
      nothing moves.
  """
  step = jnp.where(state.step >= 0, parameters["timestep"], 0)
  masses, movable = parameters["masses"], parameters["movable"]
  positions, cell = state.positions, state.cell
  momenta = state.momenta + 0.5 * step * (movable * state.forces)
  if not isinstance(ensemble, Langevin):
    return dataclasses.replace(
      state, positions=positions + step * momenta / masses, momenta=momenta
    )
  key = jax.random.fold_in(parameters["key"], state.step)
  noise_key, volume_key = jax.random.split(key)
  positions = positions + 0.5 * step * momenta / masses
  kept = jnp.exp(-parameters["friction"] * step)
  spread = jnp.sqrt((1 - kept**2) * masses * parameters["thermal"])
  noise = jax.random.normal(noise_key, momenta.shape, momenta.dtype)
  momenta = kept * momenta + movable * spread * noise
  positions = positions + 0.5 * step * momenta / masses
  if isinstance(ensemble, NPT):
    factor = _rescale(state, momenta, parameters, step, volume_key)
    positions, momenta, cell = positions * factor, momenta / factor, cell * factor
  return dataclasses.replace(state, positions=positions, momenta=momenta, cell=cell)


def _rescale(
  state: State,
  momenta: jax.Array,
  parameters: Parameters,
  step: jax.Array,
  key: jax.Array,
) -> jax.Array:
  """[] factor of all lengths.

  With ε = ln V:  dε = -rate (P - P_internal) dt + √(2 kT rate / V) dW.
  """
  volume = jnp.abs(jnp.linalg.det(state.cell[0]))
  kinetic = 0.5 * (momenta**2 / parameters["masses"]).sum()
  internal = 2 * kinetic / (3 * volume) - jnp.trace(state.stress) / 3
  rate = parameters["rate"]
  drift = -rate * (parameters["pressure"] - internal) * step
  spread = jnp.sqrt(2 * parameters["thermal"] * rate * step / volume)
  noise = jax.random.normal(key, (), momenta.dtype)
  return jnp.exp((drift + spread * noise) / 3)


def finish(state: State, started: jax.Array, parameters: Parameters) -> State:
  """The last half kick of a step, with the forces at its end; traced.

  Args:
    state: from `advance`, with the new forces.
    started: [] bool, false where only the first forces were computed.
    parameters: see `advance`.
  """
  step = jnp.where(started, parameters["timestep"], 0)
  kick = 0.5 * step * (parameters["movable"] * state.forces)
  return dataclasses.replace(state, momenta=state.momenta + kick, step=state.step + 1)
