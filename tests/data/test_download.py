"""The table of downloads, and the command that fetches and says what comes next."""

import io
import re
import shlex
import tarfile

from absl import flags
import numpy as np
import pytest

from data import convert
from data import download
from data.command_line import program as program_lib
from data.conversion import registry
from data.downloads import catalogue
from data.downloads import http as http_lib
from data.downloads import transfer
from tests import source_imports
from tests.data import raw_files
from tests.data.converters import test_qm9
from tests.data.downloads import loopback

_QUIET = transfer.Options(transfer.Retries(2, first_wait=0.0), progress=False)
_ID = [f"{file.dataset}-{file.part}" for file in catalogue.DOWNLOADS]


@pytest.fixture(name="server")
def _server(monkeypatch):
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  with loopback.serve() as server:
    yield server


def _run(*arguments):
  values = flags.FlagValues()
  download.PROGRAM.define(values)
  download.PROGRAM.parse(arguments, values)
  download.run(values)


def _convert(command):
  """Runs a command of `data.convert` in this process."""
  program, *arguments = shlex.split(command)[2:]
  assert program == "data.convert"
  values = flags.FlagValues()
  convert.PROGRAM.define(values)
  convert.PROGRAM.parse(arguments, values)
  convert.run(convert.config_from_flags(values), command)


def test_every_file_has_a_name_of_its_own():
  keys = [(file.dataset, file.part) for file in catalogue.DOWNLOADS]
  assert len(set(keys)) == len(keys)
  names = [(file.dataset, file.name) for file in catalogue.DOWNLOADS]
  assert len(set(names)) == len(names)


def test_every_published_dataset_can_be_fetched():
  converters = set(registry.converters()) - {"ase"}
  assert set(catalogue.names()) == converters | {catalogue.WEIGHTS}


@pytest.mark.parametrize("file", catalogue.DOWNLOADS, ids=_ID)
def test_entries_are_well_formed(file):
  for address in file.addresses:
    http_lib.check_address(address)
  for checksum in file.expected.checksums:
    digits = {"md5": "{32}", "sha256": "{64}", "s3_etag": r"{32}-\d+"}[checksum.kind]
    assert re.fullmatch(f"[0-9a-f]{digits}", checksum.value)


@pytest.mark.parametrize(
  "file",
  [f for f in catalogue.DOWNLOADS if f.dataset != catalogue.WEIGHTS and f.command],
  ids=lambda file: f"{file.dataset}-{file.part}",
)
def test_the_next_command_is_one_that_data_convert_takes(file, tmp_path):
  (tmp_path / file.name).touch()
  values = flags.FlagValues()
  convert.PROGRAM.define(values)
  convert.PROGRAM.parse(shlex.split(file.next_command(tmp_path))[3:], values)
  config = convert.config_from_flags(values)
  converter = registry.make(config.dataset, config.input, options=config.options)
  assert converter.source == tmp_path / file.name


def test_the_next_command_of_weights_imports_them(tmp_path):
  from experiments import import_torch

  for file in catalogue.select(catalogue.WEIGHTS, ["all"]):
    program, *arguments = shlex.split(file.next_command(tmp_path))[2:]
    assert program == import_torch.PROGRAM.name
    values = flags.FlagValues()
    import_torch.PROGRAM.define(values)
    import_torch.PROGRAM.parse(arguments, values)
    assert values.input == str(tmp_path / file.name) and values.output


@pytest.mark.parametrize("file", catalogue.DOWNLOADS, ids=_ID)
def test_the_documentation_says_where_it_is(file):
  text = (source_imports.ROOT / "docs" / "data.md").read_text()
  # MD22's and MatBench's files are named once for all.
  general = {"md22": "MOLECULE", "matbench": "TASK"}.get(file.dataset, file.part)
  addresses = [a.replace(file.part, general) for a in file.addresses]
  (row,) = [
    line
    for line in text.splitlines()
    if line.startswith("|") and any(f"{a} |" in line for a in addresses)
  ]
  size = file.size_text.replace("unknown", "not known")
  assert f"| {size} |" in row
  assert f"| {file.terms.licence} | {file.terms.citation}, https://doi.org/" in text
  assert file.terms.doi in text
  assert f"--dataset={file.dataset} " in text


