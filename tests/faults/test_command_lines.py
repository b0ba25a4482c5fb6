"""Wrong command lines of all programs: a sentence and exit code 1, and never more.

Run by `python -m pytest tests/faults`, not by `python -m pytest`. Every line is refused
in two lines that end the output, without a traceback, without a word of a bug, and
without a file more or less.
"""

import contextlib
import importlib
import io
import itertools
import os
import pathlib
import resource
import shutil

import ase
import ase.build
import ase.io
import numpy as np
import pytest

from data.command_line import numbers
from data.command_line import program as program_lib
from experiments import import_torch
from tests.experiments import finetune_data
from tests.faults import outcomes as outcomes_lib
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save

pytestmark = pytest.mark.slow

REFUSED = outcomes_lib.REFUSED
ACCEPTED, BUG = "taken as if it were right", "traceback or bug"
_FAULT = "wrong command line"
# What a conversion that fails leaves, and goes on from.
_PARTIAL = (".tfrecord", ".index", ".sources.json")

_PRETRAIN = "experiments.pretrain --workdir=D/run --datasets=a=D/mine --num_steps=1 "
_FINETUNE = "experiments.finetune --workdir=D/run --data=D/mine --target=mu=scalar "
_OWN = "experiments.finetune --workdir=D/run --target=energy=energy --train_data="
_CONVERT = "data.convert --dataset=ase --output=D/converted --split=train --input="
_DRAWN = "data.convert --dataset=ase --output=D/converted --input=D/mine.extxyz "
_PREDICT = "experiments.predict --checkpoint=D/model --head=oc20 --output=D/p.extxyz "
_WATER = "--input=D/water.extxyz "
_EVALUATE = "experiments.evaluate --checkpoint=D/model --head=oc20 --data="
_EMBED = "experiments.embed --checkpoint=D/model --output=D/p.npz "

# Flags of numbers of all programs, and what none of them takes.
_PROGRAMS = (
  "data.convert",
  "experiments.embed",
  "experiments.evaluate",
  "experiments.finetune",
  "experiments.pretrain",
)
_NO_NUMBERS = ("nan", "-inf", "1+2j", "many", "", "1_0", "0x10", "1e999", "-1e30")

