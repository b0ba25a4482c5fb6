"""Recording steps changes nothing else."""

from jmp_hk.training import profiling
from jmp_hk.training import sharding
from tests.jmp_hk.training import toy


def test_records_the_wanted_steps(tmp_path):
  mesh, _, state, step = toy.setup()
  profiled = profiling.ProfiledStep(step, 2, tmp_path / profiling.DIRECTORY)
  losses = []
  for i in range(8):
    batch = sharding.put_batch(toy.batch(i, 1), mesh)
    state, metrics = profiled(state, batch)
    losses.append(float(metrics["loss"]))
  assert profiled.num_compilations == 1 and profiled.compile_seconds > 0
  assert len(list((tmp_path / profiling.DIRECTORY).rglob("*.xplane.pb"))) == 1
  # The same as without.
  _, _, state, step = toy.setup()
  for i in range(8):
    state, metrics = step(state, sharding.put_batch(toy.batch(i, 1), mesh))
    assert float(metrics["loss"]) == losses[i]
