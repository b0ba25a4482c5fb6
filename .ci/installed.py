"""Uses the installed library outside the repository, as its users do.

  python installed.py jmp.pt

The file is a PyTorch checkpoint in the layout of the published ones.
"""

from collections.abc import Sequence
import importlib.util
import pathlib
import sys
import tempfile

import ase
import ase.build
from ase.calculators import emt
from ase.calculators import singlepoint
import ase.optimize
import numpy as np

import jmp_hk

_LABELS = ("energy", "forces", "stress")


def labelled_crystals(count: int) -> list[ase.Atoms]:
  """Rattled copper-gold cells with EMT's energies, forces and stress."""
  rng, frames = np.random.default_rng(0), []
  for _ in range(count):
    atoms = ase.build.bulk("Cu", "fcc", a=rng.uniform(3.6, 4.1), cubic=True)
    atoms.symbols[rng.random(len(atoms)) < 0.5] = "Au"
    atoms.rattle(0.1, rng=rng)
    atoms.calc = emt.EMT()
    labels = {name: atoms.calc.get_property(name, atoms) for name in _LABELS}
    atoms.calc = singlepoint.SinglePointCalculator(atoms, **labels)
    frames.append(atoms)
  return frames


def main(argv: Sequence[str]) -> None:
  """Loads, predicts, embeds, relaxes and fine-tunes."""
  for name in ("tensorflow", "data", "experiments", "benchmarks", "tests"):
    found = importlib.util.find_spec(name)
    assert found is None, f"{name} is installed with the library."
  shipped = jmp_hk.load("jmp-mini")
  (prediction,) = jmp_hk.predict(shipped, [ase.build.molecule("H2O")], head="qm9")
  assert prediction is not None and np.isfinite(prediction.energy)
  model = jmp_hk.load(argv[1])
  molecules = [ase.build.molecule(name) for name in ("CH3CH2OH", "H2O")]
  for atoms, result in zip(
    molecules, jmp_hk.predict(model, molecules, head="ani1x"), strict=True
  ):
    assert result is not None and result.forces is not None
    assert np.isfinite(result.energy) and result.forces.shape == (len(atoms), 3)
  (embedding,) = jmp_hk.embed(model, molecules[:1], head="ani1x")
  assert embedding is not None and np.isfinite(embedding.nodes).all()
  molecules[0].calc = jmp_hk.make_calculator(model, head="ani1x")
  ase.optimize.FIRE(molecules[0], logfile=None).run(fmax=0.05, steps=3)
  with tempfile.TemporaryDirectory() as directory:
    workdir = pathlib.Path(directory) / "fine_tuned"
    jmp_hk.fine_tune(
      model,
      labelled_crystals(20),
      targets={
        "energy": "energy",
        "forces": "conservative_forces",
        "stress": "conservative_stress",
      },
      workdir=workdir,
      num_steps=5,
    )
    crystal = ase.build.bulk("Cu", cubic=True)
    crystal.calc = jmp_hk.make_calculator(jmp_hk.load(workdir))
    assert np.isfinite(crystal.get_stress()).all()
  print(
    f"jmp_hk {jmp_hk.__version__} works from {pathlib.Path(jmp_hk.__file__).parent}"
  )


if __name__ == "__main__":
  main(sys.argv)