_LINES = (
  # Ranges.
  *(
    _PRETRAIN + flag
    for flag in (
      "--beta1=2 --beta2=0.9",
      "--beta1=1",
      "--beta2=1",
      "--beta2=-0.1",
      "--epsilon=0",
      "--clip_threshold=0",
      "--clip_threshold=-1",
      "--ema_decay=1",
      "--warmup_factor=1.5",
      "--final_factor=2",
      "--edge_dropout=1",
      "--dropout=-0.5",
      "--temperature=0",
      "--batch_size=0",
      "--batch_size=2.5",
      "--num_steps=1.0",
      "--seed=-1",
      "--keep_last=0",
      "--log_every=0",
      "--pool_size=0",
      "--streams_per_microbatch=0",
      "--num_microbatches=99",
      "--warmup_steps=5 --decay_steps=3",
      "--energy_coefficient=-1",
      "--force_coefficients=nan",
      "--force_coefficients=a=inf",
      "--force_coefficients=a=1,a=2",
      "--force_coefficients=b=1",
      "--budget=num_atoms=0",
      "--budget=num_atoms=1.5",
      "--budget=atoms=9",
      "--learning_rate_factors=x=nan",
      "--learning_rate_factors=x=0",
      "--learning_rate_factors=(=1",
      "--model_override=num_blocks=0",
      "--model_override=num_blocks=two",
      "--model_override=interaction.num_concat=-1",
      "--model_override=bases.radial_cutoff=0",
      "--model_override=bases.num_radial=1.5",
      "--model_override=blocks=2",
      "--validation_splits=nothing",
      "--datasets=a=D/mine,a=D/mine",
      "--datasets=a=D/mine:0",
      "--datasets=a=D/mine:nan",
      "--datasets=../a=D/mine",
      "--datasets==D/mine",
      "--datasets=a=D/no",
      "--datasets=a=D/empty",
      "--datasets=a=D/mine.extxyz",
      "--convert=a=ase",
      "--convert=a=asse:D/mine.extxyz",
      "--convert=a/b=ase:D/mine.extxyz",
      "--flagfile=D/no.flags",
      "--flagfile=D",
      "--workdir=D/mine.extxyz",
      "--workdir=D/mine.extxyz/run",
      "--workdir=/proc/run",
    )
  ),
  # What is learned.
  *(
    _FINETUNE + flag
    for flag in (
      "--target=mu=scaler",
      "--target=gap",
      "--target==scalar",
      "--target=mu=scalar --target=mu=scalar",
      "--target=alpha=scalar,coefficient=nan",
      "--target=alpha=scalar,coefficient=-1",
      "--target=alpha=scalar,classes=1.5",
      "--target=alpha=scalar,reduction=median",
      "--target=unknown=scalar",
      "--target=mu=energy",
      "--target=kind=binary",
      "--task=qm9_mu",
      "--task=../../evil",
      "--fold=-1",
      "--fold=x",
      "--fold=7 --data=D/mine{fold}",
      "--train_split=trian",
      "--train_split=../train",
      "--test_split=tset",
      "--validation_splits=vla",
      "--frozen=(",
      "--model=tiny --frozen=.",
      "--model=tiny --frozen=blocks --frozen=nothing",
      "--model=tiny --learning_rate_factors=nothing=0.5",
      "--plateau_factor=0",
      "--plateau_factor=2",
      "--early_stopping_patience=-1",
      "--evaluate_every_epochs=-1",
      "--val_data=D/mine.extxyz",
      "--train_data=D/mine.extxyz",
      "--checkpoint=D/no",
      "--checkpoint=D/empty",
      "--checkpoint=D/text.pt",
      "--checkpoint=D/damaged",
      "--model=gemnet_oc_large --checkpoint=D/model",
      "--name=a/b",
      "--precision=float16",
      "--convert=matbench:D/mine.extxyz,fold=7 --data=D/new",
      "--convert=ase:D/mine.extxyz,cutoff=-1 --data=D/new",
      "--convert=ase:D/mine.extxyz,cutoff=nan --data=D/new",
    )
  ),
  *(
    _OWN + flag
    for flag in (
      "D/no.extxyz",
      "D/empty",
      "D/text.pt",
      "D/mine.extxyz --val_fraction=1",
      "D/mine.extxyz --val_fraction=0.6 --test_fraction=0.6",
      "D/mine.extxyz --test_fraction=nan",
      "D/mine.extxyz --cutoff=-6",
      "D/mine.extxyz --cutoff=1e6",
      "D/mine.extxyz --max_neighbors=-1",
      "D/mine.extxyz --max_neighbors=1000000",
      "D/mine.extxyz --energy_unit=kcal",
      "D/mine.extxyz --energy_key=nothing",
      "D/mine.extxyz --split_seed=-1",
      "D/heavy.traj",
    )
  ),
  # Conversion.
  *(
    _DRAWN + flag
    for flag in (
      "--split_fractions=0.5,nan,0.5",
      "--split_fractions=0.5,0.6",
      "--split_fractions=1,-0.5,0.5",
      "--split_fractions=inf",
      "--split_fractions=0.25,0.25,0.25,0.25",
      "--split_fractions=a",
      "--split_fractions=0,0",
      "--split_fractions=0.5,0.5 --split_by=atom",
      "--split_fractions=0.5,0.5 --split_seed=-1",
      "--split_fractions=0.5,0.5 --split_seed=99999999999",
    )
  ),
  *(
    _CONVERT + flag
    for flag in (
      "D/mine.extxyz --cutoff=0",
      "D/mine.extxyz --cutoff=-6",
      "D/mine.extxyz --cutoff=inf",
      "D/mine.extxyz --cutoff=1e6",
      "D/mine.extxyz --max_neighbors=1000000",
      "D/mine.extxyz --max_neighbors=0",
      "D/mine.extxyz --max_neighbors=-3",
      "D/mine.extxyz --max_neighbors=2.5",
      "D/mine.extxyz --name=",
      "D/mine.extxyz --name=a/b",
      "D/mine.extxyz --name=..",
      "D/mine.extxyz --split=../../evil",
      "D/mine.extxyz --num_workers=0",
      "D/mine.extxyz --task_id=3",
      "D/mine.extxyz --energy_unit=ev",
      "D/mine.extxyz --forces_unit=eV",
      "D/mine.extxyz --targets=a:b:c:d",
      "D/mine.extxyz --targets=nothing:structure:eV",
      "D/mine.extxyz --target_keys=a",
      "D/mine.extxyz --missing=nothing",
      "D/mine.extxyz --fold=7",
      "D/mine.extxyz --fold=1",
      "D/mine.extxyz --molecule=water",
      "D/mine.extxyz --output=D/water.extxyz",
      "D/mine.extxyz --output=D/water.extxyz/new",
      "D/mine.extxyz --output=/proc/new",
      "D/no.extxyz",
      "D/empty",
      "D/text.pt",
      "D/broken.extxyz",
      "D/invalid.extxyz",
      "D/invalid.extxyz --skip_invalid",
      "D/heavy.traj --energy_key=none",
    )
  ),
  *(
    f"data.convert --dataset={name} --output=D/converted --split=train --input={source}"
    for name in ("matbench", "md22", "oc20", "oc22", "qm9", "qmof", "rmd17", "spice")
    for source in ("D/empty", "D/text.pt")
  ),
  "data.convert --dataset=oc20 --output=D/new --split=train --input=D/without_ids",
  "data.convert --dataset=oc20 --output=D/new --split=train --input=D/other_ids",
  "data.convert --dataset=oc20 --output=D/new --split=train --input=D/swapped_ids",
  # Prediction.
  *(
    _PREDICT + flag
    for flag in (
      "--input=D/no.extxyz",
      "--input=D/empty",
      "--input=D/broken.extxyz",
      "--input=D/heavy.extxyz",
      "--input=D/heavy.traj",
      "--input=D/apart.extxyz",
      "--input=D/together.extxyz",
      _WATER + "--index=7",
      _WATER + "--index=a",
      _WATER + "--head=oc21",
      _WATER + "--batch_edges=0",
      _WATER + "--precision=float8",
      _WATER + "--references=D/no.npz",
      _WATER + "--references=D/text.pt",
      _WATER + "--output=D/empty",
      _WATER + "--output=D/folder.extxyz",
      _WATER + "--output=D/no/p.extxyz",
      _WATER + "--output=D/p.cif",
      _WATER + "--output=D/water.extxyz",
      _WATER + "--output=/proc/p.extxyz",
      _WATER + "--checkpoint=D/damaged",
      _WATER + "--checkpoint=D/mine",
    )
  ),
  _EVALUATE + "D/no",
  _EVALUATE + "D/mine --split=tset",
  _EVALUATE + "D/mine --split=../test",
  _EVALUATE + "D/mine --head=oc21",
  _EVALUATE + "D/mine --limit=-1",
  _EVALUATE + "D/mine --checkpoint=D/damaged",
  _EVALUATE + "D/mine --output=D/water.extxyz",
  _EMBED + "--datasets=a",
  _EMBED + "--datasets=a=D/no",
  _EMBED + "--datasets=a=D/mine,a=D/mine",
  _EMBED + "--datasets=a=D/mine --split=tset",
  _EMBED + "--datasets=a=D/water.extxyz",
  _EMBED + "--datasets=oc20=D/heavy.traj",
  _EMBED + "--datasets=oc20=D/water.extxyz --perplexity=0",
  _EMBED + "--datasets=oc20=D/water.extxyz --output=D/folder.npz",
  # Reports, studies, PyTorch files.
  "experiments.report",
  "experiments.report D/no",
  "experiments.report D/empty",
  "experiments.report D/water.extxyz",
  "experiments.report D/damaged --output=D/new",
  "experiments.study --workdir=D/run",
  "experiments.study --workdir=D/run --tasks=qm10",
  "experiments.study --workdir=D/run --tasks=qm9_mu --seeds=1.5",
  "experiments.study --workdir=D/run --tasks=qm9_mu --seeds=-1",
  "experiments.study --workdir=D/run --tasks=qm9_mu --folds=a",
  "experiments.study --workdir=D/run --tasks=qm9_mu --checkpoint=D/no",
  "experiments.study --workdir=D/run --tasks=qm9_mu --noscratch",
  "experiments.import_torch --input=D/text.pt --output=D/new",
  "experiments.import_torch --input=D/empty --output=D/new",
  "experiments.import_torch --input=D/no.pt --output=D/new",
  "experiments.import_torch --input=D/jmp.pt --output=D/model",
  "experiments.import_torch --input=D/jmp.pt --output=D/new --tasks=a,b",
  "experiments.import_torch --input=D/jmp.pt --output=D/new --tasks=../a,b,c,d",
  "experiments.export_torch --checkpoint=D/no --output=D/new.pt",
  "experiments.export_torch --checkpoint=D/damaged --output=D/new.pt",
  "experiments.export_torch --checkpoint=D/model --output=D/folder.pt",
  "data.download --dataset=qm10 --output=D/new",
)


