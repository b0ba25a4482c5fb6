"""What is wrong with a command line, and what was probably meant."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import difflib
import math
import pathlib
import re

from absl import flags

from data.command_line import flag_help
from data.command_line import numbers

# What other programs of the field call a flag, and what may be meant here.
SYNONYMS: Mapping[str, Sequence[str]] = {
  "bs": ("batch_size",),
  "config": ("flagfile",),
  "cutoff_radius": ("cutoff",),
  "dataset": ("data", "datasets"),
  "default_dtype": ("precision",),
  "dtype": ("precision",),
  "epochs": ("num_epochs",),
  "foundation_model": ("checkpoint",),
  "init": ("checkpoint",),
  "lr": ("learning_rate",),
  "max_epochs": ("num_epochs",),
  "max_num_epochs": ("num_epochs",),
  "max_steps": ("num_steps",),
  "model_path": ("checkpoint",),
  "out": ("output",),
  "out_dir": ("workdir", "output"),
  "output_dir": ("workdir", "output"),
  "outdir": ("workdir", "output"),
  "patience": ("early_stopping_patience",),
  "r_max": ("cutoff",),
  "results_dir": ("workdir", "output"),
  "train_file": ("train_data", "data"),
  "valid_file": ("val_data",),
  "wd": ("weight_decay",),
  "weights": ("checkpoint",),
  "work_dir": ("workdir",),
  "workers": ("num_workers",),
}
_ALWAYS = ("flagfile", "help", "helpfull")
_FLAG_FILE = re.compile(r"--?flagfile(?:=(?P<path>.*))?$")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_DASHES = "‐‑‒–—―−"  # What word processors and web pages make of hyphens.
_SEPARATED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[,' \u00a0\u202f]\d{3})+(?:\.\d+)?")
_WITH_UNIT = re.compile(
  r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>[^\d\s,.].*)"
)


@dataclasses.dataclass(frozen=True)
class Argument:
  """One argument of a command line.

  Attributes:
    text: the argument.
    place: "" for the command line, else file and line.
  """

  text: str
  place: str = ""

  def problem(self, sentence: str) -> str:
    """The sentence, with the place where one should look."""
    return f"{self.place}: {sentence}" if self.place else sentence


class FlagFileError(ValueError):
  """A flag file that cannot be read."""


def find(
  arguments: Sequence[str], values: flags.FlagValues, *, takes_others: bool = False
) -> str:
  """Looks for the first mistake of a command line.

  Args:
    arguments: the command line without the program.
    values: where the flags are defined.
    takes_others: whether the program takes arguments that are no flags.

  Returns:
    A sentence or two about it, or "" if there is none.
  """
  try:
    expanded = list(_expand([Argument(text) for text in arguments]))
  except FlagFileError as error:
    return str(error)
  while expanded:
    argument, *expanded = expanded
    if argument.text == "--":
      break
    if not argument.text.startswith("-") or not argument.text.strip("-"):
      if not takes_others:
        return argument.problem(_about_stray(argument.text, values))
      continue
    name, equals, value = argument.text.lstrip("-").partition("=")
    flag, is_negated = _look_up(name, values)
    if flag is None:
      return argument.problem(_about_unknown(name, values))
    if flag.boolean and not equals:
      if expanded and expanded[0].text.lower() in _TRUTH and not takes_others:
        return argument.problem(_about_truth(flag.name, expanded[0].text))
      continue
    if is_negated:
      return argument.problem(f"--{name} takes no value; found {argument.text}.")
    if not equals:
      if not expanded or _is_flag(expanded[0].text, values):
        found = f"; the next argument is {expanded[0].text}" if expanded else ""
        return argument.problem(f"--{name} needs a value, as in --{name}=VALUE{found}.")
      value, expanded = expanded[0].text, expanded[1:]
    problem = about_value(flag, value)
    if problem:
      return argument.problem(problem)
  return ""


def about_value(flag: flags.Flag, text: str) -> str:
  """What is wrong with a flag's value, or "" if nothing is."""
  expected = f"expected {_expected(flag)}."
  parsed = _parse(flag, text)
  if isinstance(parsed, Exception):
    meant = _meant_value(flag, text)
    if not isinstance(flag.parser, _PARSERS):
      expected = f"{str(parsed).rstrip('.')}."
    return f"--{flag.name}={text}: {expected}{meant}"
  return ""


def closest(name: str, known: Sequence[str]) -> str:
  """The most similar of some names, or "" if none is similar."""
  exact = {candidate.lower(): candidate for candidate in known}
  simple = name.lower().replace("-", "_")
  if simple in exact:
    return exact[simple]
  found = difflib.get_close_matches(simple, exact, n=1, cutoff=0.6)
  if found:
    return exact[found[0]]
  parts = [c for c in known if len(simple) > 2 and simple in c.lower().split("_")]
  return parts[0] if parts else ""


def did_you_mean(name: str, known: Sequence[str], prefix: str = "") -> str:
  """A question for the end of an error, with a space before it, or ""."""
  found = closest(name, known)
  return f" Did you mean {prefix}{found}?" if found else ""


def _expand(
  arguments: Sequence[Argument], inside: tuple[str, ...] = ()
) -> Iterator[Argument]:
  """Arguments, those of flag files in their place, as absl reads them."""
  waiting = list(arguments)
  while waiting:
    argument = waiting.pop(0)
    match = _FLAG_FILE.match(argument.text)
    if match is None:
      yield argument
      continue
    path = match["path"]
    if path is None:
      if not waiting:
        raise FlagFileError("--flagfile needs a value, as in --flagfile=FILE.")
      path = waiting.pop(0).text
    path = str(pathlib.Path(path.strip()).expanduser())
    if path not in inside:
      yield from _expand(_read(path, argument), (*inside, path))


