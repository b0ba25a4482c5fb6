"""A pool of processes for work in NumPy; they end with the one that started them."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
from multiprocessing import connection
from multiprocessing import resource_tracker
import multiprocessing.process
import os
import pickle
import selectors
import signal
import sys
import threading
import time
import types
from typing import Any
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0  # With processes that were told to end.
# Signals for a whole job that only the main process answers; macOS cannot wait for one.
_BLOCKED = (
  (signal.SIGINT, signal.SIGTERM)
  if hasattr(signal, "sigtimedwait")
  else (signal.SIGINT,)
)
# One thread of linear algebra each; and where they import jax, the devices are others'.
_ENVIRONMENT = {
  "OMP_NUM_THREADS": "1",
  "OPENBLAS_NUM_THREADS": "1",
  "MKL_NUM_THREADS": "1",
  "JAX_PLATFORMS": "cpu",
}
_main_lock = threading.Lock()


class WorkerError(RuntimeError):
  """A worker process died."""


class WorkerPool:
  """Fresh processes that import what their tasks need and nothing else.

  They do not import the main module of this program, which might start JAX or
  TensorFlow in each of them, and so the functions that they run must be defined in
  other modules. Their linear algebra has one thread each. They end soon after this
  process has, whatever ended it; of SIGINT and SIGTERM, which terminals and schedulers
  send to all processes of a job, they take no notice. As a context manager, the pool
  waits for the tasks that have started and cancels the others; where an interruption
  leaves the block, it ends those that have started as well.
  """

  def __init__(self, num_workers: int, death_message: str):
    """Starts the processes.

    Args:
      num_workers: number of processes.
      death_message: message of the `WorkerError` where one of them dies, which is
        nearly always for lack of memory: what they did, and what the user can do.
    """
    self._death_message = death_message
    self._executor = concurrent.futures.ProcessPoolExecutor(
      num_workers,
      mp_context=multiprocessing.get_context("spawn"),
      initializer=_follow_parent,
      initargs=(os.getpid(),),
    )
    with _hidden_main(), _environment(), _signals_blocked():
      # Every task starts one process as long as none is idle.
      for _ in range(num_workers):
        self._executor.submit(_start)

  def __enter__(self) -> "WorkerPool":
    return self

  def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
    if kind is not None and not issubclass(kind, Exception):
      for process in list((self._executor._processes or {}).values()):
        process.terminate()
    self._executor.shutdown(wait=True, cancel_futures=True)

  def close(self) -> None:
    """Cancels what has not started, and does not wait for the rest."""
    self._executor.shutdown(wait=False, cancel_futures=True)

  def submit(self, function: Callable[..., T], *args: Any) -> Callable[[], T]:
    """Orders one call.

    Args:
      function: defined in a module that the processes can import.
      *args: its arguments, which are pickled.

    Returns:
      A function that waits for the result and returns it; it raises what the call
      raised, or a `WorkerError`.
    """
    with self._naming_death():
      future = self._executor.submit(function, *args)

    def wait() -> T:
      with self._naming_death():
        return future.result()

    return wait

  def as_completed(
    self, function: Callable[[Any], T], items: Iterable[Any]
  ) -> Iterator[T]:
    """Yields the results of a function in the order in which they are finished.

    Raises:
      WorkerError: a process died.
    """
    with self._naming_death():
      futures = [self._executor.submit(function, item) for item in items]
      for future in concurrent.futures.as_completed(futures):
        yield future.result()

  def map(
    self, function: Callable[[Any], T], items: Iterable[Any], chunk_size: int = 1
  ) -> Iterator[T]:
    """Yields the results of a function in the order of the items.

    Raises:
      WorkerError: a process died.
    """
    with self._naming_death():
      yield from self._executor.map(function, items, chunksize=chunk_size)

  @contextlib.contextmanager
  def _naming_death(self) -> Iterator[None]:
    try:
      yield
    except concurrent.futures.process.BrokenProcessPool as error:
      raise WorkerError(self._death_message) from error


class Crew:
  """Processes of the same kind, each with one long task and a pipe to talk to it."""

  def __init__(
    self,
    num_workers: int,
    death_message: str,
    function: Callable[..., None],
    *args: Any,
  ):
    """Starts the processes.

    Args:
      num_workers: number of processes.
      death_message: see `WorkerPool`.
      function: what each does, defined in a module that it can import: called with its
        number, its end of the pipe, and `args`. It ends when its pipe is closed.
      *args: pickled, once for each process.
    """
    self._death_message = death_message
    self._processes: list[multiprocessing.process.BaseProcess] = []
    self._pipes: list[connection.Connection] = []
    # Kept, because making one for every message would cost more than all the rest.
    self._selector = selectors.DefaultSelector()
    context = multiprocessing.get_context("spawn")
    try:
      with _hidden_main(), _environment(), _signals_blocked():
        for number in range(num_workers):
          pipe, other = context.Pipe()
          self._pipes.append(pipe)
          self._selector.register(pipe, selectors.EVENT_READ, number)
          with other:
            process = context.Process(
              target=_run_followed,
              args=(os.getpid(), function, number, other, *args),
              daemon=True,
            )
            process.start()
            self._processes.append(process)
    except BaseException:
      self.close()
      raise

  @property
  def process_ids(self) -> list[int]:
    """Numbers of the processes."""
    return [process.pid for process in self._processes if process.pid is not None]

  def send(self, number: int, message: Any) -> None:
    """Sends a message to one process; whether it has died tells `receive`."""
    with contextlib.suppress(OSError):
      # Its `send` prepares for sharing files and locks, which takes most of its time.
      self._pipes[number].send_bytes(pickle.dumps(message))

  def receive(self) -> list[tuple[int, Any]]:
    """Waits for messages; at most one of each process.

    Returns:
      Number of the process and the message.

    Raises:
      WorkerError: a process died.
    """
    try:
      return [
        (key.data, self._pipes[key.data].recv()) for key, _ in self._selector.select()
      ]
    except (EOFError, OSError) as error:
      raise WorkerError(self._death_message) from error

  def close(self) -> None:
    """Ends the processes, whatever they are doing."""
    self._selector.close()
    for pipe in self._pipes:
      pipe.close()
    for process in self._processes:
      process.terminate()
    for process in self._processes:
      process.join(_PATIENCE_SECONDS)
      if process.exitcode is None:
        process.kill()
        process.join()


def _run_followed(parent: int, function: Callable[..., None], *args: Any) -> None:
  _follow_parent(parent)
  function(*args)


def _start() -> None:
  """A first task, which starts a process."""


def _follow_parent(parent: int) -> None:
  """Ends this process soon after its parent has died (kill -9 included) or says so.

  SIGTERM is blocked in this process: only that of the parent counts.
  """

  def watch() -> None:
    while os.getppid() == parent:
      if signal.SIGTERM not in _BLOCKED:
        time.sleep(_POLL_SECONDS)
        continue
      received = signal.sigtimedwait([signal.SIGTERM], _POLL_SECONDS)
      if received is not None and received.si_pid == parent:
        break
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
  """Keeps new processes from importing this program's main module."""
  with _main_lock:
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
      yield
    finally:
      sys.modules["__main__"] = main


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
  """New processes never see SIGINT, nor SIGTERM unless they wait for it."""
  resource_tracker.ensure_running()  # It would unblock them when it starts.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
  """New processes start with `_ENVIRONMENT`."""
  before = {name: os.environ.get(name) for name in _ENVIRONMENT}
  os.environ.update(_ENVIRONMENT)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value
