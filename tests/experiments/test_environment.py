"""What runners set before jax starts, without overriding the user."""

import subprocess
import sys

from experiments import environment


def test_flags_are_added_but_never_overridden():
  values = {}
  environment.add_cpu_flags(values)
  assert values["XLA_FLAGS"] == "--xla_disable_hlo_passes=cse_barrier_expander"
  environment.add_cpu_flags(values)
  assert values["XLA_FLAGS"].count("xla_disable_hlo_passes") == 1
  mine = {"XLA_FLAGS": "--xla_disable_hlo_passes=fusion"}
  environment.add_cpu_flags(mine)
  assert mine["XLA_FLAGS"] == "--xla_disable_hlo_passes=fusion"
  other = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
  environment.add_cpu_flags(other)
  assert other["XLA_FLAGS"].startswith("--xla_force_host_platform_device_count=2 --xla_d")


def test_the_platform_is_told_from_the_environment():
  assert environment.runs_on_cpu({"JAX_PLATFORMS": "cpu"})
  assert not environment.runs_on_cpu({"JAX_PLATFORMS": "cuda,cpu"})


def test_jax_starts_with_it(tmp_path):
  code = f"""
from experiments import environment
environment.prepare(environment.EnvironmentConfig(compilation_cache={str(tmp_path)!r}))
import jax, jax.numpy as jnp, os
assert "cse_barrier_expander" in os.environ["XLA_FLAGS"]
assert jax.config.jax_compilation_cache_dir == {str(tmp_path)!r}
print(float(jax.jit(lambda x: jax.lax.optimization_barrier(x) + 1)(jnp.zeros(()))))
"""
  output = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True,
      env={"JAX_PLATFORMS": "cpu", "PATH": "", "HOME": str(tmp_path)},
  )
  assert output.stdout.strip() == "1.0", output.stderr
