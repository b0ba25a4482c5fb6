"""Converted datasets as TFRecord shards: how structures are stored and read back.

schema        the record layout, in NumPy only
shards        sharded TFRecord files: atomic writing, checked reading
index         where the records of a shard lie, and how large their graphs are
source        the shards of a split as a source of structures, read in any order
datasets      which datasets a run reads, and how they are opened
parsing       batches of records inside TensorFlow
shard_reader  structures of a split through tf.data, shuffled for ever or in order
"""
