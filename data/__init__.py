"""Raw files to records and back; the only package that imports TensorFlow."""

import os

# TensorFlow only reads and writes records here; its CPU kernels are not used.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
