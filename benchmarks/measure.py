"""Clocks, memory and the machine's matmul rate."""

from collections.abc import Callable
import functools
import os
import platform
import resource
import sys
import time

import jax
import jax.numpy as jnp

from jmp_hk.models import precision as precision_lib
from jmp_hk.runtime import compilation

MIB = 2**20


class Matmul:
  """A large matrix product in a given precision, the yardstick of utilisation."""

  def __init__(self, arithmetic: precision_lib.Arithmetic):
    """Compiles a product whose size suits the device.

    Args:
      arithmetic: what it is computed in.
    """
    dtype = arithmetic.dtype or jnp.float32
    on_cpu = jax.default_backend() == "cpu"
    self._size = 3072 if on_cpu else 8192
    self._repeats = 1 if on_cpu else 16
    key_a, key_b = jax.random.split(jax.random.PRNGKey(0))
    shape = (self._size, self._size)
    self._a = jax.random.normal(key_a, shape, dtype)
    self._b = jax.random.normal(key_b, shape, dtype)
    self._product = jax.jit(functools.partial(jnp.matmul, precision=arithmetic.product))
    self.gflops()  # Compiles and warms up.

  def gflops(self) -> float:
    """Measures the rate once, in 10^9 floating-point operations per second."""
    start = time.perf_counter()
    for _ in range(self._repeats):
      product = self._product(self._a, self._b)
    product.block_until_ready()
    seconds = time.perf_counter() - start
    return 2e-9 * self._size**3 * self._repeats / seconds


def seconds_of(function: Callable[[], object]) -> float:
  """Time of a call, until its results are on the device."""
  start = time.perf_counter()
  jax.block_until_ready(function())
  return time.perf_counter() - start


def peak_memory_mib() -> float:
  """Largest memory so far: of the device, or of this process on a CPU."""
  statistics = jax.local_devices()[0].memory_stats() or {}
  if jax.default_backend() != "cpu" and "peak_bytes_in_use" in statistics:
    return statistics["peak_bytes_in_use"] / MIB
  return peak_rss_mib()


def peak_rss_mib() -> float:
  """Largest resident memory of this process so far."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (MIB if sys.platform == "darwin" else 1024)


def device_memory_bytes() -> int | None:
  """Memory of the first device, None where the back end does not say."""
  statistics = jax.local_devices()[0].memory_stats() or {}
  return statistics.get("bytes_limit")


def compiled_memory_bytes(compiled: jax.stages.Compiled) -> int:
  """Arguments, results and temporary memory of a compiled step, by XLA's account.

  Raises:
    RuntimeError: the back end gives no account.
  """
  found = compilation.memory_bytes(compiled)
  if found is None:
    raise RuntimeError(f"{jax.default_backend()} gives no account of memory.")
  return found


def machine() -> dict[str, str]:
  """The machine and the versions that the numbers belong to."""
  return {
    "device": jax.devices()[0].device_kind,
    "cores": str(_cores()),
    "jax": jax.__version__,
    "python": platform.python_version(),
  }


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
