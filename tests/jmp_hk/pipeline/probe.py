"""Run inside a worker process by a test; imports nothing heavy."""

import sys


def loaded() -> list[str]:
  """Which of the heavy modules this process has imported."""
  return sorted({"jax", "tensorflow", "haiku", "jraph", "chex"} & set(sys.modules))