def test_fetched_as_published_and_converted_by_the_next_command(
  server, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  archive = io.BytesIO()
  with tarfile.open(fileobj=archive, mode="w:bz2") as tar:
    for number in range(1, 21):
      text = test_qm9.METHANE.replace("gdb 1", f"gdb {number}").encode()
      member = tarfile.TarInfo(f"dsgdb9nsd_{number:06d}.xyz")
      member.size = len(text)
      tar.addfile(member, io.BytesIO(text))
  server.pages["/qm9/dsgdb9nsd.xyz.tar.bz2"] = loopback.File(
    archive.getvalue(), breaks=[700]
  )
  rows = "\n   Index SMILES\n  3   C#N\n  11  CC\n"
  server.pages["/qm9/uncharacterized.txt"] = loopback.File(rows.encode())
  mirror = f"--mirror={server.address}/qm9"
  _run("--dataset=qm9", "--output=raw/qm9", mirror, "--noverify")
  printed = capsys.readouterr().out
  assert "raw/qm9/dsgdb9nsd.xyz.tar.bz2 is complete" in printed
  assert "Licence: CC0. Cite Ramakrishnan et al." in printed
  (command,) = [line for line in printed.splitlines() if "data.convert" in line]
  _convert(command)
  assert "1 test, 16 train, 1 val" in capsys.readouterr().out


def test_oc20_as_it_comes(server, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  inner = raw_files.oc20_folder(tmp_path / "s2ef_train_200K" / "s2ef_train_200K")
  packed = raw_files.write_tar(tmp_path / "a.tar", inner.parent)
  # A mirror may also be the address of the one file.
  server.pages["/pub/s2ef_train_200K.tar"] = loopback.File(packed.read_bytes())
  mirror = f"--mirror={server.address}/pub/s2ef_train_200K.tar"
  _run("--dataset=oc20", "--part=train_200K", "--output=raw/oc20", mirror, "--noverify")
  printed = capsys.readouterr().out
  (command,) = [line for line in printed.splitlines() if "data.convert" in line]
  _convert(command.replace("--num_workers=8", ""))
  assert "12 train" in capsys.readouterr().out


def test_rmd17_as_it_comes(server, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  folder = tmp_path / "packed" / "rmd17"
  (folder / "npz_data").mkdir(parents=True)
  rng = np.random.default_rng(0)
  np.savez(
    folder / "npz_data" / "rmd17_aspirin.npz",
    nuclear_charges=np.array([6, 8], np.uint8),
    coords=rng.normal(size=(1100, 2, 3)),
    energies=rng.normal(size=1100),
    forces=rng.normal(size=(1100, 2, 3)),
  )
  archive = raw_files.write_tar(tmp_path / "a.tar.bz2", folder, "w:bz2")
  server.pages["/rmd17.tar.bz2"] = loopback.File(archive.read_bytes())
  _run("--dataset=rmd17", "--output=raw", f"--mirror={server.address}/", "--noverify")
  printed = capsys.readouterr().out
  (command,) = [line for line in printed.splitlines() if "data.convert" in line]
  _convert(command)
  assert "100 test, 950 train, 50 val" in capsys.readouterr().out


def test_a_mirror_must_hold_the_published_file(server, tmp_path):
  server.pages["/ani1x-release.h5"] = loopback.File(b"something else")
  with pytest.raises(download.DownloadError, match="14 bytes, expected 5590846027"):
    download.fetch("ani1x", tmp_path, mirror=server.address, options=_QUIET)


def test_from_python_as_well(server, tmp_path):
  server.pages["/md22_DHA.npz"] = loopback.File(b"frames")
  (path,) = download.fetch(
    "md22", tmp_path / "raw", parts=["DHA"], mirror=server.address, options=_QUIET
  )
  assert path.read_bytes() == b"frames" and path.name == "md22_DHA.npz"


def test_the_table_of_files(capsys):
  _run("--list")
  table = capsys.readouterr().out
  assert all(file.name in table for file in catalogue.DOWNLOADS)
  _run("--list", "--dataset=weights")
  assert capsys.readouterr().out.splitlines()[1:] == [
    "weights  jmp-s  unknown  none      CC BY-NC 4.0  jmp-s.pt",
    "weights  jmp-l  3.75 GB  S3 ETag   CC BY-NC 4.0  jmp-l.pt",
  ]


def test_a_dry_run_fetches_nothing(server, tmp_path, capsys):
  folder = tmp_path / "raw"
  _run(
    "--dataset=qm9",
    f"--output={folder}",
    f"--mirror={server.address}",
    "--dry_run",
  )
  assert f"{folder}/dsgdb9nsd.xyz.tar.bz2: 86.1 MB, from" in capsys.readouterr().out
  assert not folder.exists() and not server.requests


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--dataset is required: .* Also required: --output"),
    (["--dataset=qm9"], "--output is required"),
    (["--dataset=oc20", "--output=x"], "several parts.*train_200K, train_2M.*or all"),
    (
      ["--dataset=oc20", "--output=x", "--part=val"],
      "no part 'val'; it has train_200K",
    ),
    (["--dataset=md22", "--output=x"], "Ac-Ala3-NHMe"),
    (
      ["--dataset=qm9", "--output=x", "--mirror=/my/folder"],
      "is not an address of the form",
    ),
  ],
)
def test_wrong_flags_are_explained(tmp_path, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises((program_lib.FlagError, download.DownloadError), match=message):
    _run(*arguments)
  assert not list(tmp_path.iterdir())
