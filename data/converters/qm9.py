"""QM9: 130,831 small molecules with twelve B3LYP properties, from the figshare release.

Reads `dsgdb9nsd.xyz.tar.bz2` as it is, leaves out the 3,054 molecules of
`uncharacterized.txt`, and splits as JMP does: the remaining molecules in the order of
their numbers, shuffled with seed 42, 110,831 for training, 10,000 for validation and
10,000 for testing. An archive of fewer molecules is cut in the same proportions.

Targets have JMP's names. Energies are in eV (factor 27.211386246), mu in D, alpha in
a0³, R_2_Abs in a0², c_v in cal/(mol K). Ramakrishnan et al., Sci. Data 1, 140022.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import re
import tarfile

from ase import data as ase_data
import numpy as np

from data.conversion import base
from data.conversion import splits
from data.formats import archives
from data.formats import expansion
from jmp_hk import dataset_summary
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

EV_PER_HARTREE = 27.211386246  # as in the published labels (PyTorch Geometric)
NUM_MOLECULES = 133_885
NUM_CHARACTERIZED = 130_831
NUM_HELD_OUT = 10_000  # for validation, and as many for testing
# Bytes of the file of one molecule. Those of the release have up to 3,000.
MAX_MOLECULE_BYTES = 1 << 20
_UNIT_SIZE = 32_768  # every unit reads the archive from the start
_NUMBER_IN_NAME = re.compile(r"dsgdb9nsd_(\d{6})\.xyz$")
_UNCHARACTERIZED_ROW = re.compile(r"^\s*(\d+)\s", re.MULTILINE)

# JMP was fine-tuned on QM9 with the cutoff that it was pre-trained with on molecules
# (ANI-1x, Transition1x): 8 Å. A cutoff of 12 Å is that of slabs and crystals.
GRAPH = graph_config.GraphConfig(cutoff=8.0, max_neighbors=30)
# Target → (index among the 15 numbers of line 2, factor, declaration).
_ENERGY = dataset_summary.Label("eV")
_THERMOCHEMISTRY = dataset_summary.Label("eV", references=True)
TARGETS = {
  "mu": (3, 1.0, dataset_summary.Label("D")),
  "alpha": (4, 1.0, dataset_summary.Label("a0^3")),
  "eps_HOMO": (5, EV_PER_HARTREE, _ENERGY),
  "eps_LUMO": (6, EV_PER_HARTREE, _ENERGY),
  "delta_eps": (7, EV_PER_HARTREE, _ENERGY),
  # Predicted as Σ x_i |r_i − r_com|², which is not normalised.
  "R_2_Abs": (8, 1.0, dataset_summary.Label("a0^2", statistics=(0.0, 1.0))),
  "ZPVE": (9, EV_PER_HARTREE, _THERMOCHEMISTRY),
  "U_0": (10, EV_PER_HARTREE, _THERMOCHEMISTRY),
  "U": (11, EV_PER_HARTREE, _THERMOCHEMISTRY),
  "H": (12, EV_PER_HARTREE, _THERMOCHEMISTRY),
  "G": (13, EV_PER_HARTREE, _THERMOCHEMISTRY),
  "c_v": (14, 1.0, dataset_summary.Label("cal/(mol K)", references=True)),
}


@dataclasses.dataclass(frozen=True)
class Qm9Options(base.Options):
  """Options of `--dataset=qm9`."""

  uncharacterized: str = base.option(
    "",
    "FILE: List of molecules to leave out, by default uncharacterized.txt beside the "
    "archive; none leaves out nothing.",
  )


def read_uncharacterized(path: pathlib.Path) -> frozenset[int]:
  """Numbers (1-based) of the molecules that failed the consistency check.

  Rows are found by their leading integer: the header's length differs between copies.

  Raises:
    RawDataError: the file holds no such rows.
  """
  text = path.read_text(encoding="utf-8", errors="replace")
  found = frozenset(map(int, _UNCHARACTERIZED_ROW.findall(text)))
  if not found:
    raise base.RawDataError(f"{path}: expected rows that begin with a number.")
  return found


def check_list(molecules: int, kept: int, listed: pathlib.Path | None) -> None:
  """Checks that the list of the whole release leaves as many as published.

  Args:
    molecules: molecules of the archive; nothing is checked of parts of the release.
    kept: how many the list leaves.
    listed: the list, or None where nothing is left out.

  Raises:
    RawDataError: it leaves another number; the list may be truncated.
  """
  if listed and molecules == NUM_MOLECULES and kept != NUM_CHARACTERIZED:
    raise base.RawDataError(
      f"{listed}: expected to leave {NUM_CHARACTERIZED} of the {molecules} molecules, "
      f"found {kept}. It may be truncated; download it again."
    )


def split(numbers: np.ndarray) -> dict[str, np.ndarray]:
  """Splits molecules as published.

  Args:
    numbers: [n] ascending numbers of the characterised molecules.

  Returns:
    split → numbers. Validation and test get 10,000 each of 130,831; of another n the
    same share, at least one.
  """
  count = len(numbers)
  held_out = max(1, count * NUM_HELD_OUT // NUM_CHARACTERIZED)
  sizes = {"train": count - 2 * held_out, "val": held_out, "test": held_out}
  return splits.cut(np.asarray(numbers)[splits.shuffled(count)], sizes)


def members(archive: pathlib.Path) -> Iterator[tuple[int, bytes]]:
  """Yields (molecule number, content of its file) in the order of the archive.

  Raises:
    RawDataError: the archive is truncated or not a tar file.
  """
  number = 0
  try:
    with (
      open(archive, "rb") as raw,
      expansion.open_stream(raw, str(archive)) as content,
      tarfile.open(fileobj=content, mode="r|", tarinfo=archives.TarHeader) as tar,
    ):
      for member in tar:
        match = _NUMBER_IN_NAME.search(member.name)
        if match and member.size > MAX_MOLECULE_BYTES:
          raise base.RawDataError(
            f"{archive}: expected at most {MAX_MOLECULE_BYTES} bytes in "
            f"{member.name[:80]}, found {member.size}."
          )
        file = tar.extractfile(member) if match else None
        if match and file is not None:
          number = int(match[1])
          yield number, file.read()
        # Or the members pile up.
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
      expansion.drain(content)
  except (tarfile.TarError, *expansion.UNREADABLE) as error:
    raise base.RawDataError(
      f"{archive} cannot be read after molecule {number}: {error}. It may be "
      "truncated; download it again."
    ) from error


def parse(text: str, record_id: str) -> structure_lib.Structure:
  """Parses one raw xyz file.

  Args:
    text: its content: atom count; "gdb i" and 15 numbers; rows of element, x, y, z
      (Å), charge. Exponents may be Mathematica's, 1.5*^-6.
    record_id: for messages.

  Raises:
    ValueError: the text does not have this layout.
  """
  lines = text.replace("*^", "e").split("\n")
  count = int(lines[0])
  properties = lines[1].split()
  if properties[:1] != ["gdb"] or len(properties) != 17:
    raise ValueError(f"expected 'gdb', a number and 15 properties, found {lines[1]!r}")
  rows = [line.split() for line in lines[2 : 2 + count]]
  if len(rows) != count or any(len(row) != 5 for row in rows):
    raise ValueError(f"expected {count} rows of element, x, y, z and charge")
  unknown = sorted({row[0] for row in rows} - set(ase_data.atomic_numbers))
  if unknown:
    raise ValueError(f"unknown elements {unknown}")
  values = [float(value) for value in properties[2:]]
  return structure_lib.molecule(
    np.array([row[1:4] for row in rows], np.float64),
    np.array([ase_data.atomic_numbers[row[0]] for row in rows]),
    record_id,
    targets={
      name: np.array(values[column] * factor)
      for name, (column, factor, _) in TARGETS.items()
    },
  )


class Qm9(base.Converter):
  """Converts QM9."""

  name = "qm9"
  options_type = Qm9Options

  def declare(self) -> dataset_summary.Declaration:
    return dataset_summary.Declaration(
      name="qm9",
      graph=GRAPH,
      energy=False,
      forces=False,
      targets={name: target for name, (_, _, target) in TARGETS.items()},
      notes={
        "hartree_in_eV": EV_PER_HARTREE,
        "uncharacterized": self.options.uncharacterized or "uncharacterized.txt",
      },
    )

  @property
  def archive(self) -> pathlib.Path:
    """The tar file."""
    return base.find_file(self.source, "*.tar.bz2", "*.tar")

  def units(self) -> list[base.Unit]:
    listed = self._list_of_excluded()
    excluded = read_uncharacterized(listed) if listed else frozenset()
    numbers = [number for number, _ in members(self.archive)]
    if len(set(numbers)) != len(numbers):
      raise base.RawDataError(f"{self.archive} holds a molecule twice.")
    kept = np.array(sorted(set(numbers) - excluded), np.int64)
    check_list(len(numbers), len(kept), listed)
    if not len(kept):
      raise base.RawDataError(
        f"{self.archive} holds no characterised molecule dsgdb9nsd_000001.xyz, …"
      )
    files = [self.relative(self.archive)]
    if listed and listed.is_relative_to(self.root):
      files.append(self.relative(listed))
    units = splits.units(split(kept), tuple(files), _UNIT_SIZE, files[0])
    # The first unit of the plan accounts for what the published list removes.
    left_out = len(numbers) - len(kept)
    return [
      dataclasses.replace(
        unit, payload={"molecules": unit.payload, "left_out": left_out * (i == 0)}
      )
      for i, unit in enumerate(units)
    ]

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    if unit.payload["left_out"]:
      yield base.Filtered("uncharacterized", unit.payload["left_out"])
    wanted = set(unit.payload["molecules"])
    for number, content in members(self.archive):
      if number not in wanted:
        continue
      record_id = f"dsgdb9nsd_{number:06d}.xyz"
      try:
        yield parse(content.decode("utf-8"), record_id)
      except (ValueError, IndexError) as error:
        yield base.Invalid(record_id, f"not a QM9 xyz file: {error}")
      wanted.remove(number)
      if not wanted:
        return
    raise base.RawDataError(
      f"{self.archive} ended before molecule {min(wanted)} was found."
    )

  def _list_of_excluded(self) -> pathlib.Path | None:
    given = self.options.uncharacterized
    if given == "none":
      return None
    path = pathlib.Path(given) if given else self.archive.parent / "uncharacterized.txt"
    if not path.is_file():
      raise base.PlanError(
        f"{path} does not exist. It lists the molecules to leave out and comes with "
        "QM9; name it with --uncharacterized, or --uncharacterized=none keeps all."
      )
    return path


CONVERTER = Qm9
