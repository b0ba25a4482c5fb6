"""Speed and memory of conversion, on OC20's `extxyz.xz`.

  python -m benchmarks.convert --frames=2000

Writes files in OC20's layout with slabs that it makes itself, converts one of them and
then all of them with one worker, and prints one line of JSON. The rate comes from the
difference, so that starting up does not count; it is structures over processor time.
Memory does not grow with the number of files if both peaks are alike.
"""

import contextlib
import io
import json
import lzma
import pathlib
import resource
import tempfile

from absl import flags
import ase.data
import numpy as np

from benchmarks import structures as structures_lib
from data.command_line import flag_help
from data.command_line import program as program_lib
from jmp_hk.runtime import configuration

_HEADER = (
  'Lattice="{lattice}" '
  "Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3 "
  'energy={energy!r} free_energy={energy!r} pbc="T T T"'
)


def frame(structure: structures_lib.Structure) -> str:
  """One frame in the layout of the release.

  Args:
    structure: a structure with forces.
  """
  assert structure.forces is not None
  lattice = " ".join(f"{x:.8f}" for x in structure.cell.ravel())
  lines = [
    f"{ase.data.chemical_symbols[z]:<2s} {p[0]:16.8f} {p[1]:16.8f} {p[2]:16.8f} "
    f"{'F' if fixed else 'T'} {tag:8d} {f[0]:16.8f} {f[1]:16.8f} {f[2]:16.8f}"
    for z, p, fixed, tag, f in zip(
      structure.atomic_numbers,
      structure.positions,
      structure.fixed,
      structure.tags,
      structure.forces,
      strict=True,
    )
  ]
  header = _HEADER.format(lattice=lattice, energy=structure.energy)
  return "\n".join([str(structure.num_atoms), header, *lines]) + "\n"


def write_raw(folder: pathlib.Path, frames: int, files: int) -> None:
  """Writes pairs `N.extxyz.xz` and `N.txt.xz`, all with the same structures.

  Args:
    folder: an existing folder.
    frames: number of frames in one file.
    files: number of files.
  """
  rng = np.random.default_rng(0)
  bodies = []
  for _ in range(min(frames, 100)):
    bodies.append(frame(structures_lib.random_slab(rng, mean_atoms=75)))
  text = "".join(bodies[i % len(bodies)] for i in range(frames))
  packed = lzma.compress(text.encode())
  for number in range(files):
    (folder / f"{number}.extxyz.xz").write_bytes(packed)
    ids = "".join(f"random{number},frame{i},-1.5\n" for i in range(frames))
    (folder / f"{number}.txt.xz").write_bytes(lzma.compress(ids.encode()))


def _convert(source: pathlib.Path, output: pathlib.Path) -> tuple[float, float]:
  """Converts; returns processor time in seconds and the peak memory in MiB."""
  from data import convert

  before = _processor_seconds()
  with contextlib.redirect_stdout(io.StringIO()):
    convert.run(convert.Config("oc20", str(source), str(output), split="train"))
  peak = max(
    resource.getrusage(who).ru_maxrss
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  )
  return _processor_seconds() - before, peak / 1024


def _processor_seconds() -> float:
  usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
  return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run(frames: int, files: int) -> dict[str, object]:
  """Converts one file, then all.

  Args:
    frames: number of frames in one file.
    files: number of files.

  Returns:
    The line of results.
  """
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    results = []
    # The first conversion of a process imports and builds tables.
    for name, count in (("warm_up", 1), ("part", 1), ("all", files)):
      (root / name).mkdir()
      write_raw(root / name, frames, count)
      results.append(_convert(root / name, root / f"{name}_out"))
  _, (first, first_peak), (whole, peak) = results
  return {
    "case": "oc20 extxyz.xz",
    "structures_per_s_per_core": round(
      frames * (files - 1) / max(whole - first, 1e-9), 1
    ),
    "peak_memory_mib": round(peak),
    "peak_memory_mib_of_part": round(first_peak),
    "structures": frames * files,
    "structures_of_part": frames,
  }


@flag_help.group("What is measured")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this benchmark."""
  flags.DEFINE_integer(
    "frames", 1000, "Number of frames in one file.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    "files", 5, "Number of files.", lower_bound=2, flag_values=values
  )


def _measure(values: flags.FlagValues) -> None:
  configuration.configure()
  print(json.dumps(run(values.frames, values.files)), flush=True)


PROGRAM = program_lib.Program(
  name="benchmarks.convert",
  description=__doc__,
  define_flags=define_flags,
  run=_measure,
)

if __name__ == "__main__":
  PROGRAM.start()
