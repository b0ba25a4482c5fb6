"""Relaxes many structures at once, a batch at a time, on the device.

Each structure of a batch moves by `fire`. Structures that are done leave the batch, and
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

from jmp_hk import structure as structure_lib
from jmp_hk.dynamics import fire
from jmp_hk.dynamics import stepping
from jmp_hk.inference import moving
from jmp_hk.inference import single_head

State = fire.State
Status = stepping.Status
Structure = structure_lib.Structure

_STEPS_AT_ONCE = 25  # Then the host looks which structures are done.


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
    self.states = [fire.start(structure) for structure in structures]
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
        raise stepping.DynamicsError(self._not_finite(members))
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
          structure, fire.positions_of(state), fire.cell_of(state)
        )
    self._system.renew([self._structures[index] for index in members])

  def _advance(self, members: Sequence[int]) -> tuple[Status, np.ndarray]:
    """Runs the program once for the batch."""
    system, budget = self._system, self._system.budget
    states = [self.states[index] for index in members]
    sizes = [len(state.positions) for state in states]
    padding = fire.nothing(
      budget.num_atoms - sum(sizes), budget.num_graphs - len(sizes)
    )
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
          of_atoms if field.name in fire.PER_ATOM else own
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
  reach = system.moving.reach
  graph = frame.fields["node_graph"]
  place = lambda state: (
    jnp.einsum("ni,nji->nj", state.positions, state.deformation[graph]),
    jnp.einsum("gij,gkj->gik", state.first_cell, state.deformation),
  )

  def is_done(state):
    given_up = state.step >= parameters["max_steps"]
    return (state.fmax < parameters["fmax"]) | given_up

  def step(carry):
    old, _, _, count, moved_before = carry
    active = ~is_done(old)
    room = system.moving.skin, reach
    new = fire.move(old, active, frame, parameters, cell_moves, room)
    positions, cell = place(new)
    moved = moving.motion_of(frame, positions, cell, reach, cell_moves)
    outputs, needs = system.evaluate(variables, frame, positions, cell)
    found = stepping.physical(system.runner, outputs, frame)
    new = dataclasses.replace(new, **found)
    fmax = fire.largest(new, frame, parameters["movable"], cell_moves)
    new = dataclasses.replace(
      new,
      fmax=jnp.where(active, fmax, old.fmax),
      step=jnp.where(active, old.step + 1, old.step),
    )
    state, status = stepping.keep(
      system, new, old, needs=needs, moved=moved, moved_before=moved_before
    )
    return state, status, needs, count + 1, moved

  def goes_on(carry):
    state, status, _, count, _ = carry
    return (status == Status.DONE) & (count < _STEPS_AT_ONCE) & ~is_done(state).all()

  moved = moving.motion_of(frame, *place(state), reach, cell_moves)
  needs = jnp.zeros_like(stepping.capacity(system))
  carry = state, jnp.int32(Status.DONE), needs, 0, moved
  state, status, needs, _, _ = jax.lax.while_loop(goes_on, step, carry)
  return state, status, needs
