"""The forward pass reproduces the original implementation's numbers."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib
from tests import compiling
from tests import gemnet_graphs
from tests.jmp_hk.parity import golden_case

# The padded runs of a kind share one budget, and so one compiled program.
_CASES = {
  "tiny": ("mol", "slab", "bulk", "mol_perfect", "bulk_perfect"),
  "tinyd": ("mol", "slab", "bulk"),
  "base": ("mol", "slab"),
}

_INTERACTIONS = {
  "trip_interaction": "edge",
  "quad_interaction": "edge",
  "atom_edge_interaction": "edge",
  "edge_atom_interaction": "atom",
  "atom_interaction": "atom",
  "atom_update": "atom",
  "concat_layer": "edge",
}

# Largest deviation over largest value. `bulk` has collinear dihedrals whose angles are
# rounding noise in the reference; `mol_perfect` too, at float32's noise.
_TOLERANCE = {"bulk": 1e-8, "mol_perfect": 2e-3, "bulk_perfect": 1e-8}


def _relative(ours, golden) -> float:
  golden = np.asarray(golden, np.float64)
  scale = max(np.abs(golden).max(), 1e-30)
  return float(np.abs(np.asarray(ours, np.float64) - golden).max() / scale)


@functools.cache
def _program(kind, dtype):
  """A jitted function of variables and batch: predictions, and all modules' outputs."""
  model = model_lib.build_model(golden_case.pretrain_config(kind))

  def run(variables, batch):
    record = {}
    with golden_case.record_outputs(record):
      predictions = model.apply(variables, None, batch)
    return predictions, record

  # The large model runs so often that it is worth while to optimise it.
  is_small = dtype == np.float64 and kind != "base"
  return (jax.jit if is_small else compiling.optimising_jit)(run)


def _items(golden, case, task):
  """The structures of a golden file, all for one task."""
  if case == "bulk_perfect":
    # Every limit cuts a shell of equal distances: graphs are part of the input.
    return [packing.PackItem(golden_case.stored_graphs(golden), task, {})]
  structures = golden_case.structures(golden)
  return golden_case.pack_items(structures, [task] * len(structures))


@functools.cache
def _padded_budget(kind, padding):
  """The smallest budget that holds any case of a kind, plus `padding`."""
  budgets = [
    golden_case.budget(_items(golden_case.load(f"{kind}_{case}"), case, 0), padding)
    for case in _CASES[kind]
  ]
  names = budget_lib.names(gemnet_graphs.Budget)
  return gemnet_graphs.Budget(
    **{name: max(getattr(budget, name) for budget in budgets) for name in names}
  )


def _run(kind, case, *, padding, dtype, variables=None):
  """All module outputs, and predictions per task, in the golden file's order.

  A padding of 1 is the least that there can be in this case; with more, the budget
  is that of the largest case.
  """
  golden = golden_case.load(f"{kind}_{case}")
  if "in/pos" not in golden:  # the unfitted file has the inputs of `mol`
    inputs = golden_case.load("tinyd_mol")
    golden |= {k: v for k, v in inputs.items() if k.startswith(("in/", "graph/"))}
  if variables is None:
    variables = golden_case.variables(kind, dtype)
  with jax.enable_x64(dtype == np.float64):
    energies, forces = [], []
    for task in range(len(golden_case.TASKS)):
      items = _items(golden, case, task)
      budget = (
        golden_case.budget(items, 1) if padding == 1 else _padded_budget(kind, padding)
      )
      batch = packing.pack(items, gemnet_graphs.BUILDER, budget, dtype)
      predictions, record = _program(kind, dtype)(variables, batch)
      energies.append(np.asarray(predictions["energy"])[: len(items)])
      forces.append(np.asarray(predictions["forces"])[: len(golden["in/pos"])])
  order = golden_case.golden_edge_order(golden, batch)
  outputs = {"out/E": np.stack(energies, -1), "out/F": np.stack(forces, -1)}
  return golden, batch, order, record, outputs


