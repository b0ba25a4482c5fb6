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
  import ase

  from jmp_hk import dataset_info
  from jmp_hk import fine_tuning
  from jmp_hk.graphs import config as graph_config
  from jmp_hk.inference import calculator as calculator_lib
  from jmp_hk.inference import prediction
  from jmp_hk.inference import predictor as predictor_lib
  from jmp_hk.inference import preparation
  from jmp_hk.targets import config as targets_config

__all__ = ("annotate", "embed", "fine_tune", "load", "make_calculator", "predict")
__version__ = "0.2.0"  # Read by pyproject.toml; CITATION.cff has the same.


def load(
  path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
  *,
  ema: bool = True,
  step: int | None = None,
  tasks: Sequence[str | dataset_info.DatasetInfo] | None = None,
  references: Mapping[str, str | os.PathLike[str]] | None = None,
  precision: str = "float32",
  num_devices: int = 0,
  num_workers: int = 0,
) -> predictor_lib.Predictor:
  """Loads a trained model by its name, or from a directory or a PyTorch file.

  Example:
    >>> import jmp_hk
    >>> model = jmp_hk.load("jmp-mini")
    >>> model.heads
    ('oc20', 'oc22', 'ani1x', 'transition1x', 'rmd17', 'qm9')

  Args:
    path: "jmp-mini", the small pre-trained model that comes with the package; a model
      directory, the working directory of a training run, or a checkpoint in it; or a
      PyTorch file in the layout of the published jmp-s.pt and jmp-l.pt. Several of
      these make a committee of models that were trained alike, and so does a directory
      with the members member_0, member_1 and so on.
    ema: whether to take the averaged weights, where there are some.
    step: step of the checkpoint of a training run; None takes the best by its
      validation metric.
    tasks: datasets of a PyTorch file's heads, in their order: names of published ones,
      or their constants (`jmp_hk.dataset_info.load`). None stands for the four
      published ones.
    references: by head, an .npz file with per-element reference energies in eV: an
      array `coeff` indexed by atomic number. Published weights hold none, and energies
      are relative to them.
    precision: what is computed in. "float32": everything in true float32, on GPUs too;
      "float64": everything in float64; "tensorfloat32": dense layers may use
      TensorFloat-32, which is faster on NVIDIA's cards; "bfloat16": dense layers and
      messages in bfloat16. Geometry, bases and sums over atoms are in true float32 with
      all of these, or in float64.
    num_devices: how many of this machine's devices share the batches of `predict` and
      `embed`; zero takes all that jax has. Few structures take fewer of them. Results
      and their order do not depend on it, but for rounding. A calculator has one.
    num_workers: processes that build graphs where `predict` or `embed` gets more than
      a thousand structures; zero builds them in this one, which one GPU outruns.

  Returns:
    The model, which keeps the programs that it compiles. A committee predicts means,
    and standard deviations over its members as `energy_std`, `forces_std` and `std`.

  Raises:
    CheckpointError: there is no model, or it cannot be understood.
    DevicesError: there are fewer devices.
    ReferencesError: a file of references cannot be used.
    ValueError: there is no such step, task, head or precision, or the members of a
      committee differ in more than weights.
  """
  configuration.configure()
  from jmp_hk.inference import committee

  return committee.load(
    path,
    ema=ema,
    step=step,
    tasks=tasks,
    references=references,
    precision=precision,
    num_devices=num_devices,
    num_workers=num_workers,
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


def annotate(
  model: predictor_lib.Predictor,
  structures: Sequence[ase.Atoms],
  predictions: Sequence[prediction.Prediction | None],
  head: str | None = None,
  *,
  prefix: str = "jmp_",
) -> list[ase.Atoms]:
  """Puts predictions beside what structures hold, for `ase.io.write` and the like.

  `atoms.info` gets `jmp_energy`, `jmp_stress` and other targets, `atoms.arrays` gets
  `jmp_forces`; where a structure has the label, `jmp_energy_error` and so on are the
  differences. Labels stay as they are.

  Example:
    >>> import ase.build
    >>> import jmp_hk
    >>> model = jmp_hk.load(path)
    >>> water = ase.build.molecule("H2O")
    >>> water.info["REF_energy"] = -14.0
    >>> [result] = jmp_hk.predict(model, [water], head="transition1x")
    >>> [annotated] = jmp_hk.annotate(model, [water], [result], head="transition1x")
    >>> annotated.info["jmp_energy"] == result.energy
    True

  Args:
    model: the model that predicted.
    structures: what was predicted.
    predictions: what `predict` gave for them.
    head: name of the head that predicted; may be left out if the model has one.
    prefix: begins the names of predictions. With "" energy, forces and stress are the
      results of a calculator.

  Returns:
    Copies of the structures, without those that have no prediction.

  Raises:
    NameTakenError: a structure holds something of that name already.
    ValueError: there is no such head, or as many predictions as structures.
  """
  from jmp_hk.inference import annotation

  task, is_relative = model.head(head).task, bool(model.notices(head))
  return [
    annotation.annotate(atoms, prediction, task, prefix=prefix, is_relative=is_relative)
    for atoms, prediction in zip(structures, predictions, strict=True)
    if prediction is not None
  ]


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
  model: predictor_lib.Predictor
  | str
  | os.PathLike[str]
  | Sequence[str | os.PathLike[str]],
  head: str | None = None,
) -> calculator_lib.JMPCalculator:
  """Makes an ASE calculator of all that a head predicts, and of conservative stress.

  Example:
    >>> import ase.build
    >>> import jmp_hk
    >>> water = ase.build.molecule("H2O")
    >>> water.calc = jmp_hk.make_calculator(path, head="transition1x")
    >>> water.get_forces().shape  # eV/Å
    (3, 3)

  Args:
    model: a model or committee from `load`, or what `load` takes.
    head: name of the head; may be left out if the model has one.

  Returns:
    The calculator, for `ase.optimize`, `ase.md`, `ase.phonons` and all else in ASE.
    Properties that ASE does not know are `calc.get_property("bandgap", atoms)`.

  Raises:
    CheckpointError: the path leads to no model.
    ValueError: there is no such head.
  """
  configuration.configure()
  from jmp_hk.inference import calculator

  return calculator.JMPCalculator(model, head)


