"""A whole run on the toy model; also a program: toy_run.py WORKDIR NUM_STEPS."""

from collections.abc import Iterator
import pathlib
import sys

import jax
import numpy as np

from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import evaluation
from jmp_hk.training import feed
from jmp_hk.training import loop
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import plot
from jmp_hk.training import writers
from tests.jmp_hk.training import toy

_LANES = 2
_OPTIMIZER = config_lib.OptimizerConfig(
  schedule=config_lib.ScheduleConfig(1e-2, 2, 0.2, 50)
)


def make_config(num_steps: int, **kwargs) -> config_lib.TrainConfig:
  """Logs at every step; saves and evaluates at intervals that do not coincide."""
  defaults = dict(
    num_microbatches=_LANES,
    optimizer=_OPTIMIZER,
    ema_decay=0.9,
    log_every=1,
    evaluate_every=7,
    checkpoint_every=3,
  )
  return config_lib.TrainConfig(num_steps=num_steps, **(defaults | kwargs))


def batches(resume, bad_step: int | None = None) -> Iterator[feed.HostBatch]:
  """An endless stream that depends on its position alone."""
  position = resume["position"] if resume else 0
  while True:
    values = toy.batch(position, _LANES)
    if position == bad_step:
      values["x"][1, 0] = np.inf
    ids = tuple(f"file:{position}:{i}" for i in range(2))
    position += 1
    yield feed.HostBatch(values, ids, {"position": position}, {"num_main": 0.5})


def _microbatch_sums(params, scales, microbatch):
  predictions = toy.predict(params, scales, jax.random.key(0), microbatch)
  value, count = toy.terms(microbatch, predictions)["energy"]
  return {
    "toy/score/energy": (value, count.astype(value.dtype)),
    "toy/energy_mae_mev": (value * 1000, count.astype(value.dtype)),
  }


def run(workdir: pathlib.Path, config: config_lib.TrainConfig, bad_step=None):
  """Starts or continues a run; returns its last state."""
  mesh, _, state, train_step = toy.setup(_LANES, config=config.optimizer)
  checkpointer = checkpointer_lib.Checkpointer(
    workdir / "checkpoints", {"format_version": 1}
  )
  host = loop.HostState()
  if checkpointer.latest_step is not None:
    state, host = loop.restore(checkpointer, state, mesh)
  eval_step = evaluation.make_eval_step(_microbatch_sums, mesh)

  def evaluate(state):
    source = (next(batches({"position": 1000 + i})) for i in range(3))
    return evaluation.evaluate(
      eval_step, state.evaluation_params, state.scales, source, mesh
    )

  parts = loop.Parts(
    mesh=mesh,
    train_step=train_step,
    evaluate=evaluate,
    batches=lambda resume: batches(resume, bad_step),
    schedule=optimizer_lib.make_schedule(config.optimizer.schedule),
    checkpointer=checkpointer,
    writers=writers.open_writers(workdir, int(state.step)),
  )
  try:
    state, host = loop.train(config, parts, state, host)
  finally:
    checkpointer.close()
    for writer in parts.writers:
      writer.close()
  assert train_step.num_compilations <= 1 and eval_step.num_compilations <= 1
  plot.plot_run(workdir)
  return state, host


if __name__ == "__main__":
  run(pathlib.Path(sys.argv[1]), make_config(int(sys.argv[2])))
