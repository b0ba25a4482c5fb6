"""Relaxes many structures at once: FIRE on the device, a batch at a time.

FIRE of Bitzek et al. (Phys. Rev. Lett. 97, 170201, 2006) with ASE's settings, for each
structure of a batch on its own. With the cell, the degrees of freedom are those of
`ase.filters.UnitCellFilter`: positions before the deformation of the cell, and the
deformation times the number of atoms. Structures that are done leave the batch, and
waiting ones take their place.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import pytrees
from jmp_hk import structure as structure_lib
from jmp_hk.dynamics import errors
from jmp_hk.dynamics import simulation
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.inference import moving
from jmp_hk.inference import single_head

Status = simulation.Status
Structure = structure_lib.Structure

_STEPS_AT_ONCE = 25  # Then the host looks which structures are done.
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


_PER_ATOM = ("positions", "velocities", "forces")


@dataclasses.dataclass(frozen=True)
class Settings:
  """When a relaxation ends.

  Attributes:
    fmax: largest force in eV/Å; with the cell, also -V times stress over the number of
      atoms.
    cell: whether the cell relaxes.
    max_steps: steps after which a structure is given up.
  """

  fmax: float
  cell: bool
  max_steps: int


def start(structure: Structure) -> State:
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


def _nothing(num_atoms: int, num_graphs: int) -> State:
  """Padding, which is done."""
  zero = structure_lib.molecule(np.zeros((num_atoms, 3)), np.ones(num_atoms), "")
  state = start(zero)
  repeat = lambda name: (
    getattr(state, name)
    if name in _PER_ATOM
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


class Relaxation:
  """Structures that are relaxed in batches."""

  def __init__(
    self,
    runner: single_head.SingleHead,
    structures: Sequence[Structure],
    settings: Settings,
    *,
    batch_edges: int,
    skin: float,
    on_done: Callable[[int], None] = lambda index: None,
  ) -> None:
    """Puts structures into a queue, the largest first; computes nothing yet.

    Args:
      runner: a head with energy and forces.
      structures: structures that it can predict.
      settings: when a relaxation ends.
      batch_edges: about how many main edges a batch has.
      skin: see `moving.System`.
      on_done: called with the index of a structure that is done.
    """
    self._system = moving.System(runner, skin)
    self._structures = list(structures)
    self._settings = settings
    self._batch_edges = batch_edges
    self._on_done = on_done
    self.states = [start(structure) for structure in structures]
    sizes = [structure.num_atoms for structure in structures]
    self._waiting = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    limit = runner.info.graph.max_neighbors_of(max(sizes, default=1))
    self._most_atoms = max(batch_edges // max(limit, 1), *sizes, 1)

  def run(self) -> None:
    """Relaxes all structures; `states` holds where they are.

    Raises:
      DynamicsError: the model gives numbers that are not finite.
      InvalidStructureError: a structure came to where neighbors cannot be searched for.
    """
    members: list[int] = []
    while self._waiting or members:
      if self._fill(members):
        self._system.renew([self._structures[index] for index in members])
      status, needs = self._advance(members)
      if status is Status.OVERFLOW:
        self._system.grow(needs)
      elif status is Status.NOT_FINITE:
        raise errors.DynamicsError(self._not_finite(members))
      elif status in (Status.RENEW, Status.EXPIRED):
        self._renew(members)
      for index in [index for index in members if self._is_done(index)]:
        members.remove(index)
        self._on_done(index)

  def _is_done(self, index: int) -> bool:
    state = self.states[index]
    return bool(
      state.fmax[0] < self._settings.fmax or state.step[0] >= self._settings.max_steps
    )

  def _fill(self, members: list[int]) -> bool:
    """Takes waiting structures into the batch; whether the batch is another one."""
    known = [id(x) for x in self._system.structures]
    used = sum(self._structures[index].num_atoms for index in members)
    for index in list(self._waiting):
      size = self._structures[index].num_atoms
      if used + size <= self._most_atoms or not members:
        members.append(index)
        self._waiting.remove(index)
        used += size
    return known != [id(self._structures[index]) for index in members]

  def _renew(self, members: Sequence[int]) -> None:
    """Searches for neighbors of the structures that have moved."""
    for index in members:
      state, structure = self.states[index], self._structures[index]
      if state.step[0] > 0:
        self._structures[index] = moving.moved(
          structure, positions_of(state), cell_of(state)
        )
    self._system.renew([self._structures[index] for index in members])

  def _advance(self, members: Sequence[int]) -> tuple[Status, np.ndarray]:
    """Runs the program once for the batch."""
    system, budget = self._system, self._system.budget
    states = [self.states[index] for index in members]
    sizes = [len(state.positions) for state in states]
    padding = _nothing(budget.num_atoms - sum(sizes), budget.num_graphs - len(sizes))
    batch = jax.tree.map(lambda *parts: np.concatenate(parts), *states, padding)
    movable = np.zeros((budget.num_atoms, 1))
    movable[: sum(sizes), 0] = np.concatenate(
      [~self._structures[index].fixed for index in members]
    )
    parameters = {
      "movable": movable,
      "fmax": np.float64(self._settings.fmax),
      "max_steps": np.int64(self._settings.max_steps),
    }
    result, status, needs = system.run(
      "relaxation",
      functools.partial(_steps, system, self._settings.cell),
      self._settings.cell,
      parameters,
      batch,
    )
    first = 0
    for number, (index, size) in enumerate(zip(members, sizes, strict=True)):
      of_atoms, own = slice(first, first + size), slice(number, number + 1)
      fields = {
        field.name: getattr(result, field.name)[
          of_atoms if field.name in _PER_ATOM else own
        ]
        for field in dataclasses.fields(State)
      }
      make: Any = State
      self.states[index] = make(**fields)
      first += size
    return Status(int(status)), needs

  def _not_finite(self, members: Sequence[int]) -> str:
    names = [
      self._structures[index].record_id or f"structure {index}" for index in members
    ]
    return (
      "The model gives energies or forces that are not finite for one of "
      f"{', '.join(names)}. Are they far from those that the model was trained on?"
    )


def _steps(
  system: moving.System,
  cell_moves: bool,
  variables: Any,
  frame: moving.Frame,
  parameters: Mapping[str, jax.Array],
  state: State,
) -> tuple[State, jax.Array, jax.Array]:
  """Makes steps until all are done or the host is needed; traced."""
  skin, reach = system.moving.skin, system.moving.reach
  room = jnp.asarray(budget_lib.capacity(system.budget).as_array(), jnp.int32)
  graph = frame.fields["node_graph"]
  place = lambda state: (
    jnp.einsum("ni,nji->nj", state.positions, state.deformation[graph]),
    jnp.einsum("gij,gkj->gik", state.first_cell, state.deformation),
  )

  def is_done(state):
    given_up = state.step >= parameters["max_steps"]
    return (state.fmax < parameters["fmax"]) | given_up

  def step(carry):
    old, _, _, count, motion = carry
    active = ~is_done(old)
    new = _move(old, active, frame, parameters, cell_moves, (skin, reach))
    positions, cell = place(new)
    moved = moving.motion_of(frame, positions, cell, reach, cell_moves)
    outputs, needs = system.evaluate(variables, frame, positions, cell)
    new = _with_forces(system.runner, new, outputs, frame)
    fmax = _largest(new, frame, parameters["movable"], cell_moves)
    new = dataclasses.replace(
      new,
      fmax=jnp.where(active, fmax, old.fmax),
      step=jnp.where(active, old.step + 1, old.step),
    )
    finite = jnp.isfinite(new.energy).all() & jnp.isfinite(new.forces).all()
    near, fits = moved <= skin, (needs <= room).all()
    soon = 2 * moved - motion > skin
    status = jnp.where(soon, Status.RENEW, Status.DONE)
    status = jnp.where(finite, status, Status.NOT_FINITE)
    status = jnp.where(fits, status, Status.OVERFLOW)
    status = jnp.where(near, status, Status.EXPIRED)
    kept = near & fits & finite
    state = jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)
    return state, status.astype(jnp.int32), needs, count + 1, moved

  def goes_on(carry):
    state, status, _, count, _ = carry
    return (status == Status.DONE) & (count < _STEPS_AT_ONCE) & ~is_done(state).all()

  motion = moving.motion_of(frame, *place(state), reach, cell_moves)
  carry = state, jnp.int32(Status.DONE), jnp.zeros_like(room), 0, motion
  state, status, needs, _, _ = jax.lax.while_loop(goes_on, step, carry)
  return state, status, needs


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


def _largest(
  state: State, frame: moving.Frame, movable: jax.Array, cell_moves: bool
) -> jax.Array:
  """[G] norm of the largest generalised force, eV/Å."""
  forces, virial = _generalised(state, frame, movable, cell_moves)
  of_atoms = jax.ops.segment_max(
    (forces**2).sum(1), frame.fields["node_graph"], len(virial)
  )
  largest = jnp.maximum(jnp.maximum(of_atoms, 0), (virial**2).sum(2).max(1))
  return jnp.where(frame.fields["graph_mask"], jnp.sqrt(largest), 0)


def _move(
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


def _with_forces(
  runner: single_head.SingleHead,
  state: State,
  outputs: Mapping[str, jax.Array],
  frame: moving.Frame,
) -> State:
  """A state with what the model predicts for it, in eV and Å; traced."""
  physical = lambda name: runner.in_physical_units(
    name, outputs[name].astype(jnp.float64)
  )
  stress = state.stress
  if "stress" in outputs:
    stress = physical("stress")
    stress = (stress + stress.transpose(0, 2, 1)) / 2
  return dataclasses.replace(
    state,
    forces=jnp.where(frame.fields["atom_mask"][:, None], physical("forces"), 0),
    energy=jnp.where(frame.fields["graph_mask"], physical("energy"), 0),
    stress=stress,
  )
