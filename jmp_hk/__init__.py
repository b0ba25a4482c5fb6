"""JMP, joint multi-domain pre-training of atomic models, in JAX and Haiku.

The functions here are what users of a trained model need. They import the rest when
they are called, so that `import jmp_hk` and `import jmp_hk.graphs` stay light.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import os
import typing

if typing.TYPE_CHECKING:
  import ase

  from jmp_hk.inference import calculator as calculator_lib
  from jmp_hk.inference import prediction
  from jmp_hk.inference import predictor as predictor_lib

__all__ = ("embed", "load", "make_calculator", "predict")
__version__ = "0.2.0"  # Read by pyproject.toml; CITATION.cff has the same.


def load(
  directory: str | os.PathLike[str],
  *,
  references: Mapping[str, str | os.PathLike[str]] | None = None,
  precision: str = "float32",
) -> predictor_lib.Predictor:
  """Loads a model: imported, pre-trained or fine-tuned.

  Example:
    >>> import jmp_hk
    >>> model = jmp_hk.load(directory)
    >>> model.heads
    ('oc20', 'oc22', 'ani1x', 'transition1x')

  Args:
    directory: a model directory, a training run's --workdir, or a checkpoint in it.
    references: by head, an .npz file with per-element reference energies in eV: an
      array `coeff` indexed by atomic number. Imported models hold none, and energies
      are relative to them.
    precision: of the computation, "float32", "float64" or "bfloat16".

  Returns:
    The model. Programs that it compiles are kept in it.

  Raises:
    CheckpointError: there is no model, or it cannot be understood.
    ReferencesError: a file of references cannot be used.
  """
  from jmp_hk.inference import predictor as predictor_lib

  return predictor_lib.load(directory, references=references, precision=precision)


def predict(
  model: predictor_lib.Predictor,
  structures: Iterable[ase.Atoms],
  head: str | None = None,
  *,
  skip_invalid: bool = False,
) -> list[prediction.Prediction | None]:
  """Predicts structures of any sizes, in few compiled batches.

  Example:
    >>> import ase.build
    >>> import jmp_hk
    >>> model = jmp_hk.load(directory)
    >>> structures = [ase.build.molecule(name) for name in ("CH3CH2OH", "H2O")]
    >>> ethanol, water = jmp_hk.predict(model, structures, head="ani1x")
    >>> type(ethanol.energy), ethanol.forces.shape  # eV, eV/Å
    (<class 'float'>, (9, 3))

  Args:
    model: from `load`.
    structures: any number of structures.
    head: whose targets are predicted, with its graph settings and units; may be left
      out if the model has one head.
    skip_invalid: give None for structures that cannot be predicted.

  Returns:
    One prediction per structure, in their order.

  Raises:
    InvalidStructuresError: some cannot be predicted; raised before any is.
    ValueError: there is no such head, or there are several and none is named.
  """
  return model.predict(structures, head, skip_invalid=skip_invalid)


def embed(
  model: predictor_lib.Predictor,
  structures: Iterable[ase.Atoms],
  head: str | None = None,
  *,
  skip_invalid: bool = False,
) -> list[predictor_lib.Embedding | None]:
  """Mean atom and edge embeddings of structures.

  Example:
    >>> import ase.build
    >>> import jmp_hk
    >>> model = jmp_hk.load(directory)
    >>> [benzene] = jmp_hk.embed(model, [ase.build.molecule("C6H6")], head="ani1x")
    >>> benzene.nodes.ndim, benzene.edges.ndim
    (1, 1)

  Args:
    model: from `load`.
    structures: any number of structures.
    head: whose graph settings are used; the backbone is the same for all.
    skip_invalid: give None for structures that cannot be predicted.

  Returns:
    One embedding per structure, in their order.

  Raises:
    InvalidStructuresError: as in `predict`.
    ValueError: as in `predict`.
  """
  return model.embed(structures, head, skip_invalid=skip_invalid)


def make_calculator(
  model: predictor_lib.Predictor | str | os.PathLike[str], head: str | None = None
) -> calculator_lib.JMPCalculator:
  """An ASE calculator: energy, forces, and stress of conservative models.

  Example:
    >>> import ase.build
    >>> import jmp_hk
    >>> water = ase.build.molecule("H2O")
    >>> water.calc = jmp_hk.make_calculator(directory, head="transition1x")
    >>> water.get_forces().shape  # eV/Å
    (3, 3)

  Args:
    model: from `load`, or a directory.
    head: name of the head; may be left out if the model has one.

  Returns:
    The calculator, for `ase.optimize`, `ase.md`, `ase.phonons` and all else in ASE.

  Raises:
    ValueError: there is no such head, or it predicts no energy.
  """
  from jmp_hk.inference import calculator

  return calculator.JMPCalculator(model, head)
