"""What is known of a file that can be fetched."""

import dataclasses
import pathlib

from data.downloads import checks


@dataclasses.dataclass(frozen=True)
class Terms:
  """What holds for all files of a dataset.

  Attributes:
    licence: licence of the data, as their publisher names it.
    citation: what to cite.
    doi: identifier of that publication: https://doi.org/DOI.
  """

  licence: str
  citation: str
  doi: str


@dataclasses.dataclass(frozen=True)
class Download:
  """One file.

  Attributes:
    dataset: `--dataset`: the name of a converter, or "weights".
    part: `--part`: which file of the dataset it is.
    name: what the file is called on disk.
    addresses: where it is, the official address first; the others are tried in turn.
    expected: its size and checksums, as far as they are published.
    terms: licence and citation.
    command: what to do with it, as a command that names the file `{path}`, or "".
    with_dataset: whether it is fetched where no part is named; otherwise parts are
      alternatives, of which one has to be named.
    unpacked: rough number of bytes after unpacking, 0 where it is read as it is.
  """

  dataset: str
  part: str
  name: str
  addresses: tuple[str, ...]
  expected: checks.Expected
  terms: Terms
  command: str
  with_dataset: bool = False
  unpacked: int = 0

  @property
  def size_text(self) -> str:
    """Its size, with "about" where the exact one is not known."""
    if self.expected.size:
      return checks.size_text(self.expected.size)
    about = self.expected.about
    return f"about {checks.size_text(about)}" if about else "unknown"

  def next_command(self, folder: pathlib.Path) -> str:
    """What to do with the file in a folder, or ""."""
    return self.command.format(path=folder / self.name)
