"""Where text comes from, and what is refused."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpt2.errors import UsageError
from gpt2.text import find_text, python_documentation, user_files

TEXT = b"To be, or not to be, that is the question.\n"
SHA256 = hashlib.sha256(TEXT).hexdigest()


@pytest.fixture
def server() -> Iterator[str]:
    """A web server on this machine that has TEXT at /text and an error page elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(TEXT if self.path == "/text" else b"<html>Sorry</html>")

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_a_verified_download_is_kept_and_not_fetched_again(server: str, tmp_path: Path) -> None:
    name, (file,), fallback = find_text("known", None, f"{server}/text", SHA256, tmp_path)
    assert (name, file.read_bytes(), fallback) == ("known", TEXT, None)
    _, again, _ = find_text("known", None, "http://127.0.0.1:9/nobody", SHA256, tmp_path)
    assert again == [file]


def test_a_download_with_another_hash_is_refused_and_kept_out_of_the_cache(
    server: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="sha256"):
        find_text("known", None, f"{server}/error", SHA256, tmp_path)
    assert list(tmp_path.rglob("*.txt")) == []


def test_a_damaged_copy_in_the_cache_is_fetched_again(server: str, tmp_path: Path) -> None:
    _, (file,), _ = find_text("known", None, f"{server}/text", SHA256, tmp_path)
    file.write_bytes(TEXT[:-5])
    find_text("known", None, f"{server}/text", SHA256, tmp_path)
    assert file.read_bytes() == TEXT


def test_without_a_network_pythons_documentation_stands_in_and_says_so(tmp_path: Path) -> None:
    name, (file,), fallback = find_text(
        "known", None, "http://127.0.0.1:9/nobody", SHA256, tmp_path
    )
    assert name == "pydoc"
    assert fallback is not None
    assert "127.0.0.1:9" in fallback
    assert "data=pydoc" in fallback
    assert file.stat().st_size > 1_000_000


def test_pythons_documentation_is_the_same_text_every_time(tmp_path: Path) -> None:
    first, second = (python_documentation(tmp_path / n).read_bytes() for n in "ab")
    assert first == second
    assert b"The Python interpreter" in first


def test_an_own_copy_of_a_known_text_is_checked(tmp_path: Path) -> None:
    (tmp_path / "copy.txt").write_bytes(TEXT)
    name, files, _ = find_text("known", str(tmp_path / "copy.txt"), None, SHA256, tmp_path)
    assert (name, files) == ("known", [tmp_path / "copy.txt"])
    (tmp_path / "copy.txt").write_bytes(TEXT * 2)
    with pytest.raises(UsageError, match="data=text"):
        find_text("known", str(tmp_path / "copy.txt"), None, SHA256, tmp_path)


def test_a_path_is_a_file_a_folder_or_a_glob(tmp_path: Path) -> None:
    folder = tmp_path / "with spaces and ümlauts"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "deep/c.md", ".hidden"):
        (folder / name).write_text("x")

    def names(path: Path) -> list[str]:
        return [str(f.relative_to(folder)) for f in user_files(str(path))]

    assert names(folder / "a.txt") == ["a.txt"]
    assert names(folder) == ["a.txt", "b.txt", "deep/c.md"]
    assert names(folder / "*.txt") == ["a.txt", "b.txt"]
    assert names(folder / "**" / "*.md") == ["deep/c.md"]


@pytest.mark.parametrize("missing", ["nobody.txt", "*.nothing", "empty"])
def test_a_path_that_names_no_text_is_refused_by_name(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as refused:
        user_files(str(tmp_path / missing))
    assert missing in str(refused.value)
