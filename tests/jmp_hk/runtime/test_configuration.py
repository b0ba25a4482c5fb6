"""What is set before jax starts, without overriding the user."""

import pathlib
import subprocess
import sys

import pytest

from jmp_hk.runtime import configuration

_ROOT = pathlib.Path(__file__).resolve().parents[3]


def _run(code: str, **environment: str) -> str:
  """What a fresh process prints, in which nothing is set but what is given."""
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=_ROOT,
    env={"JAX_PLATFORMS": "cpu", "PATH": ""} | environment,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout.strip()


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
  code = """
import os
from jmp_hk.runtime import configuration
print(configuration.runs_on_cpu(os.environ))
"""
  assert _run(code) == "True"
  assert _run(code, JAX_PLATFORMS="cuda,cpu") == "False"
  # Once jax is imported, its own setting counts.
  code = "import jax; jax.config.update('jax_platforms', 'cpu')" + code
  assert _run(code, JAX_PLATFORMS="cuda,cpu") == "True"
  assert configuration.runs_on_cpu({"JAX_PLATFORMS": "cuda"})  # It is running here.


_STARTS = """
import os
from jmp_hk.runtime import configuration
cache = os.environ["HOME"]
for _ in range(2):  # The second call changes nothing.
  configuration.configure(configuration.RuntimeConfig(compilation_cache=cache))
  configuration.configure()
  assert not configuration.backend_is_running()
import jax, jax.numpy as jnp
assert os.environ["XLA_FLAGS"].count("cse_barrier_expander") == 1
assert jax.config.jax_compilation_cache_dir == cache
assert not jax.config.read("jax_cpu_enable_async_dispatch")
print(float(jax.jit(lambda x: jax.lax.optimization_barrier(x) + 1)(jnp.zeros(()))))
"""


def test_jax_starts_with_it(tmp_path):
  assert _run(_STARTS, HOME=str(tmp_path)) == "1.0"


_TOO_LATE = """
import logging, os
logging.basicConfig(format="%(message)s")
logging.getLogger("jmp_hk").setLevel(logging.DEBUG)
import jax, jax.numpy as jnp
from jmp_hk.runtime import configuration
jax.jit(lambda x: x + 1)(jnp.zeros(3))
cache = os.environ["HOME"]
configuration.configure(configuration.RuntimeConfig(compilation_cache=cache))
assert "XLA_FLAGS" not in os.environ
assert jax.config.read("jax_cpu_enable_async_dispatch")
# The cache still takes effect.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))
assert os.listdir(cache)
"""


def test_what_jax_no_longer_reads_is_skipped_and_said(tmp_path):
  result = subprocess.run(
    [sys.executable, "-c", _TOO_LATE],
    capture_output=True,
    text=True,
    cwd=_ROOT,
    env={"JAX_PLATFORMS": "cpu", "PATH": "", "HOME": str(tmp_path)},
  )
  assert result.returncode == 0, result.stderr
  assert "jax has started its backend already" in result.stderr


_OVERRIDES_NOTHING = """
import logging, os
logging.getLogger("jax").setLevel(logging.INFO)
from jmp_hk.runtime import allocator
from jmp_hk.runtime import configuration
home = os.environ["HOME"]
configuration.configure(configuration.RuntimeConfig(compilation_cache=home + "/other"))
import jax
assert os.environ["XLA_FLAGS"] == "--xla_disable_hlo_passes=fusion"
assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
assert jax.config.read("jax_cpu_enable_async_dispatch")
assert jax.config.jax_compilation_cache_dir == home
assert logging.getLogger("jax").level == logging.INFO
assert not allocator._state["keeping"]
"""


def test_what_the_user_sets_stays(tmp_path):
  _run(
    _OVERRIDES_NOTHING,
    HOME=str(tmp_path),
    JAX_COMPILATION_CACHE_DIR=str(tmp_path),
    JAX_CPU_ENABLE_ASYNC_DISPATCH="1",
    MALLOC_ARENA_MAX="2",
    TF_CPP_MIN_LOG_LEVEL="0",
    XLA_FLAGS="--xla_disable_hlo_passes=fusion",
  )


_WITHOUT_CONFIG = """
from jmp_hk.runtime import allocator
from jmp_hk.runtime import configuration
{first}
configuration.configure()
print(allocator._state["keeping"])
"""


def test_without_a_config_an_earlier_one_stays():
  first = "configuration.configure(configuration.RuntimeConfig(freed_memory='return'))"
  assert _run(_WITHOUT_CONFIG.format(first=first)) == "False"
  assert _run(_WITHOUT_CONFIG.format(first="")) == "True"


def test_an_unknown_use_of_freed_memory_is_refused():
  with pytest.raises(ValueError, match="freed_memory must be one of .* got 'burn'"):
    configuration.RuntimeConfig(freed_memory="burn")


def test_importing_the_library_imports_no_jax():
  code = "import sys, jmp_hk, jmp_hk.runtime.configuration; print('jax' in sys.modules)"
  assert _run(code) == "False"


_RUN_AHEAD = """
from jmp_hk.runtime import configuration
configuration.configure()
import jax, jax.numpy as jnp

@jax.jit
def step(x):  # Holds 100 MB while it runs.
  wide = jax.lax.optimization_barrier(x[:, None] * jnp.arange(5_000.0))
  return jnp.sin(wide).sum(1)

x = step(jnp.ones(5_000)).block_until_ready()
for _ in range(8):
  x = step(x)
  print(int(x.is_ready()))
"""


def test_a_program_does_not_run_ahead_and_take_the_memory_of_several_steps():
  assert _run(_RUN_AHEAD).split() == ["1"] * 8


# Calls an entry point with arguments that it refuses, and checks what is set by then.
_ENTRY_POINT = """
import os, sys
import jmp_hk
{imports}
try:
  {call}
except Exception as error:
  print(type(error).__name__)
# Neither would be set if jax's backend had been running at that time.
assert "cse_barrier_expander" in os.environ["XLA_FLAGS"]
assert not sys.modules["jax"].config.read("jax_cpu_enable_async_dispatch")
"""


@pytest.mark.parametrize(
  "module, call, error",
  [
    ("", "jmp_hk.load('nowhere')", "CheckpointError"),
    ("", "jmp_hk.make_calculator('nowhere')", "CheckpointError"),
    (
      "",
      "jmp_hk.fine_tune('nowhere', [], targets={'energy': 'energy'}, workdir='.')",
      "CheckpointError",
    ),
    ("jmp_hk.inference.predictor", "load('nowhere')", "CheckpointError"),
    (
      "jmp_hk.inference.predictor",
      "Predictor(None, {}, None, precision='half')",
      "ValueError",
    ),
    ("jmp_hk.inference.calculator", "JMPCalculator('nowhere')", "CheckpointError"),
    ("jmp_hk.training.trainer", "Trainer(None, [], [], '.')", "AttributeError"),
  ],
)
def test_entry_points_configure_before_the_backend_starts(
  module, call, error, tmp_path
):
  imports = f"from {module} import *" if module else ""
  code = _ENTRY_POINT.format(imports=imports, call=call)
  assert _run(code, HOME=str(tmp_path)) == error
