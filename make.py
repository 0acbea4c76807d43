"""Sets everything up and runs it, with nothing but Python, pip and git on the machine.

python3 make.py run [ARGUMENTS]    an environment in .venv, then python -m runner ARGUMENTS;
                                   without arguments +stage=step07
python3 make.py test [ARGUMENTS]   the same with the development tools, then pytest ARGUMENTS
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTHON = ROOT / ".venv" / "bin" / "python"


def install(what: str) -> None:
    """Installs the project into .venv, every version as constraints.txt pins it."""
    if not PYTHON.exists():
        venv.create(ROOT / ".venv", with_pip=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--constraint", "constraints.txt", "--editable", what], cwd=ROOT, check=True
    )


def main() -> int:
    """Replaces this process by the command, or returns the exit status of a mistake."""
    if sys.version_info < (3, 10):  # noqa: UP036 - the sentence is for those who have an older one
        print(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.", file=sys.stderr)
        return 2
    match sys.argv[1:]:
        case ["run", *arguments]:
            what, command = ".", ["runner", *(arguments or ["+stage=step07"])]
        case ["test", *arguments]:
            what, command = ".[dev]", ["pytest", *arguments]
        case _:
            print(__doc__)
            return 2
    try:
        install(what)
    except subprocess.CalledProcessError as error:
        print(f"pip could not install the project (status {error.returncode}).", file=sys.stderr)
        return 1
    os.chdir(ROOT)
    os.execv(PYTHON, [str(PYTHON), "-m", *command])  # Ctrl-C then reaches only that process


if __name__ == "__main__":
    sys.exit(main())
