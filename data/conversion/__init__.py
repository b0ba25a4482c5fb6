"""From raw releases to shards and `dataset_info.json`.

base      what a converter says about its dataset, and helpers for its plan
splits    shuffled splits as the fine-tuning benchmarks publish them
registry  finds the converters by name
plans     the identity of a conversion: what becomes which shards
runner    runs a converter: processes, atomic shards, restart, statistics
"""
