"""Functions that are compiled once, or for few shapes."""

import chex
import jax
import jax.numpy as jnp
import pytest

from jmp_hk.runtime import compilation


def test_it_is_traced_and_compiled_once_and_named_in_profiles():
  @chex.assert_max_traces(1)
  def function(x):
    return 2 * x

  once = compilation.CompiledFunction(function, "doubling")
  assert once.num_compilations == 0 and once.compile_seconds is None
  for value in (1.0, 2.0):
    chex.assert_trees_all_equal(once(jnp.full(3, value)), jnp.full(3, 2 * value))
  assert once.num_compilations == 1 and once.compile_seconds > 0
  assert "jit_doubling" in once.compiled.as_text()
  # The function itself keeps its name.
  assert function.__name__ == "function"


def test_options_of_jit_reach_the_function():
  once = compilation.CompiledFunction(lambda x: x + 1, "step", donate_argnums=(0,))
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
  once = compilation.CompiledFunction(
    lambda arrays: jax.tree.map(jnp.sin, arrays), "sine"
  )
  once({"x": jnp.zeros(3)})
  with pytest.raises(compilation.RecompileError, match="sine would have.*" + reason):
    once(changed)


def test_errors_of_the_program_itself_pass():
  def function(x):
    raise ValueError("not today")

  with pytest.raises(ValueError, match="not today"):
    compilation.CompiledFunction(function, "failing")(jnp.zeros(3))


def test_it_is_compiled_for_as_many_shapes_as_it_may_be_and_once_for_each():
  @chex.assert_max_traces(3)
  def function(state, batch):
    return state + batch["x"].sum()

  few = compilation.CompiledFunction(function, "step", most=3, varying=1)
  state, total, seen = jnp.zeros(2), 0.0, set()
  for length in (4, 2, 4, 4, 8, 2, 8):
    batch = {"x": jnp.ones(length)}
    announced = []
    state = few(state, batch, before_compiling=lambda: announced.append(few))
    assert bool(announced) == (length not in seen)
    total += length
    seen.add(length)
    chex.assert_trees_all_equal(state, jnp.full(2, total))
  assert few.num_compilations == 3
  with pytest.raises(
    compilation.RecompileError, match=r"'x'\] is float32\[5\], it was float32\[8\]"
  ):
    few(state, {"x": jnp.ones(5)})


def test_arguments_that_do_not_vary_keep_their_shape():
  few = compilation.CompiledFunction(lambda s, x: s + x.sum(), "step", most=2)
  few(jnp.zeros(2), jnp.ones(3))
  with pytest.raises(compilation.RecompileError, match=r"float32\[3\], it was.*\[2\]"):
    few(jnp.zeros(3), jnp.ones(3))


def test_memory_grows_with_the_work_and_not_with_what_is_kept():
  x = jnp.zeros((64, 64))
  compiled = compilation.compile_for(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x)), x)
  found = [compilation.memory_bytes(compiled, growth) for growth in (1.0, 3.0)]
  temporary = compiled.memory_analysis().temp_size_in_bytes
  assert found[0] == 2 * x.nbytes + temporary and temporary > 0
  assert found[1] - found[0] == 2 * temporary
