"""Golden files as structures, batches and variables; matching of edge orders."""

import functools
import json

import haiku as hk
import jax
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors
from jmp_hk.graphs import packing
from jmp_hk.interop import torch_names
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import backbone as gemnet_oc
from jmp_hk.models.gemnet_oc import config as gemnet_config
from jmp_hk.models.gemnet_oc import presets as gemnet_presets
from jmp_hk.models.gemnet_oc.graphs import build as gemnet_build
from jmp_hk.models.gemnet_oc.graphs import tables as gemnet_tables
from jmp_hk.targets import config as tasks_lib
from tests import gemnet_graphs
from tests import shared_files
from tests.jmp_hk.parity import formula_init

TASKS = ("oc20", "oc22", "ani1x", "transition1x")
FORCE_SCALES = (73.0, 80.0, 15.0, 14.0)

BACKBONES = {
  "tiny": gemnet_oc.GemNetOCConfig(
    num_blocks=2,
    atom_channels=32,
    edge_channels=64,
    bases=gemnet_config.BasesConfig(
      num_radial=16,
      num_spherical=4,
      radial_channels=8,
      circular_channels=8,
      spherical_channels=8,
    ),
    interaction=gemnet_config.InteractionConfig(
      triplet=gemnet_config.BilinearConfig(8, 8),
      quadruplet=gemnet_config.BilinearConfig(4, 4),
      pair=gemnet_config.BilinearConfig(8, 8),
      num_atom_update=3,
    ),
    output=gemnet_config.OutputConfig(num_before_skip=3),
  ),
  "tinyd": gemnet_oc.GemNetOCConfig(
    num_blocks=2,
    atom_channels=20,
    edge_channels=28,
    bases=gemnet_config.BasesConfig(
      num_radial=12,
      num_spherical=5,
      radial_channels=8,
      circular_channels=11,
      spherical_channels=13,
    ),
    interaction=gemnet_config.InteractionConfig(
      triplet=gemnet_config.BilinearConfig(6, 10),
      quadruplet=gemnet_config.BilinearConfig(4, 3),
      pair=gemnet_config.BilinearConfig(7, 9),
      num_before_skip=1,
      num_after_skip=2,
      num_concat=3,
      num_atom_embedding=1,
      num_atom_update=2,
    ),
    output=gemnet_config.OutputConfig(num_before_skip=2, num_after_skip=1),
  ),
  "base": gemnet_presets.PRESETS["gemnet_oc_small"],
  "large": gemnet_presets.PRESETS["gemnet_oc_large"],
}


def load(name: str) -> dict[str, np.ndarray]:
  """Arrays of a golden file."""
  with np.load(shared_files.golden_file(f"{name}.npz")) as data:
    return dict(data)


def pretrain_config(kind: str) -> model_lib.ModelConfig:
  """The four-task pre-training model of a golden kind."""
  return model_lib.ModelConfig(
    backbone=BACKBONES[kind],
    tasks=tuple(
      tasks_lib.pretraining_task(name, 1.0, scale)
      for name, scale in zip(TASKS, FORCE_SCALES, strict=True)
    ),
  )


