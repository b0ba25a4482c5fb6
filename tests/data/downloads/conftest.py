"""A loopback server, and downloads that neither wait nor show bars."""

import pytest

from tests.data.downloads import loopback


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
  monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(name="server")
def _server():
  with loopback.serve() as server:
    yield server
