"""JMP, joint multi-domain pre-training of atomic models, in JAX and Haiku.

The functions here are what users of a trained model need. They import the rest when
they are called, so that `import jmp_hk` and `import jmp_hk.graphs` stay light.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import os
import typing

from jmp_hk.runtime import configuration

if typing.TYPE_CHECKING:
  from jmp_hk import dataset_info
  from jmp_hk.inference import calculator as calculator_lib
  from jmp_hk.inference import prediction
  from jmp_hk.inference import predictor as predictor_lib
  from jmp_hk.inference import preparation

__all__ = ("embed", "load", "make_calculator", "predict")
__version__ = "0.2.0"  # Read by pyproject.toml; CITATION.cff has the same.


def load(
  path: str | os.PathLike[str],
  *,
  ema: bool = True,
  step: int | None = None,
  tasks: Sequence[str | dataset_info.DatasetInfo] | None = None,
  references: Mapping[str, str | os.PathLike[str]] | None = None,
  precision: str = "float32",
) -> predictor_lib.Predictor:
  """Loads a trained model from a directory or a PyTorch file.

  Example:
    >>> import jmp_hk
    >>> model = jmp_hk.load(path)  # For example "jmp-s.pt".
    >>> model.heads
    ('oc20', 'oc22', 'ani1x', 'transition1x')

  Args:
    path: a model directory, the working directory of a training run, a checkpoint in
      it, or a PyTorch file in the layout of the published jmp-s.pt and jmp-l.pt.
    ema: whether to take the averaged weights, where there are some.
    step: step of the checkpoint of a training run; None takes the best by its
      validation metric.
    tasks: datasets of a PyTorch file's heads, in their order: names of published ones,
      or their constants (`jmp_hk.dataset_info.load`). None stands for the four
      published ones.
    references: by head, an .npz file with per-element reference energies in eV: an
      array `coeff` indexed by atomic number. Published weights hold none, and energies
      are relative to them.
    precision: what is computed in: "float32"; "float64"; or "bfloat16", in which dense
      layers and messages are computed.

  Returns:
    The model, which keeps the programs that it compiles.

  Raises:
    CheckpointError: there is no model, or it cannot be understood.
    ReferencesError: a file of references cannot be used.
    ValueError: there is no such step, task, head or precision.
  """
  configuration.configure()
  from jmp_hk.inference import predictor as predictor_lib

  return predictor_lib.load(
    path,
    ema=ema,
    step=step,
    tasks=tasks,
    references=references,
    precision=precision,
  )


def predict(
  model: predictor_lib.Predictor,
  structures: preparation.Structures,
  head: str | None = None,
  *,
  skip_invalid: bool = False,
) -> list[prediction.Prediction | None]:
  """Predicts structures of any sizes in few compiled batches.

  Example:
    >>> import ase.build
    >>> import jmp_hk
    >>> model = jmp_hk.load(path)
    >>> structures = [ase.build.molecule(name) for name in ("CH3CH2OH", "H2O")]
    >>> ethanol, water = jmp_hk.predict(model, structures, head="ani1x")
    >>> type(ethanol.energy), ethanol.forces.shape  # eV, eV/Å
    (<class 'float'>, (9, 3))

  Args:
    model: a model from `load`.
    structures: `ase.Atoms`, any number of them; a single one counts as a list of one.
    head: name of the head whose targets are predicted, with the graph settings and
      units of its dataset; may be left out if the model has one head.
    skip_invalid: whether to give None for structures that cannot be predicted, instead
      of raising.

  Returns:
    One prediction a structure, in their order.

  Raises:
    InvalidStructuresError: some structures cannot be predicted; raised before any is,
      unless the model itself gives numbers that are not finite.
    ValueError: there is no such head, or there are several and none is named.
  """
  return model.predict(structures, head, skip_invalid=skip_invalid)


def embed(
  model: predictor_lib.Predictor,
  structures: preparation.Structures,
  head: str | None = None,
  *,
  skip_invalid: bool = False,
) -> list[predictor_lib.Embedding | None]:
  """Computes mean atom and edge embeddings of structures.

  Example:
    >>> import ase.build
    >>> import jmp_hk
    >>> model = jmp_hk.load(path)
    >>> [benzene] = jmp_hk.embed(model, ase.build.molecule("C6H6"), head="ani1x")
    >>> benzene.nodes.ndim, benzene.edges.ndim
    (1, 1)

  Args:
    model: a model from `load`.
    structures: see `predict`.
    head: name of the head whose graph settings are used; the backbone is the same for
      all.
    skip_invalid: see `predict`.

  Returns:
    One embedding a structure, in their order.

  Raises:
    InvalidStructuresError: see `predict`.
    ValueError: see `predict`.
  """
  return model.embed(structures, head, skip_invalid=skip_invalid)


def make_calculator(
  model: predictor_lib.Predictor | str | os.PathLike[str], head: str | None = None
) -> calculator_lib.JMPCalculator:
  """Makes an ASE calculator: energy, forces, and stress of conservative models.

  Example:
    >>> import ase.build
    >>> import jmp_hk
    >>> water = ase.build.molecule("H2O")
    >>> water.calc = jmp_hk.make_calculator(path, head="transition1x")
    >>> water.get_forces().shape  # eV/Å
    (3, 3)

  Args:
    model: a model from `load`, or a path that `load` takes.
    head: name of the head; may be left out if the model has one.

  Returns:
    The calculator, for `ase.optimize`, `ase.md`, `ase.phonons` and all else in ASE.

  Raises:
    CheckpointError: the path leads to no model.
    ValueError: there is no such head, or it predicts no energy.
  """
  configuration.configure()
  from jmp_hk.inference import calculator

  return calculator.JMPCalculator(model, head)
