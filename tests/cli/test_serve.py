"""``sterna serve``: the page, one model, and nothing else."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest

import sterna
from cli.command import ENVIRONMENT, is_one_line_error
from sterna.cli import main, serve
from sterna.cli.serve import Server, open_server, read_site

FILES = {
    "index.html": ("<title>page</title>", "text/html; charset=utf-8"),
    "page.js": ("let x;", "text/javascript; charset=utf-8"),
    "style.css": ("p {}", "text/css; charset=utf-8"),
    "engine/sterna.wasm": ("\0asm", "application/wasm"),
}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    for name, (text, _) in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "secret.txt").write_text("of no known type")
    (tmp_path / "outside.html").write_text("outside of the page")
    return folder


@pytest.fixture
def server(page: Path, captured_file: Path) -> Iterator[Server]:
    with open_server(read_site(page, captured_file), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def answer(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()


class TestServer:
    @pytest.mark.parametrize("name", FILES)
    def test_the_page_is_sent_with_its_types(self, name: str, server: Server) -> None:
        text, media_type = FILES[name]
        response, content = answer(server, f"/{name}?x=1")
        assert (response.status, content, response.headers["Content-Type"]) == (200, text.encode(), media_type)

    def test_the_root_leads_to_the_page_with_the_model(self, server: Server, captured_file: Path) -> None:
        response, _ = answer(server, "/")
        assert response.status == 302
        assert urljoin(server.address, response.headers["Location"]) == server.address
        response, content = answer(server, response.headers["Location"])
        assert (response.status, content) == (200, FILES["index.html"][0].encode())
        (model,) = parse_qs(urlsplit(server.address).query)["model"]
        response, content = answer(server, f"/{model}")
        assert (response.status, content) == (200, captured_file.read_bytes())
        assert response.headers["Content-Type"] == "application/octet-stream"

    @pytest.mark.parametrize("name", ["ä ü+&?#%41.sterna", "index.html", os.fsdecode(b"\xff.sterna")])
    def test_a_model_may_have_any_name(self, name: str, page: Path, captured_file: Path, tmp_path: Path) -> None:
        path = tmp_path / name
        path.write_bytes(captured_file.read_bytes())
        with open_server(read_site(page, path), "127.0.0.1", 0) as server:
            (model,) = parse_qs(urlsplit(server.address).query)["model"]
            threading.Thread(target=server.handle_request).start()
            response, content = answer(server, f"/{model}")
        assert (response.status, content) == (200, captured_file.read_bytes())
        assert server.site.resources["/index.html"].content == FILES["index.html"][0].encode()

    @pytest.mark.parametrize(
        "path",
        [
            "/engine", "/engine/", "/secret.txt", "/none.js", "/../outside.html", "/%2e%2e/outside.html",
            "/engine/../../outside.html", "/..%2foutside.html", "/index.html%00", "/models/", "/models/index.html",
            "/%ff", "/page.js/", "//etc/passwd", "//[", "*",
        ],
    )  # fmt: skip
    def test_nothing_else_is_sent(self, path: str, server: Server) -> None:
        response, content = answer(server, path)
        assert response.status == 404
        assert b"outside" not in content

    def test_browsers_are_told_to_keep_the_page_apart(self, server: Server) -> None:
        for path in ("/", "/index.html", "/none"):
            headers = answer(server, path)[0].headers
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"

    def test_a_head_has_no_body(self, server: Server) -> None:
        response, content = answer(server, "/page.js", "HEAD")
        assert (response.status, content, response.headers["Content-Length"]) == (200, b"", "6")

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
    def test_nothing_can_be_written(self, method: str, server: Server) -> None:
        assert answer(server, "/page.js", method)[0].status == 501

    def test_names_of_strangers_are_refused(self, server: Server) -> None:
        port = server.server_address[1]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
            assert answer(server, "/index.html", Host=host)[0].status == 421
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
            assert answer(server, "/index.html", Host=host)[0].status == 200

    def test_other_machines_may_call_an_open_address_by_any_name(self, page: Path, captured_file: Path) -> None:
        with open_server(read_site(page, captured_file), "0.0.0.0", 0) as server:
            threading.Thread(target=server.handle_request).start()
            assert answer(server, "/index.html", Host="anything.example")[0].status == 200

    def test_a_browser_that_goes_away_is_not_an_error(self, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_connection(("127.0.0.1", server.server_address[1])) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
            connection.sendall(b"GET /page.js HTTP/1.1\r\n")
        assert answer(server, "/page.js")[0].status == 200
        assert capsys.readouterr() == ("", "")

    def test_connections_do_not_wait_for_each_other(self, server: Server) -> None:
        with socket.create_connection(("127.0.0.1", server.server_address[1])):
            assert answer(server, "/page.js")[0].status == 200


class TestCommand:
    @contextmanager
    def process(self, page: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        # Ctrl-C is ignored by what shells start in the background, and by what that starts: the tests may be such.
        code = """
