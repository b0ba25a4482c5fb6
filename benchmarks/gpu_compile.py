"""The training step as a GPU would run it, compiled without one.

  python -m benchmarks.gpu_compile --model=small --data=mixture --structures=110
    --precision=bf16 --card=h100

Compiles the step for a card that need not be there, and prints one line of JSON for
each case: memory, kernels by kind, bytes moved, precision and amount of matrix
products, the least time that they take on the card (see `benchmarks.roofline`), and the
modules where that goes. Nothing is run on a card. XLA cannot try kernels out, so matrix
products go to cuBLAS. Needs jax's CUDA plugin, see docs/performance.md.
"""

import itertools
import json
import os
import pathlib
import time
from typing import Any

from absl import flags
import jax
from jax.experimental import topologies

from benchmarks import cases
from benchmarks import flops
from benchmarks import hlo
from benchmarks import measure
from benchmarks import roofline
from benchmarks import samples
from benchmarks import training
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk.runtime import compilation

# Trying kernels out needs a card; Triton's products are no good without that.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


class MissingPluginError(RuntimeError):
  """jax's CUDA plugin is not installed; the message says how to get it."""


def prepare() -> None:
  """Keeps jax from starting a card that is there, which is of no use here.

  Called instead of `configuration.configure`, whose flags for the CPU are not wanted.
  """
  os.environ["JAX_PLATFORMS"] = "cpu"
  jax.config.update("jax_platforms", "cpu")


def device_of(card: roofline.Card) -> Any:
  """A card that programs can be compiled for, whatever this machine has.

  Args:
    card: which.

  Returns:
    A device of jax.

  Raises:
    MissingPluginError: jax's CUDA plugin is not installed.
  """
  try:
    topology = topologies.get_topology_desc(
      platform="cuda", topology="1x1x1", target_config=card.description
    )
  except (NotImplementedError, RuntimeError) as error:
    raise MissingPluginError(
      "Compiling for a GPU needs jax's CUDA plugin, which this environment does not "
      "have (docs/performance.md says how to make one that does): "
      f"{str(error).splitlines()[0]}"
    ) from error
  return topology.devices[0]


def run_case(
  model: str,
  data: str,
  precision: str,
  card: str,
  structures: int = 0,
  remat: bool = False,
  hlo_dir: str = "",
) -> dict[str, object]:
  """Compiles one case.

  Args:
    model: one of `cases.MODELS`.
    data: one of `cases.CASES`.
    precision: one of `cases.PRECISIONS`.
    card: one of `roofline.CARDS`.
    structures: wanted number of structures in the step; 0 takes the default.
    remat: compute the insides of blocks again in the backward pass.
    hlo_dir: directory that the program's text is written to; "" for none.

  Returns:
    The line of results.
  """
  case = cases.CASES[data]
  config = case.model(model, precision, remat)
  target = roofline.CARDS[card]
  device = device_of(target)
  batches = samples.Sample(case).batches(structures or case.structures)
  step = batches.steps[0]
  trained = training.Training(config, step[0], device)
  start = time.perf_counter()
  compiled = trained.compile_only(step, OPTIONS)
  seconds = time.perf_counter() - start
  text = compiled.as_text() or ""
  own_kernels = compilation.wants_own_kernels()
  variants = ["remat"] * remat + ["own-kernels"] * own_kernels
  name = "/".join([model, data, precision, *variants])
  if hlo_dir:
    path = pathlib.Path(hlo_dir) / f"{name.replace('/', '-')}-{structures}-{card}.hlo"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  rows = [flops.count_rows(microbatch, len(config.tasks)) for microbatch in step]
  work = sum(flops.training_flops(config, trained.shapes.params, r) for r in rows)
  analysis = compiled.memory_analysis()
  assert analysis is not None  # For GPUs there always is one.
  return {
    "case": name,
    "card": card,
    "structures": float(sum(float(lane.graph_mask.sum()) for lane in step)),
    "main_edges": sum(r.main for r in rows),
    "step_memory_mib": round(measure.compiled_memory_bytes(compiled) / measure.MIB),
    "arguments_mib": round(analysis.argument_size_in_bytes / measure.MIB),
    "temporary_mib": round(analysis.temp_size_in_bytes / measure.MIB),
    "dense_tflop": round(work / 1e12, 4),
    **roofline.summary(roofline.kernels(hlo.parse(text)), target, work, precision),
    "compile_s": round(seconds, 1),
    "jax": jax.__version__,
  }


@flag_help.group("What is measured")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this benchmark."""
  cases.define_names(
    "model", ["small"], list(cases.MODELS), "Sizes of the model", values
  )
  cases.define_names("data", ["slabs"], list(cases.CASES), "Kinds of data", values)
  cases.define_names(
    "precision", ["bf16"], list(cases.PRECISIONS), "Precisions", values
  )
  cases.define_names("card", ["h100"], list(roofline.CARDS), "Cards", values)
  cases.define_names(
    "remat",
    ["false"],
    ["false", "true"],
    "Whether blocks are computed again in the backward pass",
    values,
  )
  flags.DEFINE_bool(
    "own_kernels",
    False,
    "Put kernels of our own where there are some; the same as JMP_HK_KERNELS=1.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "structures",
    0,
    "Wanted number of structures in a step; 0 takes the default of the data.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_string(
    "hlo",
    "",
    "DIR: Directory that the text of the compiled programs is written to; by default "
    "it is not kept.",
    flag_values=values,
  )


def _measure(values: flags.FlagValues) -> None:
  prepare()
  if values.own_kernels:
    os.environ[compilation.KERNELS_VARIABLE] = "1"
  for model, data, precision, remat, card in itertools.product(
    values.model, values.data, values.precision, values.remat, values.card
  ):
    result = run_case(
      model, data, precision, card, values.structures, remat == "true", values.hlo
    )
    print(json.dumps(result), flush=True)


PROGRAM = program_lib.Program(
  name="benchmarks.gpu_compile",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
  errors=lambda: (MissingPluginError,),
)

if __name__ == "__main__":
  PROGRAM.start()
