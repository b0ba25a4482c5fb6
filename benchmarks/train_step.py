"""Speed of the training step.

  python -m benchmarks.train_step --model=small --data=slabs --precision=f32

Several values of --model, --data or --precision, separated by commas, run one case
after another, each in a process of its own. Every case prints one line of JSON. Needs
neither TensorFlow nor data.
"""

from collections.abc import Sequence
import itertools
import json
import os
import statistics
import subprocess
import sys

from absl import flags
import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks import cases
from benchmarks import flops
from benchmarks import measure
from benchmarks import samples
from benchmarks import training
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models import precision as precision_lib
from jmp_hk.runtime import configuration

_FILLED = 0.85  # Part of the device's memory that a batch that fills it may need.


def run_case(
  model: str,
  data: str,
  precision: str,
  structures: int = 0,
  rounds: int = 8,
  remat: bool = False,
  microbatches: int = 1,
) -> dict[str, object]:
  """Measures one case.

  Args:
    model: one of `cases.MODELS`.
    data: one of `cases.CASES`.
    precision: one of `cases.PRECISIONS`.
    structures: wanted number of structures in a step; 0 takes the default.
    rounds: number of timed rounds.
    remat: compute the insides of blocks again in the backward pass.
    microbatches: number of microbatches that the step works through one after another.

  Returns:
    The line of results.
  """
  case = cases.CASES[data]
  config = case.model(model, precision, remat)
  sample = samples.Sample(case)
  if not structures:
    structures = case.structures
    if case.fills_card and jax.default_backend() != "cpu":
      structures = microbatches * filling_structures(config, sample, structures)
  batches = sample.batches(structures, microbatches)
  trained = training.Training(config, batches.steps[0][0])
  rows, work = _rows_and_work(batches, config, trained.shapes.params)
  timing = _time(trained, batches, work, precision, rounds)
  step = trained.step
  compiled = step.compiled
  assert compiled is not None
  per_step = lambda count: statistics.mean(sum(map(count, step)) for step in rows)
  atoms = per_step(lambda microbatch: microbatch.atoms)
  held = statistics.mean(
    sum(float(microbatch.graph_mask.sum()) for microbatch in step)
    for step in batches.steps
  )
  seconds = timing.pop("step_s")
  name = "/".join([model, data, precision] + ["remat"] * remat)
  return {
    "case": name + (f"/{microbatches} microbatches" if microbatches > 1 else ""),
    **{name: round(value, 4) for name, value in timing.items()},
    "structures_per_s": round(held / seconds, 2),
    "atoms_per_s": round(atoms / seconds, 1),
    "padding_useful": round(batches.padding_useful, 4),
    "compile_s": round(step.compile_seconds or 0.0, 1),
    "peak_memory_mib": round(measure.peak_memory_mib()),
    "step_memory_mib": round(measure.compiled_memory_bytes(compiled) / measure.MIB),
    "step_ms": round(1e3 * seconds, 1),
    "dense_tflop": round(statistics.mean(work) / 1e12, 4),
    "structures": round(held, 1),
    "atoms": round(atoms),
    "main_edges": round(per_step(lambda microbatch: microbatch.main)),
    **measure.machine(),
  }


def _rows_and_work(
  batches: samples.Batches, config: model_lib.ModelConfig, params: hk.Params
) -> tuple[list[list[flops.Rows]], list[int]]:
  """Real rows of every microbatch of each step, and each step's operations."""
  rows = [
    [flops.count_rows(microbatch, len(config.tasks)) for microbatch in step]
    for step in batches.steps
  ]
  work = [
    sum(flops.training_flops(config, params, microbatch) for microbatch in step)
    for step in rows
  ]
  return rows, work


