"""One request for a file, or for the rest of it, over HTTP.

Redirects are followed to http and https only, and never from https back to http. Every
failure says in a sentence what happened, and by its class what can be done: repeat the
request (`BrokenError`), or try another address (`RefusedError`).
"""

import contextlib
import dataclasses
import email.message
import http.client
import io
import re
import socket
import ssl
from typing import NoReturn
import urllib.error
import urllib.parse
import urllib.request

import jmp_hk

TIMEOUT_SECONDS = 60.0
_SCHEMES = ("http", "https")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
# Answers of a server that is busy or broken for now.
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_ACCOUNT = frozenset({401, 403, 407})
_GONE = frozenset({404, 410})


class DownloadError(RuntimeError):
  """A file could not be fetched; the message says why and what to do."""


class RefusedError(DownloadError):
  """An address does not give the file; another one may."""


class UnknownHostError(RefusedError):
  """The name of a host leads nowhere, as on machines without a connection."""


class BrokenError(DownloadError):
  """A connection broke or a server is busy; the same request may succeed later.

  Attributes:
    wait: seconds that the server asks for, or 0.
  """

  def __init__(self, message: str, wait: float = 0.0):
    super().__init__(message)
    self.wait = wait


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a server answers.

  Attributes:
    stream: the bytes of the file from `start` on; to be closed.
    start: number of the first byte in the stream.
    size: bytes of the whole file; None where the server does not say.
    etag: the server's name for this version of the file, or "".
    last_modified: when the file changed, as the server puts it, or "".
  """

  stream: io.BufferedIOBase
  start: int
  size: int | None
  etag: str = ""
  last_modified: str = ""

  @property
  def validator(self) -> str:
    """What `If-Range` accepts: a strong ETag or else the time of the last change."""
    return strong_validator(self.etag, self.last_modified)


def strong_validator(etag: str, last_modified: str) -> str:
  """What `If-Range` accepts, or "". Weak ETags may not be used there."""
  return etag if etag and not etag.startswith("W/") else last_modified


def check_address(address: str) -> None:
  """Checks that an address can be asked for.

  Raises:
    DownloadError: it is no http or https address of a host.
  """
  parts = urllib.parse.urlsplit(address)
  if parts.scheme not in _SCHEMES or not parts.hostname:
    raise DownloadError(
      f"{address!r} is not an address of the form https://host/file or "
      "http://host/file."
    )


def request(address: str, start: int = 0, validator: str = "") -> Reply:
  """Asks for a file from byte `start` on.

  Args:
    address: http or https address.
    start: first byte that is wanted. A server may ignore it: see `Reply.start`.
    validator: version of the file that the bytes must belong to; where the server has
      another one, it sends that from its beginning.

  Raises:
    RefusedError: the server does not give the file.
    BrokenError: there is no connection, or the server is busy.
    DownloadError: the address is none.
  """
  check_address(address)
  headers = {"User-Agent": f"jmp-hk/{jmp_hk.__version__} (data.download)"}
  if start:
    headers["Range"] = f"bytes={start}-"
    if validator:
      headers["If-Range"] = validator
  try:
    response = _opener().open(
      urllib.request.Request(address, headers=headers), timeout=TIMEOUT_SECONDS
    )
  except urllib.error.HTTPError as error:
    with contextlib.closing(error):
      if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _nothing_left(error.headers, start)
      _raise_status(address, error)
  except (OSError, http.client.HTTPException) as error:
    _raise_connection(address, error)
  try:
    return _reply(address, response, start)
  except BaseException:
    response.close()
    raise


def _opener() -> urllib.request.OpenerDirector:
  """Knows http and https and nothing else: no file:, ftp: or data: addresses."""
  opener = urllib.request.OpenerDirector()
  for handler in (
    urllib.request.ProxyHandler(),
    urllib.request.UnknownHandler(),
    urllib.request.HTTPHandler(),
    urllib.request.HTTPSHandler(),
    urllib.request.HTTPErrorProcessor(),
    urllib.request.HTTPDefaultErrorHandler(),
    SafeRedirects(),
  ):
    opener.add_handler(handler)
  return opener


class SafeRedirects(urllib.request.HTTPRedirectHandler):
  """Follows redirects as browsers do, which refuse to leave https."""

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    """The request that follows a redirect."""
    old, new = (urllib.parse.urlsplit(url) for url in (req.full_url, newurl))
    allowed = _SCHEMES if old.scheme == "http" else ("https",)
    if new.scheme not in allowed:
      raise RefusedError(
        f"{req.full_url} redirects to {newurl}, which is not followed: expected an "
        f"address that begins with {' or '.join(allowed)}."
      )
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reply(address: str, response: http.client.HTTPResponse, start: int) -> Reply:
  """Checks the headers of a successful answer."""
  headers = response.headers
  if response.status not in (http.client.OK, http.client.PARTIAL_CONTENT):
    challenge = headers.get("x-amzn-waf-action") == "challenge"
    raise RefusedError(
      f"{address} answered with status {response.status} instead of the file"
      + (": it wants a browser that runs scripts." if challenge else ".")
    )
  if headers.get_content_type() == "text/html":
    raise RefusedError(f"{address} sent a web page (text/html) instead of the file.")
  versions = (headers.get("ETag", ""), headers.get("Last-Modified", ""))
  length = headers.get("Content-Length", "")
  size = int(length) if length.isdigit() else None
  if response.status == http.client.OK:
    if size == 0:
      raise RefusedError(f"{address} sent nothing instead of the file.")
    return Reply(response, 0, size, *versions)
  match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
  if not match or not match[1] or int(match[1]) != start:
    raise RefusedError(
      f"{address} was asked for the bytes from {start} on and answered with "
      f"Content-Range {headers.get('Content-Range')!r}."
    )
  if match[3] != "*":
    size = int(match[3])
  elif size is not None:
    size += start
  return Reply(response, start, size, *versions)


def _nothing_left(headers: email.message.Message, start: int) -> Reply:
  """The answer to a request that begins at or behind the end of the file."""
  match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
  size = int(match[3]) if match and match[3] != "*" else 0
  versions = (headers.get("ETag", ""), headers.get("Last-Modified", ""))
  return Reply(io.BytesIO(), start, size, *versions)


def _raise_status(address: str, error: urllib.error.HTTPError) -> NoReturn:
  what = f"{error.code} {error.reason}".strip()
  if error.code in _TEMPORARY:
    after = error.headers.get("Retry-After", "")
    wait = float(after) if after.isdigit() else 0.0
    raise BrokenError(f"{address} is not available now ({what})", wait)
  if error.code in _GONE:
    raise RefusedError(f"There is no file at {address} ({what}).")
  if error.code in _ACCOUNT:
    raise RefusedError(f"{address} refuses access ({what}).")
  raise RefusedError(f"{address} answered: {' '.join(what.split())}.")


def _raise_connection(address: str, error: Exception) -> NoReturn:
  reason = error.reason if isinstance(error, urllib.error.URLError) else error
  host = urllib.parse.urlsplit(address).hostname
  if isinstance(reason, ssl.SSLCertVerificationError):
    raise RefusedError(
      f"The certificate of {host} could not be verified: {reason.verify_message}."
    ) from error
  if isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN:
    raise UnknownHostError(
      f"The host {host} is unknown here ({reason.strerror})."
    ) from error
  text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
  raise BrokenError(f"No connection to {host}: {text}") from error
