"""Wrong command lines and wrong files: two lines, exit code 1, no traceback."""

import pathlib

import ase.build
import ase.io
import pytest

from data import convert
from experiments import embed
from experiments import evaluate
from experiments import export_torch
from experiments import finetune
from experiments import finetune_demo
from experiments import import_torch
from experiments import predict
from experiments import pretrain
from experiments import report
from tests.experiments import finetune_data
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save

_CONVERT = "--dataset=ase --output=D/converted --split=train --input="
_FINETUNE = "--workdir=D/run --model=tiny --data=D/mine "
_PREDICT = "--checkpoint=D/model --output=D/new.extxyz "
_RIGHT = "--input=D/water.extxyz "
_EVALUATE = "--checkpoint=D/model --data=D/mine "
_EMBED = "--checkpoint=D/model --output=D/new.npz --datasets="

# Program, its command line (D is the folder of the test), what is said.
_CASES = (
  # Flags.
  (pretrain, "--num_step=10", "unknown flag --num_step. Did you mean --num_steps?"),
  (pretrain, "--num_steps=ten", "expected a whole number"),
  (pretrain, "--num_steps", "--num_steps needs a value"),
  (pretrain, "num_steps=10", "Did you mean --num_steps=10?"),
  (pretrain, "—num_steps=10", "begin with two plain hyphens"),
  (pretrain, "--batch_size=0", "expected a whole number, at least 1"),
  (pretrain, "--model=gemnet_oc_smal", "Did you mean --model=gemnet_oc_small?"),
  (pretrain, "--flagfile=D/wrong.flags", "wrong.flags, line 2: unknown flag --num_st"),
  (pretrain, "--flagfile=D/wrang.flags", "Did you mean D/wrong.flags?"),
  (finetune, "--num_steps=10,000", "Leave out the separators: --num_steps=10000."),
  (finetune, "--learning_rate=0,001", "Write a decimal point: --learning_rate=0.001"),
  (finetune, "--lr=0.001", "Did you mean --learning_rate?"),
  (finetune, "--ema false", "Did you mean --noema?"),
  (convert, "--cutoff=6A", "without its unit: --cutoff=6."),
  (convert, "--dataset=oc21", "Did you mean --dataset=oc22?"),
  (predict, "", "--checkpoint is required: A model directory"),
  (report, "D/run --outptu=x", "Did you mean --output?"),
  # Data that are missing.
  (pretrain, "--workdir=D/run", "No data: name converted datasets with --datasets"),
  (pretrain, "--workdir=D/run --datasets=a=D/no", "D/no of 'a' does not exist"),
  (convert, _CONVERT + "D/no.extxyz", "--input=D/no.extxyz does not exist"),
  (convert, _CONVERT + "D/empty", "holds no file"),
  (finetune, "--workdir=D/run --target=mu=scalar", "No data: name"),
  (evaluate, "--checkpoint=D/model --data=D/no", "D/no of 'data' does not exist"),
  (evaluate, _EVALUATE + "--head=oc20 --split=tset", "the splits: test, train, val"),
  (finetune, _FINETUNE + "--target=mu=scalar --train_split=trian", "split 'trian'"),
  (predict, _PREDICT + "--head=oc20 --input=D/no.cif", "D/no.cif does not exist"),
  (embed, _EMBED + "a=D/no", "a=D/no does not exist"),
  (report, "D/empty", "holds no finished fine-tuning run"),
  # Data that are wrong.
  (convert, _CONVERT + "D/broken.extxyz", "broken.extxyz: ASE fails after 14 frames"),
  (convert, _CONVERT + "D/unlabelled.extxyz", "there are neither energies nor forces"),
  (convert, _CONVERT + "D/unknown.extxyz", "KeyError: 'Qq'"),
  (convert, _CONVERT + "D/none.extxyz", "Empty file"),
  (convert, _CONVERT + "D/mine.extxyz --energy_unit=ev", "--energy_unit=ev is unknown"),
  (convert, _CONVERT + "D/mine.extxyz --energy_key=E", "expected the label 'E'"),
  (convert, _CONVERT + "D/mine.extxyz --split_fractions=0.8,0.3", "add up to 1"),
  (predict, _PREDICT + "--head=oc20 --input=D/broken.extxyz", "after 14 structures"),
  (
    predict,
    _PREDICT + "--head=oc20 --input=D/heavy.extxyz",
    "not know the elements Og",
  ),
  # What is learned and with what.
  (finetune, _FINETUNE, "either --task=NAME, a task of the paper, or --target"),
  (finetune, _FINETUNE + "--task=qm9_u00", "Did you mean qm9_u0?"),
  (finetune, _FINETUNE + "--target=mu=scaler", "Did you mean mu=scalar?"),
  (finetune, _FINETUNE + "--target=muu=scalar", "The data have no label 'muu'"),
  (finetune_demo, "--workdir=D/run --checkpoint=D/model --tasks=qm8", "mean qm9?"),
  # Models.
  (finetune, _FINETUNE + "--target=mu=scalar --checkpoint=D/no", "is no checkpoint in"),
  (
    finetune,
    _FINETUNE + "--target=mu=scalar --checkpoint=D/text.pt",
    "not a zip archive",
  ),
  (predict, _PREDICT + _RIGHT, "--head is required, because the model has several"),
  (predict, _PREDICT + _RIGHT + "--head=oc21", "Did you mean --head=oc22?"),
  (export_torch, "--checkpoint=D/empty --output=D/new.pt", "no checkpoint in D/empty"),
  (import_torch, "--input=D/text.pt --output=D/new", "not a zip archive"),
  (
    import_torch,
    "--input=D/jmp.pt --output=D/new --tasks=oc20",
    "heads for 4 datasets",
  ),
  # Results that could not be written.
  (
    predict,
    "--checkpoint=D/model --input=D/water.extxyz --output=D/no/p.xyz",
    "folder",
  ),
  (predict, "--checkpoint=D/model --input=D/water.extxyz --output=D/p.cif", "must end"),
  (import_torch, "--input=D/jmp.pt --output=D/model", "exists already"),
)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """A model, converted data, and files with one mistake each."""
  folder = tmp_path_factory.mktemp("wrong")
  state = checkpoints.state_dict("tinyd")
  torch_save.save(checkpoints.lightning(state, state), folder / "jmp.pt")
  arguments = [f"--input={folder}/jmp.pt", f"--output={folder}/model"]
  assert import_torch.PROGRAM.execute(arguments) == 0
  finetune_data.convert_all(folder)
  labelled = (folder / "mine.extxyz").read_text()
  ase.io.write(folder / "water.extxyz", ase.build.molecule("H2O"))
  water = (folder / "water.extxyz").read_text()
  for name, text in {
    "broken.extxyz": labelled[: len(labelled) // 2 + 7],
    "unlabelled.extxyz": water,
    "unknown.extxyz": water.replace("\nO ", "\nQq "),
    "heavy.extxyz": water.replace("\nO ", "\nOg "),
    "none.extxyz": "",
    "text.pt": "No weights.",
    "wrong.flags": "--seed=1\n--num_step=10\n",
  }.items():
    (folder / name).write_text(text)
  (folder / "empty").mkdir()
  return folder


def _files(folder: pathlib.Path) -> set[pathlib.Path]:
  """Files below a folder, without the notes that let a conversion be resumed."""
  return {
    path
    for path in folder.rglob("*")
    if path.is_file() and ".conversion" not in path.parts
  }


@pytest.mark.parametrize(("module", "line", "expected"), _CASES)
def test_two_lines_say_what_to_do(module, line, expected, folder, capsys):
  before = _files(folder)
  arguments = line.replace("D/", f"{folder}/").split()
  assert module.PROGRAM.execute(arguments) == 1
  printed = capsys.readouterr()
  lines = [
    line for line in printed.err.replace("\r", "\n").splitlines() if line.strip()
  ]
  error, hint = lines[-2:]
  assert error.startswith("error: ") and expected.replace("D/", f"{folder}/") in error
  assert hint.startswith(f"Run python -m {module.PROGRAM.name} --help for all flags")
  # Before them, only progress.
  progress = ("shard", "structure", "Training")
  assert all(any(word in line for word in progress) for line in lines[:-2]), lines
  assert "Traceback" not in printed.err and not printed.out
  assert _files(folder) == before
