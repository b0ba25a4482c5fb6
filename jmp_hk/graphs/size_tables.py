"""What the graphs of every structure of a split need.

Budgets are chosen from these tables. Conversion measures them for the default backbone
and stores them beside the shards; `jmp_hk.pipeline.sizes` measures what was not.
"""

import abc
from collections.abc import Sequence
import dataclasses
import functools
import json

import numpy as np

from jmp_hk import serialization
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config


def key(builder: builder_lib.GraphBuilder, graph: graph_config.GraphConfig) -> str:
  """Text that is equal where the sizes of all structures are, and says what decides.

  Args:
    builder: builds the graphs; its edge dropout does not count.
    graph: graph settings of the dataset.
  """
  settings = serialization.to_json(dataclasses.replace(builder, edge_dropout=0.0))
  del settings["edge_dropout"]
  return json.dumps(
    {
      "builder": type(builder).__qualname__,
      "version": builder.version,
      **settings,
      "graph": serialization.to_json(graph),
    }
  )


def row(
  structure: structure_lib.Structure,
  builder: builder_lib.GraphBuilder,
  graph: graph_config.GraphConfig,
) -> np.ndarray:
  """Sizes of one structure's graphs without edge dropout, [fields] int64.

  Raises:
    ValueError: its graphs cannot be built; an `InvalidStructureError` says why.
  """
  return builder.measure(structure, graph).as_array()


class SizesTable(abc.ABC):
  """What the graphs of every structure of a split need, without edge dropout.

  Attributes:
    kind: the backbone's class of budgets, whose `budget.names` name the columns.
  """

  def __init__(self, kind: type[budget_lib.Budget]) -> None:
    """Takes the class of budgets."""
    self.kind = kind

  @abc.abstractmethod
  def __len__(self) -> int:
    """Number of structures."""

  @functools.cached_property
  def values(self) -> np.ndarray:
    """[structures, fields] int32, in the order of the split."""
    return self.rows(np.arange(len(self)))

  @abc.abstractmethod
  def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """[k, fields] int32, the rows of some structures; reads only these."""

  @abc.abstractmethod
  def largest(self) -> budget_lib.Budget:
    """Field by field the largest of all structures; reads no rows."""

  def column(self, name: str) -> np.ndarray:
    """[structures] int32, one field of all structures."""
    return self.values[:, budget_lib.names(self.kind).index(name)]

  def budgets(self, indices: Sequence[int] | np.ndarray) -> list[budget_lib.Budget]:
    """What each of some structures needs."""
    return [self.kind(*entry) for entry in self.rows(indices).tolist()]


class ArraySizes(SizesTable):
  """A table in memory."""

  def __init__(self, kind: type[budget_lib.Budget], values: np.ndarray) -> None:
    """Takes the table.

    Args:
      kind: the backbone's class of budgets.
      values: [structures, fields] integers.

    Raises:
      ValueError: the fields are not those of the class.
    """
    super().__init__(kind)
    if values.shape[1:] != (len(budget_lib.names(kind)),):
      raise ValueError(
        f"Sizes should have the fields {', '.join(budget_lib.names(kind))}, but the "
        f"table has the shape {values.shape}."
      )
    self.values = np.asarray(values, np.int32)

  def __len__(self) -> int:
    """See `SizesTable`."""
    return len(self.values)

  def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """See `SizesTable`."""
    return self.values[np.asarray(indices, np.int64)]

  def largest(self) -> budget_lib.Budget:
    """See `SizesTable`."""
    return self.kind(*self.values.max(axis=0).tolist())
