"""Runs of several processes, which find each other and end together."""

from collections.abc import Iterator
import contextlib
import os
import sys
import traceback

from jmp_hk.runtime import configuration
from jmp_hk.runtime import interruption

# A process that vanishes (its machine loses power) is noticed after this time. One that
# ends is noticed at the next exchange between processes.
_HEARTBEAT_SECONDS = 40
_SHUTDOWN_SECONDS = 40
# Words in jax's errors where the other side of an exchange is gone.
_SIGNS_OF_LOSS = ("gloo", "nccl", "coordination", "connection", "barrier", "peer")


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
      print(
        f"error: {me} stops, because another process of this run has ended; look at "
        "what that one says. Start all of them again to continue from the last "
        f"checkpoint. ({' '.join(str(error).split())[:200]})",
        file=sys.stderr,
      )
    else:
      if not isinstance(error, plain):
        traceback.print_exc()
      reason = " ".join(str(error).split()) or type(error).__name__
      print(f"error: {me} failed: {reason} The others end too.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


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
