"""A web server on the loopback whose behaviour a test decides, request by request."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import http.server
import threading

Request = http.server.BaseHTTPRequestHandler
Answer = Callable[[Request], None]


@dataclasses.dataclass
class File:
  """A file that is served as a good server does it.

  Attributes:
    content: its bytes.
    etag: its version, or "" for a server that names none.
    breaks: after how many bytes each of the next answers breaks off.
    knows_ranges: whether parts of the file can be asked for.
    knows_if_range: whether the version in such a request is respected.
    length: what the server says is the length of the file; by default the truth.
    headers: further headers of every answer.
  """

  content: bytes
  etag: str = '"1"'
  breaks: list[int] = dataclasses.field(default_factory=list)
  knows_ranges: bool = True
  knows_if_range: bool = True
  length: int | None = None
  headers: dict[str, str] = dataclasses.field(default_factory=dict)

  def __call__(self, request: Request) -> None:
    size = len(self.content) if self.length is None else self.length
    wanted = request.headers.get("Range", "")
    version = request.headers.get("If-Range", "")
    is_mine = not version or version == self.etag or not self.knows_if_range
    start = 0
    if self.knows_ranges and wanted and is_mine:
      start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start and start >= size:
      request.send_response(416)
      request.send_header("Content-Range", f"bytes */{size}")
      request.end_headers()
      return
    request.send_response(206 if start else 200)
    if start:
      request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    request.send_header("Content-Length", str(size - start))
    if self.etag:
      request.send_header("ETag", self.etag)
    for name, value in self.headers.items():
      request.send_header(name, value)
    request.end_headers()
    stop = start + self.breaks.pop(0) if self.breaks else None
    request.wfile.write(self.content[start:stop])
    request.close_connection = True


def status(code: int, headers: dict[str, str] | None = None) -> Answer:
  """Answers with a status and nothing else."""

  def answer(request: Request) -> None:
    request.send_response(code)
    for name, value in (headers or {}).items():
      request.send_header(name, value)
    request.send_header("Content-Length", "0")
    request.end_headers()

  return answer


def redirect(address: str) -> Answer:
  """Sends the client elsewhere."""
  return status(302, {"Location": address})


def in_turn(*answers: Answer) -> Answer:
  """Gives one answer after the other, the last one for ever."""
  waiting = list(answers)

  def answer(request: Request) -> None:
    (waiting.pop(0) if len(waiting) > 1 else waiting[0])(request)

  return answer


@dataclasses.dataclass
class Server:
  """A running server.

  Attributes:
    address: of its root.
    pages: answer by path; other paths do not exist.
    requests: path and headers of every request so far.
  """

  address: str
  pages: dict[str, Answer]
  requests: list[tuple[str, dict[str, str]]]

  def ranges(self) -> list[str]:
    """The `Range` of every request so far, "" where there was none."""
    return [headers.get("Range", "") for _, headers in self.requests]


@contextlib.contextmanager
def serve() -> Iterator[Server]:
  """Runs a server in a thread."""
  pages: dict[str, Answer] = {}
  requests: list[tuple[str, dict[str, str]]] = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
      requests.append((self.path, dict(self.headers)))
      pages.get(self.path, status(404))(self)

    def log_message(self, *arguments: object) -> None:
      del arguments

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
      yield Server(f"http://127.0.0.1:{server.server_port}", pages, requests)
    finally:
      server.shutdown()
      thread.join()
