"""Converts a raw source in a temporary folder and reads the records back."""

import pytest

from data.conversion import registry
from data.conversion import runner
from data.records import schema
from data.records import shards


@pytest.fixture
def convert(tmp_path):
  """(dataset, source, split, **options) → (split → structures, DatasetInfo)."""

  def run(dataset, source, split="", **options):
    output = tmp_path / "converted"
    converter = registry.make(dataset, source, split, options)
    info = runner.convert(converter, output, progress=False)
    found = {
      name: [
        schema.decode(record)
        for path in shards.list_shards(output, name)
        for record in shards.read_shard(path)
      ]
      for name in info.num_structures
    }
    assert {k: len(v) for k, v in found.items()} == info.num_structures
    return found, info

  return run