def _make_files(folder: pathlib.Path) -> None:
  """Raw files and folders with one mistake each."""
  ase.io.write(folder / "water.extxyz", ase.build.molecule("H2O"))
  water = (folder / "water.extxyz").read_text()
  labelled = (folder / "mine.extxyz").read_text()
  (folder / "broken.extxyz").write_text(labelled[: len(labelled) // 2 + 7])
  (folder / "heavy.extxyz").write_text(water.replace("\nO ", "\nOg "))
  (folder / "text.pt").write_text("No weights.")
  beyond = ase.build.molecule("H2O")
  beyond.numbers[0] = 119
  ase.io.write(folder / "heavy.traj", beyond)
  invalid = finetune_data.molecules(3)
  for atoms in invalid:
    atoms.calc.results["energy"] = np.nan
  ase.io.write(folder / "invalid.extxyz", invalid)
  ase.io.write(folder / "apart.extxyz", ase.Atoms("H2", [[0, 0, 0], [1e6, 0, 0]]))
  ase.io.write(folder / "together.extxyz", ase.Atoms("H2", np.zeros((2, 3))))
  for name in ("empty", "folder.extxyz", "folder.npz", "folder.pt", "damaged"):
    (folder / name).mkdir()
  (folder / "damaged" / "config.json").write_text('{"model": ')
  (folder / "damaged" / "flags.txt").write_text("--seed=x\n")


def _make_ids(folder: pathlib.Path) -> None:
  """OC20 with ids that lack or are something else."""
  from tests.data import raw_files

  lacking = raw_files.oc20_folder(folder / "without_ids")
  (lacking / "1.txt.xz").unlink()
  other = raw_files.oc20_folder(folder / "other_ids")
  (other / "0.txt.xz").write_bytes((other / "0.extxyz.xz").read_bytes())
  energies = (-181.5, -402.25)
  frames = {k: [raw_files.oc20_frame(k, energy=e)] for k, e in enumerate(energies)}
  swapped = raw_files.write_oc20(folder / "swapped_ids", frames)
  (swapped / "0.txt.xz").rename(swapped / "2.txt.xz")
  (swapped / "1.txt.xz").rename(swapped / "0.txt.xz")
  (swapped / "2.txt.xz").rename(swapped / "1.txt.xz")


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("lines")
  state = checkpoints.state_dict("tinyd")
  torch_save.save(checkpoints.lightning(state, state), folder / "jmp.pt")
  arguments = [f"--input={folder}/jmp.pt", f"--output={folder}/model"]
  assert import_torch.PROGRAM.execute(arguments) == 0
  finetune_data.convert_all(folder)
  _make_files(folder)
  _make_ids(folder)
  return folder


def _program(name: str) -> program_lib.Program:
  return importlib.import_module(name).PROGRAM


def _files(folder: pathlib.Path) -> set[pathlib.Path]:
  """Files below a folder, without the notes that let a conversion be resumed."""
  return {
    path
    for path in folder.rglob("*")
    if path.is_file() and ".conversion" not in path.parts
  }


def _execute(program: str, arguments: list[str]) -> tuple[str, str]:
  """What happened, and what was printed to stderr."""
  with (
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()) as err,
  ):
    try:
      code = _program(program).execute(arguments)
    except Exception as error:  # Whatever it is, it is one failure of many.
      return BUG, f"{type(error).__name__}: {error}"
  text = err.getvalue()
  if code == 0:
    return ACCEPTED, text
  lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
  is_plain = "Traceback" not in text and "this is a bug" not in text
  is_sentence = len(lines) >= 2 and lines[-2].startswith("error: ")
  return (REFUSED if code == 1 and is_plain and is_sentence else BUG), text


def _check(line: str, folder: pathlib.Path, outcomes: outcomes_lib.Outcomes) -> None:
  program, *arguments = line.replace("D/", f"{folder}/").split()
  before = _files(folder)
  outcome, text = _execute(program, arguments)
  after = _files(folder)
  new = {p for p in after - before if not p.name.endswith(_PARTIAL)}
  if new or before - after:
    outcome = f"files that it left or deleted: {new or before - after}"
  outcomes.add(_FAULT, program, outcome)
  assert outcome == REFUSED, f"{outcome}: {line}\n{text}"
  for name in ("converted", "full", "new", "run"):  # Each line finds none of another.
    shutil.rmtree(folder / name, ignore_errors=True)


@pytest.mark.parametrize("line", _LINES)
def test_wrong_lines_are_refused_in_a_sentence(line, folder, outcomes):
  _check(line, folder, outcomes)


@pytest.mark.parametrize(
  ("program", "text"), list(itertools.product(_PROGRAMS, _NO_NUMBERS))
)
def test_no_flag_takes_what_is_no_number(program, text, folder, outcomes):
  from absl import flags

  values = flags.FlagValues()
  _program(program).define(values)
  names = [name for name in values if numbers.allowed_of(values[name]) is not None]
  assert len(names) >= 2
  for name in names:
    if text == "-1e30" and numbers.allowed_of(values[name]).contains(-1e30):
      continue
    _check(f"{program} --{name}={text}", folder, outcomes)


@pytest.mark.skipif(os.geteuid() == 0, reason="The root user writes everywhere.")
def test_folders_that_cannot_be_written_to(folder, outcomes):
  locked = folder / "locked"
  locked.mkdir(mode=0o500)
  _check(_CONVERT + "D/mine.extxyz --output=D/locked/new", folder, outcomes)
  _check(_PRETRAIN + "--workdir=D/locked/run", folder, outcomes)


def test_full_disks(folder, outcomes):
  """A limit on the size of files stands for a full disk."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
  try:
    _check(_CONVERT + "D/mine.extxyz --output=D/full", folder, outcomes)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
