"""Where the members of a committee lie: runs side by side in one directory."""

import os
import pathlib
import re

from jmp_hk.checkpoints import model_directory

_MEMBER = re.compile(r"member_(\d+)")


def directories(
  workdir: str | os.PathLike[str], num_members: int
) -> list[pathlib.Path]:
  """Directories of the runs that train a committee, or one model.

  Args:
    workdir: directory of all of them.
    num_members: how many there are.

  Returns:
    `workdir` for one member, else `workdir`/member_0 and so on.

  Raises:
    ValueError: the number is not positive, or the directory holds a single model where
      a committee is wanted, or the other way round.
  """
  workdir = pathlib.Path(workdir)
  if num_members < 1:
    raise ValueError(f"num_members must be at least 1, got {num_members}.")
  if num_members == 1:
    if known := find(workdir):
      raise ValueError(
        f"{workdir} holds a committee of {len(known)} members: give the same "
        "num_members to continue it, or choose another directory."
      )
    return [workdir]
  if (workdir / model_directory.CHECKPOINTS).is_dir():
    raise ValueError(
      f"{workdir} holds the run of a single model: choose another directory for a "
      f"committee of {num_members} members."
    )
  return [workdir / f"member_{index}" for index in range(num_members)]


def find(path: str | os.PathLike[str]) -> list[pathlib.Path]:
  """The members of the committee in a directory, in their order.

  Args:
    path: any path.

  Returns:
    Directories; none where the path is that of no committee.
  """
  path = pathlib.Path(path)
  if not path.is_dir() or (path / model_directory.CHECKPOINTS).is_dir():
    return []
  found = {
    int(match[1]): folder
    for folder in path.iterdir()
    if (match := _MEMBER.fullmatch(folder.name)) and folder.is_dir()
  }
  return [found[number] for number in sorted(found)]
