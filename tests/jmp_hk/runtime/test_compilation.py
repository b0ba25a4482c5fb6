"""Functions that are compiled once."""

import chex
import jax
import jax.numpy as jnp
import pytest

from jmp_hk.runtime import compilation


def test_it_is_traced_and_compiled_once_and_named_in_profiles():
  @chex.assert_max_traces(1)
  def function(x):
    return 2 * x

  once = compilation.CompiledOnce(function, "doubling")
  assert once.num_compilations == 0 and once.compile_seconds is None
  for value in (1.0, 2.0):
    chex.assert_trees_all_equal(once(jnp.full(3, value)), jnp.full(3, 2 * value))
  assert once.num_compilations == 1 and once.compile_seconds > 0
  assert "jit_doubling" in once.compiled.as_text()
  # The function itself keeps its name.
  assert function.__name__ == "function"


def test_options_of_jit_reach_the_function():
  once = compilation.CompiledOnce(lambda x: x + 1, "step", donate_argnums=(0,))
  x = jnp.zeros(1000)
  once(x)
  assert x.is_deleted()


@pytest.mark.parametrize(
  "changed, reason",
  [
    ({"x": jnp.zeros(4)}, r"'x'\] is float32\[4\], it was float32\[3\]"),
    ({"x": jnp.zeros(3, jnp.int32)}, r"'x'\] is int32\[3\], it was"),
    ({"x": jnp.zeros(3), "y": jnp.zeros(1)}, r"'y'\] is new"),
  ],
)
def test_other_arguments_are_refused_by_name(changed, reason):
  once = compilation.CompiledOnce(lambda arrays: jax.tree.map(jnp.sin, arrays), "sine")
  once({"x": jnp.zeros(3)})
  with pytest.raises(compilation.RecompileError, match="sine would have.*" + reason):
    once(changed)


def test_errors_of_the_program_itself_pass():
  def function(x):
    raise ValueError("not today")

  with pytest.raises(ValueError, match="not today"):
    compilation.CompiledOnce(function, "failing")(jnp.zeros(3))