import signal, sys
from pathlib import Path
from sterna.cli import main, serve
signal.signal(signal.SIGINT, signal.default_int_handler)
serve.PAGE = Path(sys.argv[1])
sys.exit(main(["serve", *sys.argv[2:]]))
"""
        # As where nobody can look at a page: none is opened, whatever the tests run on.
        environment = {key: value for key, value in ENVIRONMENT.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
        command = [sys.executable, "-c", code, str(page), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def test_it_tells_the_address_serves_and_ends_with_a_line(self, page: Path, captured_file: Path) -> None:
        with self.process(page, captured_file, "--port", "0", "--no-open") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = urlsplit(line.split()[0])
            with closing(http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=10)) as connection:
                connection.request("GET", "/page.js")
                assert connection.getresponse().read() == b"let x;"
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=30)
        assert (process.returncode, rest, errors) == (0, "", "sterna: stopped\n")
        assert line.startswith("http://127.0.0.1:")

    def test_json_is_one_document_at_once(self, page: Path, captured_file: Path) -> None:
        with self.process(page, captured_file, "--port", "0", "--json") as process:
            assert process.stdout is not None
            text = ""
            while not text.endswith("}\n"):
                text += process.stdout.readline()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        found = json.loads(text)
        assert (list(found), found["file"]) == (["file", "address"], str(captured_file))

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--host", "no such name"], "--host must be an address of this machine, got 'no such name'"),
            (["--host", "192.0.2.1"], "--host must be an address of this machine, got '192.0.2.1'"),
        ],
    )
    def test_a_bad_address_is_one_line(
        self,
        arguments: list[str],
        expected: str,
        page: Path,
        captured_file: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(serve, "PAGE", page)
        assert main(["serve", str(captured_file), "--no-open", *arguments]) == 2
        assert is_one_line_error(error := capsys.readouterr().err)
        assert expected in error

    def test_a_taken_port_is_one_line(
        self, page: Path, captured_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(serve, "PAGE", page)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert main(["serve", str(captured_file), "--no-open", "--port", str(port)]) == 2
        assert is_one_line_error(error := capsys.readouterr().err)
        assert f"port {port} of 127.0.0.1 is taken" in error

    def test_a_page_that_is_not_built_is_told_how(
        self, captured_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(serve, "PAGE", tmp_path / "none")
        assert main(["serve", str(captured_file)]) == 2
        assert is_one_line_error(error := capsys.readouterr().err)
        assert "make web" in error

    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({"task": "detection"}, "this does not say how its boxes are found: `sterna calibrate` adds that"),
            ({"task": "detection", "detector": {"kind": "yolo"}}, "detector must be an object of the kind retinanet"),
            ({"task": "detection", "detector": {"kind": "retinanet"}}, "it holds no graph"),
            ({"task": "instance-segmentation"}, "the page runs classifiers and RetinaNets, this is for instance-seg"),
            ({"task": None}, "metadata: task must be"),
            ({"labels": 5}, "metadata: labels must be a list of texts, got 5"),
            ({"preprocessing": {}}, "metadata: preprocessing.input_shape must be"),
            ({}, "it holds no graph"),
        ],
    )
    def test_a_model_that_the_page_cannot_run_is_one_line(
        self,
        changed: dict[str, object],
        expected: str,
        page: Path,
        captured_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(serve, "PAGE", page)
        stored = sterna.SternaFile.open(captured_file).read()
        path = tmp_path / "strange.sterna"
        graphs = stored.graphs if changed else ()
        sterna.save(sterna.TernaryModel(stored.tensors, {**stored.metadata, **changed}, graphs), path)
        assert main(["serve", str(path), "--no-open"]) == 2
        assert is_one_line_error(error := capsys.readouterr().err)
        assert f"{path}: " in error
        assert expected in error

    def test_a_retinanet_is_served(self, page: Path, captured_file: Path, tmp_path: Path) -> None:
        stored = sterna.SternaFile.open(captured_file).read()
        metadata = {**stored.metadata, "task": "detection", "detector": {"kind": "retinanet"}}
        path = tmp_path / "retinanet.sterna"
        graphs = tuple(dataclasses.replace(graph, name="backbone") for graph in stored.graphs)
        sterna.save(sterna.TernaryModel(stored.tensors, metadata, graphs), path)
        assert read_site(page, path).resources["/models/retinanet.sterna"].content == path.read_bytes()

    def test_a_damaged_model_is_one_line(
        self, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(serve, "PAGE", page)
        path = tmp_path / "bad.sterna"
        path.write_bytes(b"This is no model.")
        for name in (path, tmp_path / "none.sterna"):
            assert main(["serve", str(name)]) == 2
            assert is_one_line_error(capsys.readouterr().err)

    def test_a_page_is_opened_where_there_is_a_screen(
        self, page: Path, captured_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[str] = []
        monkeypatch.setattr(serve, "PAGE", page)
        monkeypatch.setattr(serve.webbrowser, "open", opened.append)
        monkeypatch.setattr(serve.sys, "platform", "linux")
        monkeypatch.setattr(serve.Server, "serve_forever", lambda self: None)
        for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(variable, raising=False)
        assert main(["serve", str(captured_file), "--port", "0"]) == 0
        assert opened == []
        monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
        assert main(["serve", str(captured_file), "--port", "0", "--no-open"]) == 0
        assert opened == []
        assert main(["serve", str(captured_file), "--port", "0"]) == 0
        assert len(opened) == 1
        assert opened[0].startswith("http://127.0.0.1:")
