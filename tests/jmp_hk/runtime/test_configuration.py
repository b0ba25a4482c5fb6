"""What runners set before jax starts, without overriding the user."""

import subprocess
import sys

from jmp_hk.runtime import configuration


def test_flags_are_added_but_never_overridden():
  values = {}
  configuration.add_cpu_flags(values)
  assert values["XLA_FLAGS"] == "--xla_disable_hlo_passes=cse_barrier_expander"
  configuration.add_cpu_flags(values)
  assert values["XLA_FLAGS"].count("xla_disable_hlo_passes") == 1
  mine = {"XLA_FLAGS": "--xla_disable_hlo_passes=fusion"}
  configuration.add_cpu_flags(mine)
  assert mine["XLA_FLAGS"] == "--xla_disable_hlo_passes=fusion"
  other = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
  configuration.add_cpu_flags(other)
  assert other["XLA_FLAGS"].startswith(
    "--xla_force_host_platform_device_count=2 --xla_d"
  )


def test_the_platform_is_told_from_the_environment():
  assert configuration.runs_on_cpu({"JAX_PLATFORMS": "cpu"})
  assert not configuration.runs_on_cpu({"JAX_PLATFORMS": "cuda,cpu"})


def test_jax_starts_with_it(tmp_path):
  code = f"""
from jmp_hk.runtime import configuration
configuration.prepare(configuration.EnvironmentConfig(compilation_cache={str(tmp_path)!r}))
import jax, jax.numpy as jnp, os
assert "cse_barrier_expander" in os.environ["XLA_FLAGS"]
assert jax.config.jax_compilation_cache_dir == {str(tmp_path)!r}
assert not jax.config.read("jax_cpu_enable_async_dispatch")
print(float(jax.jit(lambda x: jax.lax.optimization_barrier(x) + 1)(jnp.zeros(()))))
"""
  output = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env={"JAX_PLATFORMS": "cpu", "PATH": "", "HOME": str(tmp_path)},
  )
  assert output.stdout.strip() == "1.0", output.stderr


_RUN_AHEAD = """
import resource
from jmp_hk.runtime import configuration
from jmp_hk.runtime import allocator
configuration.prepare(configuration.EnvironmentConfig())
import jax, jax.numpy as jnp

@jax.jit
def step(x):  # Holds 100 MB while it runs.
  wide = jax.lax.optimization_barrier(x[:, None] * jnp.arange(5_000.0))
  return jnp.sin(wide).sum(1)

x = jnp.ones(5_000)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
x = step(x).block_until_ready()
allocator.close_gaps()
x = step(x).block_until_ready()
first = peak()
for _ in range(8):
  x = step(x)
x.block_until_ready()
print(peak() - first)
"""


def test_a_program_that_runs_ahead_takes_the_memory_of_one_step():
  output = subprocess.run(
    [sys.executable, "-c", _RUN_AHEAD],
    capture_output=True,
    text=True,
    env={"JAX_PLATFORMS": "cpu", "PATH": ""},
  )
  assert int(output.stdout) < 100, output.stderr
