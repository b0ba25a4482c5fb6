"""Downloads from servers that break off, change, lie and redirect."""

import fcntl
import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from data.downloads import checks
from data.downloads import http as http_lib
from data.downloads import transfer
from tests.data.downloads import loopback

CONTENT = np.random.default_rng(0).bytes(100_000)
OTHER = np.random.default_rng(1).bytes(100_000)
MD5 = checks.Checksum("md5", hashlib.md5(CONTENT).hexdigest())
KNOWN = checks.Expected(len(CONTENT), checksums=(MD5,))
RETRIES = transfer.Retries(attempts=3, first_wait=0.0)


@pytest.fixture(name="path")
def _path(tmp_path):
  return tmp_path / "raw" / "file.tar"


@pytest.fixture(name="get")
def _get(server, path):
  """Fetches /file.tar, or other addresses; returns what was said."""

  def run(expected=KNOWN, addresses=()):
    said = []
    options = transfer.Options(RETRIES, progress=False, say=said.append)
    transfer.download(
      addresses or [f"{server.address}/file.tar"], path, expected, options
    )
    return " ".join(said)

  return run


def _files(path):
  return sorted(p.name for p in path.parent.iterdir())


def test_a_file_is_fetched_checked_and_named(server, get, path):
  server.pages["/file.tar"] = loopback.File(CONTENT)
  assert "file.tar is complete (100 kB; size and MD5 as expected)." in get()
  assert path.read_bytes() == CONTENT
  assert _files(path) == ["file.tar"]


def test_a_file_that_is_there_is_checked_and_not_fetched(server, get, path):
  server.pages["/file.tar"] = loopback.File(CONTENT)
  get()
  assert "is there already (100 kB; size and MD5 as expected)" in get()
  assert len(server.requests) == 1


def test_another_file_of_that_name_is_never_overwritten(server, get, path):
  server.pages["/file.tar"] = loopback.File(CONTENT)
  path.parent.mkdir()
  path.write_bytes(OTHER)
  with pytest.raises(http_lib.DownloadError, match="is there already but is not.*MD5"):
    get()
  assert path.read_bytes() == OTHER and not server.requests


@pytest.mark.parametrize("expected", [KNOWN, checks.Expected()])
def test_broken_connections_are_resumed(server, get, path, expected):
  server.pages["/file.tar"] = loopback.File(CONTENT, breaks=[30_000, 1_000, 20_000])
  assert "promised 100000 bytes and ended after 30000" in get(expected)
  assert server.ranges() == ["", "bytes=30000-", "bytes=31000-", "bytes=51000-"]
  assert path.read_bytes() == CONTENT


def test_what_arrived_stays_for_the_next_run(server, get, path):
  file = loopback.File(CONTENT, breaks=[30_000, 0, 0, 0])
  server.pages["/file.tar"] = file
  with pytest.raises(http_lib.DownloadError, match="3 attempts without progress") as e:
    get()
  assert "file.tar.part keeps what has arrived" in str(e.value)
  assert _files(path) == ["file.tar.part", "file.tar.part.json"]
  file.breaks.clear()
  get()
  assert server.ranges()[-1] == "bytes=30000-"
  assert server.requests[-1][1]["If-Range"] == '"1"'
  assert path.read_bytes() == CONTENT and _files(path) == ["file.tar"]


def test_a_killed_process_resumes(server, path):
  # The first process is killed while the server still sends.
  sent = server.pages["/file.tar"] = loopback.File(CONTENT)

  def stall(request):
    sent.breaks.append(60_000)
    request.close_connection = False
    sent(request)
    request.wfile.flush()
    process.wait()

  server.pages["/file.tar"] = loopback.in_turn(stall, sent)
  program = (
    "import pathlib; from data.downloads import transfer\n"
    f"transfer.download(['{server.address}/file.tar'], pathlib.Path({str(path)!r}))"
  )
  process = subprocess.Popen([sys.executable, "-c", program])
  part = path.with_name("file.tar.part")
  while not (part.exists() and part.read_bytes() == CONTENT[:60_000]):
    assert process.poll() is None
    time.sleep(0.01)
  process.kill()
  process.wait()
  transfer.download(
    [f"{server.address}/file.tar"],
    path,
    KNOWN,
    transfer.Options(RETRIES, progress=False),
  )
  assert server.ranges() == ["", "bytes=60000-"]
  assert path.read_bytes() == CONTENT


