"""What the processes of a test's crew do."""

from multiprocessing import connection
import os
import time


def multiply(number: int, pipe: connection.Connection, factor: int) -> None:
  """Multiplies what it is sent and adds its number."""
  while True:
    try:
      message = pipe.recv()
    except EOFError:
      return
    if message == "die":
      os._exit(9)
    if message == "sleep":
      time.sleep(600)
    pipe.send(factor * message + number)
