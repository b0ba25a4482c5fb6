"""Frozen dataclasses that are pytrees."""

import dataclasses
import typing
from typing import Any
from typing import TypeVar

import chex

T = TypeVar("T")


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def dataclass(cls: type[T]) -> type[T]:
  """Makes a frozen `chex.dataclass` whose fields type checkers know.

  Instances are pytrees of their fields and can be changed with `dataclasses.replace`.

  Args:
    cls: a class with annotated fields.
  """
  make: Any = chex.dataclass(frozen=True, mappable_dataclass=False)
  return make(cls)