def test_a_complete_part_needs_no_server(server, get, path):
  # As after a kill between the last byte and the name.
  server.pages["/file.tar"] = loopback.File(CONTENT)
  get()
  path.rename(path.with_name("file.tar.part"))
  state = {"address": "x", "size": len(CONTENT), "etag": "", "last_modified": ""}
  path.with_name("file.tar.part.json").write_text(json.dumps(state))
  get()
  assert len(server.requests) == 1 and _files(path) == ["file.tar"]


def test_a_server_that_ignores_ranges_starts_again(server, get, path):
  server.pages["/file.tar"] = loopback.File(
    CONTENT, breaks=[30_000], knows_ranges=False
  )
  get()
  assert server.ranges() == ["", "bytes=30000-"]
  assert path.read_bytes() == CONTENT


def test_a_server_that_always_breaks_is_given_up(server, get, path):
  server.pages["/file.tar"] = loopback.File(
    CONTENT, breaks=[30_000] * 9, knows_ranges=False
  )
  with pytest.raises(http_lib.DownloadError, match="3 attempts without progress"):
    get()
  assert not path.exists()


@pytest.mark.parametrize("knows_if_range", [True, False])
def test_a_file_that_changes_between_attempts_is_fetched_anew(
  server, get, path, knows_if_range
):
  # No checksum is known: only the server's version says that the pieces differ.
  server.pages["/file.tar"] = loopback.in_turn(
    loopback.File(CONTENT, etag='"1"', breaks=[30_000]),
    loopback.File(OTHER, etag='"2"', knows_if_range=knows_if_range),
  )
  get(checks.Expected())
  assert path.read_bytes() == OTHER
  assert server.ranges()[:2] == ["", "bytes=30000-"]


def test_pieces_are_not_joined_where_nothing_vouches_for_them(server, get, path):
  server.pages["/file.tar"] = loopback.in_turn(
    loopback.File(CONTENT, etag="", breaks=[30_000]), loopback.File(OTHER, etag="")
  )
  get(checks.Expected())
  assert path.read_bytes() == OTHER
  assert server.ranges() == ["", ""]


def test_a_file_that_became_shorter_is_fetched_anew(server, get, path):
  server.pages["/file.tar"] = loopback.in_turn(
    loopback.File(CONTENT, breaks=[30_000]),
    loopback.File(OTHER[:20_000], knows_if_range=False),
  )
  get(checks.Expected())
  assert path.read_bytes() == OTHER[:20_000]


def test_a_busy_server_is_asked_again(server, get, path):
  server.pages["/file.tar"] = loopback.in_turn(
    loopback.status(503), loopback.status(429), loopback.File(CONTENT)
  )
  assert "is not available now (503 Service Unavailable); trying again" in get()
  assert path.read_bytes() == CONTENT


def test_waits_grow_and_respect_the_server():
  retries = transfer.Retries(first_wait=1.0, longest_wait=60.0)
  assert [retries.wait(n) for n in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 60.0]
  assert [retries.wait(1, asked) for asked in (30.0, 3600.0)] == [30.0, 60.0]


@pytest.mark.parametrize(
  ("answer", "reason"),
  [
    (loopback.status(404), r"There is no file at http.*404 Not Found"),
    (loopback.status(410), "There is no file"),
    (loopback.status(403), r"refuses access \(403 Forbidden\)"),
    (loopback.status(400), "400 Bad Request"),
    (loopback.status(202), "answered with status 202 instead of the file"),
    (
      loopback.status(202, {"x-amzn-waf-action": "challenge"}),
      "wants a browser",
    ),
    (loopback.status(200), "sent nothing instead of the file"),
    (
      loopback.File(b"<html>Log in</html>", headers={"Content-Type": "text/html"}),
      "sent a web page",
    ),
    (loopback.File(CONTENT + b"x"), "gives a file of 100001 bytes, expected 100000"),
    (loopback.redirect("ftp://127.0.0.1/file.tar"), "redirects to ftp:.*not followed"),
    (loopback.redirect("file:///etc/passwd"), "file:///etc/passwd.* is not allowed"),
    (loopback.redirect("/file.tar"), "infinite loop"),
  ],
)
def test_refusals_are_explained_and_leave_nothing(server, get, path, answer, reason):
  server.pages["/file.tar"] = answer
  with pytest.raises(http_lib.DownloadError, match=reason) as error:
    get()
  assert f"put it at {path}" in str(error.value)
  assert _files(path) == []


def test_https_is_not_left():
  handler = http_lib.SafeRedirects()
  request = http_lib.urllib.request.Request("https://safe.example/file")
  with pytest.raises(http_lib.RefusedError, match="begins with https"):
    handler.redirect_request(request, None, 302, "", {}, "http://safe.example/file")


