"""A committee: models that were trained alike, and how far they agree.

  model = committee.load(["runs/a", "runs/b", "runs/c"])
  [result] = model.predict(atoms)
  result.energy, result.energy_std, result.forces_std

Graphs are built once for all members, which share compiled programs as well: a program
gets the weights as an argument and is run once for each member. Running them one after
another takes no more memory than one model does, and every member predicts just what it
predicts alone.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
from typing import Any
from typing import cast

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk import structure as structure_lib
from jmp_hk.checkpoints import members as members_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import single_head
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import devices as devices_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib

Source = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

# What members have to agree on about the dataset of a head; scales and references may
# differ, since predictions are averaged in physical units.
_SHARED = ("graph", "elements", "units", "periodic_in_3d")


class CommitteeHead(single_head.SingleHead):
  """One head of all members; their outputs have an axis of members after the first."""

  def __init__(
    self,
    config: model_lib.ModelConfig,
    variables: Sequence[model_lib.Variables],
    infos: Sequence[dataset_info.DatasetInfo],
    name: str,
    precision: str = "float32",
    programs: single_head.Programs | None = None,
  ) -> None:
    """Takes one task out of the members; compiles nothing yet.

    Args:
      config: configuration of every member.
      variables: parameters and scale factors of each member.
      infos: constants of the task's dataset, of each member.
      name: name of the task.
      precision: see `SingleHead`.
      programs: see `SingleHead`.

    Raises:
      ValueError: see `SingleHead`.
    """
    super().__init__(config, variables[0], infos[0], name, precision, programs)
    self._others = [
      single_head.SingleHead(config, own, info, name, precision, self._programs)
      for own, info in zip(variables[1:], infos[1:], strict=True)
    ]

  def run(
    self,
    name: single_head.Function,
    batches: Sequence[batch_lib.Batch],
    devices: Sequence[devices_lib.Device] = (),
  ) -> list[dict[str, jax.Array]]:
    """See `SingleHead.run`; outputs are [G, members, …] or [N, members, …].

    Raises:
      ValueError: embeddings are asked for.
    """
    if name != "predict":
      raise ValueError(
        "A committee has no embeddings, because those of its members mean different "
        "things: load one of them."
      )
    found = [super().run(name, batches, devices)]
    found += [member.run(name, batches, devices) for member in self._others]
    with self._precision():
      return [
        {key: jnp.stack([member[key] for member in alike], 1) for key in alike[0]}
        for alike in zip(*found, strict=True)
      ]

  @property
  def variables(self) -> chex.ArrayTree:
    """See `SingleHead`; those of every member."""
    return super().variables, *(member.variables for member in self._others)

  def apply(
    self, variables: chex.ArrayTree, batch: batch_lib.Batch
  ) -> dict[str, jax.Array]:
    """See `SingleHead`; outputs are [G, members, …] or [N, members, …]."""
    members = cast(Sequence[chex.ArrayTree], variables)
    alike = [super(CommitteeHead, self).apply(one, batch) for one in members]
    return {name: jnp.stack([one[name] for one in alike], 1) for name in alike[0]}

  def in_physical_units(self, name: str, value: jax.Array) -> jax.Array:
    """See `SingleHead`; the mean over the members."""
    heads = [super(), *self._others]
    scaled = [head.in_physical_units(name, value[:, k]) for k, head in enumerate(heads)]
    return sum(scaled[1:], scaled[0]) / len(scaled)

  def reference_energy(self, structure: structure_lib.Structure) -> float:
    """See `SingleHead`; the mean over the members."""
    heads = [super(), *self._others]
    return sum(head.reference_energy(structure) for head in heads) / len(heads)

  def denormalise(
    self, structure: structure_lib.Structure, values: Mapping[str, np.ndarray]
  ) -> prediction_lib.Prediction:
    """See `SingleHead.denormalise`; means, with standard deviations over members."""
    infos = [self.info, *(member.info for member in self._others)]
    return combine(
      self.task,
      [
        prediction_lib.denormalise(
          self.task,
          info,
          structure,
          {
            name: value[:, index] if name in self.per_atom else value[index]
            for name, value in values.items()
          },
        )
        for index, info in enumerate(infos)
      ],
    )


def combine(
  task: tasks_lib.TaskConfig, predictions: Sequence[prediction_lib.Prediction]
) -> prediction_lib.Prediction:
  """Mean of what the members predict for one structure, and how far they agree.

  Args:
    task: task of the head.
    predictions: of each member.

  Returns:
    The means. `std` has the standard deviation over members (that is, divided by their
    number) of every number: of energies, of components of forces, of probabilities.
  """
  fields: dict[str, Any] = {}
  properties: dict[str, spec_lib.Value] = {}
  std: dict[str, spec_lib.Value] = {}
  for target in task.predicted:
    values = [prediction.get(target) for prediction in predictions]
    if any(value is None for value in values):
      continue
    stacked = np.stack([np.asarray(value, np.float64) for value in values])
    mean, deviation = stacked.mean(axis=0), stacked.std(axis=0)
    if not np.ndim(mean):
      mean, deviation = float(mean), float(deviation)
    std[target.name] = deviation
    (properties if target.spec.label_name is None else fields)[target.name] = mean
  return prediction_lib.Prediction(**fields, properties=properties, std=std)


class Committee(predictor_lib.Predictor):
  """Several models that predict together; all that `Predictor` does, but embeddings.

  Attributes:
    members: the models.
  """

  def __init__(self, members: Sequence[predictor_lib.Predictor]) -> None:
    """Takes the models.

    Args:
      members: models of one configuration with the same heads.

    Raises:
      ValueError: there are none, or they differ in more than weights; says in what.
    """
    if not members:
      raise ValueError("A committee needs at least one member, got none.")
    first = members[0]
    for number, member in enumerate(members[1:], 1):
      if changes := _differences(first, member):
        raise ValueError(
          "The members of a committee must have the same model and heads, trained on "
          f"data with the same graphs and elements; member {number} differs from "
          f"member 0: {'; '.join(changes)}."
        )
    super().__init__(
      first.config,
      first.infos,
      first.variables,
      origin=first.origin,
      precision=first.precision,
      batch_edges=first.batch_edges,
      num_devices=first.num_devices,
      num_workers=first.num_workers,
    )
    self.members = tuple(members)

  def __repr__(self) -> str:
    """That of the first member, and how many there are."""
    text = super().__repr__().removeprefix("Predictor: ")
    return f"Committee of {len(self.members)} members: {text}"

  def head(self, name: str | None = None) -> single_head.SingleHead:
    """See `Predictor.head`."""
    name = self.head_name(name)
    if name not in self._heads:
      self._heads[name] = CommitteeHead(
        self.config,
        [member.variables for member in self.members],
        [member.infos[name] for member in self.members],
        name,
        self.precision,
        self._programs,
      )
    return self._heads[name]


def load(source: Source, **settings: Any) -> predictor_lib.Predictor:
  """Loads a model, or several as a committee.

  Args:
    source: a path that `predictor.load` takes; a directory of members (member_0, …);
      or several of these.
    **settings: see `predictor.load`; they count for every member.

  Returns:
    The model, or a `Committee` where there are several.

  Raises:
    CheckpointError: see `predictor.load`, as for all else.
    ValueError: the models are no committee, or none is given.
  """
  paths = find_paths(source)
  if len(paths) == 1:
    return predictor_lib.load(paths[0], **settings)
  return Committee([predictor_lib.load(path, **settings) for path in paths])


def find_paths(source: Source) -> list[pathlib.Path]:
  """Paths of the models that `load` reads: those of a committee's members."""
  given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
  if not given:
    raise ValueError("A committee needs at least one member, got none.")
  return [
    member
    for path in given
    for member in (members_lib.find(path) or [pathlib.Path(path)])
  ]


def _differences(
  first: predictor_lib.Predictor, other: predictor_lib.Predictor
) -> list[str]:
  """What two models differ in that members of a committee share."""
  found = []
  for name, values in (
    ("model", [model.config for model in (first, other)]),
    *(
      (f"{head}.{field}", [_field(model, head, field) for model in (first, other)])
      for head in first.heads
      for field in _SHARED
    ),
  ):
    one, two = (serialization.to_json({name: value}) for value in values)
    found += serialization.differences(one, two)
  return found


def _field(model: predictor_lib.Predictor, head: str, field: str) -> Any:
  """A constant of the dataset of a head; None where there is no such head."""
  info = model.infos.get(head)
  return None if info is None else getattr(info, field)
