"""t-SNE pictures of embeddings, coloured by dataset."""

from collections.abc import Mapping
import pathlib

from matplotlib import figure
import numpy as np
from sklearn import manifold
from sklearn import preprocessing

_TITLES = {"nodes": "Atom embeddings", "edges": "Edge embeddings"}


def project(embeddings: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
  """Two-dimensional t-SNE of standardised embeddings.

  Args:
    embeddings: [structures, channels].
    perplexity: lowered where there are too few structures for it.
    seed: seed of the optimisation.

  Returns:
    [structures, 2].
  """
  count = len(embeddings)
  if count < 3:
    return np.stack([np.arange(count), np.zeros(count)], axis=1)
  scaled = preprocessing.StandardScaler().fit_transform(embeddings.astype(np.float64))
  return manifold.TSNE(
    perplexity=min(perplexity, (count - 1) / 3), init="pca", random_state=seed
  ).fit_transform(scaled)


def plot(
  embeddings: Mapping[str, np.ndarray],
  dataset: np.ndarray,
  path: pathlib.Path,
  perplexity: float = 30.0,
  seed: int = 0,
) -> None:
  """Draws one panel for each kind of embedding.

  Args:
    embeddings: [structures, channels] by kind, "nodes" or "edges".
    dataset: [structures] names.
    path: PNG file to write.
    perplexity: perplexity of t-SNE.
    seed: seed of t-SNE.
  """
  names = list(dict.fromkeys(dataset.tolist()))
  canvas = figure.Figure(figsize=(5 * len(embeddings), 5), layout="constrained")
  axes = canvas.subplots(1, len(embeddings), squeeze=False)[0]
  for axis, (kind, values) in zip(axes, embeddings.items(), strict=True):
    points = project(values, perplexity, seed)
    for index, name in enumerate(names):
      chosen = points[dataset == name]
      axis.scatter(chosen[:, 0], chosen[:, 1], s=8, color=f"C{index % 10}", label=name)
    axis.set(title=_TITLES.get(kind, kind), xticks=[], yticks=[])
  axes[0].legend(markerscale=2)
  canvas.savefig(path, dpi=150)
