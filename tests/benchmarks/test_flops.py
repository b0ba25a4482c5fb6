"""Operations of dense layers, against hand counts and against XLA's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cases
from benchmarks import flops
from benchmarks import samples
from benchmarks import structures
from benchmarks import training
from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib
from tests import gemnet_graphs


def _model(name: str, data: str):
  """Config, parameter shapes and a batch of one molecule."""
  case = cases.CASES[data]
  config = case.model(name, "f32")
  graphs = gemnet_graphs.BUILDER.build(structures.toluenes(1)[0], case.sources[0].graph)
  targets = {"energy": np.float32(0), "forces": np.zeros((15, 3)), "U_0": np.float32(0)}
  item = packing.PackItem(graphs, 0, targets)
  batch = packing.pack(
    [item], gemnet_graphs.BUILDER, samples.exact_budget(gemnet_graphs.BUILDER, [graphs])
  )
  shapes = jax.eval_shape(
    model_lib.build_model(config).init, jax.random.PRNGKey(0), batch
  )
  return config, shapes.params, batch


def test_every_layer_has_rows():
  for data in cases.CASES:
    config, params, batch = _model("tiny", data)
    rows = flops.count_rows(batch, len(config.tasks))
    assert flops.forward_flops(config, params, rows) > 0
  with pytest.raises(KeyError, match="unheard_of"):
    flops.row_kind("backbone/unheard_of")


def test_rows_are_the_real_ones():
  _, _, batch = _model("tiny", "molecules")
  rows = flops.count_rows(batch, 1)
  # 15 atoms, all within the cutoff of each other, 20 and 8 of them in smaller graphs.
  assert (rows.atoms, rows.main, rows.a2a) == (15, 210, 210)
  assert rows.a2ee2a == 15 * 14 and rows.qint == 15 * 8
  assert rows.quad_inputs == 15 * 8 * 14
  assert rows.main_by_task == (210,)


def test_flops_of_a_main_edge_match_the_cost_model():
  # About 113 products with 512×512 weights, 59 MFLOP, for JMP-S. Counted here are the
  # small layers as well (10 % of the large ones), and the atoms' part of 4 of the 113
  # once per atom instead of once per edge.
  config, params, batch = _model("small", "slabs")
  rows = flops.count_rows(batch, 1)
  none = dataclasses.replace(
    rows, atoms=0, a2ee2a=0, a2a=0, qint=0, quad_inputs=0, atoms_by_task=(0,)
  )
  per_edge = flops.forward_flops(config, params, none) / rows.main
  assert per_edge == pytest.approx(59e6, rel=0.08)


def test_two_slabs_cost_what_the_cost_model_says():
  config, params, _ = _model("small", "slabs")
  batch = samples.Sample(cases.CASES["slabs"]).batches(2).steps[0][0]
  rows = flops.count_rows(batch, 1)
  assert rows.main == 4470 and rows.atoms == 148
  work = flops.training_flops(config, params, rows)
  assert work == pytest.approx(0.8e12, rel=0.08)


def test_training_counts_less_than_xla_does():
  # XLA also counts contractions over neighbors and everything element-wise.
  config, params, batch = _model("tiny", "molecules")
  rows = flops.count_rows(batch, 1)
  trained = training.Training(config, batch)
  compiled = trained.compile_only([batch], {"xla_backend_optimization_level": 0})
  counted = flops.training_flops(config, params, rows)
  by_xla = compiled.cost_analysis()["flops"]
  assert 0.2 * by_xla < counted < by_xla


def test_passes_of_first_and_second_order():
  # A deep stack of dense layers: 3 passes for a gradient, 6 for that of a gradient.
  width, rows, depth = 64, 256, 8
  weights = jnp.ones((depth, width, width)) / width
  x = jnp.ones((rows, width))

  def energy(weights, x):
    for w in weights:
      x = jnp.tanh(x @ w)
    return x.sum()

  def force_loss(weights, x):
    return (jax.grad(energy, argnums=1)(weights, x) ** 2).sum()

  one_pass = 2 * rows * width**2 * depth
  for function, passes in ((energy, 3), (force_loss, 6)):
    lowered = jax.jit(jax.grad(function)).lower(weights, x)
    counted = lowered.compile().cost_analysis()["flops"] / one_pass
    assert passes - 1 < counted < passes + 0.5
