"""What every loop on the device shares: forces, and whether a step may be kept."""

from collections.abc import Mapping
import enum
from typing import Any
from typing import TypeVar

import jax
import jax.numpy as jnp

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.inference import moving
from jmp_hk.inference import single_head

S = TypeVar("S", bound=Any)  # States.


class DynamicsError(RuntimeError):
  """Atoms cannot be moved any further; the message says why and what to do."""


class Status(enum.IntEnum):
  """Why a program came back."""

  DONE = 0  # All steps are made.
  RENEW = 1  # Atoms have nearly moved half the skin; all steps made are valid.
  EXPIRED = 2  # The next step would go beyond; it is not made.
  OVERFLOW = 3  # Graphs would need more room; the step is not made.
  NOT_FINITE = 4  # The model gives no finite numbers; the step is not made.


def capacity(system: moving.System) -> jax.Array:
  """[fields] int32, the room that graphs have; traced."""
  return jnp.asarray(budget_lib.capacity(system.budget).as_array(), jnp.int32)


def keep(
  system: moving.System,
  new: S,
  old: S,
  *,
  needs: jax.Array,
  moved: jax.Array,
  moved_before: jax.Array,
) -> tuple[S, jax.Array]:
  """The new state where its graphs were right, else the old one; traced.

  Args:
    system: the structures, whose candidates were found within a skin.
    new: state after the step, with its `energy` and `forces`.
    old: state before it.
    needs: [fields] int32, what the graphs of the new state need.
    moved: [] by how much distances may have changed since candidates were found, Å.
    moved_before: [] the same before the step.

  Returns:
    The state, and a `Status` as int32.
  """
  skin = system.moving.skin
  finite = jnp.isfinite(new.energy).all() & jnp.isfinite(new.forces).all()
  near, fits = moved <= skin, (needs <= capacity(system)).all()
  soon = 2 * moved - moved_before > skin  # Another step like this one goes beyond.
  status = jnp.where(soon, Status.RENEW, Status.DONE)
  status = jnp.where(finite, status, Status.NOT_FINITE)
  status = jnp.where(fits, status, Status.OVERFLOW)
  status = jnp.where(near, status, Status.EXPIRED)
  kept = near & fits & finite
  state = jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)
  return state, status.astype(jnp.int32)


def physical(
  runner: single_head.SingleHead, outputs: Mapping[str, jax.Array], frame: moving.Frame
) -> dict[str, jax.Array]:
  """What the model predicts, in eV and Å, float64; zero in padding; traced.

  Returns:
    `forces` [N, 3], `energy` [G] and, where the head has it, symmetric `stress`
    [G, 3, 3].
  """
  of = lambda name: runner.in_physical_units(name, outputs[name].astype(jnp.float64))
  found = {
    "forces": jnp.where(frame.fields["atom_mask"][:, None], of("forces"), 0),
    "energy": jnp.where(frame.fields["graph_mask"], of("energy"), 0),
  }
  if "stress" in outputs:
    stress = of("stress")
    found["stress"] = (stress + stress.transpose(0, 2, 1)) / 2
  return found
