"""Shared test set-up: CPU, a persistent compilation cache, where shared data lies."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Compilation takes most of the suite's time, and half as long without LLVM's
# optimisations, here and in the programs that tests start. What is compared with the
# published numbers in float32 asks for them, see `small_model.optimising_jit`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax

from jmp_hk.runtime import configuration

_ROOT = pathlib.Path(__file__).resolve().parents[1]
jax.config.update("jax_compilation_cache_dir", str(_ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# The tests compute with jax as it comes, whichever of them runs first in a process: jax
# has started when an entry point calls `configure`, which then changes nothing. What it
# changes is tested in processes of its own.
jax.devices()
configuration.configure(configuration.RuntimeConfig(freed_memory="default"))
