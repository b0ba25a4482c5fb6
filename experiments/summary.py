"""What a training run tells at its end."""

from collections.abc import Mapping
import pathlib

from jmp_hk import serialization
from jmp_hk.training import writers

RESULTS_FILE = "results.json"

_COLUMNS = {
  "energy_mae_mev_per_atom": "energy MAE (meV/atom)",
  "force_mae_mev_per_angstrom": "force MAE (meV/Å)",
}
_COSINE = "force_cosine"


def summarise(workdir: pathlib.Path, baseline: Mapping[str, float]) -> dict[str, float]:
  """Prints and stores the last validation beside a baseline.

  Args:
    workdir: of the run.
    baseline: metrics of the per-element linear fit, with zero forces.

  Returns:
    The last validation metrics; empty where there were none.
  """
  records = writers.read_metrics(workdir / writers.METRICS_FILE)
  validations = [record for record in records if record["kind"] == "val"]
  if not validations:
    return {}
  last = {k: v for k, v in validations[-1].items() if k not in ("kind", "seconds")}
  serialization.save(
    {"validation": last, "linear_fit": baseline}, workdir / RESULTS_FILE
  )
  text = table(last, baseline)
  if text:
    print(text)
  return last


def table(metrics: Mapping[str, float], baseline: Mapping[str, float]) -> str:
  """A Markdown table: model beside linear fit, one row a dataset that has either.

  Empty where no dataset has energies or forces.
  """
  names = [
    name
    for name in dict.fromkeys(k.partition("/")[0] for k in metrics if "/" in k)
    if any(f"{name}/{key}" in metrics for key in _COLUMNS)
  ]
  if not names:
    return ""
  head = ["validation", *_COLUMNS.values(), "force cosine"]
  rows = [head, ["---"] * len(head)]
  for name in names:
    cells = [
      f"{metrics[f'{name}/{key}']:.1f} (linear fit {baseline[f'{name}/{key}']:.1f})"
      if f"{name}/{key}" in metrics
      else ""
      for key in _COLUMNS
    ]
    cosine = metrics.get(f"{name}/{_COSINE}")
    rows.append([name, *cells, "" if cosine is None else f"{cosine:.3f}"])
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)