def _collect(golden, order, record, outputs):
  """(name, ours, golden) of every tensor that the golden file holds."""
  atoms = len(golden["in/pos"])

  def add(name, value, kind):
    if name in golden:
      value = np.asarray(value)
      pairs.append(
        (name, value[order] if kind == "edge" else value[:atoms], golden[name])
      )

  pairs = []
  add("bases/m", record["backbone/bases"][1], "edge")
  blocks = sum(
    name.startswith("backbone/int_blocks") and name.count("/") == 1 for name in record
  )
  for i in range(blocks):
    h, m = record[f"backbone/int_blocks_{i}"]
    add(f"int_blocks/{i}/h", h, "atom")
    add(f"int_blocks/{i}/m", m, "edge")
    if f"int_blocks/{i}/m_rowsum" in golden:
      m = np.asarray(m)[order]
      pairs.append((f"{i}/m_rowsum", m.sum(-1), golden[f"int_blocks/{i}/m_rowsum"]))
      norms = np.linalg.norm(m, axis=-1)
      pairs.append((f"{i}/m_rownorm", norms, golden[f"int_blocks/{i}/m_rownorm"]))
    for name, kind in _INTERACTIONS.items():
      add(f"int_blocks/{i}/{name}", record[f"backbone/int_blocks_{i}/{name}"], kind)
  for i in range(blocks + 1):
    x_energy, x_forces = record[f"backbone/out_blocks_{i}"]
    add(f"out_blocks/{i}/x_E", x_energy, "atom")
    add(f"out_blocks/{i}/x_F", x_forces, "edge")
  add("out/energy", record["backbone"].nodes, "atom")
  add("out/forces", record["backbone"].edges, "edge")
  edges = np.asarray(record["backbone"].edges)[order]
  for name, value in (
    ("colsum", edges.sum(0)),
    ("rowsum", edges.sum(1)),
    ("abs_colsum", np.abs(edges).sum(0)),
  ):
    if f"out/forces_{name}" in golden:
      pairs.append((name, value, golden[f"out/forces_{name}"]))
  for name, value in outputs.items():
    pairs.append((name, value, golden[name]))
  return pairs


class ForwardParityTest(parameterized.TestCase):
  @parameterized.parameters(
    ("tiny", "mol", 37),
    ("tiny", "slab", 37),
    ("tiny", "bulk", 37),
    ("tiny", "mol_perfect", 37),
    ("tinyd", "mol", 37),
    ("tinyd", "slab", 37),
    ("tinyd", "bulk", 37),
    ("base", "mol", 37),
    ("base", "slab", 37),
    ("tiny", "slab", 1),
    ("tinyd", "mol", 1),
  )
  def test_every_golden_tensor_in_float64(self, kind, case, padding):
    golden, _, order, record, outputs = _run(
      kind, case, padding=padding, dtype=np.float64
    )
    pairs = _collect(golden, order, record, outputs)
    tolerance = _TOLERANCE.get(case, 1e-9)
    self.assertGreaterEqual(len(pairs), 2 if kind == "base" else 15)
    for name, ours, theirs in pairs:
      self.assertLess(_relative(ours, theirs), tolerance, msg=f"{kind}_{case} {name}")

  def test_a_perfect_crystal_on_its_stored_graphs(self):
    golden, _, order, record, outputs = _run(
      "tiny", "bulk_perfect", padding=37, dtype=np.float64
    )
    for name, ours, theirs in _collect(golden, order, record, outputs):
      self.assertLess(_relative(ours, theirs), _TOLERANCE["bulk_perfect"], msg=name)

  @parameterized.product(kind=("tinyd", "base"), case=("mol", "slab"))
  def test_outputs_in_float32(self, kind, case):
    golden, _, order, record, outputs = _run(kind, case, padding=37, dtype=np.float32)
    for name, ours, theirs in _collect(golden, order, record, outputs):
      self.assertLess(_relative(ours, theirs), 1e-4, msg=f"{kind}_{case} {name}")

  def test_unfitted_scale_factors_multiply_by_one(self):
    variables = golden_case.variables("tiny")
    variables = variables._replace(scales=jax.tree.map(np.zeros_like, variables.scales))
    golden, _, order, record, outputs = _run(
      "tiny", "mol_unfitted", padding=37, dtype=np.float64, variables=variables
    )
    for name, ours, theirs in _collect(golden, order, record, outputs):
      self.assertLess(_relative(ours, theirs), 1e-9, msg=name)

  @parameterized.parameters("tiny", "tinyd")
  def test_padding_is_exactly_zero(self, kind):
    _, batch, _, record, _ = _run(kind, "slab", padding=37, dtype=np.float64)
    atoms = ~np.asarray(batch.atom_mask)
    edges = atoms[np.asarray(batch.graphs.main.receivers)]
    embeddings = record["backbone"]
    np.testing.assert_array_equal(np.asarray(embeddings.nodes)[atoms], 0)
    np.testing.assert_array_equal(np.asarray(embeddings.edges)[edges], 0)


if __name__ == "__main__":
  absltest.main()
