"""Groups of flags, and the text that `--help` prints.

A function that defines flags says which group they are shown in:

  @flag_help.group("Data")
  def define(values: flags.FlagValues = flags.FLAGS) -> None:
    flags.DEFINE_string("data", "", "DIR: Directory of the converted data.", …)

Groups are shown in the order of `TITLES`, flags in the order of their definition: the
important ones come first. A help text may begin with what the value looks like, without
spaces and followed by a colon, as "DIR: " here; it stands behind the flag's name.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import enum
import functools
import pathlib
import re
import shutil
import textwrap
from typing import ParamSpec
from typing import TypeVar

from absl import flags

from data.command_line import numbers

TITLES = (
  "What is learned",
  "Input",
  "Data",
  "Model",
  "Output",
  "Training",
  "Learning rate",
  "Early stopping",
  "Optimiser",
  "Loss",
  "Logging and checkpoints",
  "Batches",
  "Machine",
)
OTHER = "Other flags"  # Of flags that no group was named for.
# The library's registry of "key flags of a module" keeps the groups.
_PREFIX = "group: "
# What absl adds to the text of a flag that may be repeated.
_OF_ABSL = "; repeat this option to specify a list of values"
_MOST_COLUMNS, _FEWEST_COLUMNS = 100, 40
_INDENT = 6

_P = ParamSpec("_P")
_T = TypeVar("_T")


def group(title: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
  """Shows the flags that a function defines under one title.

  Flags for which a function called inside names another title are shown there.

  Args:
    title: one of `TITLES`, or a new one, which is shown after those.

  Returns:
    A decorator of functions whose argument, `flags.FLAGS` by default, is what the
    flags are defined in.
  """

  def decorate(define: Callable[_P, _T]) -> Callable[_P, _T]:
    @functools.wraps(define)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
      values = args[0] if args else kwargs.get("values", flags.FLAGS)
      assert isinstance(values, flags.FlagValues)
      before = set(values)
      result = define(*args, **kwargs)
      assign(values, title, [name for name in values if name not in before])
      return result

    return wrapped

  return decorate


def assign(values: flags.FlagValues, title: str, names: Iterable[str]) -> None:
  """Shows flags under a title, unless they have one already.

  Args:
    values: where the flags are defined.
    title: title of the group.
    names: names of the flags.
  """
  grouped = {name for members in groups(values).values() for name in members}
  for name in names:
    if name not in grouped:
      values.register_key_flag_for_module(_PREFIX + title, values[name])


def groups(values: flags.FlagValues) -> Mapping[str, Sequence[str]]:
  """Names of a program's own flags by title, in the order in which they are shown."""
  found = {
    key.removeprefix(_PREFIX): [flag.name for flag in members]
    for key, members in values.key_flags_by_module_dict().items()
    if key.startswith(_PREFIX)
  }
  known = [title for title in TITLES if title in found]
  others = [title for title in found if title not in (*TITLES, OTHER)]
  last = [OTHER] if OTHER in found else []
  return {title: found[title] for title in (*known, *others, *last)}


def own_names(values: flags.FlagValues) -> list[str]:
  """Names of a program's own flags, in the order in which they are shown."""
  return [name for members in groups(values).values() for name in members]


def text(
  description: str,
  values: flags.FlagValues,
  required: Sequence[str] = (),
  *,
  is_full: bool = False,
  columns: int | None = None,
) -> str:
  """The text of `--help`.

  Args:
    description: docstring of the program: a line that says what it does, commands as
      examples, indented by two spaces, and further paragraphs.
    values: defined flags.
    required: names of flags that have to be given.
    is_full: whether flags that libraries define are shown as well.
    columns: width of the text; by default that of the terminal, at most 100.

  Returns:
    Lines without a line break at the end.
  """
  if columns is None:
    columns = shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns
  columns = max(_FEWEST_COLUMNS, min(columns, _MOST_COLUMNS))
  parts = list(_paragraphs(description, columns))
  shown = dict(groups(values))
  if is_full:
    shown |= _foreign(values)
  for title, names in shown.items():
    entries = [_entry(values[name], name in required, columns) for name in names]
    parts.append("\n".join([f"{title}:", *entries]))
  closing = (
    "Flags are written --name=value. --flagfile=FILE reads further flags from a file, "
    "one a line; what comes later counts. --helpfull also shows the flags of libraries."
  )
  return "\n\n".join([*parts, textwrap.fill(closing, columns)])


def sentence(flag: flags.Flag) -> str:
  """The help text of a flag without what its value looks like."""
  return _split(flag)[1]


