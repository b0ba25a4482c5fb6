"""SIGINT and SIGTERM: raised, deferred, repeated, and the handlers of before."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

from absl.testing import absltest
from absl.testing import parameterized

from jmp_hk.runtime import interruption


class InterruptionTest(parameterized.TestCase):
  @parameterized.parameters(
    (signal.SIGINT, KeyboardInterrupt, 130), (signal.SIGTERM, SystemExit, 143)
  )
  def test_a_signal_raises_unless_something_is_finished_first(
    self, number, usual, exit_code
  ):
    before = signal.getsignal(number)
    with self.assertRaises(usual) as caught, interruption.caught():
      signal.raise_signal(number)
    self.assertIsInstance(caught.exception, interruption.STOPS)
    self.assertEqual(caught.exception.exit_code, exit_code)
    self.assertEqual(caught.exception.message, "")
    self.assertIs(signal.getsignal(number), before)
    with interruption.caught() as signals:
      signals.is_deferred = True
      signal.raise_signal(number)
      # The terminal may send the same one to the process and to its group.
      signal.raise_signal(number)
      self.assertEqual(signals.received, number)
    self.assertIs(signal.getsignal(number), before)

  def test_blocks_inside_others_share_their_signals(self):
    with interruption.caught() as outer:
      with interruption.caught() as inner:
        self.assertIs(inner, outer)
      self.assertEqual(signal.getsignal(signal.SIGTERM), outer.handle)

  def test_other_threads_install_nothing(self):
    found = []

    def run():
      with interruption.caught() as signals:
        found.append((signals.received, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    self.assertEqual(found, [(0, before)])

  def test_what_is_ignored_stays_ignored(self):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
      with interruption.caught() as signals:
        signal.raise_signal(signal.SIGINT)
        self.assertEqual(signals.received, 0)
    finally:
      signal.signal(signal.SIGINT, before)

  def test_a_second_signal_ends_the_process_at_once(self):
    # The main thread is busy and would look at the first signal only much later.
    code = textwrap.dedent("""
      import time
      from jmp_hk.runtime import interruption
      with interruption.caught(ends_process=True) as signals:
        signals.is_deferred = True
        print("ready", flush=True)
        while not signals.received:
          time.sleep(0.01)
        time.sleep(1.1 * interruption._REPEAT_SECONDS)
        print("noted", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen(
      [sys.executable, "-c", code],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    ) as process:
      self.assertEqual(process.stdout.readline(), "ready\n")
      os.kill(process.pid, signal.SIGTERM)
      self.assertEqual(process.stdout.readline(), "noted\n")
      os.kill(process.pid, signal.SIGINT)
      self.assertEqual(process.wait(), 130)
      self.assertIn("Ended at once by a second SIGINT.", process.stderr.read())

  def test_a_compilation_is_finished_before_the_program_ends(self):
    # Else jax compiles on in a thread while the process is taken down, and it crashes.
    code = textwrap.dedent("""
      import os, signal, threading
      import jax
      import jax.numpy as jnp
      from jmp_hk.runtime import compilation
      from jmp_hk.runtime import interruption

      def long(x):
        for i in range(800):
          x = jnp.sin(x @ x) + i * jnp.cos(x).sum(0)
        return x

      class Lowered:
        lowered = jax.jit(long).lower(jnp.ones((8, 8)))

        def lower(self):
          threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
          return self.lowered

      with interruption.caught(ends_process=True) as signals:
        try:
          compilation.compile_for(Lowered())
        except interruption.Terminated:
          print("ended", signals.is_deferred)
          raise
    """)
    ended = subprocess.run(
      [sys.executable, "-c", code],
      capture_output=True,
      text=True,
      check=False,
      env=os.environ
      | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    self.assertEqual((ended.returncode, ended.stdout), (143, "ended False\n"))


if __name__ == "__main__":
  absltest.main()
