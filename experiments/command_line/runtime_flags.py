"""Flags about how jax is started, and which process of a run this is."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging

from absl import flags

from data.command_line import flag_help
from experiments.command_line import command
from experiments.command_line import conversions
from experiments.command_line import inference_flags
from jmp_hk import serialization
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.runtime import configuration
from jmp_hk.runtime import processes
from jmp_hk.targets import spec as spec_lib


@flag_help.group("Machine")
def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of how jax is started."""
  integer = lambda name, default, text: flags.DEFINE_integer(
    name, default, text, lower_bound=0, flag_values=values
  )
  inference_flags.define_compilation_cache(values)
  integer(
    "num_devices",
    0,
    "Number of devices to use, over all processes; 0 uses all. A run may be continued "
    "with another number.",
  )
  flags.DEFINE_string(
    "coordinator_address",
    "",
    "HOST:PORT: Address of process 0, for runs of several processes.",
    flag_values=values,
  )
  integer(
    "num_processes",
    1,
    "Number of processes of the run; 0 detects address, number and id (Slurm, cloud).",
  )
  integer("process_id", 0, "Number of this process, counted from 0.")


@contextlib.contextmanager
def running(
  values: flags.FlagValues, errors: Callable[[], tuple[type[Exception], ...]]
) -> Iterator[None]:
  """Starts jax and joins the other processes of the run, which end together.

  Args:
    values: parsed flags.
    errors: gives errors whose message says enough without a traceback.
  """
  config = configuration.RuntimeConfig(
    compilation_cache=values.compilation_cache,
    coordinator_address=values.coordinator_address,
    num_processes=values.num_processes,
    process_id=values.process_id,
  )
  configuration.configure(config)
  processes.connect(config)
  if not processes.is_first():  # They would log the same.
    logging.getLogger("jmp_hk").setLevel(logging.WARNING)
  with processes.ends_together((*errors(), OSError)):
    yield
    processes.wait_for_all("done")


def expected_errors() -> tuple[type[Exception], ...]:
  """Wrong flags and bad data, which give one line without a traceback."""
  from jmp_hk.checkpoints import model_directory  # Slow to import.
  from jmp_hk.checkpoints import pretrained
  from jmp_hk.runtime import devices as devices_lib
  from jmp_hk.training import preflight
  from jmp_hk.training import step_log

  return (
    command.FlagError,
    budget_lib.BudgetError,
    spec_lib.LabelError,
    step_log.NonFiniteLossError,
    processes.ConnectionFailedError,
    model_directory.CheckpointError,
    pretrained.PretrainedError,
    preflight.PreflightError,
    devices_lib.DevicesError,
    serialization.SerializationError,
    *conversions.ERRORS,
  )
