"""What has to be set before jax starts: XLA flags, memory, caches, processes.

Nothing here overrides what the user has set.
"""

import ctypes
import dataclasses
import logging
import os
import pathlib
import sys
from collections.abc import Mapping, MutableMapping

# XLA's CPU pipeline removes optimisation barriers just before fusing, and then copies
# whole residual chains into every consumer; without this pass it does not.
_CPU_XLA_FLAGS = {"--xla_disable_hlo_passes": "cse_barrier_expander"}
_ACCELERATOR_DEVICES = ("nvidia0", "nvidiactl", "kfd", "accel0", "vfio")

# Options of glibc's mallopt: one heap for all threads, nothing mapped apart from it,
# never shrunk, grown in large pieces.
_MALLOC_OPTIONS = {"ARENA_MAX": (-8, 1), "MMAP_MAX": (-4, 0), "TRIM": (-1, -1),
                   "TOP_PAD": (-2, 256 << 20)}
# Arrays of more than 1 MiB are mapped apart from the heaps, of which there are few.
_RETURNING_OPTIONS = {"MMAP_THRESHOLD": (-3, 1 << 20), "ARENA_MAX": (-8, 2)}


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
  if runs_on_cpu(os.environ):
    add_cpu_flags(os.environ)
    keep_freed_memory()
  import jax

  if config.compilation_cache and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", config.compilation_cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def runs_on_cpu(environment: MutableMapping[str, str]) -> bool:
  """Whether jax will run on the CPU, as far as one can tell without starting it."""
  platforms = environment.get("JAX_PLATFORMS", "")
  if platforms:
    return platforms.split(",")[0] == "cpu"
  return not any((pathlib.Path("/dev") / name).exists() for name in _ACCELERATOR_DEVICES)


def add_cpu_flags(environment: MutableMapping[str, str]) -> None:
  """Appends to XLA_FLAGS what the user has not set there."""
  flags = environment.get("XLA_FLAGS", "")
  missing = [f"{k}={v}" for k, v in _CPU_XLA_FLAGS.items() if k not in flags]
  if missing:
    environment["XLA_FLAGS"] = " ".join([*([flags] if flags else []), *missing])


def keep_freed_memory() -> None:
  """Stops the C library from returning freed memory to the system.

  A step on the CPU frees and asks for its temporary memory again and again; mapping
  it anew costs a page fault for every 4 kB (165 000 a step for 12 residual layers of
  width 512 on 4 470 rows; 1 000 with this, a fifth of the time). Does nothing without
  glibc, or where the user tunes or replaces the allocator.
  """
  _set_malloc_options(_MALLOC_OPTIONS)


def return_freed_memory() -> None:
  """Makes the C library return freed arrays to the system at once.

  For runners that move weights without computing; the opposite of the above.
  """
  _set_malloc_options(_RETURNING_OPTIONS)


def _set_malloc_options(options: Mapping[str, tuple[int, int]]) -> None:
  """Calls glibc's mallopt, where that is what allocates."""
  if not sys.platform.startswith("linux"):
    return
  if any(name in os.environ for name in ("LD_PRELOAD", "GLIBC_TUNABLES")):
    return
  if any(name.startswith("MALLOC_") for name in os.environ):
    return
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError):
    return
  for option, value in options.values():
    mallopt(option, value)
