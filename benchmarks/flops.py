"""Floating-point operations of the dense layers, counted from parameter shapes.

Every weight matrix of the model is used once per pass on the rows of one kind (main
edges, atoms, …), so a pass costs 2 × (entries of the weight) × (rows). Only real rows
count, no padding. Contractions over neighbors, basis functions and everything
element-wise count as nothing.

Layers on concatenations [h_source, h_target, features] are counted as they are
evaluated: the atoms' parts once per atom, not once per edge.
"""

from collections.abc import Iterator
import dataclasses
import re

import haiku as hk
import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import heads
from jmp_hk.models import model as model_lib

# Passes over a dense layer in a training step. Direct: forward, gradient of the
# input, gradient of the weight. Conservative: forward; input gradient (for the
# forces); then, backwards through both, two gradients of the weight, one of the
# input and one of the output gradient.
_DIRECT, _CONSERVATIVE = 3, 6
# Without a trained layer before it, a basis projection needs no gradient of its input
# in the backward pass (it does for the forces).
_DIRECT_BASIS, _CONSERVATIVE_BASIS = 2, 5

# Kind of rows by parameter path; the first match counts.
_ROWS = (
  (r"bases/mlp_rbf_aeint|bases/mlp_cbf_eaint", "a2ee2a"),
  (r"bases/mlp_rbf_aint", "a2a"),
  (r"bases/mlp_cbf_qint", "qint"),
  (r"bases/", "main"),
  (r"quad_interaction/mlp_cbf", "quad_inputs"),
  (r"atom_edge_interaction/dense_ba", "atoms"),
  (r"atom_edge_interaction/(mlp_rbf|down_projection)", "a2ee2a"),
  (r"edge_atom_interaction/(mlp_cbf|up_projection)", "atoms"),
  (r"atom_interaction/", "atoms"),
  (r"(atom_update|out_blocks_\d+)/dense_rbf", "main"),
  (r"(atom_update|out_blocks_\d+)/layers_", "atoms"),
  (r"atom_emb_layers|seq_energy2|out_mlp_E", "atoms"),
  (r"int_blocks|out_blocks|out_mlp_F", "main"),
)
_CONCATENATIONS = re.compile(r"(edge_emb|concat_layer)/dense")
_BASIS = re.compile(r"bases/(mlp_|edge_emb)")
# What does not depend on positions yet: its forces are zero and cost nothing.
_BEFORE_POSITIONS = re.compile(
  r"int_blocks_0/(atom_interaction/down_projection|atom_edge_interaction/dense_ba)"
)


@dataclasses.dataclass(frozen=True)
class Rows:
  """Real rows of a batch by kind.

  Attributes:
    atoms: atoms.
    main: main edges.
    a2ee2a: edges of the atom-edge interactions.
    a2a: atom-to-atom edges.
    qint: intermediate edges of quadruplets.
    quad_inputs: pairs of an intermediate edge and a main edge into its source.
    atoms_by_task: atoms of each task.
    main_by_task: main edges of each task.
  """

  atoms: int
  main: int
  a2ee2a: int
  a2a: int
  qint: int
  quad_inputs: int
  atoms_by_task: tuple[int, ...]
  main_by_task: tuple[int, ...]


def count_rows(batch: batch_lib.Batch, num_tasks: int) -> Rows:
  """Counts the real rows of a batch that was packed for GemNet-OC.

  Args:
    batch: packed structures, as NumPy arrays.
    num_tasks: number of tasks of the model.
  """
  real = np.asarray(batch.graph_mask)
  graphs = batch.graphs
  edges = {
    name: int(np.asarray(getattr(graphs, name).n_edge)[real].sum())
    for name in ("main", "a2a", "a2ee2a", "qint")
  }
  degree = (np.asarray(graphs.main_table) >= 0).sum(1)
  inputs = degree[np.asarray(graphs.qint.senders)[: edges["qint"]]].sum()
  by_task = lambda counts: tuple(
    int(counts[real & (np.asarray(batch.task) == task)].sum())
    for task in range(num_tasks)
  )
  return Rows(
    atoms=int(np.asarray(batch.atom_mask).sum()),
    quad_inputs=int(inputs),
    atoms_by_task=by_task(np.asarray(batch.n_node)),
    main_by_task=by_task(np.asarray(graphs.main.n_edge)),
    **edges,
  )


def forward_flops(config: model_lib.ModelConfig, params: hk.Params, rows: Rows) -> int:
  """Operations of one forward pass.

  Args:
    config: configuration of the model.
    params: its parameters, or their shapes.
    rows: numbers of rows in the batch.
  """
  return sum(flops for _, flops, _ in _layers(config, params, rows))


def training_flops(config: model_lib.ModelConfig, params: hk.Params, rows: Rows) -> int:
  """Operations of the gradient of the loss with respect to all parameters.

  Arguments are those of `forward_flops`. Conservative models have a loss on forces, so
  their gradient is of second order.
  """
  return sum(
    flops * _passes(path, is_basis, config.is_conservative)
    for path, flops, is_basis in _layers(config, params, rows)
  )


def _passes(path: str, is_basis: bool, is_conservative: bool) -> int:
  if not is_conservative:
    return _DIRECT_BASIS if is_basis else _DIRECT
  if is_basis:
    return _CONSERVATIVE_BASIS
  return _DIRECT if _BEFORE_POSITIONS.search(path) else _CONSERVATIVE


def _layers(
  config: model_lib.ModelConfig, params: hk.Params, rows: Rows
) -> Iterator[tuple[str, int, bool]]:
  """(path, forward operations, whether its input is a fixed basis) of every weight."""
  head_rows = _head_rows(config, rows)
  atom_parts = 2 * config.backbone.atom_channels
  for path, weight in jax.tree_util.tree_leaves_with_path(params):
    module, name = (entry.key for entry in path)
    if name != "w":
      continue
    head = module.split("/")[0]
    if head in head_rows:
      num_tasks, count = head_rows[head]
      yield module, 2 * weight.size // num_tasks * count, False
      continue
    kind = row_kind(module)
    is_basis = _BASIS.search(module) is not None
    count = getattr(rows, kind)
    if _CONCATENATIONS.search(module):
      of_atoms = atom_parts * weight.shape[-1]
      # Initial atom embeddings do not depend on positions, like int_blocks_0/…
      path_of_atoms = "int_blocks_0/atom_interaction/down_projection"
      yield path_of_atoms if is_basis else module, 2 * of_atoms * rows.atoms, False
      yield module, 2 * (weight.size - of_atoms) * count, is_basis
    else:
      yield module, 2 * weight.size * count, is_basis


def row_kind(module: str) -> str:
  """Which field of `Rows` a backbone module's weight is applied to.

  Raises:
    KeyError: the module is not known here.
  """
  for pattern, kind in _ROWS:
    if re.search(pattern, module):
      return kind
  raise KeyError(f"Which rows does the layer {module!r} act on? See {__name__}._ROWS.")


def _head_rows(config: model_lib.ModelConfig, rows: Rows) -> dict[str, tuple[int, int]]:
  """Number of weight sets and rows of every head, by module name."""
  result = {}
  for plan in heads.plan_heads(config.tasks):
    of_edges = plan.target.spec.needs_edges
    counts = rows.main_by_task if of_edges else rows.atoms_by_task
    count = sum(n for n, head in zip(counts, plan.task_head, strict=True) if head >= 0)
    result[f"out_{plan.target.name}"] = (plan.num_heads, count)
  return result
