"""A small dataset with every label that any fine-tuning task learns."""

import pathlib

from absl import flags
import ase
import ase.build
from ase.calculators import singlepoint
import ase.io
import numpy as np

from data import convert
from experiments.command_line import tasks
from tests.experiments import demo_data

CLASS_LABELS = ("mp_is_metal", "kind")
SCALAR_LABELS = tuple(
  target.name
  for task in tasks.TASKS.values()
  for target in task.targets
  if target.name not in ("energy", "forces", *CLASS_LABELS)
)
FLAGS = tuple(flag for flag in demo_data.TINY_FLAGS if "limit" not in flag)


def molecules(count: int, seed: int = 0) -> list[ase.Atoms]:
  """Rattled molecules whose labels follow from their geometry."""
  rng = np.random.default_rng(seed)
  result = []
  for index in range(count):
    atoms = ase.build.molecule(("H2O", "CH4", "CH3OH")[index % 3])
    reference = atoms.positions.copy()
    atoms.rattle(0.1, rng=rng)
    away = atoms.positions - reference
    atoms.calc = singlepoint.SinglePointCalculator(
      atoms, energy=float((away**2).sum()) - 5.0 * len(atoms), forces=-2 * away
    )
    size = float((atoms.positions**2).sum())
    atoms.info |= {name: size + i for i, name in enumerate(SCALAR_LABELS)}
    atoms.info |= {"mp_is_metal": index % 2, "kind": index % 3}
    atoms.arrays["shift"] = away
    result.append(atoms)
  return result


def convert_all(directory: pathlib.Path, count: int = 30) -> pathlib.Path:
  """Converts them below a directory; returns that of the dataset."""
  raw = directory / "mine.extxyz"
  ase.io.write(raw, molecules(count))
  labels = [f"{name}:structure:X" for name in SCALAR_LABELS]
  labels += [f"{name}:class" for name in CLASS_LABELS] + ["shift:atoms:Ang"]
  convert.run(
    convert.Config(
      dataset="ase",
      input=str(raw),
      output=str(directory / "mine"),
      options={
        "name": "mine",
        "targets": ",".join(labels),
        "cutoff": "6.0",
        "split_fractions": "0.6,0.2,0.2",
      },
    )
  )
  return directory / "mine"


def parse(*arguments: str) -> flags.FlagValues:
  """Parses arguments of the fine-tuning runner."""
  from experiments import finetune

  values = flags.FlagValues()
  finetune.PROGRAM.define(values)
  finetune.PROGRAM.parse(list(map(str, arguments)), values)
  return values
