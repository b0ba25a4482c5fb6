"""Time that the graphs of one structure take, by stage, on one core.

  python -m benchmarks.graphs --data=slabs,molecules

Prints one line of JSON for each kind of data with milliseconds per structure: the
search for neighbors, the whole of building, and packing. Each is the processor time of
the fastest of several repetitions, averaged over structures, so that other load on the
machine counts little.
"""

from collections.abc import Callable
import json
import time

from absl import flags
import numpy as np

from benchmarks import cases
from benchmarks import samples
from benchmarks import structures as structures_lib
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk import dataset_info
from jmp_hk.graphs import neighbors
from jmp_hk.graphs import packing
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.runtime import configuration

_LIKE = {"slabs": "oc20", "molecules": "ani1x", "slabs74": "oc20"}


def make_structures(data: str, count: int) -> list[structures_lib.Structure]:
  """OC20-like slabs, molecules of 15 atoms, or the two slabs of 74 atoms."""
  if data == "slabs74":
    return structures_lib.bench_slabs()
  rng = np.random.default_rng(0)
  if data == "slabs":
    return [structures_lib.random_slab(rng) for _ in range(count)]
  return [structures_lib.random_molecule(rng, 15) for _ in range(count)]


def run_case(data: str, structures: int, repetitions: int) -> dict[str, object]:
  """Measures one kind of data.

  Args:
    data: "slabs", "molecules" or "slabs74".
    structures: number of different structures.
    repetitions: how often each is timed.

  Returns:
    The line of results.
  """
  made = make_structures(data, structures)
  builder = backbone_lib.preset("tiny").graph_builder
  config = dataset_info.PUBLISHED[_LIKE[data]].graph
  search, build = [], []
  for entry in made:
    find = lambda entry=entry: neighbors.find_neighbors(entry, config.cutoff)
    search.append(_fastest_ms(find, repetitions))
    whole = lambda entry=entry: builder.build(entry, config)
    build.append(_fastest_ms(whole, repetitions))
  graphs = [builder.build(entry, config) for entry in made]
  budget = samples.exact_budget(builder, graphs)
  items = [packing.PackItem(entry) for entry in graphs]
  pack = _fastest_ms(lambda: packing.pack(items, builder, budget), repetitions)
  return {
    "case": data,
    "search_ms": round(float(np.mean(search)), 4),
    "build_ms": round(float(np.mean(build)), 4),
    "pack_ms": round(pack / len(made), 4),
    "mean_atoms": round(float(np.mean([entry.num_atoms for entry in made])), 1),
    "structures": len(made),
  }


def _fastest_ms(function: Callable[[], object], repetitions: int) -> float:
  """Least processor time of several calls, in milliseconds."""
  times = []
  for _ in range(repetitions):
    start = time.process_time_ns()
    function()
    times.append(time.process_time_ns() - start)
  return min(times) / 1e6


@flag_help.group("What is measured")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this benchmark."""
  cases.define_names("data", list(_LIKE), list(_LIKE), "Kinds of data", values)
  flags.DEFINE_integer(
    "structures", 32, "Number of structures.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    "repetitions",
    20,
    "How often each structure is timed.",
    lower_bound=1,
    flag_values=values,
  )


def _measure(values: flags.FlagValues) -> None:
  configuration.configure()
  for data in values.data:
    result = run_case(data, values.structures, values.repetitions)
    print(json.dumps(result), flush=True)


PROGRAM = program_lib.Program(
  name="benchmarks.graphs",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
)

if __name__ == "__main__":
  PROGRAM.start()
