"""Predictions of structures whose atoms move, with few visits of the host.

The host finds candidates of neighbors. As long as atoms have moved less than half of a
skin since, everything else happens on the device in one program: graphs, model and, in
`jmp_hk.dynamics`, the motion. Edges are selected in float64 whatever the model
computes in.
"""

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Sequence
import contextlib
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import pytrees
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import buckets
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import candidates
from jmp_hk.graphs import layout as layout_lib
from jmp_hk.graphs import moving as moving_lib
from jmp_hk.graphs import packing
from jmp_hk.inference import single_head
from jmp_hk.runtime import compilation

Structure = structure_lib.Structure
Outputs = dict[str, np.ndarray]


class CannotMoveError(RuntimeError):
  """The graphs of a head cannot follow atoms without the host."""


@pytrees.dataclass
class Frame:
  """What a program needs beside positions and cells; changes when the host is asked.

  Sizes: N atoms and G structures, with padding.

  Attributes:
    candidates: arrays of the candidates, see `MovingGraphs.pack`.
    fields: fields of the `Batch` but positions, cell, graphs and targets.
    num_real: [] int32, number of atoms that are no padding.
    positions: [N, 3] float64 where candidates were found, Å.
    inverse_cell: [G, 3, 3] float64, inverse of the cell then; zero where it has none.
  """

  candidates: dict[str, jax.Array]
  fields: dict[str, jax.Array]
  num_real: jax.Array
  positions: jax.Array
  inverse_cell: jax.Array


