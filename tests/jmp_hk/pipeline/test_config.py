"""Settings of the pipeline are checked where they are made."""

import pytest

from jmp_hk import serialization
from jmp_hk.models.gemnet_oc.graphs import builder as builder_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import microbatches
from tests.jmp_hk.pipeline import corpus


@pytest.mark.parametrize(
  "field, value",
  [
    ("temperature", 0.0),
    ("pool_size", 0),
    ("streams_per_microbatch", 0),
    ("num_workers", -1),
    ("prefetch_batches", -1),
  ],
)
def test_bad_settings_are_named(field, value):
  with pytest.raises(ValueError, match=field):
    config_lib.PipelineConfig(**{field: value})


def test_settings_of_earlier_versions_are_read():
  stored = {"num_workers": 3, "shuffle_buffer": 10_000, "shards_per_group": 16}
  config = serialization.from_json(config_lib.PipelineConfig, stored)
  full = config_lib.Packing.FULL  # As it always was then.
  assert config == config_lib.PipelineConfig(full, num_workers=3)


def test_bad_batches_are_named():
  with pytest.raises(ValueError, match="edge_dropout"):
    builder_lib.GemNetOCGraphBuilder(edge_dropout=1.0)
  builder = builder_lib.GemNetOCGraphBuilder()
  with pytest.raises(ValueError, match="num_microbatches"):
    microbatches.BatchSpec(corpus.TASKS, builder, corpus.BUDGET, num_microbatches=0)
