"""Cuts the parts out of public raw data that docs/evidence.md trains on.

  python -m benchmarks.evidence_subsets --rmd17=raw/rmd17 \
      --qm9=raw/qm9/dsgdb9nsd.xyz.tar.bz2 \
      --matbench=raw/matbench/matbench_perovskites.json.gz --output=raw/evidence

Every input is optional. Which structures are taken depends on nothing but the files.
What is there already is not made again.

- rmd17: 3,100 frames of each of six molecules, for pre-training (rmd17/train,
  rmd17/val).
- qm9: 20,000 molecules with energies for pre-training (qm9/train, qm9/val), and 3,500
  others with properties for fine-tuning (qm9_2000). Isomers of the molecules that are
  fine-tuned on are left out of the former.
- matbench: 1,389 perovskites of all folds, about 1,000 of which train.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import gzip
import json
import pathlib

from absl import flags
import ase
from ase.calculators import singlepoint
import ase.io
import numpy as np

from data.command_line import flag_help
from data.command_line import program as program_lib
from data.converters import qm9 as qm9_lib
from jmp_hk import files

# Aspirin and ethanol are left out: they are fine-tuned on.
MOLECULES = (
  "benzene",
  "malonaldehyde",
  "naphthalene",
  "paracetamol",
  "salicylic",
  "toluene",
)
_LEFT_OUT = ("C2H6O", "C9H8O4")
_KCAL_PER_EV = 23.061  # That of the published labels.
_FRAMES = {"train": 3000, "val": 100}
_PRETRAINING = {"train": 19_500, "val": 500}
_FINE_TUNING = {"train": 2000, "val": 500, "test": 1000}
_RESERVED = 10_000  # Molecules of QM9 that are never pre-trained on.
_PEROVSKITES = 1389


def cut_rmd17(folder: pathlib.Path, output: pathlib.Path) -> None:
  """Writes frames of the six molecules.

  Args:
    folder: where rmd17_NAME.npz lie.
    output: folder with train and val to make.
  """
  rng = np.random.default_rng(0)
  for name in MOLECULES:
    with np.load(folder / f"rmd17_{name}.npz") as data:
      chosen = rng.permutation(len(data["energies"]))
      raw = {key: data[key] for key in ("coords", "energies", "forces")}
      numbers = data["nuclear_charges"]
    start = 0
    for split, count in _FRAMES.items():
      frames = [
        _labelled(
          ase.Atoms(numbers, raw["coords"][k]),
          energy=float(raw["energies"][k]) / _KCAL_PER_EV,
          forces=raw["forces"][k] / _KCAL_PER_EV,
        )
        for k in chosen[start : start + count]
      ]
      _write(frames, output / split / f"{name}.extxyz")
      start += count


def cut_qm9(archive: pathlib.Path, output: pathlib.Path) -> None:
  """Writes molecules with energies, and others with properties.

  Args:
    archive: dsgdb9nsd.xyz.tar.bz2.
    output: folder in which qm9 and qm9_2000 are made.
  """
  molecules = [
    qm9_lib.parse(content.decode("utf-8"), str(number))
    for number, content in sorted(qm9_lib.members(archive))
  ]
  order = np.random.default_rng(0).permutation(len(molecules))
  fine_tuning, pretraining = [], []
  for k in order:
    labels = molecules[k].targets
    atoms = ase.Atoms(molecules[k].atomic_numbers, molecules[k].positions)
    if len(fine_tuning) < _RESERVED:
      atoms.info |= {"eps_HOMO": float(labels["eps_HOMO"])}
      atoms.info |= {"alpha": float(labels["alpha"])}
      fine_tuning.append(atoms)
    elif atoms.get_chemical_formula() not in _LEFT_OUT:
      pretraining.append(_labelled(atoms, energy=float(labels["U_0"])))
    if len(pretraining) == sum(_PRETRAINING.values()):
      break
  for frames, folder, sizes in (
    (pretraining, "qm9", _PRETRAINING),
    (fine_tuning, "qm9_2000", _FINE_TUNING),
  ):
    start = 0
    for split, count in sizes.items():
      _write(frames[start : start + count], output / folder / split / "qm9.extxyz")
      start += count


def cut_perovskites(file: pathlib.Path, output: pathlib.Path) -> None:
  """Writes some rows of a task in its own format; the folds stay those of the task."""
  with gzip.open(file, "rt", encoding="utf-8") as stream:
    task = json.load(stream)
  order = np.random.default_rng(0).permutation(len(task["index"]))
  rows = np.sort(order[:_PEROVSKITES])
  part = task | {key: [task[key][k] for k in rows] for key in ("index", "data")}
  output.parent.mkdir(parents=True, exist_ok=True)
  files.write_atomically(output, gzip.compress(json.dumps(part).encode(), mtime=0))


def _labelled(atoms: ase.Atoms, **results: object) -> ase.Atoms:
  atoms.calc = singlepoint.SinglePointCalculator(atoms, **results)
  return atoms


def _write(frames: Sequence[ase.Atoms], path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f".{path.name}")
  ase.io.write(partial, frames, format="extxyz")
  partial.rename(path)


@flag_help.group("Input")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this program."""
  for name, text in (
    ("rmd17", "DIR: Folder with rMD17's files rmd17_NAME.npz."),
    ("qm9", "FILE: QM9's archive dsgdb9nsd.xyz.tar.bz2."),
    ("matbench", "FILE: MatBench's matbench_perovskites.json.gz."),
    ("output", "DIR: Where the parts are written."),
  ):
    flags.DEFINE_string(name, "", text, flag_values=values)


def run(values: flags.FlagValues) -> None:
  """Makes the parts whose inputs are given."""
  program_lib.require(values, *PROGRAM.required)
  output = pathlib.Path(values.output)
  for source, target, cut in _parts(values, output):
    if target.exists():
      print(f"{target} is there already.")
      continue
    cut(source)
    print(f"{target} is made from {source}.")


def _parts(
  values: flags.FlagValues, output: pathlib.Path
) -> Iterator[tuple[pathlib.Path, pathlib.Path, Callable[[pathlib.Path], None]]]:
  """Input, what is made of it, and how."""
  if values.rmd17:
    target = output / "rmd17"
    yield pathlib.Path(values.rmd17), target, lambda path: cut_rmd17(path, target)
  if values.qm9:
    yield pathlib.Path(values.qm9), output / "qm9", lambda path: cut_qm9(path, output)
  if values.matbench:
    part = output / "matbench_perovskites.json.gz"
    yield pathlib.Path(values.matbench), part, lambda path: cut_perovskites(path, part)


PROGRAM = program_lib.Program(
  name="benchmarks.evidence_subsets",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=("output",),
)

if __name__ == "__main__":
  PROGRAM.start()
