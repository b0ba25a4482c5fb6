"""Converted datasets as TFRecord shards: how structures are stored and read back.

schema     the record layout, in NumPy only
shards     sharded TFRecord files: atomic writing, checked reading
index_file where the records of a shard lie, and how large their graphs are
index      makes indices, while a shard is written or afterwards
source     the shards of a split as a source of structures, read in any order
datasets   which datasets a run reads, and how they are opened
tf_reader  `tf_dataset`, a split as a tf.data.Dataset for programs of your own
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import tensorflow as tf


def tf_dataset(
  directory: str | os.PathLike[str], split: str = "train", parallel_shards: int = 8
) -> "tf.data.Dataset":
  """A split of a converted dataset as a `tf.data.Dataset`; imports TensorFlow.

  See `data.records.tf_reader.tf_dataset`.
  """
  from data.records import tf_reader

  return tf_reader.tf_dataset(directory, split, parallel_shards)