def test_redirects_are_followed_and_resumed(server, get, path):
  server.pages["/file.tar"] = loopback.redirect("/store/signed?key=1")
  server.pages["/store/signed?key=1"] = loopback.File(CONTENT, breaks=[40_000])
  get()
  assert path.read_bytes() == CONTENT
  assert [p for p, _ in server.requests] == ["/file.tar", "/store/signed?key=1"] * 2
  assert server.ranges()[-1] == "bytes=40000-"


def test_the_next_address_goes_on_where_the_first_stopped(server, get, path):
  # The checksum will tell whether both serve the same file.
  server.pages["/file.tar"] = loopback.in_turn(
    loopback.File(CONTENT, breaks=[40_000]), loopback.status(404)
  )
  server.pages["/copy"] = loopback.File(CONTENT, etag='"of the copy"')
  said = get(addresses=[f"{server.address}/file.tar", f"{server.address}/copy"])
  assert f"Trying {server.address}/copy." in said
  assert server.ranges() == ["", "bytes=40000-", "bytes=40000-"]
  assert path.read_bytes() == CONTENT


def test_without_a_checksum_the_next_address_starts_again(server, get, path):
  server.pages["/file.tar"] = loopback.in_turn(
    loopback.File(CONTENT, breaks=[40_000]), loopback.status(404)
  )
  server.pages["/copy"] = loopback.File(OTHER)
  get(
    checks.Expected(),
    addresses=[f"{server.address}/file.tar", f"{server.address}/copy"],
  )
  assert server.ranges()[-1] == "" and path.read_bytes() == OTHER


def test_a_server_that_promises_too_much_is_found_out(server, get, path):
  server.pages["/file.tar"] = loopback.File(CONTENT, length=150_000)
  with pytest.raises(http_lib.DownloadError, match="gives a file of 150000 bytes"):
    get()
  with pytest.raises(
    http_lib.DownloadError, match="promised 150000 bytes and ended after 100000"
  ):
    get(checks.Expected())
  assert not path.exists()


def test_a_wrong_file_is_deleted(server, get, path):
  server.pages["/file.tar"] = loopback.File(OTHER)
  with pytest.raises(http_lib.DownloadError, match=f"expected the MD5 {MD5.value}"):
    get()
  assert _files(path) == []


def test_one_of_several_checksums_suffices_and_is_named(server, get):
  server.pages["/file.tar"] = loopback.File(CONTENT)
  sums = (checks.Checksum("md5", "0" * 32), MD5)
  assert f"MD5 {MD5.value} as expected" in get(checks.Expected(checksums=sums))


def test_unknown_size_and_checksum_are_admitted(server, get):
  server.pages["/file.tar"] = loopback.File(CONTENT)
  assert "no size or checksum is known to compare it with" in get(checks.Expected())


def test_sha256_and_the_names_of_s3(tmp_path):
  path = tmp_path / "file"
  content = np.random.default_rng(2).bytes((8 << 20) + 5)
  path.write_bytes(content)
  assert checks.digest(path, "sha256") == hashlib.sha256(content).hexdigest()
  parts = [hashlib.md5(p).digest() for p in (content[: 8 << 20], content[8 << 20 :])]
  assert (
    checks.digest(path, "s3_etag") == f"{hashlib.md5(b''.join(parts)).hexdigest()}-2"
  )


def test_a_disk_that_is_too_small_is_noticed_before(server, get, path):
  server.pages["/file.tar"] = loopback.File(CONTENT, length=10**17)
  with pytest.raises(
    http_lib.DownloadError, match="needs 1e\\+05 TB more|needs 100000"
  ):
    get(checks.Expected())
  assert _files(path) == []


def test_two_processes_do_not_write_one_file(server, get, path):
  server.pages["/file.tar"] = loopback.File(CONTENT)
  path.parent.mkdir()
  with open(path.with_name("file.tar.part"), "wb") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(http_lib.DownloadError, match="Another process is fetching"):
      get()


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x/y", "data.tar", ""])
def test_only_web_addresses_are_asked(get, address):
  with pytest.raises(http_lib.DownloadError, match="is not an address of the form"):
    get(addresses=[address])


@pytest.mark.parametrize(
  ("size", "text"),
  [
    (0, "0 bytes"),
    (532, "532 bytes"),
    (86_144_227, "86.1 MB"),
    (999_999, "1 MB"),
    (225 * 10**9, "225 GB"),
    (11 * 10**11, "1.1 TB"),
  ],
)
def test_sizes_as_people_write_them(size, text):
  assert checks.size_text(size) == text
