"""What has to be set before jax starts: XLA flags, memory, caches, processes.

Nothing here overrides what the user has set.
"""

from collections.abc import MutableMapping
import dataclasses
import logging
import os
import pathlib

from jmp_hk.runtime import allocator

# XLA's CPU pipeline removes optimisation barriers just before fusing, and then copies
# whole residual chains into every consumer; without this pass it does not.
_CPU_XLA_FLAGS = {"--xla_disable_hlo_passes": "cse_barrier_expander"}
_ACCELERATOR_DEVICES = ("nvidia0", "nvidiactl", "kfd", "accel0", "vfio")


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
  """How jax is started.

  Attributes:
    compilation_cache: directory in which compiled programs are kept between runs;
      "" keeps none.
    coordinator_address: host:port of process 0, for runs of several processes; ""
      lets jax detect a cluster where `num_processes` is not 1.
    num_processes: processes of the run; 0 lets jax detect them (Slurm, cloud).
    process_id: number of this process.
    connection_seconds: how long the processes wait for each other at the start.
  """

  compilation_cache: str = ""
  coordinator_address: str = ""
  num_processes: int = 1
  process_id: int = 0
  connection_seconds: int = 300


def default_compilation_cache() -> str:
  """The user's cache directory for compiled programs."""
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return str(pathlib.Path(cache) / "jmp_hk" / "xla")


def prepare(config: EnvironmentConfig) -> None:
  """Sets everything up; call it before jax is used for the first time.

  Runs of several processes call `processes.connect` next.

  Args:
    config: how jax is started.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # It only reads records.
  logging.getLogger("jax").setLevel(logging.WARNING)
  on_cpu = runs_on_cpu(os.environ)
  if on_cpu:
    add_cpu_flags(os.environ)
    allocator.keep_freed_memory()
  import jax

  # A program that runs ahead of the CPU takes the temporary memory of several steps.
  if on_cpu and "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
    jax.config.update("jax_cpu_enable_async_dispatch", False)
  if config.compilation_cache and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", config.compilation_cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def runs_on_cpu(environment: MutableMapping[str, str]) -> bool:
  """Whether jax will run on the CPU, as far as one can tell without starting it."""
  platforms = environment.get("JAX_PLATFORMS", "")
  if platforms:
    return platforms.split(",")[0] == "cpu"
  return not any(
    (pathlib.Path("/dev") / name).exists() for name in _ACCELERATOR_DEVICES
  )


def add_cpu_flags(environment: MutableMapping[str, str]) -> None:
  """Appends to XLA_FLAGS what the user has not set there."""
  flags = environment.get("XLA_FLAGS", "")
  missing = [f"{k}={v}" for k, v in _CPU_XLA_FLAGS.items() if k not in flags]
  if missing:
    environment["XLA_FLAGS"] = " ".join([*([flags] if flags else []), *missing])
