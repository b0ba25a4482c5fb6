"""Embeddings of datasets, and their t-SNE picture (as figure 5 of the JMP paper).

  python -m experiments.embed --checkpoint=DIR --output=embeddings.npz \
      --datasets=oc20=converted/oc20,ani1x=molecules.extxyz

The file holds, one row a structure: `nodes` and, where the backbone has an edge branch,
`edges`, the final atom and edge embeddings averaged over the structure; `dataset` and
`record_id`. The picture lies beside it.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import flags

from data.command_line import flag_help
from data.command_line import program as program_lib
from experiments.command_line import command
from experiments.command_line import inference_flags
from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.runtime import console


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  inference_flags.define(values)
  _define_data(values)
  _define_output(values)


@flag_help.group("Data")
def _define_data(values: flags.FlagValues) -> None:
  flags.DEFINE_list(
    "datasets",
    [],
    "NAME=PATH,…: Converted datasets, or files that ASE reads. Where NAME is a head of "
    "the model, graphs are built with its settings, otherwise with those of the "
    "converted data.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "split", "val", "NAME: Name of the split of converted datasets.", flag_values=values
  )
  flags.DEFINE_integer(
    "limit",
    500,
    "Number of structures of each dataset, taken evenly.",
    lower_bound=1,
    flag_values=values,
  )


@flag_help.group("Output")
def _define_output(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "output",
    None,
    "FILE.npz: File to write; the picture lies beside it as FILE.png.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "perplexity",
    30.0,
    "Perplexity of t-SNE, about the number of neighbors that a point has.",
    lower_bound=1.0,
    flag_values=values,
  )
  flags.DEFINE_integer("seed", 0, "Seed of t-SNE.", flag_values=values)


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Structures of one dataset and how their graphs are built.

  Attributes:
    name: name of the dataset.
    structures: its structures.
    info: constants of the dataset whose graph settings are used.
  """

  name: str
  structures: Sequence[structure_lib.Structure]
  info: dataset_info.DatasetInfo


def run(values: flags.FlagValues) -> None:
  """Embeds what the flags say.

  Raises:
    FlagError: flags that cannot be used.
  """
  command.require(values, *PROGRAM.required)
  output = inference_flags.new_file(values.output, "output", ".npz")
  paths = command.parse_pairs(values.datasets, "datasets")
  for name, path in paths.items():
    if not pathlib.Path(path).exists():
      raise command.FlagError(f"--datasets: {name}={path} does not exist.")
  inference_flags.start(values)
  if len(inference_flags.checkpoints(values)) > 1:
    raise command.FlagError(
      f"--checkpoint={values.checkpoint} is a committee, whose members embed "
      "differently: name one of them."
    )
  _, infos = inference_flags.read_description(values)
  corpora = [_read(values, name, path, infos) for name, path in paths.items()]
  model = inference_flags.load_predictor(values)
  arrays = _embed(model, corpora)
  import numpy as np

  with open(output, "wb") as file:
    np.savez(file, **arrays)
  from experiments.reports import tsne

  picture = output.with_suffix(".png")
  kinds = {k: arrays[k] for k in ("nodes", "edges") if k in arrays}
  tsne.plot(kinds, arrays["dataset"], picture, values.perplexity, values.seed)
  print(
    f"{output}: {len(arrays['dataset'])} structures of {', '.join(paths)}; {picture}"
  )


def _embed(model: Any, corpora: Sequence[Corpus]) -> dict[str, Any]:
  """Embeddings of all datasets, one after another."""
  import numpy as np

  rows, names, record_ids = [], [], []
  for corpus in corpora:
    with console.progress("structure", f"Embedding {corpus.name}") as update:
      rows += model.embed_structures(
        corpus.structures,
        model.heads[0],
        graph=corpus.info.graph,
        on_progress=update,
      )
    names += [corpus.name] * len(corpus.structures)
    record_ids += [structure.record_id for structure in corpus.structures]
  arrays = {"nodes": np.stack([row.nodes for row in rows])}
  if rows[0].edges is not None:
    arrays["edges"] = np.stack([row.edges for row in rows])
  return {**arrays, "dataset": np.array(names), "record_id": np.array(record_ids)}


def _read(
  values: flags.FlagValues,
  name: str,
  path: str,
  infos: Mapping[str, dataset_info.DatasetInfo],
) -> Corpus:
  """Reads one of --datasets.

  Raises:
    FlagError: it cannot be read, or nothing says how to build its graphs.
  """
  if pathlib.Path(path).is_dir():
    return _read_converted(values, name, path, infos)
  if name not in infos:
    raise command.FlagError(
      f"--datasets: {name}={path} is a file; call it like the head whose graph "
      f"settings are to be used, one of {', '.join(infos)}."
    )
  from jmp_hk import from_ase
  from jmp_hk.pipeline import datasets as datasets_lib

  found = list(
    inference_flags.read_structures(pathlib.Path(path), flag=f"datasets={name}")
  )
  try:
    structures = [
      from_ase.from_atoms(found[i], infos[name], f"{pathlib.Path(path).name}:{i}")
      for i in datasets_lib.evenly_spaced(len(found), values.limit)
    ]
  except structure_lib.InvalidStructureError as error:
    raise command.FlagError(f"--datasets: {error}") from error
  return Corpus(name, structures, infos[name])


def _read_converted(
  values: flags.FlagValues,
  name: str,
  path: str,
  infos: Mapping[str, dataset_info.DatasetInfo],
) -> Corpus:
  """Reads a converted dataset; imports TensorFlow."""
  from data.records import datasets as converted
  from data.records import shards as shards_lib
  from jmp_hk.pipeline import datasets as datasets_lib

  try:
    info = dataset_info.load(path)
    shards = shards_lib.list_shards(pathlib.Path(path), values.split)
  except (dataset_info.DatasetInfoError, shards_lib.RecordFileError) as error:
    raise command.FlagError(f"--datasets: {error}") from error
  num_structures = info.num_structures[values.split]
  source = converted.ShardSource(name, values.split, tuple(shards), num_structures)
  structures = list(datasets_lib.evenly(source, num_structures, values.limit))
  return Corpus(name, structures, infos.get(name, info))


def _errors() -> tuple[type[Exception], ...]:
  from jmp_hk.checkpoints import model_directory
  from jmp_hk.training import sharding

  return (
    structure_lib.InvalidStructureError,
    model_directory.CheckpointError,
    sharding.DevicesError,
  )


PROGRAM = program_lib.Program(
  name="experiments.embed",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=(
    "checkpoint",
    "datasets",
    "output",
  ),
  errors=_errors,
)

if __name__ == "__main__":
  PROGRAM.start()
