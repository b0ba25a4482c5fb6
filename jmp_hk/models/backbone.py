"""What a backbone is: the contract between models and message-passing networks.

A backbone is a frozen dataclass of hyper-parameters that knows how to build the
network. To add one, write such a class in a folder of its own, derive it from
`BackboneConfig` and decorate it with `register("name")`; everything else (heads,
training, checkpoints, prediction) works with it as it does with GemNet-OC.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import importlib
from typing import ClassVar
from typing import NamedTuple
from typing import TypeVar

import haiku as hk
import jax

from jmp_hk import ranges
from jmp_hk import serialization
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import builder as builder_lib

# Modules that register a backbone when they are imported.
_BUILT_IN = {"gemnet_oc": "jmp_hk.models.gemnet_oc.presets"}

ConfigT = TypeVar("ConfigT", bound="type[BackboneConfig]")


class Embeddings(NamedTuple):
  """What the heads read.

  Attributes:
    nodes: [N, channels] final atom embeddings, zero for padding.
    edges: [E, channels] final embeddings of the edges that carry directions, zero for
      padding; None where the backbone has no such edges.
    vectors: [E, 3] unit vectors of those edges, zero for padding, or None.
    receivers: [E] int32, atom that each of those edges points to, ascending, or None.
  """

  nodes: jax.Array
  edges: jax.Array | None
  vectors: jax.Array | None
  receivers: jax.Array | None


@dataclasses.dataclass(frozen=True)
class BackboneConfig(serialization.Polymorphic, abc.ABC):
  """Hyper-parameters of a backbone, and how it is built from them.

  Attributes:
    atom_channels: width of the initial atom embeddings.
    num_elements: rows of the atom embedding; row Z - 1 belongs to element Z.
    direct_vectors: whether `Embeddings.edges` is wanted, which heads of direct forces
      and other vectors need.
    edge_dropout: probability with which the host leaves out each directed edge in
      training.
    dropout: dropout rate inside the network in training.
    remat: keep only the inputs of blocks for the backward pass and compute their
      insides again: less memory, more time, the same numbers.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "atom_channels": ranges.POSITIVE_COUNT,
    "num_elements": ranges.POSITIVE_COUNT,
    "edge_dropout": ranges.DECAY,
    "dropout": ranges.DECAY,
  }

  atom_channels: int = 256
  num_elements: int = 120
  direct_vectors: bool = True
  edge_dropout: float = 0.0
  dropout: float = 0.0
  remat: bool = False

  # Classes by the name under which their configs are stored; filled by `register`.
  registry: ClassVar[dict[str, type[BackboneConfig]]] = {}
  # Name that a stored config without one has.
  default_type: ClassVar[str] = "gemnet_oc"

  def __post_init__(self) -> None:
    ranges.check(self)

  @classmethod
  def find_class(cls, name: str) -> type[BackboneConfig]:
    """The class of a stored configuration; imports the built-in ones."""
    if name not in cls.registry and name in _BUILT_IN:
      importlib.import_module(_BUILT_IN[name])
    return super().find_class(name)

  @property
  @abc.abstractmethod
  def graph_builder(self) -> builder_lib.GraphBuilder:
    """Builds and packs the graphs that this backbone reads, on the host."""

  @abc.abstractmethod
  def embed(
    self, h: jax.Array, batch: batch_lib.Batch, *, is_training: bool
  ) -> Embeddings:
    """Builds the network inside `hk.transform` and applies it.

    Args:
      h: [N, atom_channels] initial atom embeddings, zero for padding.
      batch: packed structures.
      is_training: switches dropout and the like on.

    Returns:
      The final embeddings.
    """

  def describe(self) -> str:
    """The backbone in a few words, for tables and messages."""
    return f"{self.type_name} with {self.atom_channels} atom channels"

  @property
  def dense_modules(self) -> tuple[type[hk.Module], ...]:
    """Classes of modules that are dense layers, see `precision.Policy`.

    What is in none of these classes, nor in those below, is always computed in true
    float32, with every precision that a model can have.
    """
    return ()

  @property
  def message_modules(self) -> tuple[type[hk.Module], ...]:
    """Classes of modules that sum messages over neighbors, see `precision.Policy`."""
    return ()

  @property
  def learning_rate_factors(self) -> tuple[tuple[str, float], ...]:
    """Factors of the learning rate by which a trained backbone is fine-tuned.

    They are ((pattern, factor), ...), see `training.config.OptimizerConfig`; by default
    there are none, and everything learns at the full rate.
    """
    return ()

  def process_gradients(self, gradients: hk.MutableParams) -> hk.MutableParams:
    """Changes the summed gradients before they are clipped; by default not at all."""
    return gradients

  def fit_state(
    self,
    embed: Embed,
    params: hk.Params,
    state: hk.State,
    batches: Sequence[batch_lib.Batch],
    on_progress: Callable[[str, float], None] = lambda name, value: None,
    together: int = 1,
  ) -> hk.MutableState:
    """Fits what is neither drawn nor trained (scale factors) before the first step.

    Args:
      embed: applies a backbone, which may be a changed copy of this one.
      params: fresh parameters of the model.
      state: fresh Haiku state of the model.
      batches: packed structures of one shape, a sample of the training data.
      on_progress: called with a name and its value after each fit.
      together: how many of them, one after another, are the microbatches of a step.

    Returns:
      The state to start from; by default the given one.
    """
    del embed, params, batches, on_progress, together
    return {module: dict(leaves) for module, leaves in state.items()}


# (backbone, params, state, batch) → embeddings of the model with that backbone.
Embed = Callable[[BackboneConfig, hk.Params, hk.State, batch_lib.Batch], Embeddings]


def register(name: str) -> Callable[[ConfigT], ConfigT]:
  """Registers a class of backbones under the name that its stored configs carry.

  Args:
    name: unique name, e.g. "gemnet_oc".

  Returns:
    A decorator of subclasses of `BackboneConfig`.

  Raises:
    ValueError: the name is taken by another class.
  """

  def decorate(cls: ConfigT) -> ConfigT:
    serialization.add_class(BackboneConfig.registry, name, cls, "backbone")
    cls.type_name = name
    return cls

  return decorate


_PRESETS: dict[str, BackboneConfig] = {}


def register_presets(presets: Mapping[str, BackboneConfig]) -> None:
  """Names configurations, for `preset` and the flag `--model`."""
  _PRESETS.update(presets)


def presets() -> tuple[str, ...]:
  """Names of all known configurations, those of the built-in backbones first."""
  for module in _BUILT_IN.values():
    importlib.import_module(module)
  is_added = lambda name: _PRESETS[name].type_name not in _BUILT_IN
  return tuple(sorted(_PRESETS, key=is_added))


def preset(name: str) -> BackboneConfig:
  """A named configuration.

  Args:
    name: one of `presets()`.

  Raises:
    ValueError: the name is not known.
  """
  if name not in presets():
    raise ValueError(
      f"There is no model preset {name!r}; choose one of {', '.join(presets())}."
    )
  return _PRESETS[name]
