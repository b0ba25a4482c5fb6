"""The whole model: atom embedding, backbone, heads, conservative forces, precision."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import conservative
from jmp_hk.models import grouped_mlp
from jmp_hk.models import heads
from jmp_hk.models import initialisation
from jmp_hk.models import precision as precision_lib
from jmp_hk.targets import config as tasks_lib

Predictions = conservative.Predictions


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A backbone with the heads of its tasks.

  Attributes:
    backbone: the message-passing network; its class says how it is built.
    tasks: datasets with their targets; `Batch.task` indexes this tuple.
    precision: name of the policy (`precision.POLICIES`). "float32" computes everything
      in true float32, or in float64 where parameters and batches are; "tensorfloat32"
      lets dense layers use TensorFloat-32; "bfloat16" computes dense layers and
      messages in bfloat16. Parameters, geometry, bases, sums over edges and atoms and
      outputs are in true float32 with all of them.
    stress: predict stress beside conservative forces, also where no task learns it.
  """

  backbone: backbone_lib.BackboneConfig
  tasks: tuple[tasks_lib.TaskConfig, ...]
  precision: str = "float32"
  stress: bool = False

  def __post_init__(self):
    precision_lib.check_precision(self.precision)
    tasks_lib.check_tasks(self.tasks)
    needing = [task.name for task in self.tasks if task.needs_edges]
    if needing and not self.backbone.direct_vectors:
      raise ValueError(
        f"The tasks {', '.join(needing)} have direct forces or other vectors, which "
        "need a backbone with direct_vectors=True."
      )

  @property
  def is_conservative(self) -> bool:
    """Whether forces are derivatives of the energy."""
    return any(task.is_conservative for task in self.tasks)

  @property
  def predicts_stress(self) -> bool:
    """Whether stress is predicted."""
    targets = [target for task in self.tasks for target in task.targets]
    return self.stress or any(target.name == "stress" for target in targets)

  @property
  def policy(self) -> precision_lib.Policy:
    """What each part of the model is computed in."""
    return precision_lib.POLICIES[self.precision]


class Variables(NamedTuple):
  """What a model needs beside its inputs.

  Attributes:
    params: learned parameters, the Haiku tree.
    scales: fitted scale factors, a Haiku state tree; never trained.
  """

  params: hk.Params
  scales: hk.State


class Model:
  """A Haiku model as pure functions of `Variables`."""

  def __init__(self, config: ModelConfig):
    """Builds the functions; holds no arrays."""
    self.config = config
    self._plans = heads.plan_heads(config.tasks)
    self._transformed = hk.transform_with_state(self._forward)
    self._embed = hk.transform_with_state(self._embeddings)

  def init(self, rng: jax.Array, batch: batch_lib.Batch) -> Variables:
    """Draws parameters; scale factors are zero, that is "not fitted".

    Neither the model nor all initialisers together are compiled, which takes minutes
    for the large one: shapes are traced, then each parameter is drawn by itself from
    a key that depends on its name alone.

    Args:
      rng: key.
      batch: any batch, for shapes.

    Returns:
      Fresh variables.
    """
    recorder = initialisation.Recorder()

    def forward(batch):
      with hk.custom_creator(recorder):
        return self._forward(batch, False)

    with self._arithmetic():
      _, state = jax.eval_shape(hk.transform_with_state(forward).init, rng, batch)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    return Variables(recorder.draw(rng), zeros)

  def apply(
    self,
    variables: Variables,
    rng: jax.Array | None,
    batch: batch_lib.Batch,
    *,
    is_training: bool = False,
  ) -> Predictions:
    """Predicts every target for the structures of its tasks.

    Args:
      variables: parameters and scale factors.
      rng: key for dropout; None where there is none.
      batch: packed structures.
      is_training: switches dropout and the dropped-edge correction on.

    Returns:
      Target name to prediction in normalised units: [G] or [G, k] per structure,
      [N, 3] per atom, zero for padding and for structures whose task lacks the
      target. Conservative models add "forces" [N, 3] and, with
      `config.predicts_stress`, "stress" [G, 3, 3] (in units of energy per Å³); both
      come from one differentiation of the energy.
    """

    def run(batch):
      return self._transformed.apply(*variables, rng, batch, is_training)[0]

    with self._arithmetic():
      if not self.config.is_conservative:
        return run(batch)
      return conservative.with_derivatives(run, batch, self.config.predicts_stress)

  def fit_state(
    self,
    variables: Variables,
    batches: Sequence[batch_lib.Batch],
    on_progress: Callable[[str, float], None] = lambda name, value: None,
    together: int = 1,
  ) -> Variables:
    """Fits what the backbone fits before the first step, see `BackboneConfig`.

    Args:
      variables: fresh variables.
      batches: packed structures of one shape, a sample of the training data.
      on_progress: called with a name and its value after each fit.
      together: how many of them, one after another, are the microbatches of a step. The
        fit does not depend on how a step is divided.

    Returns:
      The variables with the fitted state.
    """

    def embed(
      backbone: backbone_lib.BackboneConfig,
      params: hk.Params,
      state: hk.State,
      batch: batch_lib.Batch,
    ) -> backbone_lib.Embeddings:
      model = Model(dataclasses.replace(self.config, backbone=backbone))
      return model.embed(Variables(params, state), batch)

    scales = self.config.backbone.fit_state(
      embed, variables.params, variables.scales, batches, on_progress, together
    )
    return variables._replace(scales=scales)

  def embed(
    self, variables: Variables, batch: batch_lib.Batch
  ) -> backbone_lib.Embeddings:
    """Final embeddings of the backbone, without heads."""
    with self._arithmetic():
      return self._embed.apply(*variables, None, batch, False)[0]

  def _embeddings(
    self, batch: batch_lib.Batch, is_training: bool
  ) -> backbone_lib.Embeddings:
    config = self.config
    table = hk.Embed(
      config.backbone.num_elements,
      config.backbone.atom_channels,
      w_init=hk.initializers.RandomNormal(),
      name="atom_embedding",
    )
    h = table(jnp.maximum(batch.atomic_numbers - 1, 0))
    h = config.policy.cast_embeddings(jnp.where(batch.atom_mask[:, None], h, 0))
    return config.backbone.embed(h, batch, is_training=is_training)

  def _forward(self, batch: batch_lib.Batch, is_training: bool) -> Predictions:
    embeddings = self._embeddings(batch, is_training)
    return {
      plan.target.name: heads.predict(plan, embeddings, batch) for plan in self._plans
    }

  def _arithmetic(self) -> contextlib.AbstractContextManager[None]:
    """The precision of everything that is traced inside."""
    backbone = self.config.backbone
    return precision_lib.apply_policy(
      self.config.policy,
      dense=(grouped_mlp.TaskLinear, *backbone.dense_modules),
      messages=backbone.message_modules,
    )


def build_model(config: ModelConfig) -> Model:
  """Builds a model from its configuration."""
  return Model(config)
