"""One process of a toy run: toy_processes.py WORKDIR STEPS ID COUNT PORT [DEATH].

DEATH is STEP:ID:HOW, with HOW "exit" (as if killed), "raise" or "terminate" (SIGTERM).
"""

import os
import pathlib
import signal
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

  from jmp_hk.training import batch_sources
  from jmp_hk.training import sharding
  from jmp_hk.training import trainer as trainer_lib
  from tests.jmp_hk.training import toy_run

  config = toy_run.make_config(num_steps, evaluate_every=4)
  local = sharding.local_microbatches(sharding.make_mesh(), toy_run.MICROBATCHES)

  def batches(position):
    for item in toy_run.batches(position, local=local):
      dies = death[1] == str(jax.process_index())
      if dies and int(death[0]) == item.info.state["position"]:
        if death[2] == "raise":
          raise ValueError("The data are broken.")
        if death[2] == "exit":
          os._exit(9)
        os.kill(os.getpid(), signal.SIGTERM)
      yield item

  source = batch_sources.ReadyBatches({"toy": toy_run.INFO}, batches)
  trainer = trainer_lib.Trainer.from_batches(config, source, workdir)
  trainer.run()
  own = jax.device_get(trainer.state.params)
  np.savez(
    workdir / f"params{jax.process_index()}.npz",
    **{f"{m}/{n}": x for m, values in own.items() for n, x in values.items()},
  )


if __name__ == "__main__":
  main(*sys.argv[1:])