class System:
  """A batch of structures that move: their candidates, budget and programs.

  Attributes:
    runner: the head.
    moving: how its graphs follow atoms.
    structures: the structures at the positions where candidates were found.
    budget: static sizes of the batch.
    frame: arguments of programs.
    num_searches: how often candidates were found.
    device_seconds: time that programs ran, without their compilation.
  """

  def __init__(
    self, runner: single_head.SingleHead, skin: float = candidates.DEFAULT_SKIN
  ) -> None:
    """Starts without structures.

    Args:
      runner: the head.
      skin: by how much distances may change before the host is asked, Å.

    Raises:
      CannotMoveError: the backbone has no graphs on the device.
    """
    moving = runner.builder.moving(runner.info.graph, skin)
    if moving is None:
      raise CannotMoveError(
        f"{type(runner.builder).__name__} builds graphs on the host alone."
      )
    self.runner, self.moving = runner, moving
    self.structures: tuple[Structure, ...] = ()
    self.num_searches = 0
    self.device_seconds = 0.0
    self.frame: Frame
    self.budget: budget_lib.Budget
    self._budgets = buckets.MovingBudget(runner.builder, runner.info.graph)
    self._widths: list[Any] = []
    self._entries: dict[int, Any] = {}  # By the identity of structures.

  def renew(self, structures: Sequence[Structure]) -> None:
    """Finds candidates at new positions; those of structures that stay are kept.

    Args:
      structures: structures of the batch, at least one.

    Raises:
      InvalidStructureError: positions or a cell cannot be used.
    """
    kept = {id(x): self._entries.get(id(x)) for x in structures}
    entries = [kept[id(x)] or self.moving.find(x) for x in structures]
    self.num_searches += 1
    same_sizes = [x.num_atoms for x in structures] == [
      x.num_atoms for x in self.structures
    ]
    self.structures = tuple(structures)
    self._entries = {id(x): entry for x, entry in zip(structures, entries, strict=True)}
    widths = self.moving.widths(entries, self._widths[::-1])
    if widths not in self._widths:
      self._widths.append(widths)
    elif widths != self._widths[-1]:
      self._widths.remove(widths)
      self._widths.append(widths)
    # What the graphs need now is counted on the device, except the first time.
    if not same_sizes or not self.moving.fits(widths, self.budget):
      self.budget = self._budgets.fit_all(
        self.moving.estimate(entries, widths), self.structures
      )
    self._pack(entries)

  def grow(self, needs: np.ndarray) -> None:
    """Takes a budget for what graphs were found to need.

    Args:
      needs: [fields] from `evaluate`.
    """
    offer = budget_lib.capacity(self.budget).as_array()
    # Zero stands for what is known beforehand.
    sizes = type(self.budget)(*map(int, np.where(needs > 0, needs, offer)))
    self.budget = self._budgets.fit_all(sizes, self.structures)
    self._pack([self._entries[id(x)] for x in self.structures])

  def overflows(self, needs: np.ndarray) -> bool:
    """Whether graphs needed more than the budget, so that results are wrong."""
    return bool((needs > budget_lib.capacity(self.budget).as_array()).any())

  def motion(self, positions: np.ndarray, cell: np.ndarray) -> float:
    """By how much distances of the first structure may have changed, see `motion`."""
    return candidates.motion(self.structures[0], positions, cell, self.moving.reach)

  def _pack(self, entries: Sequence[Any]) -> None:
    budget = self.budget
    layout = layout_lib.Layout(
      [x.num_atoms for x in self.structures], budget, np.float64
    )
    fields = packing.structure_fields(
      self.structures, [0] * len(self.structures), layout, np.float64
    )
    positions, cell = fields.pop("positions"), fields.pop("cell")
    inverse = np.zeros_like(cell)
    for index, matrix in enumerate(cell):
      if np.linalg.matrix_rank(matrix) == 3:
        inverse[index] = np.linalg.inv(matrix)
    arrays = self.moving.pack(entries, self._widths[-1], budget.num_atoms)
    make: Any = Frame
    with jax.enable_x64(True):
      self.frame = jax.device_put(
        make(
          candidates=dict(arrays),
          fields=fields,
          num_real=np.int32(layout.num_atoms),
          positions=positions,
          inverse_cell=inverse,
        )
      )

  def evaluate(
    self, variables: Any, frame: Frame, positions: jax.Array, cell: jax.Array
  ) -> tuple[dict[str, jax.Array], jax.Array]:
    """Predicts the batch; traced with 64 bits enabled.

    Args:
      variables: those of the head.
      frame: `frame`.
      positions: [N, 3] float64, Å.
      cell: [G, 3, 3] float64, Å.

    Returns:
      What `SingleHead.apply` gives, and what the graphs need, see `overflows`.
    """
    atoms = moving_lib.Atoms(
      positions=positions,
      cell=cell,
      node_graph=frame.fields["node_graph"],
      n_node=frame.fields["n_node"],
      num_real=frame.num_real,
    )
    dtype = self.runner.dtype
    graphs, needs = self.moving.build(frame.candidates, atoms, self.budget, dtype)
    make: Any = batch_lib.Batch
    batch = make(
      positions=positions.astype(dtype),
      cell=cell.astype(dtype),
      graphs=graphs,
      targets={},
      **frame.fields,
    )
    return self.runner.apply(variables, batch), needs

  def run(
    self, name: str, function: Callable[..., Any], key: Hashable, *args: Any
  ) -> Any:
    """Runs a program that is compiled once for each budget.

    Args:
      name: name of the program.
      function: takes the head's variables, `frame` and `args`.
      key: what the function depends on beside the budget and shapes of candidates.
      *args: further arguments.

    Returns:
      What the function returns, on the host.
    """
    programs = self.runner.moving_programs
    whole = name, key, self.budget, self._widths[-1], self.moving
    with jax.enable_x64(True):
      arguments = self.runner.variables, self.frame, *args
      if whole not in programs:
        programs[whole] = compilation.compile_for(jax.jit(function), *arguments)
      begin = time.perf_counter()
      outputs = jax.device_get(programs[whole](*arguments))
      self.device_seconds += time.perf_counter() - begin
      return outputs

  def pad(self, positions: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, ...]:
    """Positions [n, 3] and cells [g, 3, 3] with the padding of the batch."""
    budget = self.budget
    padded = np.zeros((budget.num_atoms, 3))
    padded[: len(positions)] = positions
    padded_cells = np.zeros((budget.num_graphs, 3, 3))
    padded_cells[: len(cells)] = cells
    return padded, padded_cells


