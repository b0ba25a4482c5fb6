"""Edge features from the features of both atoms and of the edge itself."""

import haiku as hk
import jax

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models.gemnet_oc import layers


class EdgeEmbedding(hk.Module):
  """New edge features from both atoms and the edge itself."""

  def __init__(self, channels: int, *, dropout: float = 0.0, name: str):
    super().__init__(name=name)
    self._channels = channels
    self._dropout = dropout

  def __call__(
    self, h: jax.Array, edge_features: jax.Array, batch: batch_lib.Batch
  ) -> jax.Array:
    """act(W [h_s, h_t, features]).

    The two atom parts are multiplied per atom and gathered, which costs less than
    multiplying gathered rows.

    Args:
      h: [N, atom].
      edge_features: [E, any].
      batch: packed structures.

    Returns:
      [E, channels].
    """
    atoms = h.shape[-1]
    inputs = 2 * atoms + edge_features.shape[-1]
    dense = SplitDense(self._channels, (atoms, atoms), inputs)
    source, target, edge = dense(h, h, edge_features)
    x = layers.scaled_silu(
      source[batch.main.senders] + target[batch.main.receivers] + edge
    )
    if self._dropout:
      x = hk.dropout(hk.next_rng_key(), self._dropout, x)
    return x


class SplitDense(layers.Dense):
  """A dense layer on a concatenation, with the product taken part by part."""

  def __init__(self, channels: int, splits: tuple[int, int], inputs: int):
    super().__init__(channels, name="dense")
    self._splits = splits
    self._inputs = inputs

  def __call__(self, *parts: jax.Array) -> tuple[jax.Array, ...]:
    """Maps parts [..., n_i] to their contributions [..., channels]."""
    w = self.weight(self._inputs, parts[0].dtype)
    first, second = self._splits
    pieces = (w[:first], w[first : first + second], w[first + second :])
    return tuple(part @ piece for part, piece in zip(parts, pieces, strict=True))
