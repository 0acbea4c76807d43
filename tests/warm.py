"""A process that has imported what commands import, and runs each that it is asked for in a fork.

So the tests start many commands, each in a process of its own, and import torch once. A request is
a line of JSON on standard input; the answer is a line with the exit status.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from runner.run import prepare_libraries

IMPORTED = ("reports.callback", "reports.page", "runner.dry_run", "runner.training.loop")
TIMEOUT_SECONDS = 280


def become(request: dict[str, Any]) -> None:
    """Make this process as if it had been started as the request says."""
    signal.alarm(TIMEOUT_SECONDS)
    for descriptor, name in enumerate((os.devnull, request["output"], request["errors"])):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if descriptor else os.O_RDONLY
        os.dup2(os.open(name, flags), descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["module"], *request["arguments"]]


prepare_libraries(Path(os.environ["GPT2_LADDER_CACHE"]))  # torch reads variables when imported
for name in IMPORTED:
    importlib.import_module(name)
gc.freeze()  # a fork would copy what a collection touches
for line in sys.stdin:
    request = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    become(request)
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    break
