"""Datasets of the Hugging Face hub, from a small hub on this machine.

The hub's libraries read its address when they are imported: so each test is a process of its own.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from conf.errors import UsageError
from tests.conftest import ROOT, CommandLine, Settings
from tests.runner.data.test_corpus import DOCUMENTS, expected, write

NAME = "someone/tiny"
REVISION = "a" * 40
NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nothing listens there


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that streaming a dataset uses."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        folder, file = f"/api/datasets/{NAME}/tree/{REVISION}", f"/datasets/{NAME}/resolve/"
        if path in (f"/api/datasets/{NAME}", f"/api/datasets/{NAME}/revision/{REVISION}"):
            siblings = [{"rfilename": name} for name in self.files]
            self._answer(json.dumps({"id": NAME, "sha": REVISION, "siblings": siblings}).encode())
        elif path.startswith(folder):
            below = path.removeprefix(folder).strip("/")
            found = [
                {"type": "file", "path": name, "size": len(content), "oid": "b" * 40}
                for name, content in self.files.items()
                if name.startswith(below)
            ]
            found += [] if below else [{"type": "directory", "path": "data", "oid": "c" * 40}]
            self._answer(json.dumps(found).encode())
        elif (name := path.removeprefix(f"{file}{REVISION}/")) in self.files:
            self._answer(self.files[name])
        else:
            self.send_response(404)
            known = path.startswith((file, f"/api/datasets/{NAME}"))
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _answer(self, content: bytes) -> None:
        size, asked = len(content), self.headers.get("Range")
        self.send_response(206 if asked else 200)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            last = min(int(last or size), size - 1)
            content = content[int(first) : last + 1]
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("ETag", f'"{size}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables that lead to a hub with one dataset, of two parquet files."""
    halves = DOCUMENTS[:170], DOCUMENTS[170:]
    parts = [write(tmp_path / f"train-{i}.parquet", half) for i, half in enumerate(halves)]
    files = {f"data/{part.name}": part.read_bytes() for part in parts}
    handler = type("Served", (Hub,), {"files": {"README.md": b"# Tiny\n", **files}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
    }
    server.shutdown()
    server.server_close()


@pytest.fixture
def preparing(tmp_path: Path) -> Callable[..., list[str]]:
    """Prepares the dataset in a new process, by an expression; returns the lines it prints."""

    def prepare(environment: dict[str, str], *lines: str) -> list[str]:
        code = (
            "from pathlib import Path",
            "from runner.data import corpus",
            "from tests.runner.data.test_corpus import prepare, tokens",
            "corpus.SHARD_TOKENS = 1000",
            f"cache = Path({str(tmp_path / 'cache')!r})",
            f"hub = {{'dataset': {NAME!r}}}",
            *lines,
        )
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(code)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return prepare


@pytest.mark.slow
def test_a_dataset_is_streamed_goes_on_where_it_was_and_needs_no_network_twice(
    hub: dict[str, str], preparing: Callable[..., list[str]]
) -> None:
    environment = {**os.environ, **hub}
    (some,) = preparing(environment, "print(tokens(prepare(None, cache, tokens=3500, **hub)))")
    assert json.loads(some) == expected()[:3500]
    (whole,) = preparing(environment, "print(tokens(prepare(None, cache, **hub)))")
    assert json.loads(whole) == expected()
    spoil = "next(cache.rglob('00004.uint16')).unlink()"
    lost, again = preparing(environment, spoil, "print(tokens(prepare(None, cache, **hub)))")
    assert "00004.uint16 is damaged or missing" in lost
    assert again == whole
    (offline,) = preparing({**environment, **NOWHERE}, "print(tokens(prepare(None, cache, **hub)))")
    assert offline == whole


@pytest.mark.slow
def test_a_run_on_a_dataset_records_its_name_and_revision(
    hub: dict[str, str], command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line(
        "+stage=step07", "data=huggingface", f"data.dataset={NAME}", "data.path=null",
        "train.steps=2", "train.compile=false", **hub,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "outputs").glob("*/*/*/run.json")
    data = json.loads(record.read_text())["data"]
    assert (data["name"], data["revision"]) == (NAME, REVISION)
    assert data["tokens"] == len(expected())
    assert data["bytes"] == sum(map(len, DOCUMENTS))


@pytest.mark.slow
def test_what_is_wrong_with_a_dataset_is_said_in_a_sentence(
    hub: dict[str, str], preparing: Callable[..., list[str]], settings: Settings
) -> None:
    with pytest.raises(UsageError, match=r"data\.dataset has no value here"):
        settings("+stage=step07", "data=huggingface")
    cases: dict[str, dict[str, str]] = {
        "or has no such dataset (RepositoryNotFoundError": {"dataset": "someone/nothing"},
        "check data.subset and data.split": {"dataset": NAME, "subset": "big"},
        "; check data.subset and data.split": {"dataset": NAME, "split": "test"},
        "no column 'body'; the columns are id, text. Give": {"dataset": NAME, "column": "body"},
        "column 'id' holds int, not text": {"dataset": NAME, "column": "id"},
    }
    said = preparing(
        {**os.environ, **hub},
        "from conf.errors import UsageError",
        f"for keys in {list(cases.values())}:",
        "    try: prepare(None, cache, **keys)",
        "    except UsageError as error: print(error)",
    )
    for sentence, found in zip(cases, said, strict=True):
        assert sentence in found
        assert "data.dataset=" in found


def test_without_a_network_one_sentence_names_the_dataset(
    command_line: CommandLine, tmp_path: Path
) -> None:
    cache = f"cache_dir={tmp_path}/cache"
    done = command_line("+stage=step07", "data=fineweb_edu", "data.path=null", cache, **NOWHERE)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "data.dataset=HuggingFaceFW/fineweb-edu: the Hugging Face hub cannot" in done.stderr
