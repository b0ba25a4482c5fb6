"""Molecular dynamics in a compiled loop.

One program makes many steps: graphs, model, motion. It comes back when as many steps
are done as were asked for, when atoms have moved so far that neighbors must be searched
for again, or when the graphs need more room than they have; the host sees to it, and
the loop goes on. A step whose graph may have been wrong is not kept.
"""

from collections.abc import Mapping
import dataclasses
import enum
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.dynamics import errors
from jmp_hk.dynamics import integrators
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.inference import moving
from jmp_hk.inference import single_head

State = integrators.State


class Status(enum.IntEnum):
  """Why a program came back."""

  DONE = 0  # All steps are made.
  RENEW = 1  # Atoms have nearly moved half the skin; all steps made are valid.
  EXPIRED = 2  # The next step would go beyond; it is not made.
  OVERFLOW = 3  # Graphs would need more room; the step is not made.
  NOT_FINITE = 4  # The model gives no finite numbers; the step is not made.


class Simulation:
  """One structure in motion.

  Attributes:
    system: the structure with its candidates and programs.
    state: where it is, on the host.
  """

  def __init__(
    self,
    runner: single_head.SingleHead,
    structure: structure_lib.Structure,
    ensemble: integrators.NVE,
    state: State,
    *,
    masses: np.ndarray,
    movable: np.ndarray,
    seed: int,
    skin: float,
  ) -> None:
    """Searches for neighbors; computes nothing yet.

    Args:
      runner: a head with energy and forces.
      structure: the structure at the positions of the state.
      ensemble: what is kept constant.
      state: where to start, without padding: [n, 3] and [3, 3] arrays.
      masses: [n] amu.
      movable: [n] bool, atoms that are not fixed.
      seed: seed of random forces.
      skin: see `moving.System`.

    Raises:
      InvalidStructureError: the structure cannot be used.
    """
    self.system = moving.System(runner, skin)
    self._ensemble = ensemble
    self._structure = structure
    self.state = state
    count = structure.num_atoms
    # There is one atom of padding whatever the budget, so random draws never change.
    padded = np.ones((count + 1, 1))
    padded[:count, 0] = masses
    mobile = np.zeros((count + 1, 1))
    mobile[:count, 0] = movable
    key = np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)
    self._parameters: Mapping[str, Any] = {
      **ensemble.parameters(),
      "masses": padded,
      "movable": mobile,
      "key": key,
    }
    self.renew()

  def run_to(self, step: int) -> None:
    """Makes steps until this many are done in all.

    Raises:
      DynamicsError: atoms move too far in a step, or the model gives no finite numbers.
      InvalidStructureError: atoms came to where no neighbors can be searched for.
    """
    is_renewed = False
    while self.state.step < step:
      before = int(self.state.step)
      status, needs = self._advance(step)
      is_renewed = is_renewed and self.state.step == before
      if status is Status.NOT_FINITE:
        raise errors.DynamicsError(
          f"At step {before} the model gives energies or forces that are not finite. "
          "Is the structure far from those that the model was trained on? Start from a "
          "relaxed one, or take a shorter time step."
        )
      if status is Status.EXPIRED and is_renewed:
        raise errors.DynamicsError(self._explosion())
      if status is Status.OVERFLOW:
        self.system.grow(needs)
      elif status in (Status.RENEW, Status.EXPIRED):
        self.renew()
        is_renewed = True

  def _advance(self, step: int) -> tuple[Status, np.ndarray]:
    """Runs the program once."""
    count = self._structure.num_atoms
    system, state = self.system, self.state
    positions, cell = system.pad(
      np.asarray(state.positions), np.asarray(state.cell)[None]
    )
    extend = lambda x: np.concatenate([x, np.zeros((1, 3))])
    make: Any = State
    padded = make(
      positions=positions,
      momenta=extend(state.momenta),
      cell=cell,
      forces=extend(state.forces),
      energy=np.float64(state.energy),
      stress=np.asarray(state.stress, np.float64),
      step=np.int64(state.step),
    )
    result, status, needs = system.run(
      "dynamics",
      functools.partial(_steps, system, self._ensemble),
      type(self._ensemble),
      self._parameters,
      padded,
      np.int64(step),
    )
    self.state = make(
      positions=result.positions[:count],
      momenta=result.momenta[:count],
      cell=result.cell[0],
      forces=result.forces[:count],
      energy=result.energy,
      stress=result.stress,
      step=int(result.step),
    )
    return Status(int(status)), needs

  def renew(self) -> None:
    """Searches for neighbors where atoms are now."""
    structure = moving.moved(
      self._structure, np.asarray(self.state.positions), np.asarray(self.state.cell)
    )
    self._structure = structure
    self.system.renew([structure])

  def _explosion(self) -> str:
    """Says which atom moves too far."""
    masses = self._parameters["masses"][:-1]
    speed = np.linalg.norm(self.state.momenta / masses, axis=1)
    force = np.linalg.norm(self.state.forces, axis=1)
    atom = int(speed.argmax())
    step = float(self._parameters["timestep"])
    skin = self.system.moving.skin
    return (
      f"At step {int(self.state.step)} distances would change by more than {skin:g} Å "
      f"in one step: atom {atom} moves by {speed[atom] * step:.3g} Å, and the largest "
      f"force is {force.max():.3g} eV/Å. Take a shorter time step, or start from a "
      "relaxed structure."
    )


