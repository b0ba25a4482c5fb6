"""What runners read: the budget follows the run's settings and stays."""

import dataclasses

from absl import flags

from experiments import feeds
from experiments import pretrain
from experiments.command_line import config as config_lib
from tests.experiments import demo_data


def _config(workdir, datasets, edge_dropout: float) -> config_lib.RunConfig:
  values = flags.FlagValues()
  pretrain.define_flags(values)
  only = {"ani1x": datasets["ani1x"]}
  values(
    [
      "pretrain",
      f"--workdir={workdir}",
      demo_data.dataset_flag(only),
      *demo_data.TINY_FLAGS,
      f"--edge_dropout={edge_dropout}",
    ]
  )
  return pretrain.make_config(values, pretrain.check_flags(values))


def test_the_budget_is_chosen_with_the_edge_dropout_of_the_training(datasets, tmp_path):
  sizes = []
  for rate in (0.0, 0.5):
    workdir = tmp_path / str(rate)
    workdir.mkdir()
    config = _config(workdir, datasets, rate)
    data = feeds.open_data(config, [0], workdir)
    sizes.append(data.budget.num_main)
    batch = next(data.training_batches(None)).batch
    assert batch.main.senders.shape == (1, data.budget.num_main)
  assert sizes[1] < 0.9 * sizes[0]


def test_a_stored_budget_is_used_again(datasets, tmp_path):
  config = _config(tmp_path, datasets, 0.0)
  chosen = feeds.open_data(config, [0], tmp_path).budget
  larger = dataclasses.replace(config.budget, structures=2 * config.budget.structures)
  again = dataclasses.replace(config, budget=larger)
  assert feeds.open_data(again, [0], tmp_path).budget == chosen
