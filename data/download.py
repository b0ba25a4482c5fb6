"""Fetches raw datasets and the published weights, and says what to do with them.

  python -m data.download --dataset=qm9 --output=raw/qm9
  python -m data.download --list

A download that was stopped goes on where it stopped when the same command is run again.
Files are checked by size and checksum where these are published, and have their names
only when they are complete. From Python:

  >>> from data import download
  >>> paths = download.fetch("qm9", "raw/qm9")
"""

from collections.abc import Sequence
import os
import pathlib
import shutil
import urllib.parse

from absl import flags
import tqdm

from data.command_line import flag_help
from data.command_line import program as program_lib
from data.downloads import catalogue
from data.downloads import checks
from data.downloads import entry
from data.downloads import http as http_lib
from data.downloads import transfer
from jmp_hk import text_table

DownloadError = http_lib.DownloadError


def fetch(
  dataset: str,
  output: str | os.PathLike[str],
  *,
  parts: Sequence[str] = (),
  mirror: str = "",
  verify: bool = True,
  options: transfer.Options = transfer.Options(),
) -> list[pathlib.Path]:
  """Fetches the files of a dataset, or what is missing of them.

  Args:
    dataset: name of the dataset as `data.convert` knows it, or "weights".
    output: folder in which the files shall lie; it is made.
    parts: which files, for a dataset that has alternatives (`--list` prints them), or
      "all".
    mirror: address of a folder, or of the file itself, to take instead of the
      publisher's.
    verify: whether a file must have the published size and checksum.
    options: retries, progress bars and messages.

  Returns:
    Paths of the files.

  Raises:
    DownloadError: a file could not be fetched or is not the published one; the message
      says why and what to do.
    OSError: a file cannot be written.
  """
  folder = pathlib.Path(output)
  files = catalogue.select(dataset, parts)
  for file in files:
    addresses = [_mirrored(mirror, file.name)] if mirror else file.addresses
    expected = file.expected
    if not verify:
      expected = checks.Expected(about=expected.about)
    transfer.download(addresses, folder / file.name, expected, options)
  return [folder / file.name for file in files]


def describe(dataset: str = "") -> str:
  """A table of all files, or of those of a dataset."""
  rows = [("dataset", "part", "size", "checksum", "licence", "file")]
  rows += [
    (
      file.dataset,
      file.part,
      file.size_text,
      " or ".join(dict.fromkeys(c.label for c in file.expected.checksums)) or "none",
      file.terms.licence,
      file.name,
    )
    for file in catalogue.DOWNLOADS
    if dataset in ("", file.dataset)
  ]
  return text_table.align(rows, num_text=len(rows[0]))


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags."""
  _define_files(values)
  _define_output(values)


@flag_help.group("Data")
def _define_files(values: flags.FlagValues) -> None:
  flags.DEFINE_enum(
    "dataset",
    None,
    catalogue.names(),
    "Dataset whose raw files to fetch, or weights for the published jmp-s.pt and "
    "jmp-l.pt.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "part",
    [],
    "PART,…: Which files of the dataset, or all; --list prints them. Needed where a "
    "dataset has alternatives.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "mirror",
    "",
    "URL: Address to fetch from instead of the publisher's: that of a folder that "
    "holds the files under their names, or that of the one file.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "verify",
    True,
    "Whether files must have the published size and checksum.",
    flag_values=values,
  )


@flag_help.group("Output")
def _define_output(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "output", None, "DIR: Folder for the files; it is made.", flag_values=values
  )
  flags.DEFINE_bool(
    "list", False, "Print a table of all files, and end.", flag_values=values
  )
  flags.DEFINE_bool(
    "dry_run",
    False,
    "Print what would be fetched from where, and end.",
    flag_values=values,
  )


def run(values: flags.FlagValues) -> None:
  """Does what the flags say.

  Raises:
    DownloadError: see `fetch`.
    FlagError: a flag is missing.
  """
  if values.list:
    print(describe(values.dataset or ""))
    return
  program_lib.require(values, *PROGRAM.required)
  files = catalogue.select(values.dataset, values.part)
  folder = pathlib.Path(values.output)
  if values.dry_run:
    _print_plan(files, folder, values.mirror)
    return
  fetch(
    values.dataset,
    folder,
    parts=values.part,
    mirror=values.mirror,
    verify=values.verify,
    options=transfer.Options(say=_say),
  )
  _print_next_steps(files, folder)


def _mirrored(mirror: str, name: str) -> str:
  """Address of a file at a mirror, which is its folder or the file itself."""
  parts = urllib.parse.urlsplit(mirror)
  if parts.query or pathlib.PurePosixPath(parts.path).name == name:
    return mirror
  return f"{mirror.rstrip('/')}/{urllib.parse.quote(name)}"


def _say(text: str) -> None:
  # Above the progress bar, if there is one.
  tqdm.tqdm.write(text)


def _print_plan(
  files: Sequence[entry.Download], folder: pathlib.Path, mirror: str
) -> None:
  for file in files:
    addresses = [_mirrored(mirror, file.name)] if mirror else file.addresses
    print(f"{folder / file.name}: {file.size_text}, from {addresses[0]}")
    for other in addresses[1:]:
      print(f"  or from {other}")
    if file.unpacked:
      unpacked = checks.size_text(file.unpacked)
      print(f"  data.convert will unpack it, which takes about {unpacked} more")
  here = next(path for path in (folder, *folder.absolute().parents) if path.exists())
  free = checks.size_text(shutil.disk_usage(here).free)
  print(f"Free on the disk of {folder}: {free}.")


def _print_next_steps(files: Sequence[entry.Download], folder: pathlib.Path) -> None:
  terms = files[0].terms
  print(
    f"Licence: {terms.licence}. Cite {terms.citation}, https://doi.org/{terms.doi}."
  )
  commands = [command for file in files if (command := file.next_command(folder))]
  if commands:
    print("Next:", *commands, sep="\n  ")


PROGRAM = program_lib.Program(
  name="data.download",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=("dataset", "output"),
  errors=lambda: (DownloadError, OSError),
)

if __name__ == "__main__":
  PROGRAM.start()
