"""Molecular dynamics in a compiled loop.

One program makes many steps: graphs, model, motion. It comes back when as many steps
are done as were asked for, when atoms have moved so far that neighbors must be searched
for again, or when the graphs need more room than they have; the host sees to it, and
the loop goes on. A step whose graph may have been wrong is not kept.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.dynamics import integrators
from jmp_hk.dynamics import stepping
from jmp_hk.inference import moving
from jmp_hk.inference import single_head

State = integrators.State
Status = stepping.Status


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
        raise stepping.DynamicsError(
          f"At step {before} the model gives energies or forces that are not finite. "
          "Is the structure far from those that the model was trained on? Start from a "
          "relaxed one, or take a shorter time step."
        )
      if status is Status.EXPIRED and is_renewed:
        raise stepping.DynamicsError(self._explosion())
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
  moved_by = lambda state: moving.motion_of(
    frame, state.positions, state.cell, system.moving.reach, ensemble.cell_moves
  )

  def step(carry):
    old, _, _, moved_before = carry
    new = integrators.advance(ensemble, old, parameters)
    moved = moved_by(new)
    outputs, needs = system.evaluate(variables, frame, new.positions, new.cell)
    found = stepping.physical(system.runner, outputs, frame)
    # There is one structure; what follows it is padding.
    new = dataclasses.replace(
      new,
      forces=found["forces"],
      energy=found["energy"][0],
      stress=found["stress"][0] if "stress" in found else old.stress,
    )
    new = integrators.finish(new, old.step >= 0, parameters)
    state, status = stepping.keep(
      system, new, old, needs=needs, moved=moved, moved_before=moved_before
    )
    return state, status, needs, moved

  def goes_on(carry):
    return (carry[0].step < last) & (carry[1] == Status.DONE)

  needs = jnp.zeros_like(stepping.capacity(system))
  carry = state, jnp.int32(Status.DONE), needs, moved_by(state)
  state, status, needs, _ = jax.lax.while_loop(goes_on, step, carry)
  return state, status, needs