def motion_of(
  frame: Frame, positions: jax.Array, cell: jax.Array, reach: float, cell_moves: bool
) -> jax.Array:
  """[] by how much any distance may have changed, see `candidates.motion`; traced.

  Args:
    frame: where candidates were found.
    positions: [N, 3] now, Å.
    cell: [G, 3, 3] now, Å.
    reach: distance of the farthest candidates, Å.
    cell_moves: whether cells change.
  """
  before, strain = frame.positions, jnp.zeros(())
  if cell_moves:
    has_cell = (frame.inverse_cell != 0).any((1, 2), keepdims=True)
    deformation = jnp.where(has_cell, frame.inverse_cell @ cell, jnp.eye(3))
    of_atoms = deformation[frame.fields["node_graph"]]
    before = jnp.einsum("ni,nij->nj", before, of_atoms)
    strain = jnp.sqrt(((deformation - jnp.eye(3)) ** 2).sum((1, 2)).max())
  moved = jnp.where(frame.fields["atom_mask"][:, None], positions - before, 0)
  return 2 * jnp.sqrt((moved * moved).sum(1).max()) + strain * reach


class Stepper:
  """Predicts one structure after another, fast where only its atoms have moved."""

  def __init__(
    self, runner: single_head.SingleHead, skin: float | None = candidates.DEFAULT_SKIN
  ) -> None:
    """Takes a head; compiles nothing yet.

    Args:
      runner: the head.
      skin: see `System`; None builds all graphs on the host.
    """
    self._runner = runner
    self._seconds = 0.0
    self._system = None
    if skin is not None:
      with contextlib.suppress(CannotMoveError):
        self._system = System(runner, skin)
    self._budget = buckets.MovingBudget(runner.builder, runner.info.graph)

  @property
  def device_seconds(self) -> float:
    """Time that programs ran."""
    return self._seconds + (self._system.device_seconds if self._system else 0.0)

  def is_near(self, positions: np.ndarray, cell: np.ndarray) -> bool:
    """Whether atoms of the last structure can move here without a neighbor search."""
    system = self._system
    if system is None or not system.structures:
      return False
    return system.motion(positions, cell) <= system.moving.skin

  def predict(self, structure: Structure, is_same: bool = False) -> Outputs:
    """Normalised predictions of a structure, see `SingleHead.predict`.

    Args:
      structure: the structure.
      is_same: whether only positions and cell differ from the last one, and `is_near`.
    """
    if self._system is None:
      return self._on_host(structure)
    try:
      return self._on_device(self._system, structure, is_same)
    except (structure_lib.InvalidStructureError, moving_lib.CandidatesError):
      # The search that goes beyond the cutoff may fail where that up to it does not.
      self._system.structures = ()
      return self._on_host(structure)

  def _on_device(self, system: System, structure: Structure, is_same: bool) -> Outputs:
    if not is_same:
      system.renew([structure])
    while True:
      arguments = system.pad(structure.positions, np.asarray(structure.cell)[None])
      outputs, needs = system.run("evaluate", system.evaluate, None, *arguments)
      if not system.overflows(needs):
        return outputs
      system.grow(needs)

  def _on_host(self, structure: Structure) -> Outputs:
    runner = self._runner
    graphs = runner.builder.build(structure, runner.info.graph)
    budget = self._budget.fit(runner.builder.sizes(graphs), structure)
    item = packing.PackItem(graphs)
    batch = packing.pack([item], runner.builder, budget, runner.dtype)
    begin = time.perf_counter()
    outputs = jax.device_get(runner.predict(batch))
    self._seconds += time.perf_counter() - begin
    return outputs


def moved(structure: Structure, positions: np.ndarray, cell: np.ndarray) -> Structure:
  """A structure with other positions and another cell."""
  return dataclasses.replace(
    structure,
    positions=np.array(positions, np.float64),
    cell=np.array(cell, np.float64),
  )
