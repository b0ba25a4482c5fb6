"""FIRE for each structure of a batch on its own, as traced functions.

FIRE of Bitzek et al. (Phys. Rev. Lett. 97, 170201, 2006) with ASE's settings. With the
cell, the degrees of freedom are those of `ase.filters.UnitCellFilter`: positions before
the deformation of the cell, and the deformation times the number of atoms.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import pytrees
from jmp_hk import structure as structure_lib
from jmp_hk.inference import moving

# Parameters of FIRE, ASE's.
_FIRST_STEP = 0.1
_LARGEST_STEP = 1.0
_LONGEST_MOVE = 0.2  # Å, over all atoms of a structure together.
_DELAY = 5
_GROWTH = 1.1
_SHRINKAGE = 0.5
_MIXING = 0.1
_MIXING_DECAY = 0.99
_PART_OF_SKIN = 0.8  # That a step may take.


@pytrees.dataclass
class State:
  """Where the relaxation of a batch is; float64.

  Sizes: N atoms and G structures with the padding of the batch.

  Attributes:
    positions: [N, 3] before the deformation, Å.
    deformation: [G, 3, 3] of the cell since the start.
    first_cell: [G, 3, 3] Å.
    velocities: [N, 3] FIRE's velocities of the atoms.
    cell_velocities: [G, 3, 3] of the deformation.
    timestep: [G] FIRE's time step.
    mixing: [G] FIRE's mixing of velocity and force.
    downhill: [G] int64 steps downhill in a row.
    forces: [N, 3] eV/Å.
    stress: [G, 3, 3] eV/Å³.
    energy: [G] eV, without per-element references.
    fmax: [G] largest generalised force in eV/Å, infinity before the first forces.
    step: [G] int64 steps done, -1 before the first forces.
  """

  positions: jax.Array
  deformation: jax.Array
  first_cell: jax.Array
  velocities: jax.Array
  cell_velocities: jax.Array
  timestep: jax.Array
  mixing: jax.Array
  downhill: jax.Array
  forces: jax.Array
  stress: jax.Array
  energy: jax.Array
  fmax: jax.Array
  step: jax.Array


PER_ATOM = ("positions", "velocities", "forces")


def start(structure: structure_lib.Structure) -> State:
  """State of one structure before the first forces; [n, 3] and [1, …] arrays."""
  count = structure.num_atoms
  make: Any = State
  return make(
    positions=np.array(structure.positions, np.float64),
    deformation=np.eye(3)[None],
    first_cell=np.array(structure.cell, np.float64)[None],
    velocities=np.zeros((count, 3)),
    cell_velocities=np.zeros((1, 3, 3)),
    timestep=np.full(1, _FIRST_STEP),
    mixing=np.full(1, _MIXING),
    downhill=np.zeros(1, np.int64),
    forces=np.zeros((count, 3)),
    stress=np.zeros((1, 3, 3)),
    energy=np.zeros(1),
    fmax=np.full(1, np.inf),
    step=np.full(1, -1, np.int64),
  )


def nothing(num_atoms: int, num_graphs: int) -> State:
  """Padding, which is done."""
  zero = structure_lib.molecule(np.zeros((num_atoms, 3)), np.ones(num_atoms), "")
  state = start(zero)
  repeat = lambda name: (
    getattr(state, name)
    if name in PER_ATOM
    else np.repeat(getattr(state, name), num_graphs, axis=0)
  )
  fields = {field.name: repeat(field.name) for field in dataclasses.fields(State)}
  make: Any = State
  return make(**fields | {"fmax": np.zeros(num_graphs)})


def positions_of(state: State) -> np.ndarray:
  """[n, 3] where the atoms of one structure are, Å."""
  return np.asarray(state.positions) @ np.asarray(state.deformation)[0].T


def cell_of(state: State) -> np.ndarray:
  """[3, 3] the cell of one structure, Å."""
  return np.asarray(state.first_cell)[0] @ np.asarray(state.deformation)[0].T


def _generalised(
  state: State, frame: moving.Frame, movable: jax.Array, cell_moves: bool
) -> tuple[jax.Array, jax.Array]:
  """Forces on positions before the deformation, and on the deformation over n."""
  graph = frame.fields["node_graph"]
  forces = jnp.where(movable > 0, state.forces, 0)
  if not cell_moves:
    return forces, jnp.zeros_like(state.stress)
  forces = jnp.einsum("ni,nij->nj", forces, state.deformation[graph])
  cell = jnp.einsum("gij,gkj->gik", state.first_cell, state.deformation)
  volume = jnp.abs(jnp.linalg.det(cell))[:, None, None]
  inverse = jnp.linalg.inv(state.deformation)
  virial = -volume * jnp.einsum("gij,gkj->gik", state.stress, inverse)
  return forces, virial / jnp.maximum(frame.fields["n_node"], 1)[:, None, None]


def largest(
  state: State, frame: moving.Frame, movable: jax.Array, cell_moves: bool
) -> jax.Array:
  """[G] norm of the largest generalised force, eV/Å."""
  forces, virial = _generalised(state, frame, movable, cell_moves)
  of_atoms = jax.ops.segment_max(
    (forces**2).sum(1), frame.fields["node_graph"], len(virial)
  )
  largest = jnp.maximum(jnp.maximum(of_atoms, 0), (virial**2).sum(2).max(1))
  return jnp.where(frame.fields["graph_mask"], jnp.sqrt(largest), 0)


def move(
  state: State,
  active: jax.Array,
  frame: moving.Frame,
  parameters: Mapping[str, jax.Array],
  cell_moves: bool,
  room: tuple[float, float],
) -> State:
  """One step of FIRE for the structures that are active and have forces."""
  graph = frame.fields["node_graph"]
  forces, virial = _generalised(state, frame, parameters["movable"], cell_moves)
  dot = lambda a, b, c, d: (
    jax.ops.segment_sum((a * b).sum(1), graph, len(virial)) + (c * d).sum((1, 2))
  )
  velocities, turning = state.velocities, state.cell_velocities
  power = dot(forces, velocities, virial, turning)
  strength = jnp.sqrt(dot(forces, forces, virial, virial))
  speed = jnp.sqrt(dot(velocities, velocities, turning, turning))
  along = state.mixing * speed / jnp.where(strength > 0, strength, 1)
  begins, downhill = state.step == 0, power > 0
  keep = jnp.where(downhill, 1 - state.mixing, 0)
  along = jnp.where(downhill, along, 0)
  faster = downhill & (state.downhill > _DELAY)
  timestep = jnp.where(
    faster, jnp.minimum(state.timestep * _GROWTH, _LARGEST_STEP), state.timestep
  )
  timestep = jnp.where(downhill | begins, timestep, state.timestep * _SHRINKAGE)
  mixing = jnp.where(faster, state.mixing * _MIXING_DECAY, state.mixing)
  mixing = jnp.where(downhill | begins, mixing, _MIXING)
  velocities = keep[graph, None] * velocities + along[graph, None] * forces
  turning = keep[:, None, None] * turning + along[:, None, None] * virial
  velocities = velocities + timestep[graph, None] * forces
  turning = turning + timestep[:, None, None] * virial
  length = timestep * jnp.sqrt(dot(velocities, velocities, turning, turning))
  goes = active & (state.step >= 0)
  length = jnp.where(length > 0, length, 1)
  factor = timestep * jnp.minimum(1, _LONGEST_MOVE / length)
  atoms = jnp.maximum(frame.fields["n_node"], 1)[:, None, None]
  strain = jnp.sqrt(((turning / atoms) ** 2).sum((1, 2)))
  farthest = jax.ops.segment_max((velocities**2).sum(1), graph, len(virial))
  motion = 2 * jnp.sqrt(jnp.maximum(farthest, 0)) + strain * room[1]
  most = _PART_OF_SKIN * room[0]
  factor = jnp.minimum(factor, most / jnp.where(motion > 0, motion, most))
  factor = jnp.where(goes, factor, 0)
  choose = lambda new, old: jnp.where(goes, new, old)
  return dataclasses.replace(
    state,
    positions=state.positions + factor[graph, None] * velocities,
    deformation=state.deformation + factor[:, None, None] * turning / atoms,
    velocities=jnp.where(goes[graph, None], velocities, state.velocities),
    cell_velocities=jnp.where(goes[:, None, None], turning, state.cell_velocities),
    timestep=choose(timestep, state.timestep),
    mixing=choose(mixing, state.mixing),
    downhill=choose(jnp.where(downhill, state.downhill + 1, 0), state.downhill),
  )
