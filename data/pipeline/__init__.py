"""From converted datasets to packed batches.

datasets  checks directories and tells what a dataset and a split hold
mixture   which dataset every draw comes from
source    tf.data: shards → structures, shuffled per epoch or in order
normalise labels in the units of the loss
builder   neighbor graphs in worker processes
microbatches     which structures share a batch
training  the endless, resumable stream of training batches
evaluation  one ordered pass over a split
budgets   static sizes chosen from the data
"""
