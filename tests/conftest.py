"""Shared test set-up: CPU, a persistent compilation cache, where shared data lies."""

import gc
import os
import pathlib
import signal

from tests import compiling

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
compiling.compile_fast()
# Tracing makes many objects that live on; looking through them seldom is faster.
gc.set_threshold(50_000, 50, 50)

import jax  # noqa: E402

from jmp_hk.runtime import configuration  # noqa: E402

# Shells start programs in the background with SIGINT ignored, which runs respect.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# They come first, so that the processes finish at about the same time.
_LONGEST = (
  "experiments/test_pretrain.py",
  "jmp_hk/parity/test_conservative.py",
  "jmp_hk/parity/test_forward.py",
  "jmp_hk/parity/test_gradients.py",
  "jmp_hk/runtime/test_processes.py",
  "jmp_hk/training/test_loop.py",
  "test_tutorials.py",
  "experiments/test_finetune.py",
  "benchmarks/test_smoke.py",
  "jmp_hk/models/gemnet_oc/test_smooth_truncation.py",
  "jmp_hk/models/gemnet_oc/test_remat.py",
  "jmp_hk/models/gemnet_oc/test_padding.py",
)
jax.config.update("jax_compilation_cache_dir", str(_ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# The tests compute with jax as it comes, whichever of them runs first in a process: jax
# has started when an entry point calls `configure`, which then changes nothing. What it
# changes is tested in processes of its own.
jax.devices()
configuration.configure(configuration.RuntimeConfig(freed_memory="default"))


def pytest_collection_modifyitems(items):
  """Puts the longest modules first."""
  rank = {_ROOT / "tests" / name: place for place, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: rank.get(item.path, len(rank)))
