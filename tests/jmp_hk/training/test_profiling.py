"""Recording steps changes nothing else."""

from jmp_hk.training import profiling
from jmp_hk.training import sharding
from tests.jmp_hk.training import toy


def test_records_the_wanted_steps(tmp_path):
  mesh, _, state, step = toy.setup()
  profiler = profiling.Profiler(2, tmp_path / profiling.DIRECTORY)
  losses = []
  for i in range(8):
    batch = sharding.put_batch(toy.batch(i, 1), mesh)
    state, metrics = step(state, batch)
    profiler.after_step(state)
    losses.append(float(metrics["loss"]))
  profiler.close()
  assert len(list((tmp_path / profiling.DIRECTORY).rglob("*.xplane.pb"))) == 1
  # The same as without.
  _, _, state, step = toy.setup()
  for i in range(8):
    state, metrics = step(state, sharding.put_batch(toy.batch(i, 1), mesh))
    assert float(metrics["loss"]) == losses[i]