def _read(path: str, argument: Argument) -> list[Argument]:
  """The lines of a flag file that say something."""
  try:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    file = pathlib.Path(path)
    reason = "is not text"
    if isinstance(error, OSError):
      reason = "is a folder" if file.is_dir() else "does not exist"
      if file.is_file():
        reason = f"cannot be read: {error.strerror}"
    meant = ""
    if not file.exists() and file.parent.is_dir():
      names = sorted(p.name for p in file.parent.iterdir() if p.is_file())
      meant = did_you_mean(file.name, names, f"{file.parent}/")
    relative = " Relative paths start where the program is run." if not meant else ""
    raise FlagFileError(
      argument.problem(f"the flag file {path} {reason}.{meant}{relative}")
    ) from error
  return [
    Argument(line.strip(), f"{path}, line {number}")
    for number, line in enumerate(lines, 1)
    if line.strip() and not line.startswith(("#", "//"))
  ]


def _look_up(name: str, values: flags.FlagValues) -> tuple[flags.Flag | None, bool]:
  """The flag of a name, and whether the name is its --noNAME."""
  if name in values:
    return values[name], False
  positive = name.removeprefix("no")
  if positive != name and positive in values and values[positive].boolean:
    return values[positive], True
  return None, False


def _is_flag(text: str, values: flags.FlagValues) -> bool:
  name = text.lstrip("-").partition("=")[0]
  return text.startswith("--") and _look_up(name, values)[0] is not None


def _names(values: flags.FlagValues) -> list[str]:
  """Everything that may stand behind two hyphens."""
  own = flag_help.own_names(values)
  return [*own, *_ALWAYS, *(f"no{name}" for name in own if values[name].boolean)]


def _about_unknown(name: str, values: flags.FlagValues) -> str:
  """A flag that the program does not have."""
  known = _names(values)
  meant = [other for other in SYNONYMS.get(name, ()) if other in known]
  if meant:
    return f"unknown flag --{name}. Did you mean --{meant[0]}?"
  if name.startswith(("no_", "no-")) and f"no{name[3:]}" in known:
    return f"unknown flag --{name}. Did you mean --no{name[3:]}?"
  return f"unknown flag --{name}.{did_you_mean(name, known, '--')}"


def _about_stray(text: str, values: flags.FlagValues) -> str:
  """An argument that is no flag, of a program that takes flags only."""
  found = f"unexpected argument {text!r}."
  bare = text.lstrip(_DASHES + "-")
  name, equals, value = bare.partition("=")
  if text[0] in _DASHES:
    return f"{found} Flags begin with two plain hyphens, as in --{bare}."
  if equals and _look_up(name, values)[0] is not None:
    return f"{found} Did you mean --{name}={value}?"
  return f"{found} Flags are written --name=value."


def _about_truth(name: str, text: str) -> str:
  """A switch with a value that stands behind a space."""
  meant = name if _TRUTH[text.lower()] else f"no{name}"
  return f"unexpected argument {text!r} after --{name}. Did you mean --{meant}?"


_PARSERS = (
  flags.IntegerParser,
  flags.FloatParser,
  flags.BooleanParser,
  flags.EnumParser,
  flags.EnumClassParser,
)


def _expected(flag: flags.Flag) -> str:
  """What a flag takes, as "a whole number, at least 1"."""
  limits = flag_help.allowed(flag)
  if flag.boolean:
    return "true or false"
  numbers_taken = numbers.allowed_of(flag)
  return limits if numbers_taken is None else str(numbers_taken)


def _parse(flag: flags.Flag, text: str) -> object:
  """The value, or the error that it gives."""
  try:
    allowed = numbers.allowed_of(flag)
    if allowed is not None:
      return numbers.parse(text, allowed)
    return flag.parser.parse(text)
  except (ValueError, TypeError) as error:
    return error


def _meant_value(flag: flags.Flag, text: str) -> str:
  """What was probably meant by a wrong value, with a space before it, or ""."""
  choices = flag_help.choices_of(flag)
  if choices:
    return did_you_mean(text, choices, f"--{flag.name}=")
  if not isinstance(flag.parser, (flags.IntegerParser, flags.FloatParser)):
    return ""
  for advice, number in _numbers(text.strip()):
    if isinstance(flag.parser, flags.IntegerParser):
      number = _whole(number)
    if not isinstance(_parse(flag, number), Exception):
      return f" {advice}: --{flag.name}={number}."
  return ""


def _numbers(text: str) -> Iterator[tuple[str, str]]:
  """What a text may mean as a number, and how to write it."""
  if _SEPARATED.fullmatch(text):
    yield "Leave out the separators", re.sub(r"[^\d.+-]", "", text)
  if re.fullmatch(r"[+-]?\d+,\d+", text):
    yield "Write a decimal point", text.replace(",", ".")
  yield "Write a whole number", text
  match = _WITH_UNIT.fullmatch(text)
  if match and match["unit"] in ("k", "K", "M"):
    factor = 1e6 if match["unit"] == "M" else 1e3
    yield "Write the number in full", f"{float(match['number']) * factor:.15g}"
  elif match and not _is_number(text):  # 1e6 has no unit.
    yield "Write the number without its unit", match["number"]


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _whole(text: str) -> str:
  """The same number without point and exponent, if it is whole."""
  try:
    value = float(text)
  except ValueError:
    return text
  return str(int(value)) if math.isfinite(value) and value == int(value) else text