def _time(
  trained: training.Training,
  batches: samples.Batches,
  work: Sequence[int],
  precision: str,
  rounds: int,
) -> dict[str, float]:
  """Steps and large matmuls in turn, so that a throttled machine slows both."""
  on_cpu = jax.default_backend() == "cpu"
  steps = 1 if on_cpu else 10
  on_device = [trained.put(microbatches) for microbatches in batches.steps]
  policy = precision_lib.POLICIES[cases.PRECISIONS[precision]]
  matmul = measure.Matmul(policy.dense)
  for microbatches in on_device[:2]:
    metrics = jax.block_until_ready(trained.run(microbatches))
  used, rates, times = [], [], []
  before = matmul.gflops()
  for i in range(rounds):
    chosen = [(i * steps + j) % len(on_device) for j in range(steps)]
    seconds = measure.seconds_of(
      lambda chosen=chosen: [trained.run(on_device[j]) for j in chosen]
    )
    after = matmul.gflops()
    rate = (before + after) / 2
    used.append(sum(work[j] for j in chosen) / (seconds * rate * 1e9))
    rates.append(rate)
    times.append(seconds / steps)
    before = after
  if not jnp.isfinite(metrics["loss"]):
    raise FloatingPointError("The loss is not finite; steps were not applied.")
  return {
    "utilisation": statistics.median(used),
    "utilisation_best": max(used),
    "matmul_gflops": statistics.median(rates),
    "step_s": statistics.median(times),
  }


def filling_structures(
  config: model_lib.ModelConfig, sample: samples.Sample, start: int
) -> int:
  """How many structures fill the device's memory, by XLA's account of the step.

  Args:
    config: configuration of the model.
    sample: structures to pack.
    start: a number of structures that fits.
  """
  limit = measure.device_memory_bytes()
  if limit is None:
    return start
  needs = []
  for structures in (start, 2 * start):
    step = sample.batches(structures).steps[0]
    compiled = training.Training(config, step[0]).compile_only(step)
    needs.append(measure.compiled_memory_bytes(compiled))
  each = (needs[1] - needs[0]) / start
  return max(int(start + (_FILLED * limit - needs[0]) / each), start)


@flag_help.group("What is measured")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this benchmark."""
  cases.define_names(
    "model", ["small"], list(cases.MODELS), "Sizes of the model", values
  )
  cases.define_names("data", ["slabs"], list(cases.CASES), "Kinds of data", values)
  cases.define_names("precision", ["f32"], list(cases.PRECISIONS), "Precisions", values)
  flags.DEFINE_integer(
    "structures",
    0,
    "Wanted number of structures in a step; 0 takes the default of the data, which "
    "for the mixture and rmd17 on an accelerator is what its memory holds.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "microbatches",
    1,
    "Number of microbatches that the step works through one after another, which "
    "divides the memory of its activations.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "steps",
    8,
    "Number of timed rounds; each measures the step and the matmul rate.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    "compilation_cache",
    "",
    "DIR: Directory of compiled programs; by default none, so that "
    "compile_s is the real time.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "remat",
    False,
    "Compute the insides of blocks again in the backward pass. What is computed "
    "twice counts as work once.",
    flag_values=values,
  )


def _measure(values: flags.FlagValues) -> None:
  combinations = list(itertools.product(values.model, values.data, values.precision))
  if len(combinations) > 1:
    for model, data, precision in combinations:
      subprocess.run(
        [
          sys.executable,
          "-m",
          "benchmarks.train_step",
          f"--model={model}",
          f"--data={data}",
          f"--precision={precision}",
          f"--structures={values.structures}",
          f"--steps={values.steps}",
          f"--compilation_cache={values.compilation_cache}",
          f"--remat={values.remat}",
          f"--microbatches={values.microbatches}",
        ],
        check=True,
      )
    return
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
  configuration.configure(configuration.RuntimeConfig(values.compilation_cache))
  result = run_case(
    *combinations[0], values.structures, values.steps, values.remat, values.microbatches
  )
  print(json.dumps(result), flush=True)


PROGRAM = program_lib.Program(
  name="benchmarks.train_step",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
)

if __name__ == "__main__":
  PROGRAM.start()
