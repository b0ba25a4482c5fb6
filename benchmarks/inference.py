"""Speed of inference: milliseconds per step of molecular dynamics, and scaling.

  python -m benchmarks.inference --model=small --atoms=20,100,1000
  python -m benchmarks.inference --model=small --atoms=100,300,1000,2000,5000 \
      --plot=scaling.png

Compares three loops: ASE's with the calculator, ASE's where the host builds graphs at
every step, and the compiled one of `jmp_hk.dynamics`; the host's part is timed apart.
Prints one line of JSON for each size, and a last one with the exponent of the cost in
the number of atoms. Needs no TensorFlow.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
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
from jmp_hk.dynamics import integrators
from jmp_hk.dynamics import running
from jmp_hk.dynamics import simulation
from jmp_hk.graphs import candidates
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.inference import calculator
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import configuration

Result = dict[str, str | float]

_MOLECULE_LIMIT = 60  # Up to here a molecule in vacuum, above it a metal crystal.
_TIME_STEP = 0.5 * units.fs
_WARM_UP = 10
_TURNS = 2


def make_predictor(
  model: str,
  precision: str,
  conservative: bool = False,
  truncation: str = "published",
  cutoff: float | None = None,
) -> predictor_lib.Predictor:
  """A model with random weights whose only head predicts energy and forces.

  Args:
    model: one of `cases.MODELS`.
    precision: one of `cases.PRECISIONS`.
    conservative: forces are derivatives of the energy.
    truncation: how neighborhoods end.
    cutoff: largest distance of neighbors in Å; None takes that of the case, 12 Å.
  """
  case = cases.CASES["rmd17" if conservative else "slabs"]
  config = case.model(model, precision)
  name = config.tasks[0].name
  graph = dataclasses.replace(
    case.sources[0].graph, truncation=graph_config.Truncation(truncation)
  )
  if cutoff is not None:
    graph = dataclasses.replace(graph, cutoff=cutoff)
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
  """Times steps of velocity Verlet at 300 K, in ASE's loop and in the compiled one.

  Args:
    predictor: the model.
    count: wanted number of atoms.
    steps: number of steps that are timed, after compilation and warm-up.

  Returns:
    The results, without the machine. `ms_per_step` and `ms_host` are those of ASE's
    loop with the calculator as it is; `…_rebuilding` with graphs that the host builds
    at every step, `…_compiled` of `jmp_hk.dynamics`.
  """
  atoms = make_atoms(count)
  velocitydistribution.thermalize_momenta(
    atoms, temperature_K=300, rng=np.random.default_rng(0)
  )
  start = time.perf_counter()
  loops = {
    "": _AseLoop(predictor, atoms.copy(), candidates.DEFAULT_SKIN),
    "_rebuilding": _AseLoop(predictor, atoms.copy(), None),
    "_compiled": _CompiledLoop(predictor, atoms),
  }
  first = time.perf_counter() - start
  wall = dict.fromkeys(loops, 0.0)
  host = dict(wall)
  # In turns, so that whatever else the machine does meets all of them.
  for _ in range(_TURNS):
    for name, loop in loops.items():
      begin, device = time.perf_counter(), loop.device_seconds
      loop.run(max(steps // _TURNS, 1))
      seconds = time.perf_counter() - begin
      wall[name] += seconds
      host[name] += seconds - (loop.device_seconds - device)
  made = _TURNS * max(steps // _TURNS, 1)
  result: Result = {"atoms": len(atoms)}
  for name in loops:
    result[f"ms_per_step{name}"] = round(1e3 * wall[name] / made, 2)
    result[f"ms_host{name}"] = round(1e3 * host[name] / made, 2)
  result |= {
    "steps": made,
    "searches": loops["_compiled"].num_searches,
    "speedup": round(wall["_rebuilding"] / wall["_compiled"], 2),
    "us_per_atom": round(1e6 * wall[""] / made / len(atoms), 1),
    "first_steps_s": round(first, 1),
    "compilations": predictor.num_compilations + len(predictor.head().moving_programs),
    "peak_memory_mib": round(measure.peak_memory_mib()),
  }
  return result


class _AseLoop:
  """ASE's velocity Verlet with the calculator."""

  num_searches = 0

  def __init__(
    self, predictor: predictor_lib.Predictor, atoms: ase.Atoms, skin: float | None
  ) -> None:
    self._calculator = calculator.JMPCalculator(predictor, skin=skin)
    atoms.calc = self._calculator
    self._dynamics = verlet.VelocityVerlet(atoms, _TIME_STEP)
    self._dynamics.run(_WARM_UP)

  @property
  def device_seconds(self) -> float:
    return self._calculator.device_seconds

  def run(self, steps: int) -> None:
    self._dynamics.run(steps)


class _CompiledLoop:
  """The loop of `jmp_hk.dynamics`."""

  def __init__(self, predictor: predictor_lib.Predictor, atoms: ase.Atoms) -> None:
    runner = predictor.head()
    structure = running.check(runner, atoms, 0, cell_moves=False)
    ensemble = integrators.NVE(_TIME_STEP / units.fs)
    self._simulation = simulation.Simulation(
      runner,
      structure,
      ensemble,
      running.initial_state(atoms, ensemble, ~structure.fixed, 0),
      masses=atoms.get_masses(),
      movable=~structure.fixed,
      seed=0,
      skin=candidates.DEFAULT_SKIN,
    )
    self._simulation.run_to(_WARM_UP)

  @property
  def num_searches(self) -> int:
    return self._simulation.system.num_searches

  @property
  def device_seconds(self) -> float:
    return self._simulation.system.device_seconds

  def run(self, steps: int) -> None:
    self._simulation.run_to(int(self._simulation.state.step) + steps)


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
  truncation: str = "published",
  cutoff: float | None = None,
) -> list[Result]:
  """Measures all sizes and prints a line for each.

  Args:
    model: one of `cases.MODELS`.
    precision: one of `cases.PRECISIONS`.
    sizes: wanted numbers of atoms.
    steps: number of timed steps of each size.
    conservative: forces are derivatives of the energy.
    plot_path: file for a plot of time against atoms; "" draws none.
    truncation: see `make_predictor`.
    cutoff: see `make_predictor`.

  Returns:
    The results of each size.
  """
  predictor = make_predictor(model, precision, conservative, truncation, cutoff)
  graph = predictor.head().info.graph
  case = (
    f"{model}/{'conservative' if conservative else 'direct'}/{precision}/"
    f"{truncation}/{graph.cutoff:g}A"
  )
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
  flags.DEFINE_enum(
    "truncation",
    "published",
    [truncation.value for truncation in graph_config.Truncation],
    "How neighborhoods end.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "cutoff",
    None,
    "Largest distance of neighbors in Å; by default 12.",
    lower_bound=1.0,
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
    values.truncation,
    values.cutoff,
  )


PROGRAM = program_lib.Program(
  name="benchmarks.inference",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
)

if __name__ == "__main__":
  PROGRAM.start()
