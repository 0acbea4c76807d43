"""Imported by Python at its start where this folder is on PYTHONPATH.

Ends a process with SIGKILL, as KILL_AT says in `EVENT PATTERN SECONDS`: that many seconds after an
audit event whose first argument matches the pattern, such as `os.rename run\\.json 0`.
"""

import os
import re
import signal
import sys
import threading
from typing import Any

_event, _pattern, _seconds = os.environ["KILL_AT"].split()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == _event and re.search(_pattern, os.fsdecode(str(arguments[0]))):
        if float(_seconds):
            threading.Timer(float(_seconds), _end).start()
        else:
            _end()


sys.addaudithook(_watch)