def _steps(
  system: moving.System,
  ensemble: integrators.NVE,
  variables: Any,
  frame: moving.Frame,
  parameters: Mapping[str, jax.Array],
  state: State,
  last: jax.Array,
) -> tuple[State, jax.Array, jax.Array]:
  """Makes steps until `last` or until the host is needed; traced.

  Returns:
    The state, a `Status`, and what the graphs of the last evaluation need.
  """
  skin, reach = system.moving.skin, system.moving.reach
  room = jnp.asarray(budget_lib.capacity(system.budget).as_array(), jnp.int32)

  def step(carry):
    old, _, _, motion = carry
    new = integrators.advance(ensemble, old, parameters)
    moved = moving.motion_of(frame, new.positions, new.cell, reach, ensemble.cell_moves)
    outputs, needs = system.evaluate(variables, frame, new.positions, new.cell)
    new = with_forces(system.runner, new, outputs, frame)
    new = integrators.finish(new, old.step >= 0, parameters)
    finite = jnp.isfinite(new.energy) & jnp.isfinite(new.forces).all()
    near, fits = moved <= skin, (needs <= room).all()
    soon = 2 * moved - motion > skin
    status = jnp.where(soon, Status.RENEW, Status.DONE)
    status = jnp.where(finite, status, Status.NOT_FINITE)
    status = jnp.where(fits, status, Status.OVERFLOW)
    status = jnp.where(near, status, Status.EXPIRED)
    kept = near & fits & finite
    state = jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)
    return state, status.astype(jnp.int32), needs, moved

  def goes_on(carry):
    return (carry[0].step < last) & (carry[1] == Status.DONE)

  start = moving.motion_of(
    frame, state.positions, state.cell, reach, ensemble.cell_moves
  )
  carry = state, jnp.int32(Status.DONE), jnp.zeros_like(room), start
  state, status, needs, _ = jax.lax.while_loop(goes_on, step, carry)
  return state, status, needs


def with_forces(
  runner: single_head.SingleHead,
  state: State,
  outputs: Mapping[str, jax.Array],
  frame: moving.Frame,
) -> State:
  """A state with what the model predicts for it, in eV and Å; traced."""
  physical = lambda name: runner.in_physical_units(
    name, outputs[name].astype(jnp.float64)
  )
  forces = jnp.where(frame.fields["atom_mask"][:, None], physical("forces"), 0)
  stress = state.stress
  if "stress" in outputs:
    stress = physical("stress")[0]
    stress = (stress + stress.T) / 2
  return dataclasses.replace(
    state, forces=forces, energy=physical("energy")[0], stress=stress
  )
