"""The environment of the processes that tests start."""

import os


def environment(**changed: str) -> dict[str, str]:
    """This process's variables with some changed.

    A PYTHONPATH is put before the one there is, which may be where packages are installed. The
    folder of the compiler's cache is left out: importing transformers or torch.distributed sets it.
    """
    own = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    paths = [found for found in (changed.get("PYTHONPATH"), own.get("PYTHONPATH")) if found]
    joined = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return {**own, **changed, **joined}