def allowed(flag: flags.Flag) -> str:
  """The values that a flag takes, as "at least 1" or "one of a, b"; "" if any."""
  if flag.boolean:
    return ""
  choices = choices_of(flag)
  if choices:
    return f"one of {', '.join(choices)}"
  numbers_taken = numbers.allowed_of(flag)
  return "" if numbers_taken is None else numbers_taken.limits


def choices_of(flag: flags.Flag) -> Sequence[str]:
  """The values that a flag takes, where there is a list of them."""
  names = getattr(flag.parser, "enum_values", None)
  if names is not None:
    return list(names)
  kind = getattr(flag.parser, "enum_class", None)
  return [name.lower() for name in kind.__members__] if kind is not None else []


def _paragraphs(description: str, columns: int) -> Iterator[str]:
  """The docstring; what is longer than the terminal is broken."""
  for paragraph in re.split(r"\n\s*\n", description.strip()):
    if paragraph.startswith(" "):
      yield "\n".join(_examples(paragraph, columns))
    else:
      yield textwrap.fill(" ".join(paragraph.split()), columns)


def _examples(paragraph: str, columns: int) -> Iterator[str]:
  """Commands, with a backslash where a line is broken."""
  commands = re.split(r"\n(?=  \S)", paragraph.replace("\\\n", " "))
  for command in commands:
    lines = textwrap.wrap(
      " ".join(command.split()),
      columns - 2,
      initial_indent="  ",
      subsequent_indent=" " * _INDENT,
      break_long_words=False,
      break_on_hyphens=False,
    )
    yield " \\\n".join(lines)


def _foreign(values: flags.FlagValues) -> dict[str, list[str]]:
  """Names of flags that are not the program's own, by the module that defines them."""
  own = set(own_names(values))
  found = {}
  for module, members in values.flags_by_module_dict().items():
    names = [flag.name for flag in members if flag.name not in own]
    if names:
      found[f"Flags of {module}"] = names
  return found


def _entry(flag: flags.Flag, is_required: bool, columns: int) -> str:
  """A flag, what it takes, and its text."""
  shape, words = _split(flag)
  facts = ", ".join(_facts(flag, is_required))
  head = f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}={shape}"
  if len(head) + len(facts) + 4 <= columns and facts:
    head = f"{head}  ({facts})"
  elif facts:
    words = f"{words} ({facts[0].upper()}{facts[1:]}.)"
  indent = " " * _INDENT
  body = textwrap.fill(
    words,
    columns,
    initial_indent=indent,
    subsequent_indent=indent,
    break_long_words=False,
    break_on_hyphens=False,
  )
  return f"{head}\n{body}"


def _facts(flag: flags.Flag, is_required: bool) -> Iterator[str]:
  """Whether a flag is required, what it takes, and its default."""
  if is_required:
    yield "required"
  # Short lists of choices stand behind the flag's name.
  if allowed(flag) and "|" not in _split(flag)[0]:
    yield allowed(flag)
  if flag.default not in (None, "", []):
    yield f"default: {written(flag.default)}"
  if isinstance(flag, flags.MultiFlag):
    yield "may be repeated"


def split(help_text: str) -> tuple[str, str]:
  """What a flag's value looks like, or "", and the sentences about it."""
  words = " ".join(help_text.split()).partition(_OF_ABSL)[0]
  head, colon, rest = words.partition(": ")
  return (head, rest) if colon and " " not in head else ("", words)


def _split(flag: flags.Flag) -> tuple[str, str]:
  """As `split`; where the text does not say it, the type says what a value is."""
  shape, words = split(flag.help or "")
  if not shape or choices_of(flag):  # With choices, absl puts them first.
    shape = _shape(flag)
  return shape, words


def _shape(flag: flags.Flag) -> str:
  """What a flag's value looks like, by its type."""
  choices = "|".join(choices_of(flag))
  if choices:
    return choices if len(choices) <= 40 else "NAME"
  if isinstance(flag.parser, flags.IntegerParser):
    return "N"
  if isinstance(flag.parser, flags.FloatParser):
    return "X"
  return "A,B,…" if isinstance(flag.parser, flags.ListParser) else "TEXT"


def written(value: object) -> str:
  """A default as one would write it on the command line."""
  match value:
    case bool():
      return str(value).lower()
    case float():
      return f"{value:g}"
    case enum.Enum():
      return value.name.lower()
    case list() | tuple():
      return ",".join(map(str, value))
    case _:
      return str(value).replace(str(pathlib.Path.home()), "~")
