"""A server that misbehaves on purpose, by path: what a page meets on bad networks and hosts. Everything under /models/ of the test servers is there too."""
from __future__ import annotations

import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from sardonyx.converter.cli.serve import Handler, Server


class Faulty(Handler):
    """/lose/N/file: the connection ends after N bytes, the first time; ranges work. /lose-plain: the same without ranges. /cut/N/file: the file has N bytes.
    /change/N/file: like lose, and then it is another file. /dead/N/file: like lose, and while `dead` counts nothing is answered.
    /slow/file: 64 KB every 20 ms. /gone/file: 404. /page/file: a web page. /broken/file: 500."""

    lost: set[str] = set()
    dead = 0
    ranges: list[str] = []  # what was asked for of /dead/

    def do_GET(self) -> None:
        """Serve with the fault that the path names."""
        what, *rest = self.path.lstrip("/").split("/")
        if not hasattr(self, f"_{what.replace('-', '_')}"):
            return super().do_GET()
        return getattr(self, f"_{what.replace('-', '_')}")(*rest)

    def _data(self, name: str) -> bytes:
        found = self.server.find(f"/models/{name}")
        assert found is not None
        return found.read_bytes()

    def _send(self, data: bytes, *, promised: int | None = None, status: HTTPStatus = HTTPStatus.OK, kind: str = "application/octet-stream", **headers: str) -> None:
        self._head(status, len(data) if promised is None else promised, {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}})
        with suppress(ConnectionError):
            self.wfile.write(data)
        if promised is not None:
            self.close_connection = True

    def _lose(self, after: str, name: str, ranges: bool = True, tag: str = '"one"') -> None:
        data = self._data(name)
        if self.path not in self.lost:
            self.lost.add(self.path)
            return self._send(data[:int(after)], promised=len(data), ETag='"one"')
        span = self._range(len(data)) if ranges else None
        if span:
            return self._send(data[span[0]:span[1]], status=HTTPStatus.PARTIAL_CONTENT, ETag=tag, Content_Range=f"bytes {span[0]}-{span[1] - 1}/{len(data)}")
        return self._send(data, ETag=tag)

    def _dead(self, after: str, name: str) -> None:
        Faulty.ranges.append(self.headers.get("Range", ""))
        if self.path in self.lost and Faulty.dead:
            Faulty.dead -= 1
            self.close_connection = True
            return
        self._lose(after, name)

    def _lose_plain(self, after: str, name: str) -> None:
        self._lose(after, name, ranges=False)

    def _change(self, after: str, name: str) -> None:
        self._lose(after, name, ranges=False, tag='"two"')

    def _cut(self, length: str, name: str) -> None:
        self._send(self._data(name)[:int(length)])

    def _slow(self, name: str) -> None:
        data = self._data(name)
        self._head(HTTPStatus.OK, len(data), {"Content-Type": "application/octet-stream"})
        with suppress(ConnectionError):
            for at in range(0, len(data), 1 << 16):
                self.wfile.write(data[at:at + (1 << 16)])
                time.sleep(0.02)

    def _gone(self, name: str) -> None:
        self._send(b"gone", status=HTTPStatus.NOT_FOUND)

    def _page(self, name: str) -> None:
        self._send(b"<!DOCTYPE html><html><title>Not found</title></html>", kind="text/html")

    def _broken(self, name: str) -> None:
        self._send(b"oops", status=HTTPStatus.INTERNAL_SERVER_ERROR)


class FaultyServer(Server):
    """See Faulty."""

    def __init__(self, mounts: dict[str, Path]) -> None:
        super().__init__(mounts)
        self.RequestHandlerClass = Faulty
        Faulty.lost = set()
