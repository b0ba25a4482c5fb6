"""Cuts the parts out of public raw data that docs/evidence.md trains on.

  python -m benchmarks.evidence_subsets --oc20=raw/oc20_relaxations --rmd17=raw/rmd17 \
      --qm9=raw/qm9/dsgdb9nsd.xyz.tar.bz2 \
      --matbench=raw/matbench/matbench_perovskites.json.gz --output=raw/evidence

Every input is optional. Which structures are taken depends on nothing but the files.
What is there already is not made again.

- oc20: every fourth frame of relaxations, whose neighbors hardly differ (oc20/train,
  oc20/val).
- rmd17: 3,100 frames of each of six molecules, for pre-training (rmd17/train,
  rmd17/val).
- qm9: 20,000 molecules with energies for pre-training (qm9/train, qm9/val), and 3,500
  others with properties for fine-tuning (qm9_2000). Isomers of the molecules that are
  fine-tuned on are left out of the former.
- matbench: 1,389 perovskites of all folds, about 1,000 of which train.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import gzip
import json
import pathlib

from absl import flags
import ase
import ase.io
import numpy as np

from data.command_line import flag_help
from data.command_line import program as program_lib
from data.conversion import splits
from data.converters import qm9 as qm9_lib
from data.converters import rmd17 as rmd17_lib
from data.formats import npz_frames
from jmp_hk import files
from jmp_hk import structure as structure_lib
from jmp_hk.inference import reports

# Paths below the output, and what is written there, which is read when it is asked for.
Parts = Iterator[tuple[str, Iterable[ase.Atoms]]]

# Aspirin and ethanol are left out: they are fine-tuned on.
_MOLECULES = (
  "benzene",
  "malonaldehyde",
  "naphthalene",
  "paracetamol",
  "salicylic",
  "toluene",
)
_LEFT_OUT = ("C2H6O", "C9H8O4")
_FRAMES = {"train": 8000, "val": 100}
_PRETRAINING = {"train": 90_000, "val": 500}
_FINE_TUNING = {"train": 2000, "val": 500, "test": 1000}
_PROPERTIES = ("eps_HOMO", "alpha")
_EVERY = 4  # Frames of a relaxation.
_VALIDATION = ("random1000159", "random1000161")  # Relaxations.
_RESERVED = 10_000  # Molecules of QM9 that are never pre-trained on.
_PEROVSKITES = 1389


def cut_oc20(folder: pathlib.Path) -> Parts:
  """Some frames of each relaxation.

  Args:
    folder: where the trajectories NAME.traj lie.
  """
  for path in sorted(folder.glob("*.traj")):
    split = "val" if path.stem in _VALIDATION else "train"
    yield f"oc20/{split}/{path.name}", ase.io.iread(path, f"::{_EVERY}")


def cut_rmd17(folder: pathlib.Path) -> Parts:
  """Frames of the six molecules.

  Args:
    folder: where rmd17_NAME.npz lie.
  """
  rng = np.random.default_rng(0)
  for name in _MOLECULES:
    path = folder / f"rmd17_{name}.npz"
    chosen = rng.permutation(npz_frames.count(path, rmd17_lib.KEYS))
    chosen = chosen[: sum(_FRAMES.values())]
    for split, frames in splits.cut(chosen, _FRAMES).items():
      wanted = np.sort(frames).tolist()
      read = npz_frames.read(path, rmd17_lib.KEYS, wanted, path.name)
      yield f"rmd17/{split}/{name}.extxyz", map(reports.to_atoms, read)


def cut_qm9(archive: pathlib.Path) -> Parts:
  """Molecules with energies, and others with properties.

  Args:
    archive: dsgdb9nsd.xyz.tar.bz2.
  """
  molecules = [
    qm9_lib.parse(content.decode("utf-8"), str(number))
    for number, content in sorted(qm9_lib.members(archive))
  ]
  order = np.random.default_rng(0).permutation(len(molecules))
  others = [k for k in order[_RESERVED:] if _formula(molecules[k]) not in _LEFT_OUT]
  for folder, indices, sizes, labelled in (
    ("qm9", np.array(others), _PRETRAINING, _with_energy),
    ("qm9_2000", order[:_RESERVED], _FINE_TUNING, _with_properties),
  ):
    for split, chosen in splits.cut(indices[: sum(sizes.values())], sizes).items():
      frames = (labelled(molecules[k]) for k in chosen)
      yield f"{folder}/{split}/qm9.extxyz", frames


def cut_perovskites(file: pathlib.Path, output: pathlib.Path) -> None:
  """Writes some rows of a task in its own format; the folds stay those of the task."""
  with gzip.open(file, "rt", encoding="utf-8") as stream:
    task = json.load(stream)
  order = np.random.default_rng(0).permutation(len(task["index"]))
  rows = np.sort(order[:_PEROVSKITES])
  part = task | {key: [task[key][k] for k in rows] for key in ("index", "data")}
  files.write_atomically(output, gzip.compress(json.dumps(part).encode(), mtime=0))


def _formula(molecule: structure_lib.Structure) -> str:
  return ase.Atoms(molecule.atomic_numbers).get_chemical_formula()


def _with_energy(molecule: structure_lib.Structure) -> ase.Atoms:
  """The molecule with its internal energy at 0 K as the energy."""
  energy = float(molecule.targets["U_0"])
  return reports.to_atoms(dataclasses.replace(molecule, energy=energy, targets={}))


def _with_properties(molecule: structure_lib.Structure) -> ase.Atoms:
  """The molecule with the properties that are learned."""
  known = {name: molecule.targets[name] for name in _PROPERTIES}
  return reports.to_atoms(dataclasses.replace(molecule, targets=known))


@flag_help.group("Input")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this program."""
  string = lambda name, text: flags.DEFINE_string(name, "", text, flag_values=values)
  string("oc20", "DIR: Folder with relaxations of OC20 as trajectories, NAME.traj.")
  string("rmd17", "DIR: Folder with rMD17's files rmd17_NAME.npz.")
  string("qm9", "FILE: QM9's archive dsgdb9nsd.xyz.tar.bz2.")
  string("matbench", "FILE: MatBench's matbench_perovskites.json.gz.")
  string("output", "DIR: Where the parts are written.")


def run(values: flags.FlagValues) -> None:
  """Makes the parts whose inputs are given."""
  program_lib.require(values, *PROGRAM.required)
  output = pathlib.Path(values.output)
  for name, cut in (("oc20", cut_oc20), ("rmd17", cut_rmd17), ("qm9", cut_qm9)):
    source = values[name].value
    if source:
      for part, frames in cut(pathlib.Path(source)):
        _write(frames, output / part)
      print(f"{output / name} is made from {source}.")
  if values.matbench:
    part = output / "matbench_perovskites.json.gz"
    if not part.exists():
      cut_perovskites(pathlib.Path(values.matbench), part)
    print(f"{part} is made from {values.matbench}.")


def _write(frames: Iterable[ase.Atoms], path: pathlib.Path) -> None:
  """Writes a file whole or not at all; one that is there already stays."""
  if path.exists():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.named_atomically(path) as partial:
    ase.io.write(partial, list(frames))


PROGRAM = program_lib.Program(
  name="benchmarks.evidence_subsets",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=("output",),
)

if __name__ == "__main__":
  PROGRAM.start()
