"""`sardonyx serve`: a folder on this machine's loopback address, with the headers that give a page threads, right types, ranges and ETags."""
from __future__ import annotations

import email.utils
import mimetypes
import os
import re
import threading
import urllib.parse
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer
from sardonyx.errors import InvalidArgument, NoSuchFile

from . import show

EPILOG = """\b
The headers Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp make the page
cross-origin isolated, which is what browsers ask for before they give it threads. --no-isolate leaves them out.

\b
Examples:
  sardonyx bundle model.onnx -o site && sardonyx serve site
  sardonyx serve site --port 8000 --open"""

TYPES = {".wasm": "application/wasm", ".mjs": "text/javascript", ".js": "text/javascript", ".sdx": "application/octet-stream", ".onnx": "application/octet-stream", ".whl": "application/zip",
         ".json": "application/json", ".webmanifest": "application/manifest+json", ".svg": "image/svg+xml", ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".md": "text/plain; charset=utf-8", ".txt": "text/plain; charset=utf-8", ".map": "application/json"}
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Resource-Policy": "same-origin"}


class Server(ThreadingHTTPServer):
    """Serves `mounts` (URL prefix, e.g. "/", → folder) on loopback. Use as a context manager: serving goes on in a thread."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, mounts: Mapping[str, Path], *, port: int = 0, headers: Mapping[str, str] = ISOLATION, quiet: bool = True) -> None:
        self.mounts = {prefix: folder.resolve() for prefix, folder in sorted(mounts.items(), key=lambda item: -len(item[0]))}
        self.headers, self.quiet = dict(headers), quiet
        for folder in self.mounts.values():
            if not folder.is_dir():
                raise NoSuchFile(f"'{folder}' is not a folder; `sardonyx bundle MODEL -o {folder.name}` makes one")
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise InvalidArgument(f"port {port} can not be used ({error.strerror}); choose another with --port, or none for a free one") from None

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that leaves in the middle of a download is no error."""

    def find(self, path: str) -> Path | None:
        """The file a URL path names; None where there is none, or it would lie outside its folder."""
        for prefix, folder in self.mounts.items():
            if path.startswith(prefix):
                target = (folder / path[len(prefix):].lstrip("/")).resolve()
                if target.is_dir():
                    target /= "index.html"
                if target.is_relative_to(folder) and target.is_file():
                    return target
        return None


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of files."""

    protocol_version = "HTTP/1.1"
    #: A head and a small body are two pieces: the second would wait until the other side says that it has the first, which may take it 40 ms.
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """Send a file, a part of it (Range), or 304 where the browser has it."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        found = self.server.find(path) if "\0" not in path else None
        if found is None:
            return self._message(HTTPStatus.NOT_FOUND, f"{path} does not exist here\n")
        if found.name == "index.html" and not path.endswith(("/", "index.html")):
            return self._message(HTTPStatus.MOVED_PERMANENTLY, "", {"Location": urllib.parse.quote(path) + "/"})
        about = found.stat()
        tag = f'"{about.st_size:x}-{about.st_mtime_ns:x}"'
        headers = {"ETag": tag, "Last-Modified": email.utils.formatdate(about.st_mtime, usegmt=True), "Cache-Control": "no-cache", "Accept-Ranges": "bytes",
                   "Content-Type": TYPES.get(found.suffix.lower()) or mimetypes.guess_type(found.name)[0] or "application/octet-stream"}
        if tag in re.findall(r'"[^"]*"', self.headers.get("If-None-Match", "")):
            return self._message(HTTPStatus.NOT_MODIFIED, "", headers)
        span = self._range(about.st_size) if self.headers.get("If-Range", tag) == tag else None
        if span == ():
            return self._message(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "", {"Content-Range": f"bytes */{about.st_size}"})
        start, stop = span or (0, about.st_size)
        if span:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{about.st_size}"
        self._head(HTTPStatus.PARTIAL_CONTENT if span else HTTPStatus.OK, stop - start, headers)
        if self.command == "HEAD":
            return None
        with found.open("rb") as file, suppress(ConnectionError):
            if stop > start:
                self.connection.sendfile(file, start, stop - start)
        return None

    do_HEAD = do_GET  # noqa: N815 - the name http.server calls

    def _range(self, size: int) -> tuple[int, int] | tuple[()] | None:
        """(start, stop) of one range; None where none is asked for, () where it lies outside."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        if not asked or asked.groups() == ("", ""):
            return None
        first, last = asked.groups()
        start, stop = (int(first), min(int(last) + 1, size) if last else size) if first else (max(size - int(last), 0), size)
        return (start, stop) if start < stop else ()

    def _message(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, len(text.encode()), {"Content-Type": "text/plain; charset=utf-8", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def _head(self, status: HTTPStatus, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**self.server.headers, **headers}.items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request, where wanted."""
        if not self.server.quiet:
            show.note(format % args)


def serve(
    folder: Annotated[Path, typer.Argument(help="Folder to serve.", metavar="FOLDER")] = Path("site"),
    port: Annotated[int, typer.Option(help="Port; 0: any free one.", min=0, max=65535)] = 0,
    isolate: Annotated[bool, typer.Option("--isolate/--no-isolate", help="Send the headers that give pages threads.")] = True,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Print each request.")] = False,
) -> None:
    """Serve a folder to browsers on this machine."""
    server = Server({"/": folder}, port=port, headers=ISOLATION if isolate else {}, quiet=not log)
    with server:
        print(f"{server.address}  serves {os.path.abspath(folder)}; Ctrl-C ends it", flush=True)
        if open_page:
            webbrowser.open(server.address)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
