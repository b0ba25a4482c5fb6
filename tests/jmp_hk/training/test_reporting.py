"""Writers, progress line, plot and batches on the devices."""

import json
import time

import jax
import jax.numpy as jnp
import pytest

from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.training import plot
from jmp_hk.training import progress
from jmp_hk.training import sharding
from jmp_hk.training import step_log
from jmp_hk.training import writers
from tests.jmp_hk.training import toy_run


def test_jsonl_is_plain_and_cut_back_on_resume(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path)
  for step in range(1, 5):
    writer.write(step, "train", {"loss": 1.0 / step, "bad": float("nan")})
  writer.close()
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert lines[1] == {"step": 2, "kind": "train", "loss": 0.5, "bad": "nan"}
  # A run that was killed in the middle of a line continues after step 3.
  with path.open("a") as file:
    file.write('{"step": 5, "ki')
  writer = writers.JsonlWriter(path, resume_step=3)
  writer.write(4, "train", {"loss": 7.0})
  writer.close()
  assert [line["step"] for line in writers.read_metrics(path)] == [1, 2, 3, 4]
  assert writers.read_metrics(path)[-1]["loss"] == 7.0
  # A run from the start begins a new file.
  writers.JsonlWriter(path).close()
  assert writers.read_metrics(path) == []


def test_broken_line_in_the_middle_is_an_error(tmp_path):
  path = tmp_path / "metrics.jsonl"
  line = json.dumps({"step": 1, "kind": "train"}) + "\n"
  path.write_text(line + '{"st\n' + line)
  with pytest.raises(ValueError, match="line 2 is no JSON"):
    writers.read_metrics(path)


def test_progress_line():
  clock = progress.Progress(step=10, num_steps=110, seconds=100.0)
  clock.update(11, 0, counts=False)  # Compilation.
  time.sleep(0.05)
  clock.update(21, 40)
  rates = clock.rates()
  assert rates["structures_per_second"] == pytest.approx(4 * rates["steps_per_second"])
  assert 20 < rates["steps_per_second"] <= 200
  assert clock.seconds > 100.05
  values = {"loss": 0.5, "learning_rate": 1e-3}
  parts = clock.line(values, ["forces 71.1 meV/Å"]).split(" | ")
  assert parts[:4] == [
    "step  21/110",
    "loss 0.5000",
    "forces 71.1 meV/Å",
    "lr 1.0e-03",
  ]
  assert parts[4].endswith(" structures/s") and parts[5].startswith("ETA 0:00:0")
  # Before the first typical interval nothing is known of the speed.
  fresh = progress.Progress(step=0, num_steps=5)
  assert fresh.line(values, []) == "step 0/5 | loss 0.5000 | lr 1.0e-03"


def _write_metrics(workdir, steps, units=None):
  opened = writers.open_writers(workdir, 0, units)
  for step in steps:
    for writer in opened:
      errors = {"a/force_mae_mev_per_angstrom": 8.0 / step, "a/gap_mae": 2.0 / step}
      writer.write(
        step, "train", {"loss": 3.0 / step, "loss/forces": 1.0 / step, **errors}
      )
      writer.write(
        step, "val", {"a/force_cosine": -0.5, "a/score": 0.5, "score": 1.0, **errors}
      )
  for writer in opened:
    writer.close()


def test_plot_has_a_panel_per_metric(tmp_path):
  assert plot.plot_run(tmp_path) is None
  _write_metrics(tmp_path, (1, 2, 3), {"a/gap_mae": "log10(GPa)"})
  assert plot.plot_run(tmp_path).stat().st_size > 10_000
  panels = plot.read_panels(
    writers.read_metrics(tmp_path / writers.METRICS_FILE), writers.read_units(tmp_path)
  )
  assert list(panels) == [
    "Training loss",
    "Force MAE (meV/Å)",
    "gap MAE (log10(GPa))",
    "Force cosine",
    "Validation score",
  ]
  assert list(panels["Training loss"].training) == ["sum", "forces"]
  force = panels["Force MAE (meV/Å)"]
  assert force.validation == force.training == {"a": ([1, 2, 3], [8.0, 4.0, 8.0 / 3])}
  assert not panels["Force cosine"].training


def test_runs_without_validation_are_drawn(tmp_path):
  writer = writers.JsonlWriter(tmp_path / writers.METRICS_FILE)
  writer.write(1, "train", {"loss": 0.0, "a/gap_mae": float("nan")})
  writer.close()
  assert plot.plot_run(tmp_path).stat().st_size > 5_000


def test_units_stand_beside_the_metrics(tmp_path):
  assert writers.read_units(tmp_path) == {}
  _write_metrics(tmp_path, (1,), {"a/gap_mae": "eV"})
  units = writers.read_units(tmp_path)
  assert units["a/gap_mae"] == "eV" and units["seconds"] == "s"


def test_batches_are_moved_to_the_devices_in_order_and_with_their_facts():
  def batches():
    for i in range(5):
      info = batches_lib.BatchInfo(((str(i),),), ((i,),), 1, 1, {})
      yield batches_lib.PipelineBatch(toy_run.microbatch([]), info)

  mesh = sharding.make_mesh(jax.devices()[:1])
  with sharding.to_devices(batches(), mesh) as moved:
    items = list(moved)
  assert [item.info.record_ids for item in items] == [((str(i),),) for i in range(5)]
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(items[0].batch))


def test_errors_are_averaged_over_structures_and_losses_over_steps():
  log = step_log.StepLog()
  info = batches_lib.BatchInfo((("a",),), ((0,),), 1, 1, {"num_atoms": 0.5})
  for loss, total, count in ((1.0, 6.0, 2.0), (3.0, 1.0, 8.0)):
    values = {"loss": loss, "learning_rate": loss, "finite": True}
    values |= {"error_sum/a/mae": total, "error_count/a/mae": count}
    # A dataset of which no structure was drawn.
    values |= {"error_sum/b/mae": 0.0, "error_count/b/mae": 0.0}
    log.add({name: jnp.asarray(value) for name, value in values.items()}, info)
  assert log.summarise(2) == {
    "loss": 2.0,
    "learning_rate": 3.0,
    "a/mae": pytest.approx(0.7),
    "utilisation/num_atoms": 0.5,
  }
