"""What a program says when it fails: a sentence for users, or how to report a bug.

An error class of this repository carries a sentence that says what to do. So does an
error of the operating system, once the file is named. Everything else is a mistake of
ours.
"""

import errno
import os
import pathlib
import traceback

_OWN = ("benchmarks", "data", "experiments", "jmp_hk")  # Packages of this repository.
_ROOT = pathlib.Path(__file__).resolve().parents[2]
# What users can do about an error of the operating system.
_ADVICE = {
  errno.ENOSPC: "Free some space, or write to another disk; the same command goes on.",
  errno.EDQUOT: "Free some space, or write to another disk; the same command goes on.",
  errno.EFBIG: "Raise the limit of a file's size (ulimit -f), or use another disk.",
  errno.EROFS: "Name a folder that can be written to.",
  errno.EACCES: "Ask for the permission, or name another path.",
  errno.EPERM: "Ask for the permission, or name another path.",
  errno.EISDIR: "Name a file.",
  errno.ENOTDIR: "A part of the path is a file: name another path.",
  errno.EEXIST: "Name another path.",
  errno.ENOENT: "Correct the path; relative paths start where the program is run.",
  errno.ENAMETOOLONG: "Choose a shorter name.",
  errno.EMFILE: "Raise the limit of open files (ulimit -n).",
}
_MOST_LETTERS = 300  # Of a library's message.


def sentence(error: BaseException, known: tuple[type[Exception], ...] = ()) -> str:
  """What users can do about an error; "" where it is a mistake of ours.

  Args:
    error: what ended a program.
    known: classes of other libraries whose messages say enough.
  """
  if text := _about_device_memory(error):
    return text
  if isinstance(error, MemoryError):
    return (
      "the memory of the machine does not suffice. Use fewer --num_workers or smaller "
      "batches."
    )
  if isinstance(error, known) and not isinstance(error, OSError):
    return str(error)
  if is_own(error):
    return str(error)
  if isinstance(error, OSError):
    return _about_system(error)
  return _about_native_writes(error)


def is_own(error: BaseException) -> bool:
  """Whether its class is one of this repository."""
  return type(error).__module__.split(".")[0] in _OWN


def report(error: BaseException) -> str:
  """What is said about a mistake of ours: where it is, and how to report it."""
  what = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_LETTERS]
  return (
    f"this is a bug in this program, not in your input ({what}{_place(error)}). Run "
    "the same command with --debug to see the traceback, and send both to the "
    "maintainers; docs/troubleshooting.md says how."
  )


def _place(error: BaseException) -> str:
  """The innermost line of this repository that an error came through."""
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    path = pathlib.Path(frame.filename)
    if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OWN:
      return f"; {path.relative_to(_ROOT)}, line {frame.lineno}"
  return ""


def _about_system(error: OSError) -> str:
  """An error of the operating system, with its file and what to do."""
  names = [os.fsdecode(n) for n in (error.filename, error.filename2) if _is_path(n)]
  reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
  reason = reason[0].lower() + reason[1:]
  advice = _ADVICE.get(error.errno or 0, "")
  where = f"{' → '.join(names)}: " if names else "a file cannot be read or written: "
  return f"{where}{reason.rstrip('.')}. {advice}".strip()


def _is_path(name: object) -> bool:
  return isinstance(name, (str, bytes)) and bool(name)


def _about_native_writes(error: BaseException) -> str:
  """Errors of the disk that libraries in C++ wrap into errors of their own."""
  text = " ".join(str(error).split())
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
    if os.strerror(number) in text:
      return f"{text[:_MOST_LETTERS].rstrip('.')}. {_ADVICE[number]}"
  return ""


def _about_device_memory(error: BaseException) -> str:
  """Where XLA could not allocate what a program needs."""
  is_of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
  if not is_of_jax or "RESOURCE_EXHAUSTED" not in str(error):
    return ""
  first = str(error).splitlines()[0]
  return (
    f"the memory of the device does not suffice ({first}). Make the batches smaller."
  )
