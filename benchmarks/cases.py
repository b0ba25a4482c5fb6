"""What is measured: structures, graphs, tasks and models of each kind of data."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

from absl import flags
import numpy as np

from benchmarks import structures as structures_lib
from data.converters import qm9
from data.converters import rmd17
from jmp_hk import dataset_info
from jmp_hk import published
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib

Draw = Callable[[np.random.Generator], structure_lib.Structure]

MODELS = {"tiny": "tiny", "small": "gemnet_oc_small", "large": "gemnet_oc_large"}
PRECISIONS = {"f32": "float32", "tf32": "tensorfloat32", "bf16": "bfloat16"}

_PERIODIC = dataset_info.PUBLISHED["oc20"].graph
_MOLECULES = dataset_info.PUBLISHED["ani1x"].graph

# Chance of each dataset at temperature 2 with 100 M, 8 M, 2 M and 10 M structures.
_CHANCES = np.sqrt([100.0, 8.0, 2.0, 10.0])
_CONSERVATIVE_TARGETS = (
  tasks_lib.TargetConfig("energy", "energy", loss_coefficient=0.0, head_bias=False),
  tasks_lib.TargetConfig("forces", "conservative_forces", loss_coefficient=10.0),
)


@dataclasses.dataclass(frozen=True)
class Source:
  """One dataset of a case.

  Attributes:
    draw: function that makes one structure at random.
    graph: graph settings of the dataset.
    chance: how often the dataset is drawn, relative to the others.
  """

  draw: Draw
  graph: graph_config.GraphConfig
  chance: float = 1.0


@dataclasses.dataclass(frozen=True)
class Case:
  """One kind of data with the tasks that are learned on it.

  Attributes:
    tasks: one task for each source.
    sources: datasets that structures are drawn from; with `fixed`, only their graph
      settings are used.
    fixed: function that makes a given number of structures, always the same ones; None
      draws from the sources.
    structures: wanted number of structures in the batch of a step on a CPU.
    fills_card: whether batches on an accelerator are as large as its memory allows.
    direct_vectors: whether the backbone gives embeddings of edges.
    edge_dropout: probability with which an edge is left out.
  """

  tasks: tuple[tasks_lib.TaskConfig, ...]
  sources: tuple[Source, ...]
  fixed: Callable[[int], list[structure_lib.Structure]] | None = None
  structures: int = 8
  fills_card: bool = False
  direct_vectors: bool = True
  edge_dropout: float = 0.0

  @property
  def builder(self) -> builder_lib.GraphBuilder:
    """Builder of the graphs; the same for all sizes of the backbone."""
    return self.model("tiny", "f32").backbone.graph_builder

  def model(
    self, model: str, precision: str, remat: bool = False
  ) -> model_lib.ModelConfig:
    """Configuration of the model that learns this case's tasks.

    Args:
      model: one of `MODELS`.
      precision: one of `PRECISIONS`.
      remat: compute the insides of blocks again in the backward pass.
    """
    backbone = dataclasses.replace(
      backbone_lib.preset(MODELS[model]),
      direct_vectors=self.direct_vectors,
      edge_dropout=self.edge_dropout,
      remat=remat,
    )
    return model_lib.ModelConfig(backbone, self.tasks, PRECISIONS[precision])


def _slab_structures(count: int) -> list[structure_lib.Structure]:
  return [structures_lib.bench_slabs()[i % 2] for i in range(count)]


def _organic(mean: float, spread: float, smallest: int, largest: int) -> Draw:
  return lambda rng: structures_lib.sized_molecule(rng, mean, spread, smallest, largest)


def _pretraining_tasks(*names: str) -> tuple[tasks_lib.TaskConfig, ...]:
  return tuple(
    tasks_lib.pretraining_task(name, 1.0, published.PRETRAINING[name].force_coefficient)
    for name in names
  )


CASES = {
  # The two batches on which the published implementation was timed.
  "slabs": Case(
    _pretraining_tasks("oc20"),
    (Source(structures_lib.random_slab, _PERIODIC),),
    fixed=_slab_structures,
    structures=2,
  ),
  "molecules": Case(
    _pretraining_tasks("ani1x"),
    (Source(_organic(15, 4, 4, 40), _MOLECULES),),
    fixed=structures_lib.toluenes,
    structures=8,
  ),
  # Pre-training by the published recipe: four datasets, T = 2, edge dropout 0.1.
  "mixture": Case(
    _pretraining_tasks("oc20", "oc22", "ani1x", "transition1x"),
    (
      Source(structures_lib.random_slab, _PERIODIC, _CHANCES[0]),
      Source(structures_lib.random_oxide_slab, _PERIODIC, _CHANCES[1]),
      Source(_organic(15, 6, 4, 63), _MOLECULES, _CHANCES[2]),
      Source(_organic(14, 3.5, 4, 23), _MOLECULES, _CHANCES[3]),
    ),
    structures=8,
    fills_card=True,
    edge_dropout=0.1,
  ),
  # Fine-tuning on a scalar of small molecules.
  "qm9": Case(
    (tasks_lib.TaskConfig("qm9", (tasks_lib.TargetConfig("U_0", "scalar"),)),),
    (Source(_organic(18, 3, 3, 29), qm9.GRAPH),),
    structures=48,
    direct_vectors=False,
  ),
  # Fine-tuning on forces that are derivatives of the energy: second order.
  "rmd17": Case(
    (tasks_lib.TaskConfig("rmd17", _CONSERVATIVE_TARGETS),),
    (Source(lambda rng: structures_lib.random_molecule(rng, 21), rmd17.GRAPH),),
    structures=4,
    fills_card=True,
    direct_vectors=False,
  ),
}


def define_names(
  name: str,
  default: Sequence[str],
  known: Sequence[str],
  text: str,
  values: flags.FlagValues,
) -> None:
  """Defines a flag that takes some of the known names, separated by commas."""
  listed = ", ".join(known)
  flags.DEFINE_list(
    name, list(default), f"NAME,…: {text}, among {listed}.", flag_values=values
  )
  flags.register_validator(
    name,
    lambda given: set(given) <= set(known),
    f"expected some of {listed}, separated by commas.",
    flag_values=values,
  )
