import dataclasses
import subprocess
import sys
import textwrap

import chex
import numpy as np
import pytest

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import graph_workers
from tests import gemnet_graphs
from tests.jmp_hk.pipeline import corpus

_DROPPING = dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=0.2)


def _jobs(count):
  config = graph_config.GraphConfig()
  return [
    graph_workers.GraphJob(corpus.slab(0, i), config, _DROPPING, 5, i)
    for i in range(count)
  ]


def test_graphs_do_not_depend_on_where_they_are_built():
  inline, remote = graph_workers.GraphWorkers(0), graph_workers.GraphWorkers(1)
  try:
    here = inline.submit(_jobs(3))()
    there = remote.submit(_jobs(3))()
  finally:
    remote.close()
  for a, b in zip(here, there, strict=True):
    for name in ("main", "a2a", "a2ee2a", "qint"):
      chex.assert_trees_all_equal(getattr(a, name).senders, getattr(b, name).senders)
    chex.assert_trees_all_equal(a.quad_exclusion, b.quad_exclusion)
  other = dataclasses.replace(_jobs(1)[0], draw=9)
  assert len(graph_workers.build_all([other])[0].a2a) != len(here[0].a2a)


def test_errors_of_workers_arrive():
  broken = dataclasses.replace(corpus.slab(0, 7), cell=np.zeros((3, 3)))
  job = graph_workers.GraphJob(
    broken, graph_config.GraphConfig(), gemnet_graphs.BUILDER
  )
  pool = graph_workers.GraphWorkers(1)
  try:
    with pytest.raises(structure_lib.InvalidStructureError, match="slabs:7"):
      pool.submit([job])()
  finally:
    pool.close()


def test_workers_import_neither_jax_nor_tensorflow():
  # Nor the main module, which has no guard here and would recurse.
  code = textwrap.dedent("""
      import sys
      from jmp_hk.pipeline import graph_workers
      import tests.jmp_hk.pipeline.probe as probe
      b = graph_workers.GraphWorkers(1)
      print(b._pool.submit(probe.loaded)())
      b.close()
  """)
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == "[]"
