"""Structures that are in two splits of a dataset, which a model would know already."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import hashlib
import logging
import pathlib

from data.records import schema
from data.records import shards as shards_lib

logger = logging.getLogger(__name__)

# Structures of both splits together that are compared, which takes seconds.
MOST_COMPARED = 200_000
_GEOMETRY = ("atomic_numbers", "positions", "cell")
_DIGEST_BYTES = 16


class OverlapError(ValueError):
  """A record is in two splits; the message names it."""


@dataclasses.dataclass(frozen=True)
class Overlap:
  """What two splits have in common.

  Attributes:
    records: names of records that are in both.
    structures: names of further held-out records whose atoms are where those of a
      training structure are.
  """

  records: tuple[str, ...] = ()
  structures: tuple[str, ...] = ()


def find(training: Sequence[pathlib.Path], held_out: Sequence[pathlib.Path]) -> Overlap:
  """Compares the structures of two splits.

  Args:
    training: shards of the training split.
    held_out: shards of a split that it is validated or tested on.

  Raises:
    RecordFileError: a shard cannot be read.
  """
  known = dict(_geometries(held_out))
  records, structures = [], []
  for digest, name in _geometries(training):
    found = known.pop(digest, None)
    if found is not None:
      (records if found == name else structures).append(found)
  return Overlap(tuple(records), tuple(structures))


def check(training: shards_lib.Split, held_out: shards_lib.Split) -> None:
  """Checks that no record is in two splits; warns of equal structures.

  Datasets of more than `MOST_COMPARED` structures are not looked at: it would take
  longer than a user waits.

  Args:
    training: the training split.
    held_out: a split that is validated or tested on.

  Raises:
    OverlapError: a record is in both.
    RecordFileError: a shard cannot be read.
  """
  if training.num_structures + held_out.num_structures > MOST_COMPARED:
    return
  found = find(training.shards, held_out.shards)
  if found.records:
    raise OverlapError(
      f"{len(found.records)} records of {training.name!r} are in the split "
      f"{training.split!r} and in {held_out.split!r} (first: {found.records[0]}): "
      "splits must not have records in common. Convert the data again, with files of "
      "its own for each split."
    )
  if found.structures:
    logger.warning(
      "%d of %d structures in the split %r of %r are also in %r (first: %s): its "
      "errors will be too small.",
      len(found.structures),
      held_out.num_structures,
      held_out.split,
      held_out.name,
      training.split,
      found.structures[0],
    )


def _geometries(shards: Sequence[pathlib.Path]) -> Iterator[tuple[bytes, str]]:
  """A digest of elements, positions and cell of every record, and its name."""
  for shard in shards:
    for position, record in enumerate(shards_lib.read_shard(shard)):
      try:
        features = schema.decode_features(record)
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for name in _GEOMETRY:
          digest.update(features[name])
        yield digest.digest(), features["record_id"].decode("utf-8")
      except (KeyError, ValueError, IndexError) as error:
        raise shards_lib.RecordFileError(
          f"Record {position} of shard {shard} is no structure: {error}."
        ) from error
