"""Writers, progress line, plot and batches on the devices."""

import json
import time

import jax
import pytest

from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.training import plot
from jmp_hk.training import progress
from jmp_hk.training import sharding
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
  path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
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
  line = clock.line({"loss": 0.5, "learning_rate": 1e-3}, 0.93)
  for part in ("step 21/110", "loss 0.5000", "lr 1.00e-03", "93%", "ETA 0:00:0"):
    assert part in line
  assert progress.duration(3723.4) == "1:02:03"


def test_plot_has_a_panel_per_metric(tmp_path):
  assert plot.plot_run(tmp_path) is None
  writer = writers.JsonlWriter(tmp_path / writers.METRICS_FILE)
  for step in (1, 2, 3):
    writer.write(step, "train", {"loss": 3.0 / step, "loss/energy": 1.0 / step})
    writer.write(
      step,
      "val",
      {"a/force_cosine": -0.5, "a/force_mae_mev_per_angstrom": 9.0, "score": 1.0},
    )
  writer.close()
  assert plot.plot_run(tmp_path).stat().st_size > 10_000


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
