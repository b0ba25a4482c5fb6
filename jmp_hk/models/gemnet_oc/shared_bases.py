"""Everything the blocks share: projected bases and geometry in contraction order."""

import re

import haiku as hk
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from jmp_hk import pytrees
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import bases
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import edges as edges_lib
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import quadruplet_geometry

_SHARED = re.compile(r"^backbone/bases/mlp_\w+$")


@pytrees.dataclass
class SharedBases:
  """Projected bases; sizes as in `geometry.Geometry`, P the a2a table width.

  Attributes:
    triplet_radial: [E, rbf].
    triplet_circular: [E, cbf, L] radial weights per Legendre order.
    quad_radial: [E, rbf].
    quad_circular: [Q, K, cbf] circular basis of the angle a-b-d.
    quad_spherical: [E, sbf, (L + 1)·L] radial weights per (Fourier order, Legendre
      order); Fourier order L stands for the terms with cos θ = 0.
    quad_output: [N, L + 1, K·L, 2·W] geometry that turns the Fourier sums of qint
      edges into sums per main edge; the last order holds cos θ = 0 terms.
    atom_edge_radial: [B, rbf].
    atom_edge_circular: [E, cbf, L].
    edge_atom_radial: [E, rbf].
    edge_atom_circular: [N, cbf, K] weight of each main edge into an atom, summed over
      the atom's a2ee2a edges and Legendre orders.
    pair_radial: [N, P, rbf], summed over the periodic images of a sender.
    update_radial: [E, rbf] for atom updates.
    output_radial: [E, rbf] for output blocks.
  """

  triplet_radial: jax.Array
  triplet_circular: jax.Array
  quad_radial: jax.Array
  quad_circular: jax.Array
  quad_spherical: jax.Array
  quad_output: jax.Array
  atom_edge_radial: jax.Array
  atom_edge_circular: jax.Array
  edge_atom_radial: jax.Array
  edge_atom_circular: jax.Array
  pair_radial: jax.Array
  update_radial: jax.Array
  output_radial: jax.Array


class BasisEmbeddings(hk.Module):
  """Computes `SharedBases`; holds the twelve projections that all blocks share."""

  def __init__(
    self, config: config_lib.BasesConfig, edge_channels: int, name: str = "bases"
  ):
    """Builds the projections.

    Args:
      config: sizes of the bases.
      edge_channels: width of the edge embeddings.
      name: name of the module.
    """
    super().__init__(name=name)
    self._config = config
    self._edge_channels = edge_channels

  def __call__(
    self, h: jax.Array, batch: batch_lib.Batch, geometry: geometry_lib.Geometry
  ) -> tuple[SharedBases, jax.Array]:
    """Evaluates all bases of a batch.

    Args:
      h: [N, atom] initial atom embeddings.
      batch: packed structures.
      geometry: its geometry.

    Returns:
      The bases, and the initial edge embeddings [E, edge], zero for padding.
    """
    config = self._config
    main = self._radial(geometry.main)
    a2ee2a = self._radial(geometry.a2ee2a)

    def project(radial, name):
      return bases.RadialProjection(config.radial_channels, name=name)(radial)

    m = layers.EdgeEmbedding(self._edge_channels, name="edge_emb")(
      h, main.astype(h.dtype), batch
    )
    m = jnp.where(geometry.main.mask[:, None], m, 0)
    shared = SharedBases(
      triplet_radial=project(main, "mlp_rbf_tint"),
      triplet_circular=self._circular(main, "mlp_cbf_tint"),
      quad_radial=project(main, "mlp_rbf_qint"),
      quad_circular=self._quad_circular(geometry),
      # The largest of them; what all blocks add to its derivative stays as small.
      quad_spherical=self._quad_spherical(main).astype(h.dtype),
      quad_output=quad_output_weights(geometry.quadruplets),
      atom_edge_radial=project(a2ee2a, "mlp_rbf_aeint"),
      atom_edge_circular=self._circular(main, "mlp_cbf_aeint"),
      edge_atom_radial=project(main, "mlp_rbf_eaint"),
      edge_atom_circular=self._edge_atom(batch, geometry, a2ee2a),
      pair_radial=self._pair_radial(batch, geometry),
      update_radial=project(main, "mlp_rbf_h"),
      output_radial=project(main, "mlp_rbf_out"),
    )
    return shared, m

  @hk.transparent
  def _radial(self, edges: edges_lib.Edges) -> jax.Array:
    return bases.radial_basis(
      edges.distances,
      edges.mask,
      self._config.num_radial,
      self._config.radial_cutoff,
      self._config.envelope_exponent,
      edges.weights,
    )

  @hk.transparent
  def _circular(self, radial: jax.Array, name: str) -> jax.Array:
    config = self._config
    return bases.BasisProjection(
      config.circular_channels, config.num_spherical, name=name
    )(radial)

  @hk.transparent
  def _quad_circular(self, geometry: geometry_lib.Geometry) -> jax.Array:
    weights = self._circular(self._radial(geometry.qint), "mlp_cbf_qint")
    return jnp.einsum("qcl,qlj->qjc", weights, geometry.quadruplets.cos_abd)

  @hk.transparent
  def _quad_spherical(self, radial: jax.Array) -> jax.Array:
    """Radial weights with the dihedral's Legendre series turned to cosines.

    What follows the last order k multiplies sums over dihedrals with cos θ = 0.
    """
    config = self._config
    order, channels = config.num_spherical, config.spherical_channels
    projection = bases.BasisProjection(channels, order**2, name="mlp_sbf_qint")
    weight = projection.weight(radial).reshape(-1, channels, order, order)
    to_cosines = jnp.asarray(bases.legendre_to_cosines(order), weight.dtype)
    weight = jnp.einsum("rcpl,lk->rckp", weight, to_cosines)
    series = radial @ weight.reshape(radial.shape[-1], -1)
    series = series.reshape(-1, channels, order, order)
    cosines = enumerate(perpendicular_cosines(order).tolist())
    perpendicular = sum(cosine * series[:, :, k] for k, cosine in cosines if cosine)
    series = jnp.concatenate([series, jnp.asarray(perpendicular)[:, :, None]], axis=2)
    return series.reshape(-1, channels, (order + 1) * order)

  @hk.transparent
  def _edge_atom(
    self,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    radial: jax.Array,
  ) -> jax.Array:
    weights = self._circular(radial, "mlp_cbf_eaint")
    graphs = batch.graphs
    places = edges_lib.places(batch, graphs.a2ee2a, graphs.a2ee2a_table)
    weights = indexing.to_table(weights, places)
    return jnp.einsum("nocl,njlo->ncj", weights, geometry.edge_atom)

  @hk.transparent
  def _pair_radial(
    self, batch: batch_lib.Batch, geometry: geometry_lib.Geometry
  ) -> jax.Array:
    projected = bases.RadialProjection(
      self._config.radial_channels, name="mlp_rbf_aint"
    )(self._radial(geometry.a2a))
    num_atoms, width = batch.graphs.a2a_senders.shape
    slots = batch.graphs.a2a.receivers * width + batch.graphs.a2a_slot
    summed = jraph.segment_sum(projected, slots, num_atoms * width)
    return summed.reshape(num_atoms, width, -1)


