"""The converted datasets of the pipeline's tests."""

from tests.pipeline_fixtures import corpus_directory  # noqa: F401
from tests.pipeline_fixtures import datasets  # noqa: F401
