"""The published quadruplet sum, from an explicit list; slow and obvious.

Facts 10 to 15 of the published implementation, with the stable rule for collinear
atoms: the dihedral's cosine is zero where an atom lies on the axis.
"""

import itertools

import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models.gemnet_oc import quadruplet_geometry


def _edges(batch: batch_lib.Batch, name: str):
  """Real edges as (sender, receiver, offset, unit vector)."""
  graph = getattr(batch.graphs, name)
  result = []
  for s, t, o in zip(
    graph.senders, graph.receivers, graph.edges["cell_offsets"], strict=True
  ):
    if batch.atom_mask[t]:
      cell = batch.cell[batch.node_graph[t]]
      vector = batch.positions[t] - batch.positions[s] - o @ cell
      result.append((int(s), int(t), o, vector / np.linalg.norm(vector)))
  return result


def legendre(x: float, order: int) -> np.ndarray:
  """Y_l(x) for l < order."""
  return np.polynomial.legendre.legvander(np.array([x]), order - 1)[0] * np.sqrt(
    (2 * np.arange(order) + 1) / (4 * np.pi)
  )


def cosine_of_dihedral(axis, to_c, to_d) -> float:
  """Of vectors c→a and d→b about the unit vector b→a."""
  across_c, across_d = np.cross(to_c, axis), np.cross(to_d, axis)
  sines = np.linalg.norm(across_c), np.linalg.norm(across_d)
  if min(sines) <= quadruplet_geometry.COLLINEAR_SINE:
    return 0.0
  return float(np.clip(across_c @ across_d / (sines[0] * sines[1]), -1, 1))


def _same(first, second) -> bool:
  """Whether two (atom, image) pairs are one."""
  return first[0] == second[0] and bool((first[1] == second[1]).all())


def quadruplets(batch: batch_lib.Batch):
  """Yields (main edge c→a, qint edge, main edge d→b) as indices among real edges.

  Images are counted from atom a in its own cell.
  """
  main, qint = _edges(batch, "main"), _edges(batch, "qint")
  into = {}
  for i, edge in enumerate(main):
    into.setdefault(edge[1], []).append(i)
  origin = np.zeros(3, int)
  for q, (b, a, o_ba, _) in enumerate(qint):
    for e, f in itertools.product(into.get(a, []), into.get(b, [])):
      c, d = (main[e][0], main[e][2]), (main[f][0], main[f][2] + o_ba)
      if _same(d, (a, origin)) or _same(c, (b, o_ba)) or _same(c, d):
        continue
      yield e, q, f


def sums(batch: batch_lib.Batch, messages: np.ndarray, order: int) -> np.ndarray:
  """Σ over q and f of Y_l1(cos φ_cab) Y_l2(cos θ_cabd) w_fq, for every main edge.

  Args:
    batch: packed structures.
    messages: [Q, K, c] w_fq by qint edge and slot of f in b's table row.
    order: number of orders.

  Returns:
    [E, order (l2), order (l1), c] and the number of quadruplets.
  """
  main, qint = _edges(batch, "main"), _edges(batch, "qint")
  result = np.zeros((len(batch.graphs.main.senders), order, order, messages.shape[-1]))
  count = 0
  for e, q, f in quadruplets(batch):
    count += 1
    axis, to_c, to_d = qint[q][3], main[e][3], main[f][3]
    angle = legendre(np.clip(to_c @ axis, -1, 1), order)
    dihedral = legendre(cosine_of_dihedral(axis, to_c, to_d), order)
    message = messages[q, batch.graphs.main_slot[f]]
    result[e] += np.einsum("p,l,c->plc", dihedral, angle, message)
  return result, count
