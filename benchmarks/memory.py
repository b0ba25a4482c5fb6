"""Memory of the training step by batch size, from XLA's account of the compiled step.

  python -m benchmarks.memory --model=small,large --precision=bf16 --remat=false,true

Compiles the step on the mixture for two batch sizes without running it, and says how
many structures fit cards of several sizes. Runs on any back end; compiled for a CPU it
is an estimate for accelerators, whose compilers fuse and schedule differently.
"""

import itertools
import json

from absl import flags
import jax

from benchmarks import cases
from benchmarks import measure
from benchmarks import samples
from benchmarks import training
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk.runtime import configuration

CARDS_GB = (24, 40, 80, 141)
_USABLE = 0.9  # Part of a card that is left for the step.


def run_case(
  model: str, precision: str, remat: bool, sizes: tuple[int, int] = (4, 12)
) -> dict[str, object]:
  """Estimates one case.

  Args:
    model: one of `cases.MODELS`.
    precision: one of `cases.PRECISIONS`.
    remat: compute the insides of blocks again in the backward pass.
    sizes: two wanted numbers of structures.

  Returns:
    The line of results; memory is linear in the number of structures.
  """
  case = cases.CASES["mixture"]
  config = case.model(model, precision, remat)
  sample = samples.Sample(case)
  on_cpu = jax.default_backend() == "cpu"
  structures, needs, edges = [], [], []
  for size in sizes:
    batches = sample.batches(size)
    step = batches.steps[0]
    # LLVM's optimisations do not change memory.
    options = {"xla_backend_optimization_level": 0} if on_cpu else {}
    compiled = training.Training(config, step[0]).compile_only(step, options)
    held = [float(microbatch.graph_mask.sum()) for (microbatch,) in batches.steps]
    structures.append(sum(held) / len(held))
    edges.append(batches.budget.num_main_items)
    needs.append(measure.compiled_memory_bytes(compiled))
  per_edge = (needs[1] - needs[0]) / (edges[1] - edges[0])
  fixed = needs[0] - per_edge * edges[0]
  per_structure = per_edge * sum(edges) / sum(structures)
  fits = {
    f"structures_{card}_gb": max(int((_USABLE * card * 1e9 - fixed) / per_structure), 0)
    for card in CARDS_GB
  }
  return {
    "case": f"{model}/mixture/{precision}{'/remat' if remat else ''}",
    "backend": jax.default_backend(),
    "fixed_mib": round(fixed / measure.MIB),
    "kib_per_main_edge": round(per_edge / 1024, 1),
    "mib_per_structure": round(per_structure / measure.MIB, 1),
    **fits,
  }


@flag_help.group("What is measured")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this benchmark."""
  cases.define_names(
    "model", ["small"], list(cases.MODELS), "Sizes of the model", values
  )
  cases.define_names(
    "precision", ["bf16"], list(cases.PRECISIONS), "Precisions", values
  )
  cases.define_names(
    "remat",
    ["false", "true"],
    ["false", "true"],
    "Whether blocks are computed again in the backward pass",
    values,
  )


def _measure(values: flags.FlagValues) -> None:
  configuration.configure()
  for model, precision, remat in itertools.product(
    values.model, values.precision, values.remat
  ):
    print(json.dumps(run_case(model, precision, remat == "true")), flush=True)


PROGRAM = program_lib.Program(
  name="benchmarks.memory",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
)

if __name__ == "__main__":
  PROGRAM.start()
