"""Memory of the training step by batch size, from XLA's account of the compiled step.

  python -m benchmarks.memory --model=small,large --precision=bf16 --card=h100

Compiles the step on the mixture for two batch sizes without running it, and says how
many structures fit cards of several sizes. With --card it is compiled for that card,
which need not be there (see `benchmarks.gpu_compile`), otherwise for what this machine
has. Compiled for a CPU a step needs more memory than on a GPU.
"""

import itertools
import json

from absl import flags
import jax

from benchmarks import cases
from benchmarks import gpu_compile
from benchmarks import measure
from benchmarks import roofline
from benchmarks import samples
from benchmarks import training
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk.runtime import configuration

CARDS_GB = (24, 40, 80, 141)
_USABLE = 0.9  # Part of a card that is left for the step.


def run_case(
  model: str,
  precision: str,
  remat: bool,
  card: str = "",
  sizes: tuple[int, int] = (12, 48),
) -> dict[str, object]:
  """Estimates one case.

  Args:
    model: one of `cases.MODELS`.
    precision: one of `cases.PRECISIONS`.
    remat: compute the insides of blocks again in the backward pass.
    card: one of `roofline.CARDS`, or "" for this machine.
    sizes: two wanted numbers of structures.

  Returns:
    The line of results; memory is linear in the number of structures.
  """
  case = cases.CASES["mixture"]
  config = case.model(model, precision, remat)
  sample = samples.Sample(case)
  device, backend, options = None, jax.default_backend(), {}
  if card:
    device, backend = gpu_compile.device_of(roofline.CARDS[card]), card
    options = gpu_compile.OPTIONS
  elif backend == "cpu":  # LLVM's optimisations do not change memory.
    options = {"xla_backend_optimization_level": 0}
  structures, needs, edges = [], [], []
  for size in sizes:
    batches = sample.batches(size)
    step = batches.steps[0]
    compiled = training.Training(config, step[0], device).compile_only(step, options)
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
    "backend": backend,
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
  flags.DEFINE_enum(
    "card",
    None,
    list(roofline.CARDS),
    "Card that the step is compiled for; by default it is compiled for this machine.",
    flag_values=values,
  )


def _measure(values: flags.FlagValues) -> None:
  if values.card:
    gpu_compile.prepare()
  else:
    configuration.configure()
  for model, precision, remat in itertools.product(
    values.model, values.precision, values.remat
  ):
    result = run_case(model, precision, remat == "true", values.card or "")
    print(json.dumps(result), flush=True)


PROGRAM = program_lib.Program(
  name="benchmarks.memory",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
  errors=lambda: (gpu_compile.MissingPluginError,),
)

if __name__ == "__main__":
  PROGRAM.start()
