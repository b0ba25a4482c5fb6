"""How jax is started: XLA's flags, memory, dispatch, compilation cache, log levels.

Every entry point of the library calls `configure` before it computes anything: the
runners, `jmp_hk.load`, the calculator, the trainer. Nothing that the user has set is
overridden.
"""

from collections.abc import Mapping
from collections.abc import MutableMapping
import dataclasses
import logging
import os
import pathlib
import sys

from jmp_hk.runtime import allocator

logger = logging.getLogger(__name__)

# XLA's CPU pipeline removes optimisation barriers just before fusing, and then copies
# whole residual chains into every consumer; without this pass it does not.
_CPU_XLA_FLAGS = {"--xla_disable_hlo_passes": "cse_barrier_expander"}
_ACCELERATOR_DEVICES = ("nvidia0", "nvidiactl", "kfd", "accel0", "vfio")
_FREED_MEMORY = ("keep", "return", "default")
_CACHE_MIN_COMPILE_SECONDS = 1.0

_state = {"is_configured": False}


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
  """How jax is started, and which process of a run this is.

  Attributes:
    compilation_cache: directory in which compiled programs are kept between runs, see
      `default_compilation_cache`; "" keeps none.
    freed_memory: what the C library does with memory that a program on the CPU has
      freed. "keep" reuses it, which makes steps faster; "return" gives it back to the
      system at once, for programs that move weights without computing; "default"
      changes nothing.
    coordinator_address: host:port of process 0, for runs of several processes; ""
      lets jax detect a cluster where `num_processes` is not 1.
    num_processes: number of processes of the run; 0 lets jax detect it (Slurm, cloud).
    process_id: number of this process, counted from 0.
    connection_seconds: how long the processes wait for each other at the start.
  """

  compilation_cache: str = ""
  freed_memory: str = "keep"
  coordinator_address: str = ""
  num_processes: int = 1
  process_id: int = 0
  connection_seconds: int = 300

  def __post_init__(self) -> None:
    if self.freed_memory not in _FREED_MEMORY:
      raise ValueError(
        f"freed_memory must be one of {_FREED_MEMORY}, got {self.freed_memory!r}."
      )


def default_compilation_cache() -> str:
  """The user's cache directory for compiled programs."""
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return str(pathlib.Path(cache) / "jmp_hk" / "xla")


def configure(config: RuntimeConfig | None = None) -> None:
  """Sets jax up; best called before jax starts its backend, safe at any time.

  It may be called any number of times. A setting that jax no longer reads once its
  backend runs is skipped, which a debug message of this module's logger says. Runs of
  several processes call `processes.connect` next.

  Args:
    config: how jax is started. None uses the defaults of `RuntimeConfig`, and changes
      nothing in a process that has been configured before.
  """
  if config is None:
    if _state["is_configured"]:
      return
    config = RuntimeConfig()
  _state["is_configured"] = True
  _quieten_logs()
  if runs_on_cpu(os.environ):
    _configure_cpu(config)
  elif config.freed_memory == "return":
    allocator.return_freed_memory()
  if config.compilation_cache:
    _set_compilation_cache(config.compilation_cache)


def runs_on_cpu(environment: Mapping[str, str]) -> bool:
  """Whether jax runs on the CPU, as far as one can tell without starting it."""
  if backend_is_running():
    return sys.modules["jax"].default_backend() == "cpu"
  platforms = environment.get("JAX_PLATFORMS", "")
  if "jax" in sys.modules:  # It has read the variable; the user may have changed it.
    platforms = sys.modules["jax"].config.jax_platforms or ""
  if platforms:
    return platforms.split(",")[0] == "cpu"
  return not any(
    (pathlib.Path("/dev") / name).exists() for name in _ACCELERATOR_DEVICES
  )


def backend_is_running() -> bool:
  """Whether jax has started a backend in this process; does not start one."""
  bridge = sys.modules.get("jax._src.xla_bridge")  # There is no public way to ask.
  return bridge is not None and bridge.backends_are_initialized()


def add_cpu_flags(environment: MutableMapping[str, str]) -> None:
  """Appends to XLA_FLAGS what the user has not set there."""
  flags = environment.get("XLA_FLAGS", "")
  missing = [f"{k}={v}" for k, v in _CPU_XLA_FLAGS.items() if k not in flags]
  if missing:
    environment["XLA_FLAGS"] = " ".join([*([flags] if flags else []), *missing])


def _quieten_logs() -> None:
  """Leaves warnings and errors of XLA, jax and Orbax."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA reads it too.
  jax_logger = logging.getLogger("jax")
  if jax_logger.level == logging.NOTSET:
    jax_logger.setLevel(logging.WARNING)
  absl_logger = logging.getLogger("absl")  # Orbax logs there, many lines a checkpoint.
  if is_worth_reading not in absl_logger.filters:
    absl_logger.addFilter(is_worth_reading)


def is_worth_reading(record: logging.LogRecord) -> bool:
  """Whether a line of a log is more than Orbax's account of what it does."""
  # Where absl cannot tell who called it, it names itself.
  unwanted = "orbax" in record.pathname or "absl/logging" in record.pathname
  return record.levelno >= logging.WARNING or not unwanted


def _configure_cpu(config: RuntimeConfig) -> None:
  """Sets the allocator, and what XLA's CPU client reads when it starts."""
  if config.freed_memory == "keep":
    allocator.keep_freed_memory()
  elif config.freed_memory == "return":
    allocator.return_freed_memory()
  if backend_is_running():
    logger.debug(
      "XLA_FLAGS and asynchronous dispatch stay as they are, because jax has started "
      "its backend already; call jmp_hk.runtime.configuration.configure() earlier for "
      "faster programs."
    )
    return
  add_cpu_flags(os.environ)
  if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
    import jax

    # A program that runs ahead of the CPU takes the temporary memory of several steps.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def _set_compilation_cache(directory: str) -> None:
  """Keeps compiled programs in a directory, unless the user has chosen one."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
  if chosen:  # By the user, or by an earlier call.
    return
  jax.config.update("jax_compilation_cache_dir", directory)
  jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", _CACHE_MIN_COMPILE_SECONDS
  )
  compilation_cache.reset_cache()  # jax has looked for a directory if it has compiled.
