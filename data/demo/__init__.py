"""Scripts that made the demo corpora in ``data/demo/raw`` (see README.md there)."""
