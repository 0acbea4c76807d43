"""The environment of the processes that tests start."""

import os


def environment(**changed: str) -> dict[str, str]:
    """This process's variables with some changed.

    A PYTHONPATH is put before the one there is, which may be where packages are installed.
    """
    paths = [found for found in (changed.get("PYTHONPATH"), os.environ.get("PYTHONPATH")) if found]
    joined = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return {**os.environ, **changed, **joined}