def fine_tune(
  model: fine_tuning.Model,
  structures: fine_tuning.Source,
  *,
  targets: Mapping[str, str] | Sequence[targets_config.TargetConfig],
  workdir: str | os.PathLike[str],
  validation: float | fine_tuning.Source = 0.1,
  keys: Mapping[str, str] | None = None,
  num_steps: int | None = None,
  num_epochs: float = 100.0,
  batch_size: int = 8,
  learning_rate: float = 8e-5,
  seed: int = 42,
  head_name: str = "fine_tuned",
  graph: graph_config.GraphConfig | None = None,
  precision: str = "float32",
  frozen: Sequence[str] = (),
  heads: typing.Literal["reuse", "fresh"] = "reuse",
  budget: Mapping[str, int] | None = None,
  num_members: int = 1,
) -> predictor_lib.Predictor:
  """Trains a model on labelled structures.

  Labels are looked for in `atoms.info`, `atoms.arrays`, the results of the attached
  calculator and what ASE databases keep, in eV, Å, eV/Å and (of stress, with ASE's
  sign) eV/Å³. Called again with the same arguments and directory, it continues where it
  was stopped, or returns what it has trained; a larger `num_steps` extends it. Ctrl-C
  saves a checkpoint before it raises `KeyboardInterrupt`.

  Example:
    >>> import jmp_hk
    >>> tuned = jmp_hk.fine_tune(
    ...   model, structures, targets={"energy": "energy"}, workdir=workdir
    ... )
    >>> [result] = tuned.predict(structures[0])
    >>> type(result.energy)  # eV
    <class 'float'>

  Args:
    model: a model from `load`, or a path that `load` takes. The name of a preset, e.g.
      "gemnet_oc_small", or None trains from scratch.
    structures: structures to train on: `ase.Atoms`; or a file that ASE reads, a folder
      of such files, or a CSV table of an identifier and values beside its structures.
    targets: kind of each label by its name, e.g. {"energy": "energy", "forces":
      "conservative_forces", "stress": "conservative_stress"} or {"gap": "scalar"}; or
      complete declarations.
    workdir: directory of the run, which `load` takes too.
    validation: structures to validate on, likewise; or the part of `structures` that is
      drawn for it; zero validates on nothing. The weights that are best in validation
      are kept.
    keys: entries that hold labels, by the name of the label, e.g. {"energy":
      "dft_energy"}. The others are found, under the names of other programs, too
      (`REF_energy` comes before `energy`), and what is not plain is refused.
    num_steps: number of optimiser steps; None takes `num_epochs`.
    num_epochs: number of passes over the training structures.
    batch_size: structures of a step, over all devices; fewer at the end of an epoch.
    learning_rate: peak of the learning rate.
    seed: seed of all random draws: validation structures, new heads, order of the data.
    head_name: name of the new model's head.
    graph: cutoff, number of neighbors and truncation; None takes those of the model's
      heads where they agree, else 12 Å and 30 neighbors, truncated smoothly where
      conservative forces are trained from scratch.
    precision: see `load`; "float64" is for predictions alone.
    frozen: regular expressions of parameters that are not trained.
    heads: "reuse" takes over the heads of targets that the model has been trained on
      already, scaled to the new data; "fresh" draws new ones.
    budget: sizes of a batch by name, in place of those that are chosen from the data; a
      `BudgetError` names them.
    num_members: number of models with the seeds `seed`, `seed` + 1 and so on, trained
      one after another in `workdir`/member_0, …, on the same structures.

  Returns:
    The model with the best weights, or the last ones where nothing is validated; with
    several members their committee, see `load`.

  Raises:
    FileError: a file cannot be read.
    LabelError: structures lack labels or cannot be used; the message names them.
    OtherRunError: the directory holds a run with other settings or data.
    ValueError: the targets or settings make no sense.
  """
  configuration.configure()
  from jmp_hk import fine_tuning

  return fine_tuning.fine_tune(
    model,
    structures,
    targets=targets,
    workdir=workdir,
    validation=validation,
    keys=keys,
    num_steps=num_steps,
    num_epochs=num_epochs,
    batch_size=batch_size,
    learning_rate=learning_rate,
    seed=seed,
    head_name=head_name,
    graph=graph,
    precision=precision,
    frozen=frozen,
    heads=heads,
    budget=budget,
    num_members=num_members,
  )
