"""``sterna serve``: the page that runs a network in the browser, from this machine."""

from __future__ import annotations

import errno
import os
import socket
import sys
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Annotated, Any
from urllib.parse import quote, unquote

import typer

from sterna.cli import options, output
from sterna.errors import ConfigError, DataError

PAGE = Path(__file__).resolve().parent.parent / "web"
"""Where `make web` puts the page; a wheel holds it."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
_MODEL_TYPE = "application/octet-stream"
_HEADERS = {
    # The page is alone in its process, as browsers want it for memory that threads share.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page has a policy of its own; that nobody may frame it can only be said here.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_SILENT_SECONDS = 60.0


def serve(
    file: Annotated[Path, typer.Argument(metavar="FILE.sterna", help="A classifier or a RetinaNet with a graph.")],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port to listen to; 0 is any free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option("--host", metavar="NAME", help="Address to listen to; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser, where there is a screen.")
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Run a .sterna file in the browser.

    Serves a page that classifies pictures and what the camera sees, or
    finds objects in them, with this network: in the browser itself, so
    that no picture leaves it. Only this machine can see the page, unless
    --host says otherwise. Cameras need a page of this machine, or https.

    Ctrl-C ends it.

    Examples:
      sterna serve runs/clothing_resnet18/clothing_resnet18.sterna
      sterna serve model.sterna --port 8080 --no-open
    """
    site = read_site(PAGE, file)
    with open_server(site, host, port) as server:
        if as_json:
            output.print_json({"file": file, "address": server.address})
        else:
            output.stdout().print(f"{server.address}  (Ctrl-C ends)")
        sys.stdout.flush()
        if open_page and _has_screen():
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("sterna: stopped", file=sys.stderr)


@dataclass(frozen=True)
class Resource:
    """What is sent for a path.

    Args:
        content: all of it.
        media_type: of the content.
    """

    content: bytes
    media_type: str


@dataclass(frozen=True)
class Site:
    """All that is served.

    Args:
        resources: by path, without quoting.
        start: path and query of the page with its model.
    """

    resources: Mapping[str, Resource]
    start: str


def read_site(page: Path, model: Path) -> Site:
    """Read the page and a model; what is not read here is not served.

    Args:
        page: folder of the page.
        model: a ``.sterna`` file.

    Raises:
        ConfigError: the page is not built.
        FormatError: the model is damaged, or no ``.sterna`` file.
        DataError: it is no classifier and no RetinaNet with a graph.
    """
    if not (page / "index.html").is_file():
        raise ConfigError(f"the page is not in {page}: build it with  make web  in a checkout of Sterna")
    resources = {
        f"/{path.relative_to(page).as_posix()}": Resource(path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(page.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }
    resources["/"] = resources["/index.html"]
    # A folder of its own, so that a model cannot take the place of a part of the page.
    path = f"models/{model.name}"
    resources[f"/{path}"] = Resource(_read_model(model), _MODEL_TYPE)
    # Once for the query and once for the path that it holds; names of files need not be UTF-8.
    return Site(resources, f"/?model={quote(quote(path, errors='surrogateescape'), safe='')}")


def _read_model(path: Path) -> bytes:
    from sterna import pictures
    from sterna.container import SternaFile

    stored = SternaFile.open(path, whole_checksum=True)
    try:
        task = pictures.read_task(stored.metadata)
        pictures.read_labels(stored.metadata)
        if task == pictures.CLASSIFICATION:
            pictures.Preprocessing.from_metadata(stored.metadata)
        elif task == pictures.DETECTION:
            _check_detector(stored.metadata)
        else:
            raise DataError(f"the page runs classifiers and RetinaNets, this is for {task}: `sterna run` draws masks")
        wanted = "" if task == pictures.CLASSIFICATION else "backbone"
        if not any(graph.name == wanted for graph in stored.graphs):
            raise DataError("it holds no graph, so that only PyTorch can run it; `sterna compress` writes graphs")
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return bytes(stored.data)


def _check_detector(metadata: Mapping[str, Any]) -> None:
    from sterna import pictures

    detector = metadata.get("detector")
    if detector is None:
        raise DataError(
            "the page runs classifiers and RetinaNets, and this does not say how its boxes are found: "
            "`sterna calibrate` adds that to older RetinaNets, `sterna run` draws what other detectors find"
        )
    if not isinstance(detector, dict) or detector.get("kind") != "retinanet":
        raise pictures.malformed("detector", "an object of the kind retinanet", detector)


class Server(ThreadingMixIn, TCPServer):
    """Sends the files of a site to browsers, each connection in a thread of its own."""

    daemon_threads = True
    # A browser opens several connections at once, and asks again only after a second where there is no room for one.
    request_queue_size = 128
    # Elsewhere than on Windows, this does not let two programs share a port.
    allow_reuse_address = os.name != "nt"

    def __init__(self, site: Site, family: socket.AddressFamily, address: tuple[Any, ...]) -> None:
        self.site = site
        self.address_family = family
        super().__init__(address[:2], _Handler)
        host, port = self.server_address[:2]
        shown = str(host) if isinstance(host, str) else bytes(host).decode()
        name = f"[{shown}]" if family == socket.AF_INET6 else shown
        self.address = f"http://{name}:{port}{site.start}"
        self.hosts: frozenset[str] | None = None
        # A name of a stranger can be made to mean this machine; what comes by such a name is not from our page.
        if ip_address(shown).is_loopback:
            self.hosts = frozenset(f"{known}:{port}" for known in (name, "localhost"))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def open_server(site: Site, host: str, port: int) -> Server:
    """Begin to listen.

    Args:
        site: what is sent.
        host: name or number of an address of this machine.
        port: 0 for any that is free.

    Raises:
        ConfigError: there is no such address, or the port is taken or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return Server(site, family, address)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"--host must be an address of this machine, got {host!r}") from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"--host must be an address of this machine, got {host!r}") from None
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is taken: choose another one, or any with --port 0") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ConfigError(f"port {port} is not allowed: choose one above 1023, or any with --port 0") from None
        raise


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "Sterna"
    sys_version = ""
    timeout = _SILENT_SECONDS

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        if self.server.hosts is not None and self.headers.get("Host", "").lower() not in self.server.hosts:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path, _, query = self.path.partition("?")
        if path == "/" and not query:
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", self.server.site.start)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        resource = self.server.site.resources.get(unquote(path, errors="surrogateescape"))
        if resource is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", resource.media_type)
        self.send_header("Content-Length", str(len(resource.content)))
        self.end_headers()
        if with_content:
            self.wfile.write(resource.content)

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of requests."""


def _has_screen() -> bool:
    """Whether a browser can show a page; where none can, Python would open one in the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