def torch_shapes(kind: str) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the published tensors of a kind, without redundant ones.

  Derived from our own model: the export mapping run over its shapes.
  """
  if kind in ("tiny", "tinyd"):
    text = shared_files.golden_file(f"{kind}_weight_shapes.json").read_text()
    return {
      name: tuple(shape)
      for name, shape in json.loads(text).items()
      if not torch_names.is_redundant(name)
    }
  raise ValueError(kind)


@functools.cache
def tensors(kind: str) -> dict[str, np.ndarray]:
  """Published tensors of a small kind."""
  return load(f"{kind}_weights")


def variables(kind: str, dtype=np.float64) -> model_lib.Variables:
  """Variables of a pre-training model with the golden weights."""
  if kind in ("tiny", "tinyd"):
    source = tensors(kind)
  else:
    source = formula_tensors(kind)
  params, state = torch_names.import_state_dict(source)
  return jax.tree.map(
    lambda x: np.asarray(x, dtype), model_lib.Variables(params, state)
  )


@functools.cache
def formula_tensors(kind: str) -> dict[str, np.ndarray]:
  """Weights from names, for kinds whose weights are not stored."""
  model = model_lib.build_model(pretrain_config(kind))
  batch = make_batch([water()], [2], graph_config.GraphConfig(cutoff=8.0))
  abstract = jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)
  shapes = torch_names.torch_shapes(abstract.params, abstract.scales)
  return {name: formula_init.value(name, shape) for name, shape in shapes.items()}


def water() -> structure_lib.Structure:
  """Any small molecule, for shapes."""
  return structure_lib.Structure(
    positions=np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]),
    atomic_numbers=np.array([8, 1, 1], np.int32),
    cell=np.zeros((3, 3)),
    pbc=np.zeros(3, bool),
    tags=np.full(3, 2, np.int32),
    fixed=np.zeros(3, bool),
  )


def structures(golden) -> list[structure_lib.Structure]:
  """The structures of a golden file."""
  result, first = [], 0
  counts = golden.get("in/natoms")
  if counts is None:
    counts = np.bincount(golden["in/batch"])
  total = int(np.sum(counts))
  for i, n in enumerate(counts):
    rows = slice(first, first + n)
    pbc = golden.get("in/pbc_used", np.zeros((len(counts), 3), bool))[i]
    cell = golden["in/cell"][i] if "in/cell" in golden else np.zeros((3, 3))
    result.append(
      structure_lib.Structure(
        positions=golden["in/pos"][rows],
        atomic_numbers=golden["in/atomic_numbers"][rows],
        cell=cell,
        pbc=pbc,
        tags=golden.get("in/tags", np.full(total, 2))[rows].astype(np.int32),
        fixed=golden.get("in/fixed", np.zeros(total, bool))[rows],
        record_id=f"golden:{i}",
      )
    )
    first += n
  return result


def graph_settings(structure, *, rmd17: bool = False) -> graph_config.GraphConfig:
  """The published settings: by periodicity, or those of rMD17."""
  if rmd17:
    return graph_config.GraphConfig(cutoff=7.0, max_neighbors=100)
  return graph_config.GraphConfig(cutoff=12.0 if structure.pbc.any() else 8.0)


def make_batch(
  items,
  task,
  settings=None,
  *,
  padding: int = 1,
  dtype=np.float64,
  targets=None,
  rmd17: bool = False,
) -> batch_lib.Batch:
  """Packs structures with `padding` spare entries in every field of the budget."""
  packed = pack_items(items, task, settings, targets=targets, rmd17=rmd17)
  return packing.pack(packed, gemnet_graphs.BUILDER, budget(packed, padding), dtype)


def pack_items(
  items, task, settings=None, *, targets=None, rmd17: bool = False
) -> list[packing.PackItem]:
  """Graphs of structures, with the published settings unless others are given."""
  return [
    packing.PackItem(
      graphs=gemnet_graphs.BUILDER.build(
        structure, settings or graph_settings(structure, rmd17=rmd17)
      ),
      task=int(task[i]),
      targets={} if targets is None else targets[i],
    )
    for i, structure in enumerate(items)
  ]


def budget(packed, padding: int) -> gemnet_graphs.Budget:
  """The smallest budget that holds all items, plus `padding` wherever there may be."""
  sizes = [gemnet_graphs.BUILDER.sizes(item.graphs) for item in packed]
  width = {"main_width", "a2a_width", "a2ee2a_width", "qint_width"}
  needs = {}
  for name in budget_lib.padded_names(gemnet_graphs.Budget):
    values = [getattr(s, name) for s in sizes]
    used = max(values) if name in width else sum(values)
    needs[name] = used + padding
  return gemnet_graphs.Budget(**needs)


def stored_graphs(golden) -> gemnet_build.GemNetOCStructureGraphs:
  """Graphs of a file's one structure from its own edges, none chosen by us."""
  [structure] = structures(golden)
  main, a2a, a2ee2a, qint = (
    _stored_edges(golden, name) for name in ("main", "a2a", "a2ee2a", "qint")
  )
  position = {key: i for i, key in enumerate(_keys(main))}
  reverse = [position[t, s, *(-k for k in offset)] for s, t, *offset in _keys(main)]
  both = neighbors.EdgeSet(
    np.concatenate([main.senders, qint.senders]),
    np.concatenate([main.receivers, qint.receivers]),
    np.concatenate([main.offsets, qint.offsets]),
  )
  codes, bound = nearest.offset_codes(both, neighbors.home_cells(structure))
  pairs, slots = gemnet_tables.distinct_senders(a2a, structure.num_atoms)
  return gemnet_build.GemNetOCStructureGraphs(
    structure=structure,
    main=main,
    a2a=a2a,
    a2ee2a=a2ee2a,
    qint=qint,
    reverse_edge=np.array(reverse, np.int32),
    a2a_pairs=pairs,
    a2a_slot=slots,
    quad_exclusion=gemnet_tables.find_quad_exclusion(
      main,
      codes[: len(main)],
      qint,
      codes[len(main) :],
      bound,
      structure.num_atoms,
    ),
  )


def _stored_edges(golden, name: str) -> neighbors.EdgeSet:
  senders, receivers = golden[f"graph/{name}/edge_index"]
  order = np.argsort(receivers, kind="stable")
  offsets = np.round(golden[f"graph/{name}/cell_offset"]).astype(np.int32)
  return neighbors.EdgeSet(
    senders[order].astype(np.int32), receivers[order].astype(np.int32), offsets[order]
  )


def _keys(edges: neighbors.EdgeSet) -> list[tuple[int, ...]]:
  return edge_keys(np.stack([edges.senders, edges.receivers]), edges.offsets)


def golden_edge_order(golden, batch: batch_lib.Batch, name: str = "main") -> np.ndarray:
  """Index array p such that our edges [p] are the golden file's edges."""
  graph = getattr(batch.graphs, name)
  ours = edge_keys(
    np.stack([graph.senders, graph.receivers]), graph.edges["cell_offsets"]
  )
  mask = np.asarray(batch.atom_mask)[np.asarray(graph.receivers)]
  position = {key: i for i, key in enumerate(ours) if mask[i]}
  theirs = edge_keys(
    golden[f"graph/{name}/edge_index"], golden[f"graph/{name}/cell_offset"]
  )
  assert set(position) == set(theirs), f"edge sets of {name} differ"
  return np.array([position[key] for key in theirs])


def edge_keys(edge_index, offsets) -> list[tuple[int, ...]]:
  rows = np.concatenate([np.asarray(edge_index).T, np.round(offsets).astype(int)], 1)
  return [tuple(int(v) for v in row) for row in rows]


def record_outputs(record: dict):
  """Context manager that stores the output of every Haiku module by its path."""

  def interceptor(function, args, kwargs, context):
    result = function(*args, **kwargs)
    if context.method_name == "__call__":
      record[context.module.module_name] = result
    return result

  return hk.intercept_methods(interceptor)
