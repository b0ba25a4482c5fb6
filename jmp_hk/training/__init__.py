"""Training: `Trainer`, and what it is made of.

The modules of this folder import each other, so the class is looked up when it is asked
for.
"""

import importlib
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
  from jmp_hk.training.trainer import Trainer

__all__ = ("Trainer",)


def __getattr__(name: str) -> Any:
  """Gives `jmp_hk.training.Trainer`, see PEP 562."""
  if name != "Trainer":
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module("jmp_hk.training.trainer").Trainer
