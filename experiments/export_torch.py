"""Exports a pre-trained model as a state dict for the published PyTorch code.

  python -m experiments.export_torch --checkpoint=runs/pretrain --output=jmp.pt

The file is what `torch.save(model.state_dict())` writes: `torch.load` reads it with
weights_only=True, and the published pre-training model loads it strictly.
"""

from absl import flags

from data.command_line import flag_help
from data.command_line import program as program_lib
from experiments.command_line import command
from experiments.command_line import inference_flags


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  _define_model(values)
  _define_output(values)


@flag_help.group("Model")
def _define_model(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "checkpoint",
    None,
    "PATH: A model directory, the --workdir of a run, a checkpoint in it, or jmp-mini.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "ema",
    True,
    "Export the averaged weights, where there are some, instead of the raw ones.",
    flag_values=values,
  )


@flag_help.group("Output")
def _define_output(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "output", None, "FILE.pt: File to write, e.g. jmp.pt.", flag_values=values
  )


def run(values: flags.FlagValues) -> None:
  """Exports what the flags say.

  Raises:
    FlagError: flags that cannot be used.
  """
  command.require(values, *PROGRAM.required)
  path = inference_flags.new_file(values.output, "output", ".pt", ".pth", ".ckpt")
  inference_flags.start_without_computing()
  inference_flags.read_description(values)
  from jmp_hk.checkpoints import loading
  from jmp_hk.interop import export_checkpoint

  loaded = loading.load_model(values.checkpoint, ema=values.ema)
  names = export_checkpoint.export_checkpoint(loaded.config, loaded.variables, path)
  print(
    f"{path}: {len(names)} tensors; heads in this order: "
    f"{', '.join(task.name for task in loaded.config.tasks)}."
  )


def _errors() -> tuple[type[Exception], ...]:
  from jmp_hk.interop import export_checkpoint

  return (export_checkpoint.ExportError,)


PROGRAM = program_lib.Program(
  name="experiments.export_torch",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=(
    "checkpoint",
    "output",
  ),
  errors=_errors,
)

if __name__ == "__main__":
  PROGRAM.start()
