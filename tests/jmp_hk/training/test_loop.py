"""The loop trains, logs, evaluates, saves, stops, and survives kill -9."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import plot
from jmp_hk.training import step_log
from jmp_hk.training import trainer as trainer_lib
from jmp_hk.training import writers
from tests.jmp_hk.training import toy_run

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_ERRORS = ("energy_mae_mev", "force_mae_mev_per_angstrom")
_TIMING = ("seconds", "steps_per_second", "structures_per_second")


def _lines(workdir: pathlib.Path) -> list[dict]:
  """Metrics without what depends on the clock."""
  lines = writers.read_metrics(workdir / writers.METRICS_FILE)
  return [{k: v for k, v in line.items() if k not in _TIMING} for line in lines]


def test_a_run_leaves_metrics_checkpoints_and_a_plot(tmp_path):
  trainer = toy_run.run(tmp_path, toy_run.make_config(20))
  lines = _lines(tmp_path)
  train = [line for line in lines if line["kind"] == "train"]
  assert [line["step"] for line in train] == list(range(1, 21))
  assert {
    "loss",
    "loss/energy",
    "loss/forces",
    "gradient_norm",
    "learning_rate",
  } <= set(train[0])
  assert train[-1]["loss"] < train[0]["loss"]
  val = [line for line in lines if line["kind"] == "val"]
  # At the interval and at the last step.
  assert [line["step"] for line in val] == [7, 14, 20]
  errors = [val[-1][f"toy/{name}"] for name in _ERRORS]
  assert sum(errors) == pytest.approx(1000 * val[-1]["score"])
  steps = checkpointer_lib.complete_steps(tmp_path / "checkpoints")
  best = min(val, key=lambda line: line["score"])["step"]
  assert steps[-2:] == [18, 20] and best in steps
  assert (tmp_path / plot.PLOT_FILE).stat().st_size > 10_000
  assert any((tmp_path / writers.TENSORBOARD_DIRECTORY).iterdir())
  assert int(trainer.state.step) == 20


def test_intervals_are_averages_and_end_at_checkpoints(tmp_path):
  toy_run.run(tmp_path / "all", toy_run.make_config(8))
  config = toy_run.make_config(8, log_every=4, checkpoint_every=3)
  toy_run.run(tmp_path / "some", config)
  every = {
    l["step"]: l["loss"] for l in _lines(tmp_path / "all") if l["kind"] == "train"
  }
  some = {
    l["step"]: l["loss"] for l in _lines(tmp_path / "some") if l["kind"] == "train"
  }
  assert list(some) == [3, 4, 6, 7, 8]
  assert some[3] == pytest.approx(np.mean([every[1], every[2], every[3]]))
  assert some[4] == pytest.approx(every[4])


def test_non_finite_loss_names_the_records_and_keeps_the_checkpoint(tmp_path):
  config = toy_run.make_config(20, log_every=5)
  names = r"file:7:0:0, file:7:0:1, file:7:1:0\."
  with pytest.raises(step_log.NonFiniteLossError, match=f"Step 8: .*{names}"):
    toy_run.run(tmp_path, config, 7)
  # Without the bad records the run goes on, as if nothing had happened.
  toy_run.run(tmp_path, config)
  toy_run.run(tmp_path / "good", config)
  assert _lines(tmp_path) == _lines(tmp_path / "good")


def test_finished_run_does_nothing(tmp_path, caplog):
  config = toy_run.make_config(4)
  metrics = toy_run.run(tmp_path, config).run()
  before = _lines(tmp_path)
  caplog.set_level("INFO", "jmp_hk")
  trainer = toy_run.run(tmp_path, config)
  assert int(trainer.state.step) == 4 and _lines(tmp_path) == before
  assert trainer.run() == metrics and metrics["score"] > 0
  assert "Nothing to do: the run has taken 4 of 4 steps. Raise num_steps" in caplog.text


def _signal_at(position: int, number: signal.Signals):
  """Sends a signal to this process when a batch is read."""

  def on_batch(found: int) -> None:
    if found == position:
      os.kill(os.getpid(), number)

  return on_batch


def test_extended_and_stopped_twice_it_equals_an_uninterrupted_run(tmp_path, caplog):
  caplog.set_level("INFO", "jmp_hk")
  settings = {"log_every": 4, "evaluate_every": 4, "checkpoint_every": 100}
  config = toy_run.make_config(20, **settings)
  whole = toy_run.run(tmp_path / "whole", config)
  stopped = tmp_path / "stopped"
  toy_run.run(stopped, toy_run.make_config(8, **settings))
  handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  # In the middle of an interval of the log, whose first steps the checkpoint keeps.
  with pytest.raises(SystemExit) as error:
    toy_run.run(stopped, config, None, _signal_at(14, signal.SIGTERM))
  assert error.value.code == 143
  assert "num_steps: 8 → 20" in caplog.text
  step = checkpointer_lib.complete_steps(stopped / "checkpoints")[-1]
  assert 8 < step <= 14
  line = f"Stopped by SIGTERM after step {step}; checkpoint saved in {stopped}/"
  assert f"{line}checkpoints/{step}; the same command continues." in caplog.messages
  # In a validation, for which the continued run makes up.
  with pytest.raises(KeyboardInterrupt, match="Stopped by SIGINT"):
    toy_run.run(stopped, config, None, _signal_at(1002, signal.SIGINT))
  assert _lines(stopped) != _lines(tmp_path / "whole")
  assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  # As good as at every step, and more of them are kept.
  often = toy_run.make_config(20, **settings, checkpoint_minutes=1e-9, keep_last=9)
  final = toy_run.run(stopped, often)
  assert {17, 18, 19} < set(checkpointer_lib.complete_steps(stopped / "checkpoints"))
  assert _lines(stopped) == _lines(tmp_path / "whole")
  chex.assert_trees_all_equal(final.state, whole.state)
  best = checkpointer_lib.complete_steps(tmp_path / "whole" / "checkpoints")
  assert set(best) <= set(checkpointer_lib.complete_steps(stopped / "checkpoints"))


def test_a_signal_before_the_first_step_leaves_nothing(tmp_path):
  position = []  # Filled once the trainer has been made, which reads batches as well.
  trainer = trainer_lib.Trainer.from_batches(
    toy_run.make_config(4),
    toy_run.source(None, lambda p: position and os.kill(os.getpid(), signal.SIGINT)),
    tmp_path,
  )
  position.append(1)
  with pytest.raises(KeyboardInterrupt, match="before the first step; there"):
    trainer.run()
  assert not checkpointer_lib.complete_steps(tmp_path / "checkpoints")


def test_plateau_and_early_stopping(tmp_path):
  # Nothing counts as an improvement of 100.
  config = toy_run.make_config(
    50,
    evaluate_every=2,
    plateau=config_lib.PlateauConfig(factor=0.5, patience=0, threshold=0.99),
    early_stopping=config_lib.EarlyStoppingConfig(patience=3, min_delta=100.0),
  )
  state = toy_run.run(tmp_path, config).state
  # The first validation counts as an improvement, the next three do not.
  assert int(state.step) == 8
  assert float(state.plateau.scale) == 0.125
  # Run again, it stays stopped; with more patience it goes on.
  assert int(toy_run.run(tmp_path, config).state.step) == 8
  patient = config_lib.EarlyStoppingConfig(patience=4, min_delta=100.0)
  train = dataclasses.replace(config.train, early_stopping=patient)
  config = dataclasses.replace(config, train=train)
  assert int(toy_run.run(tmp_path, config).state.step) == 10


def test_unknown_primary_metric_is_named(tmp_path):
  with pytest.raises(ValueError, match="no validation metric 'x' .*only score, toy/"):
    toy_run.run(tmp_path, toy_run.make_config(2, primary_metric="x"))


def _start(workdir: pathlib.Path, num_steps: int) -> subprocess.Popen:
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "tests.jmp_hk.training.toy_run",
      str(workdir),
      str(num_steps),
    ],
    cwd=_ROOT,
    env=os.environ
    | {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(_ROOT / ".jax_cache"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    },
    stderr=subprocess.PIPE,
    text=True,
  )


def _wait_for_step(process: subprocess.Popen, workdir: pathlib.Path, step: int) -> None:
  while process.poll() is None:
    try:
      if any(line["step"] >= step for line in _lines(workdir)):
        return
    except ValueError:
      pass
    time.sleep(0.001)


def test_killed_run_continues_as_if_nothing_had_happened(tmp_path):
  num_steps = 30
  whole = toy_run.run(tmp_path / "whole", toy_run.make_config(num_steps))
  killed = tmp_path / "killed"
  codes = []
  for step, number in ((5, signal.SIGKILL), (14, signal.SIGTERM)):
    process = _start(killed, num_steps)
    _wait_for_step(process, killed, step)
    process.send_signal(number)
    codes.append(process.wait())
    process.stderr.close()
  assert codes == [-signal.SIGKILL, 143]
  final = toy_run.run(killed, toy_run.make_config(num_steps))
  # Every logged loss and validation metric, and every weight, to the last bit.
  assert _lines(killed) == _lines(tmp_path / "whole")
  chex.assert_trees_all_equal(final.state, whole.state)
