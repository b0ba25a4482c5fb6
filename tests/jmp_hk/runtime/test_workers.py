"""Worker processes: results, errors, what they import, and how they end."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jmp_hk.runtime import workers
from tests.jmp_hk.runtime import toy_crew

MESSAGE = "A process that takes roots died; take fewer roots."


def _pool(num_workers: int) -> workers.WorkerPool:
  return workers.WorkerPool(num_workers, MESSAGE)


def test_results_and_errors_arrive():
  with _pool(2) as pool:
    waits = [pool.submit(math.sqrt, x) for x in (4.0, 9.0)]
    assert [wait() for wait in waits] == [2.0, 3.0]
    assert list(pool.map(math.sqrt, [1.0, 4.0, 9.0], chunk_size=2)) == [1.0, 2.0, 3.0]
    assert sorted(pool.as_completed(math.sqrt, [9.0, 1.0, 4.0])) == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="domain|nonnegative"):
      pool.submit(math.sqrt, -1.0)()


def test_death_is_told_with_advice():
  with _pool(1) as pool:
    with pytest.raises(workers.WorkerError, match="take fewer roots"):
      pool.submit(os._exit, 9)()
    # The pool cannot be used any more, and says so in the same words.
    with pytest.raises(workers.WorkerError, match="take fewer roots"):
      pool.submit(math.sqrt, 4.0)


def test_signals_for_the_whole_job_do_not_reach_the_workers():
  with _pool(1) as pool:
    worker = pool.submit(os.getpid)()
    for number in (signal.SIGINT, signal.SIGTERM):
      # From another process than the parent, as a terminal or scheduler sends them.
      subprocess.run(["kill", f"-{int(number)}", str(worker)], check=True)
    assert pool.submit(math.sqrt, 4.0)() == 2.0
    assert pool.submit(os.getpid)() == worker


def test_an_interruption_does_not_wait_for_the_tasks():
  with pytest.raises(KeyboardInterrupt), _pool(2) as pool:
    pool.submit(os.getpid)()
    pool.submit(time.sleep, 600)
    raise KeyboardInterrupt


@pytest.fixture(name="crew")
def _crew():
  crew = workers.Crew(2, MESSAGE, toy_crew.multiply, 10)
  yield crew
  crew.close()


def test_a_crew_answers(crew):
  crew.send(0, 3)
  crew.send(1, 4)
  found = crew.receive()
  while len(found) < 2:
    found += crew.receive()
  assert sorted(found) == [(0, 30), (1, 41)]


def test_a_crew_takes_no_notice_of_signals_for_the_whole_job(crew):
  for process in crew.process_ids:
    for number in (signal.SIGINT, signal.SIGTERM):
      subprocess.run(["kill", f"-{int(number)}", str(process)], check=True)
  crew.send(1, 2)
  assert crew.receive() == [(1, 21)]


def test_death_in_a_crew_is_told_with_advice(crew):
  crew.send(0, "die")
  with pytest.raises(workers.WorkerError, match="take fewer roots"):
    crew.receive()
  crew.send(0, 1)
  with pytest.raises(workers.WorkerError, match="take fewer roots"):
    crew.receive()


def test_a_closed_crew_has_no_processes(crew):
  crew.send(0, "sleep")
  crew.close()
  crew.close()
  for process in crew.process_ids:
    with pytest.raises(ProcessLookupError):
      os.kill(process, 0)


def test_linear_algebra_has_one_thread():
  before = os.environ.get("OMP_NUM_THREADS")
  with _pool(1) as pool:
    assert pool.submit(os.getenv, "OMP_NUM_THREADS")() == "1"
  assert os.environ.get("OMP_NUM_THREADS") == before


def test_workers_end_with_a_killed_parent():
  # The main module is not imported, which has no guard here and would recurse.
  code = textwrap.dedent("""
      import os, time
      from jmp_hk.runtime import workers
      pool = workers.WorkerPool(1, "died")
      print(pool.submit(os.getpid)(), flush=True)
      time.sleep(600)
  """)
  with subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  ) as parent:
    worker = int(parent.stdout.readline())
    assert worker != parent.pid
    parent.send_signal(signal.SIGKILL)
    # The worker shares the other end of the pipe: this waits until it has ended.
    assert parent.stdout.read() == ""