def quad_output_weights(quads: quadruplet_geometry.QuadrupletGeometry) -> jax.Array:
  """Y_l(cos φ_cab) times the phases of c, in the order of the contraction.

  Args:
    quads: quadruplet geometry.

  Returns:
    [N, L + 1, K·L, 2·W]. Order k < L holds (cos kα_c, sin kα_c); order L holds
    (1, collinear), which multiplies the sums over collinear d and over all other d.
  """
  cos_cab = quads.cos_cab.transpose(0, 1, 3, 2)  # [N, K, L, W]
  num_atoms, width, order, axes = cos_cab.shape
  perpendicular = jnp.stack([jnp.ones_like(quads.collinear), quads.collinear], axis=2)
  phases = jnp.concatenate([quads.output_phases, perpendicular[:, None]], axis=1)
  weights = cos_cab[:, None, :, :, None] * phases[:, :, :, None]
  return weights.reshape(num_atoms, order + 1, width * order, 2 * axes)


def perpendicular_cosines(num_spherical: int) -> np.ndarray:
  """cos(kπ/2) for k = 0 … num_spherical - 1: the dihedral of collinear atoms."""
  return np.array([1.0, 0.0, -1.0, 0.0] * num_spherical)[:num_spherical]


def num_uses(module: str, num_blocks: int) -> int:
  """How often the blocks of a backbone use the parameters of a module.

  Args:
    module: path of the module.
    num_blocks: number of interaction blocks.

  Returns:
    For the twelve shared projections the number of blocks, of which there is one more
    for the projection of output blocks; 1 for all others.
  """
  if not _SHARED.match(module):
    return 1
  return num_blocks + 1 if module.endswith("mlp_rbf_out") else num_blocks


def divide_shared_gradients(
  gradients: hk.MutableParams, num_blocks: int
) -> hk.MutableParams:
  """Divides the gradients of the shared basis projections by their number of uses.

  The published training does so; without it these projections would learn several
  times as fast as the rest.

  Args:
    gradients: Haiku tree, before clipping.
    num_blocks: number of interaction blocks.

  Returns:
    The tree with shared gradients divided.
  """
  divided = {}
  for module, leaves in gradients.items():
    uses = num_uses(module, num_blocks)
    divided[module] = {name: gradient / uses for name, gradient in leaves.items()}
  return divided
