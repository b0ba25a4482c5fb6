"""The table at the end of a run."""

from experiments import summary


def test_datasets_without_energies_or_forces_have_no_row():
  metrics = {"mine/gap_mae": 0.1, "score": 0.2, "ani1x/energy_mae_mev_per_atom": 12.34}
  baseline = {"ani1x/energy_mae_mev_per_atom": 56.78}
  lines = summary.table(metrics, baseline).splitlines()
  assert lines[2:] == ["| ani1x | 12.3 (linear fit 56.8) |  |  |"]
  assert summary.table({"mine/gap_mae": 0.1}, {}) == ""
