"""The sources of text, and what is refused."""

import contextlib
import hashlib
import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from conf.errors import UsageError
from runner.data.source import Source, find_source
from runner.data.text import NoNetwork, download, python_documentation, user_files
from tests.runner.data.test_corpus import conf

TEXT = b"To be, or not to be, that is the question.\n"
SHA256 = hashlib.sha256(TEXT).hexdigest()


def find(cache_dir: Path, url: str | None = None, path: Path | None = None) -> Source:
    """A known text, from its address or a copy."""
    return find_source(conf(path, name="known", url=url, sha256=SHA256), cache_dir)


class Handler(BaseHTTPRequestHandler):
    """Serves TEXT at /text, an error page at /error, and failures at other paths."""

    def do_GET(self) -> None:
        moved = {"/moved": "/error", "/insecure": f"http://{self.headers['Host']}/text"}
        self.send_response(302 if self.path in moved else 404 if self.path == "/missing" else 200)
        if self.path in moved:
            self.send_header("Location", moved[self.path])
        if self.path == "/cut":
            self.send_header("Content-Length", str(len(TEXT)))
        self.end_headers()
        if self.path == "/drip":
            with contextlib.suppress(OSError):
                for byte in TEXT * 20:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)
        elif self.path == "/stall":
            time.sleep(15)
        elif self.path not in moved:
            answers = {"/cut": TEXT[:10], "/text": TEXT}
            self.wfile.write(answers.get(self.path, b"<html>Sorry</html>"))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server on this machine, with a certificate that this test's downloads trust."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    # Python keeps an opener, and from 3.13 on its certificates, from the process's first download.
    urllib.request.install_opener(urllib.request.build_opener())
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.block_on_close = False
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield f"https://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("path", ["cut", "drip", "stall", "missing", "insecure"])
def test_a_failed_download_ends_soon_and_does_not_change_the_cache(
    server: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.data.text.DOWNLOAD_TIMEOUT_S", 0.5)
    started = time.monotonic()
    with pytest.raises(NoNetwork, match=f"/{path} could not be fetched"):
        download(f"{server}/{path}", SHA256, tmp_path / "cache")
    assert time.monotonic() - started < 10, "a server that gives up first ended it"
    assert not (tmp_path / "cache").exists()


def test_only_https_is_fetched(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1/text", "file:///etc/hostname", "ftp://127.0.0.1/text"):
        with pytest.raises(UsageError, match="only https"):
            download(url, SHA256, tmp_path)


def test_a_verified_download_is_kept_and_fetched_again_only_where_it_is_damaged(
    server: str, tmp_path: Path
) -> None:
    source = find(tmp_path, f"{server}/text")
    (file,) = source.content.paths
    assert (source.name, source.sha256, source.fallback) == ("known", SHA256, None)
    assert find(tmp_path, "https://127.0.0.1:9/nobody") == source
    file.write_bytes(TEXT[:-5])
    assert find(tmp_path, f"{server}/text") == source
    assert file.read_bytes() == TEXT


@pytest.mark.parametrize("path", ["error", "moved"])
def test_a_download_with_another_hash_is_refused_and_kept_out_of_the_cache(
    server: str, path: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="sha256"):
        find(tmp_path, f"{server}/{path}")
    assert list(tmp_path.rglob("*.txt")) == []


@pytest.mark.slow
def test_without_a_network_pythons_documentation_is_used_with_a_message(tmp_path: Path) -> None:
    source = find(tmp_path, "https://127.0.0.1:9/nobody")
    assert source.name == "pydoc"
    assert "127.0.0.1:9" in str(source.fallback)
    assert "data=pydoc" in str(source.fallback)
    (file,) = source.content.paths
    text = file.read_bytes()
    assert len(text) > 1_000_000
    assert b"The Python interpreter" in text
    assert text == python_documentation(tmp_path / "another").read_bytes()


def test_a_users_copy_of_a_known_text_is_checked(tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(TEXT)
    source = find(tmp_path, path=copy)
    assert (source.name, source.content.paths) == ("known", [copy])
    copy.write_bytes(TEXT * 2)
    with pytest.raises(UsageError, match="data=text"):
        find(tmp_path, path=copy)


def test_a_path_is_a_file_a_folder_or_a_glob_and_one_without_text_is_refused_by_name(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "with spaces and ümlauts"
    for name in ("b.txt", "a.txt", "deep/c.md", ".hidden"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for path, expected in {
        "a.txt": ["a.txt"],
        "": ["a.txt", "b.txt", "deep/c.md"],
        "*.txt": ["a.txt", "b.txt"],
        "**/*.md": ["deep/c.md"],
    }.items():
        found = user_files(str(folder / path))
        assert [str(file.relative_to(folder)) for file in found] == expected
    (folder / "empty").mkdir()
    for missing in ("nobody.txt", "*.nothing", "empty"):
        with pytest.raises(UsageError, match=re.escape(missing)):
            user_files(str(folder / missing))
