"""Speed of inference: milliseconds per step of molecular dynamics, and scaling.

  python -m benchmarks.inference --model=small --atoms=20,100,1000
  python -m benchmarks.inference --model=small --atoms=100,300,1000,2000,5000 \
      --plot=scaling.png

Goes through the ASE calculator, including its neighbor search. Prints one line of JSON
for each size, and a last one with the exponent of the cost in the number of atoms.
Needs no TensorFlow.
"""

from collections.abc import Sequence
import json
import pathlib
import statistics
import time

from absl import flags
import ase
from ase import units
from ase.md import velocitydistribution
from ase.md import verlet
import jax
import numpy as np

from benchmarks import cases
from benchmarks import measure
from benchmarks import samples
from benchmarks import structures as structures_lib
from benchmarks import training
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import packing
from jmp_hk.inference import calculator
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import configuration

Result = dict[str, str | float]

_MOLECULE_LIMIT = 60  # Up to here a molecule in vacuum, above it a metal crystal.
_TIME_STEP = 0.5 * units.fs
_WARM_UP = 2


def make_predictor(
  model: str, precision: str, conservative: bool = False
) -> predictor_lib.Predictor:
  """A model with random weights whose only head predicts energy and forces.

  Args:
    model: one of `cases.MODELS`.
    precision: one of `cases.PRECISIONS`.
    conservative: forces are derivatives of the energy.
  """
  case = cases.CASES["rmd17" if conservative else "slabs"]
  config = case.model(model, precision)
  name = config.tasks[0].name
  graph = case.sources[0].graph
  info = dataset_info.DatasetInfo(
    name=name,
    graph=graph,
    num_structures={},
    elements=tuple(range(1, 100)),
    size_histogram={},
    energy_references={},
    energy_scale=1e-3,
    force_scale=1e-3,
  )
  builder = config.backbone.graph_builder
  graphs = builder.build(structures_lib.toluenes(1)[0], graph)
  budget = samples.exact_budget(builder, [graphs])
  example = packing.pack([packing.PackItem(graphs)], builder, budget)
  shapes = jax.eval_shape(
    model_lib.build_model(config).init, jax.random.PRNGKey(0), example
  )
  variables = training.random_variables(shapes)
  return predictor_lib.Predictor(
    config, {name: info}, variables, precision=config.precision
  )


def make_atoms(count: int) -> ase.Atoms:
  """A molecule or a crystal of about this many atoms."""
  if count <= _MOLECULE_LIMIT:
    structure = structures_lib.random_molecule(np.random.default_rng(0), count)
  else:
    structure = structures_lib.bulk_supercell(count)
  return _to_ase(structure)


def _to_ase(structure: structure_lib.Structure) -> ase.Atoms:
  return ase.Atoms(
    structure.atomic_numbers,
    structure.positions,
    cell=structure.cell,
    pbc=structure.pbc,
  )


def run_size(predictor: predictor_lib.Predictor, count: int, steps: int) -> Result:
  """Times steps of velocity Verlet at 300 K.

  Args:
    predictor: the model.
    count: wanted number of atoms.
    steps: number of steps that are timed, after compilation and warm-up.

  Returns:
    The results, without the machine.
  """
  atoms = make_atoms(count)
  atoms.calc = calculator.JMPCalculator(predictor)
  velocitydistribution.thermalize_momenta(
    atoms, temperature_K=300, rng=np.random.default_rng(0)
  )
  dynamics = verlet.VelocityVerlet(atoms, _TIME_STEP)
  start = time.perf_counter()
  dynamics.run(_WARM_UP)
  first = time.perf_counter() - start
  times = [measure.seconds_of(lambda: dynamics.run(1)) for _ in range(steps)]
  structure = structures_lib.Structure(
    positions=atoms.positions,
    atomic_numbers=atoms.numbers,
    cell=atoms.cell.array,
    pbc=atoms.pbc,
    tags=np.full(len(atoms), 2),
    fixed=np.zeros(len(atoms), bool),
  )
  runner = predictor.head()
  graph = runner.info.graph
  build_seconds = measure.seconds_of(lambda: runner.builder.build(structure, graph))
  seconds = statistics.median(times)
  return {
    "atoms": len(atoms),
    "ms_per_step": round(1e3 * seconds, 2),
    "ms_graph": round(1e3 * build_seconds, 2),
    "us_per_atom": round(1e6 * seconds / len(atoms), 1),
    "first_steps_s": round(first, 1),
    "compilations": predictor.num_compilations,
    "peak_memory_mib": round(measure.peak_memory_mib()),
  }


