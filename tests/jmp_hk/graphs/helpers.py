"""Slow, obvious versions of what the graph builder does, and small structures."""

import itertools

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.models.gemnet_oc.graphs import build as gemnet_build
from tests import shared_files

TASKS = ("oc20", "oc22", "ani1x", "transition1x")


def make_structure(
  positions, numbers=None, cell=None, pbc=False, tags=None, record_id="test:0"
) -> structure_lib.Structure:
  """A structure with defaults for everything but positions."""
  positions = np.asarray(positions)
  n = len(positions)
  return structure_lib.Structure(
    positions=positions,
    atomic_numbers=np.full(n, 6, np.int32) if numbers is None else numbers,
    cell=np.zeros((3, 3)) if cell is None else np.asarray(cell),
    pbc=np.broadcast_to(np.asarray(pbc, bool), (3,)).copy(),
    tags=np.full(n, 2, np.int32) if tags is None else np.asarray(tags, np.int32),
    fixed=np.zeros(n, bool),
    record_id=record_id,
  )


def golden_structures(name: str):
  """Structures, graph settings and raw arrays of one golden file.

  Returns:
    A list of (structure, config, first atom in the file) and the file itself.
  """
  data = np.load(shared_files.golden_file(f"{name}.npz"))
  result, first = [], 0
  for index, n in enumerate(data["in/natoms"]):
    atoms = slice(first, first + n)
    periodic = bool(data["in/pbc_used"][index].any())
    structure = structure_lib.Structure(
      positions=data["in/pos"][atoms],
      atomic_numbers=data["in/atomic_numbers"][atoms],
      cell=data["in/cell"][index],
      pbc=data["in/pbc_used"][index],
      tags=data["in/tags"][atoms].astype(np.int32),
      fixed=data["in/fixed"][atoms],
      record_id=f"{name}:{index}",
    )
    config = graph_config.GraphConfig(cutoff=12.0 if periodic else 8.0)
    result.append((structure, config, first))
    first += int(n)
  return result, data


def edge_set(edges) -> set[tuple[int, ...]]:
  """Edges as a set of (sender, receiver, offset)."""
  rows = np.column_stack([edges.senders, edges.receivers, edges.offsets])
  result = set(map(tuple, rows.tolist()))
  assert len(result) == len(rows), "an edge occurs twice"
  return result


def golden_edge_set(data, graph: str, first: int, n: int) -> set[tuple[int, ...]]:
  """Edges of one structure of a golden file."""
  index, offsets = data[f"graph/{graph}/edge_index"], data[f"graph/{graph}/cell_offset"]
  mine = (index[1] >= first) & (index[1] < first + n)
  rows = np.column_stack([index[:, mine].T - first, offsets[mine]])
  return set(map(tuple, rows.astype(int).tolist()))


def brute_force_edges(structure, cutoff: float) -> dict[tuple[int, ...], float]:
  """Every edge within the cutoff with its distance, by trying all offsets."""
  positions = np.asarray(structure.positions, np.float64)
  cell = np.asarray(structure.cell, np.float64)
  pbc = np.asarray(structure.pbc, bool)
  basis = cell.copy()
  if pbc.any() and not pbc.all():
    basis[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
  reach = [0, 0, 0]
  if pbc.any():
    inverse = np.linalg.inv(basis)
    spread = np.ptp(positions @ inverse, axis=0)
    reach = np.ceil(cutoff * np.linalg.norm(inverse, axis=0) + spread).astype(int) * pbc
  result = {}
  for offset in itertools.product(*(range(-r, r + 1) for r in reach)):
    moved = positions + np.array(offset) @ cell
    distances = np.linalg.norm(moved[:, None] - positions[None], axis=-1)
    inside = distances <= cutoff if pbc.any() else distances < cutoff
    for s, t in zip(*np.nonzero(inside & (distances > 0.01))):
      result[(int(s), int(t), *offset)] = float(distances[s, t])
  return result


def nearest(edges: dict[tuple[int, ...], float], count: int) -> set[tuple[int, ...]]:
  """The nearest per receiver; only for structures without ties."""
  result = set()
  for receiver in {edge[1] for edge in edges}:
    mine = sorted((d, edge) for edge, d in edges.items() if edge[1] == receiver)
    result |= {edge for _, edge in mine[:count]}
  return result


def reverse(edge: tuple[int, ...]) -> tuple[int, ...]:
  s, t, *offset = edge
  return (t, s, *(-o for o in offset))


def random_structure(seed: int, n: int, pbc, unwrap: int = 0, zero: bool = False):
  """Random atoms in a random skewed cell, perhaps spread over several cells."""
  rng = np.random.default_rng(seed)
  pbc = np.broadcast_to(np.asarray(pbc, bool), (3,))
  cell = np.diag(rng.uniform(2.5, 6.0, 3)) + rng.uniform(-0.8, 0.8, (3, 3))
  positions = rng.uniform(0, 1, (n, 3)) @ cell
  shift = rng.integers(-unwrap, unwrap + 1, (n, 3)) * pbc
  if zero:
    cell[~pbc] = 0.0
  return make_structure(
    positions + shift @ cell,
    numbers=rng.integers(1, 20, n).astype(np.int32),
    cell=cell,
    pbc=pbc,
    tags=rng.integers(0, 3, n),
  )


def check_structure_graphs(graphs: gemnet_build.GemNetOCStructureGraphs) -> None:
  """Checks reverse edges, pairs, slots and exclusions by looking each one up."""
  main = [
    tuple(r)
    for r in np.column_stack(
      [graphs.main.senders, graphs.main.receivers, graphs.main.offsets]
    ).tolist()
  ]
  for edges in (graphs.main, graphs.a2a, graphs.a2ee2a, graphs.qint):
    assert (np.diff(edges.receivers) >= 0).all()
  assert [main[i] for i in graphs.reverse_edge] == [reverse(e) for e in main]
  slot_of, seen = {}, {}
  for edge in main:
    slot_of[edge] = seen.get(edge[1], 0)
    seen[edge[1]] = slot_of[edge] + 1
  qint_into = {}
  qint = graphs.qint
  for s, t, offset in zip(qint.senders, qint.receivers, qint.offsets):
    qint_into.setdefault(int(t), []).append((int(s), offset.astype(int)))
  width = max(map(len, qint_into.values()), default=0)
  assert graphs.quad_exclusion.shape == (len(main), width)
  for (c, a, *offset), row in zip(main, graphs.quad_exclusion):
    expected = [
      slot_of.get((c, b, *map(int, np.array(offset) - offset_b)), -1)
      for b, offset_b in qint_into.get(a, [])
    ]
    assert row.tolist() == expected + [-1] * (width - len(expected))
  senders_of = {}
  for s, t in graphs.a2a_pairs.tolist():
    senders_of.setdefault(t, []).append(s)
  for s, t, slot in zip(graphs.a2a.senders, graphs.a2a.receivers, graphs.a2a_slot):
    assert senders_of[int(t)][slot] == s
  assert {(int(s), int(t)) for s, t in graphs.a2a_pairs} == {
    (int(s), int(t)) for s, t in zip(graphs.a2a.senders, graphs.a2a.receivers)
  }


def batch_edges(batch: batch_lib.Batch, name: str) -> list[tuple[int, ...]]:
  """Real edges of one edge set of a batch as (sender, receiver, offset)."""
  edges = getattr(batch.graphs, name)
  real = batch.atom_mask[edges.receivers]
  rows = np.column_stack([edges.senders, edges.receivers, edges.edges["cell_offsets"]])
  return list(map(tuple, rows[real].tolist()))
