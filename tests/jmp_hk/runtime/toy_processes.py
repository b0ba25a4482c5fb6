"""One process of a toy run: toy_processes.py WORKDIR STEPS ID COUNT PORT [DEATH].

DEATH is STEP:ID:HOW, with HOW "exit" (as if killed) or "raise".
"""

import os
import pathlib
import sys

from jmp_hk.runtime import configuration
from jmp_hk.runtime import processes


def main(workdir, num_steps, process_id, num_processes, port, death="0:0:") -> None:
  """Runs the train loop on the toy model over all processes' devices."""
  config = configuration.RuntimeConfig(
    coordinator_address=f"127.0.0.1:{port}" if int(num_processes) > 1 else "",
    num_processes=int(num_processes),
    process_id=int(process_id),
  )
  configuration.configure(config)
  processes.connect(config)
  with processes.ends_together():
    run(pathlib.Path(workdir), int(num_steps), death.split(":"))
    processes.wait_for_all("done")


def run(workdir: pathlib.Path, num_steps: int, death) -> None:
  """Starts or continues the run."""
  import jax
  import numpy as np

  from jmp_hk.checkpoints import checkpointer as checkpointer_lib
  from jmp_hk.training import feed
  from jmp_hk.training import loop
  from jmp_hk.training import optimizer as optimizer_lib
  from jmp_hk.training import sharding
  from jmp_hk.training import writers as writers_lib
  from tests.jmp_hk.training import toy
  from tests.jmp_hk.training import toy_run

  count = jax.device_count()
  config = toy_run.make_config(num_steps, evaluate_every=4)
  mesh, _, state, train_step = toy.setup(2, devices=count, config=config.optimizer)
  microbatches = list(sharding.local_microbatches(mesh, 2))

  def batches(resume):
    for item in toy_run.batches(resume):
      dies = death[1] == str(jax.process_index())
      if dies and int(death[0]) == item.resume["position"]:
        if death[2] == "raise":
          raise ValueError("The data are broken.")
        os._exit(9)
      local = jax.tree.map(lambda x: x[np.array(microbatches)], item.batch)
      yield feed.HostBatch(local, item.record_ids, item.resume, item.utilisation)

  checkpointer = checkpointer_lib.Checkpointer(
    workdir / "checkpoints", {"format_version": 1}
  )
  host = loop.HostState()
  if checkpointer.latest_step is not None:
    state, host = loop.restore(checkpointer, state, mesh)
  is_first = processes.is_first()
  parts = loop.Parts(
    mesh=mesh,
    train_step=train_step,
    evaluate=None,
    batches=batches,
    schedule=optimizer_lib.make_schedule(config.optimizer.schedule),
    checkpointer=checkpointer,
    writers=writers_lib.open_writers(workdir, int(state.step)) if is_first else (),
    merge_positions=lambda positions: positions[0],
  )
  try:
    with processes.ends_together():
      state, _ = loop.train(config, parts, state, host)
  finally:
    checkpointer.close()
  own = jax.device_get(state.params)
  np.savez(
    workdir / f"params{jax.process_index()}.npz",
    **{f"{m}/{n}": x for m, values in own.items() for n, x in values.items()},
  )


if __name__ == "__main__":
  main(*sys.argv[1:])