def exponent(results: Sequence[Result]) -> float:
  """Slope of log(time) over log(atoms); 1 means that the cost is linear in atoms."""
  atoms = np.array([result["atoms"] for result in results], float)
  times = np.array([result["ms_per_step"] for result in results], float)
  return float(np.polyfit(np.log(atoms), np.log(times), 1)[0])


def plot(results: Sequence[Result], title: str, path: pathlib.Path) -> None:
  """Plots time per step against atoms, with a line of slope 1 for comparison."""
  import matplotlib  # Slow to import.

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  atoms = np.array([result["atoms"] for result in results], float)
  times = np.array([result["ms_per_step"] for result in results], float)
  figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
  axes.loglog(atoms, times, "o-", label="measured")
  axes.loglog(atoms, times[-1] * atoms / atoms[-1], "--", label="linear in atoms")
  axes.set(xlabel="atoms", ylabel="ms per MD step", title=title)
  axes.legend()
  figure.savefig(path, dpi=150)
  plt.close(figure)


def run(
  model: str,
  precision: str,
  sizes: Sequence[int],
  steps: int,
  conservative: bool = False,
  plot_path: str = "",
) -> list[Result]:
  """Measures all sizes and prints a line for each.

  Args:
    model: one of `cases.MODELS`.
    precision: one of `cases.PRECISIONS`.
    sizes: wanted numbers of atoms.
    steps: number of timed steps of each size.
    conservative: forces are derivatives of the energy.
    plot_path: file for a plot of time against atoms; "" draws none.

  Returns:
    The results of each size.
  """
  predictor = make_predictor(model, precision, conservative)
  case = f"{model}/{'conservative' if conservative else 'direct'}/{precision}"
  results = []
  for size in sizes:
    result = {"case": case, **run_size(predictor, size, steps), **measure.machine()}
    results.append(result)
    print(json.dumps(result), flush=True)
  if len(results) > 1:
    print(json.dumps({"case": case, "exponent": round(exponent(results), 3)}))
  if plot_path:
    plot(results, case, pathlib.Path(plot_path))
  return results


@flag_help.group("What is measured")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this benchmark."""
  flags.DEFINE_enum(
    "model", "small", list(cases.MODELS), "Size of the model.", flag_values=values
  )
  flags.DEFINE_enum(
    "precision",
    "f32",
    list(cases.PRECISIONS),
    "Precision of the computation.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "atoms", ["20", "100", "1000"], "N,…: Numbers of atoms.", flag_values=values
  )
  flags.register_validator(
    "atoms",
    lambda given: all(text.isdecimal() and int(text) for text in given),
    "expected whole numbers above 0, separated by commas.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "steps",
    10,
    "Number of timed steps of each size.",
    lower_bound=2,
    flag_values=values,
  )
  flags.DEFINE_bool(
    "conservative",
    False,
    "Predict forces as derivatives of the energy.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "plot", "", "FILE.png: File for a plot of time against atoms.", flag_values=values
  )


def _measure(values: flags.FlagValues) -> None:
  configuration.configure()
  run(
    values.model,
    values.precision,
    [int(n) for n in values.atoms],
    values.steps,
    values.conservative,
    values.plot,
  )


PROGRAM = program_lib.Program(
  name="benchmarks.inference",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
)

if __name__ == "__main__":
  PROGRAM.start()
