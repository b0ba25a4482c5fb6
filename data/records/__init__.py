"""Converted datasets as TFRecord shards: how structures are stored and read back.

schema        the record layout, in NumPy only
shards        sharded TFRecord files: atomic writing, checked reading
datasets      which datasets a run reads; what a dataset and a split hold
parsing       batches of records inside TensorFlow
shard_reader  structures of a split through tf.data, shuffled for ever or in order
"""
