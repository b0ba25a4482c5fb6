"""How tests compile: fast, or as a run does.

Compilation takes most of the suite's time, and half as long without LLVM's
optimisations and the newer emitters of fused kernels. `compile_fast` does without both,
here and in the programs that tests start. What is compared with published numbers in
float32 goes through `optimising_jit`, which compiles as a run does.
"""

from importlib import metadata
import os

# XLA refuses to start with a flag that it does not know.
_HAS_EMITTERS = metadata.version("jaxlib").startswith("0.10.")


def compile_fast() -> None:
  """Sets the environment; works only before jax is imported."""
  os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
  if _HAS_EMITTERS:
    os.environ["XLA_FLAGS"] = with_flag("--xla_cpu_use_fusion_emitters=false")


def with_flag(flag: str) -> str:
  """The value of XLA_FLAGS with one more flag."""
  return f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def optimising_jit(function):
  """`jax.jit` with all optimisations, whatever `compile_fast` has left out."""
  import jax  # Not before `compile_fast`.

  options = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
  }
  if _HAS_EMITTERS:
    options["xla_cpu_use_fusion_emitters"] = True
  return jax.jit(function, compiler_options=options)
