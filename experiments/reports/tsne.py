"""t-SNE pictures of embeddings, coloured by dataset."""

from collections.abc import Mapping
import pathlib

from matplotlib import collections
import numpy as np
from sklearn import manifold
from sklearn import preprocessing

from jmp_hk import figures

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
  size = float(np.clip(3000 / max(len(dataset), 1), 3, 25))
  with figures.style():
    canvas, axes = figures.panels(len(embeddings), size=(3.6, 3.6))
    for axis, (kind, values) in zip(axes, embeddings.items(), strict=True):
      points = project(values, perplexity, seed)
      for index, name in enumerate(names):
        chosen = points[dataset == name]
        colour = figures.COLOURS[index % len(figures.COLOURS)]
        axis.scatter(
          *chosen.T, s=size, color=colour, alpha=0.7, linewidths=0, label=name
        )
      axis.set(title=_TITLES.get(kind, kind), xlabel="t-SNE 1", ylabel="t-SNE 2")
      axis.set(xticks=[], yticks=[])
      axis.set_box_aspect(1)
    handles, labels = axes[0].get_legend_handles_labels()
    legend = canvas.legend(
      handles, labels, ncols=min(len(names), 5), loc="outside lower center"
    )
    for handle in legend.legend_handles:
      if isinstance(handle, collections.PathCollection):
        handle.set(sizes=[25], alpha=1)
    figures.save(canvas, path)
