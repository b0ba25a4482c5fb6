"""Finds the converters: every module of `data.converters` that has a `CONVERTER`."""

from collections.abc import Mapping
import dataclasses
import functools
import importlib
import pathlib
import pkgutil
from typing import Any

from data.command_line import mistakes
from data.command_line import numbers
from data.conversion import base

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@functools.cache
def converters() -> dict[str, type[base.Converter]]:
  """Converter classes by the name that `--dataset` takes."""
  package = importlib.import_module("data.converters")
  found = {}
  for module_info in pkgutil.iter_modules(package.__path__):
    module = importlib.import_module(f"data.converters.{module_info.name}")
    converter = getattr(module, "CONVERTER", None)
    if converter is None:
      continue
    if converter.name in found:
      raise RuntimeError(f"Two converters are called {converter.name!r}.")
    found[converter.name] = converter
  return dict(sorted(found.items()))


def make(
  name: str,
  source: str | pathlib.Path,
  split: str = "",
  options: Mapping[str, Any] | None = None,
) -> base.Converter:
  """Makes a converter.

  Args:
    name: name of the converter, `--dataset`.
    source: raw file or folder, `--input`.
    split: the wanted split, `--split`, or "" for all.
    options: values by option name; text is parsed into the option's type.

  Raises:
    PlanError: there is no such dataset or option, or a value has the wrong type.
  """
  known = converters()
  if name not in known:
    raise base.PlanError(f"--dataset={name} is unknown; known are {', '.join(known)}.")
  kind = known[name]
  fields = {field.name: field for field in dataclasses.fields(kind.options_type)}
  path, options = _expand(pathlib.Path(source), dict(options or {}), fields)
  values = {}
  for key, value in options.items():
    if key not in fields:
      raise base.PlanError(
        f"--dataset={name} has no option --{key}; it has "
        f"{', '.join('--' + field for field in fields) or 'none'}."
        f"{mistakes.did_you_mean(key, list(fields), '--')}"
      )
    values[key] = _parse(value, fields[key])
  if not path.exists():
    raise base.PlanError(f"--input={path} does not exist.")
  return kind(path, split, kind.options_type(**values))


def _expand(
  path: pathlib.Path, options: dict[str, Any], fields: Mapping[str, Any]
) -> tuple[pathlib.Path, dict[str, Any]]:
  """Turns `folder/*.xyz` into the folder and the option `pattern`, if there is one."""
  wild = [i for i, part in enumerate(path.parts) if set(part) & set("*?[")]
  if path.exists() or not wild or "pattern" not in fields:
    return path, options
  parts = path.parts
  options["pattern"] = "/".join(parts[wild[0] :])
  return pathlib.Path(*parts[: wild[0]]), options


def _parse(value: Any, field: dataclasses.Field[Any]) -> Any:
  """A value in the type of the option's default, and in its range."""
  kind, allowed = type(field.default), field.metadata.get("allowed")
  try:
    if kind is bool:
      return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
    if allowed is not None:
      return kind(numbers.parse(str(value), allowed))
    return kind(value)
  except KeyError as error:
    raise base.PlanError(f"--{field.name}={value}: expected true or false.") from error
  except ValueError as error:
    raise base.PlanError(f"--{field.name}={value}: {error}.") from error
