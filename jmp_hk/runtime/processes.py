"""Runs of several processes, which find each other and end together."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
import traceback
from typing import NoReturn

from jmp_hk.runtime import configuration
from jmp_hk.runtime import interruption

# A process that vanishes (its machine loses power) is noticed after this time. One that
# ends is noticed at the next exchange between processes.
_HEARTBEAT_SECONDS = 40
_SHUTDOWN_SECONDS = 40
# Words in jax's errors where the other side of an exchange is gone.
_SIGNS_OF_LOSS = ("gloo", "nccl", "coordination", "connection", "barrier", "peer")
_NATIVE_LOG = "TF_CPP_MIN_LOG_LEVEL"
_NO_NATIVE_LOG = 4  # Above all levels of jax's own messages.
_ENDING_SECONDS = 10

_ending = threading.Lock()  # Held by the thread that ends the process.
_kept: list[object] = []  # What C code points to.


class ConnectionFailedError(RuntimeError):
  """The processes of a run did not find each other."""


def connect(config: configuration.RuntimeConfig) -> None:
  """Connects the processes of a run; does nothing if this is the only one.

  Call it after `configuration.configure` and before jax is used.

  Args:
    config: says which process of how many this is.

  Raises:
    ConnectionFailedError: the settings contradict each other, no cluster was detected,
      or the other processes did not come in time.
  """
  if config.num_processes == 1 and not config.coordinator_address:
    return
  import jax

  # jax's service would catch SIGTERM, which is the part of `interruption`.
  jax.config.update("jax_enable_preemption_service", False)
  explicit = bool(config.coordinator_address)
  if explicit and not config.process_id < config.num_processes:
    raise ConnectionFailedError(
      f"process_id={config.process_id} must be less than num_processes="
      f"{config.num_processes}."
    )
  try:
    jax.distributed.initialize(
      coordinator_address=config.coordinator_address or None,
      num_processes=config.num_processes or None,
      process_id=config.process_id if explicit else None,
      local_device_ids=slurm_devices(os.environ),
      initialization_timeout=config.connection_seconds,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ConnectionFailedError(
      f"The processes of this run did not find each other: {reason} Check "
      "coordinator_address (host:port of process 0), num_processes and process_id; "
      "without an address a cluster (Slurm, Open MPI, cloud) has to be detected."
    ) from error
  _end_in_words()


def slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
  """Numbers of the GPUs of this task of Slurm: its share of those that it sees.

  jax itself would give every task one GPU, although a task may have a whole node, or be
  bound to one GPU that has the number 0 in each task.

  Args:
    environment: the variables of Slurm and CUDA.

  Returns:
    The numbers; None where this is no task of Slurm, no GPU is known, there are fewer
    than tasks, or JAX_LOCAL_DEVICE_IDS says which to take.
  """
  names = ("SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE")
  if "JAX_LOCAL_DEVICE_IDS" in environment or any(n not in environment for n in names):
    return None
  visible = environment.get("CUDA_VISIBLE_DEVICES")
  if visible is None:
    count = environment.get("SLURM_GPUS_ON_NODE", "")
    num_gpus = int(count) if count.isdecimal() else 0
  else:
    num_gpus = len([entry for entry in visible.split(",") if entry.strip()])
  local, node = int(environment["SLURM_LOCALID"]), int(environment["SLURM_NODEID"])
  tasks = _tasks_by_node(environment["SLURM_STEP_TASKS_PER_NODE"])[node]
  if num_gpus == 1:  # That of this task alone.
    return [0]
  each = num_gpus // tasks
  return list(range(local * each, (local + 1) * each)) or None


def _tasks_by_node(text: str) -> list[int]:
  """Reads Slurm's notation: "8(x3),4" stands for 8, 8, 8 and 4."""
  counts = []
  for entry in text.split(","):
    number, _, repeats = entry.rstrip(")").partition("(x")
    counts += [int(number)] * int(repeats or 1)
  return counts


def _end_in_words() -> None:
  """Lets this process end with a sentence where jax would abort it.

  jax aborts a process whose coordinator (process 0) is gone, or where a heartbeat is
  missing, from a thread of its own, wherever Python may be. A handler of Python's
  would come too late: `abort` does not return to it. TF_CPP_MIN_LOG_LEVEL=0 leaves
  jax's account of it, with a stack trace.
  """
  import jax

  count, me = jax.process_count(), jax.process_index()
  message = _loss(
    f"process {me} of {count}",
    f"Or jax has failed in this one: {_NATIVE_LOG}=0 shows its messages.",
  )

  def handle(number: int) -> None:
    del number
    _end(message)

  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
  _kept.append(handler)
  ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
  if os.environ.get(_NATIVE_LOG) != "0":
    with contextlib.suppress(ImportError, AttributeError):  # jax's own business.
      utils = importlib.import_module("jaxlib.utils")
      utils.absl_set_min_log_level(_NO_NATIVE_LOG)


def _loss(me: str, details: str) -> str:
  """What a process says that ends because another one has."""
  return (
    f"error: {me} stops, because another process of this run has ended; look at what "
    "that one says. Start all of them again to continue from the last checkpoint. "
    f"({details})"
  )


def _end(message: str) -> NoReturn:
  """Ends the process at once with a message as its last line."""
  if not _ending.acquire(blocking=False):
    threading.Event().wait(_ENDING_SECONDS)  # Another thread is ending the process.
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    sys.stderr.flush()
  os.write(2, f"{message}\n".encode())
  os._exit(1)


@contextlib.contextmanager
def ends_together(plain: tuple[type[Exception], ...] = ()) -> Iterator[None]:
  """Ends this process at once if the block raises in a run of several processes.

  An orderly shutdown would wait for the other processes, and they for this one. They
  notice at their next exchange, or by the missing heartbeat, and end as well. In a run
  of one process exceptions pass through, and so do those of signals that all processes
  have agreed on.

  Args:
    plain: errors whose message says enough without a traceback.
  """
  import jax

  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    me = f"process {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, interruption.STOPS):
      if error.message:  # All processes have agreed on it.
        raise
      print(
        f"Stopped by {interruption.name(error.number)}: {me}. The others end too. "
        "Start all of them again to continue from the last checkpoint.",
        file=sys.stderr,
      )
      sys.stderr.flush()
      os._exit(error.exit_code)
    if lost_another(error):
      _end(_loss(me, " ".join(str(error).split())[:200]))
    if not isinstance(error, plain):
      traceback.print_exc()
    reason = " ".join(str(error).split()) or type(error).__name__
    _end(f"error: {me} failed: {reason} The others end too.")


def lost_another(error: BaseException) -> bool:
  """Whether an exchange with another process failed."""
  if not isinstance(error, (RuntimeError, ValueError)):
    return False
  text = str(error).lower()
  return any(sign in text for sign in _SIGNS_OF_LOSS)


def is_first() -> bool:
  """Whether this process writes checkpoints' metadata, metrics and reports."""
  import jax

  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Waits until every process has come to this place.

  Args:
    name: name of the place, unique in a run.
  """
  import jax
  from jax.experimental import multihost_utils

  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
