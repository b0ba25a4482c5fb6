"""A small Haiku model and its data, for tests of everything around a model."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.training import config as config_lib
from jmp_hk.training import objective as objective_lib
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import step as step_lib

WIDTH, ROWS = 4, 6


def _network(x: jax.Array, scale: jax.Array) -> jax.Array:
  hidden = jax.nn.silu(hk.Linear(8, name="hidden")(x)) * scale
  hidden = hk.dropout(hk.next_rng_key(), 0.1, hidden)
  return hk.Linear(2, name="out")(hidden)


NETWORK = hk.transform(_network)


def predict(params, scales, key, batch):
  out = NETWORK.apply(params, key, batch["x"], scales["toy"]["scale"])
  return {"energy": out[:, 0], "forces": out[:, 1]}


def terms(batch, predictions):
  result = {}
  for name, mask in (("energy", batch["mask"]), ("forces", batch["mask"][::-1])):
    error = jnp.abs(predictions[name] - batch["y"])
    result[name] = (jnp.where(mask, error, 0).sum(), mask.sum())
  return result


OBJECTIVE = objective_lib.Objective(
  predict=predict, terms=terms, num_structures=lambda batch: batch["mask"].sum()
)


def batch(seed: int, microbatches: int) -> dict[str, np.ndarray]:
  """A batch [microbatches, ROWS, …] with different numbers of real rows."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(microbatches, ROWS, WIDTH)).astype(np.float32)
  real = rng.integers(1, ROWS + 1, size=(microbatches, 1))
  return {"x": x, "y": x.sum(axis=-1), "mask": np.arange(ROWS) < real}


def setup(
  microbatches: int = 1,
  devices: int = 1,
  objective: objective_lib.Objective = OBJECTIVE,
  config: config_lib.OptimizerConfig | None = None,
  ema_warmup: bool = False,
):
  """Mesh, optimiser, fresh state and step of the toy model."""
  mesh = sharding.make_mesh(jax.devices()[:devices])
  config = config or config_lib.OptimizerConfig(
    schedule=config_lib.ScheduleConfig(1e-2, 2, 0.2, 50)
  )
  example = jax.tree.map(lambda x: x[0], batch(0, microbatches))
  params = NETWORK.init(jax.random.key(0), example["x"], 1.0)
  optimizer = optimizer_lib.make_optimizer(config, params)
  state = state_lib.create_on_mesh(
    params,
    {"toy": {"scale": np.float32(1.5)}},
    optimizer,
    jax.random.PRNGKey(7),
    mesh,
    use_ema=True,
  )
  train = config_lib.TrainConfig(
    num_steps=1, batch_size=1, optimizer=config, ema_decay=0.9, ema_warmup=ema_warmup
  )
  step = step_lib.make_train_step(objective, optimizer, train, mesh)
  return mesh, optimizer, state, step
