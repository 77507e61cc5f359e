"""Row of benchmarks/reliability.py on what listens: JupyterLab (`faal-lab lab`) and the page (`faal-lab dashboard`)."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from reliability_kills import Tries

_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+\S*token=[0-9a-f]+")
_UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x" * 22 + "==", "Sec-WebSocket-Version": "13"}
_AWAY = "http://somewhere.example"
CLIMBS = (
    "../outside.txt", "..%2foutside.txt", "%2e%2e/outside.txt", "%2e%2e%2foutside.txt", "..%252foutside.txt", "....//outside.txt",
    "..%5coutside.txt", "%c0%ae%c0%ae/outside.txt", "./../outside.txt", "runs/../../outside.txt", "{whole}", "/{whole}",
    "%2f{whole}", "file:///{whole}",
)  # fmt: skip
SECRET = "a line outside of the server's folder"


@contextlib.contextmanager
def served(words: list[str], folder: Path) -> Iterator[tuple[str, str, psutil.Process]]:
    """A server in a folder: host and port, token, process; ended as by Ctrl-C."""
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "HOME": ""}
    environment = {**os.environ, **{name: str(folder.parent / "own" / part) for name, part in own.items()}}
    server = subprocess.Popen(
        [sys.executable, "-m", "faal_lab", *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )  # fmt: skip
    said: list[str] = []
    address = threading.Event()

    def listen() -> None:
        for line in server.stdout or ():
            said.append(line)
            if _ADDRESS.search(line):
                address.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        if not address.wait(120):
            raise RuntimeError("".join(said)[-2000:])
        found = urlsplit(next(m[0] for line in said if (m := _ADDRESS.search(line))))
        yield found.netloc, found.query.rpartition("token=")[2], psutil.Process(server.pid)
    finally:
        os.killpg(server.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        listener.join(10)
        if server.stdout is not None:
            server.stdout.close()


def asked(host: str, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and headers of an answer; 0 where the request itself was not taken."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as there:
        try:
            there.putrequest(method, path, skip_host="Host" in named)
            for name, value in named.items():
                there.putheader(name, value)
            there.putheader("Content-Length", str(len(body)))
            there.endheaders(body.encode())
            answer = there.getresponse()
            content = b"" if answer.status == 101 else answer.read()
            told = {name.lower(): value for name, value in answer.getheaders()}
            told["cookies"] = "; ".join(kept.partition(";")[0] for kept in answer.headers.get_all("Set-Cookie") or ())
            return answer.status, content, told
        except (http.client.HTTPException, OSError):
            return 0, b"", {}


def _listening(process: psutil.Process) -> list[tuple[str, int]]:
    found = []
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            found += [c.laddr[:2] for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    return found


class _Tries(Tries):
    def see(self, name: str, good: bool, seen: object) -> None:
        """Count a try; `seen` is what came where it was not good."""
        self.note(name, "" if good else str(seen))


def servers(folder: Path, quick: bool) -> dict[str, Any]:
    """Ask both servers what they must refuse: without token, for files outside, from other pages and by other names."""
    tries = _Tries()
    root = folder / "root"
    (root / "runs").mkdir(parents=True)
    (root / ".hidden").write_text(SECRET)
    (folder / "outside.txt").write_text(SECRET)
    with contextlib.suppress(OSError):
        (folder / "own").mkdir()
    for what, words in {
        "lab": ["lab", "--no-browser", "--port", "0"],
        "dashboard": ["dashboard", "--no-browser", "--port", "0"],
    }.items():
        if quick and what == "dashboard":
            continue
        with served(words, root) as (host, token, process):
            _ask_all(tries, what, host, token, process, str(folder / "outside.txt"))
    return {"tried": tries.tried, "lost": tries.lost}


def _ask_all(tries: _Tries, what: str, host: str, token: str, process: psutil.Process, outside: str) -> None:
    mine = {"Authorization": f"token {token}"}
    if what == "lab":
        status, body, until = 0, b"", time.monotonic() + 90
        while status != 201 and time.monotonic() < until:  # it may still be loading
            status, body, _ = asked(host, "/api/kernels", "POST", json.dumps({"name": "python3"}), **mine)
        kernel = json.loads(body)["id"] if status == 201 else ""
        tries.see(f"{what}, a kernel with the token", bool(kernel), (status, body[:200]))
    else:
        status, page, _ = asked(host, "/", **mine)
        found = re.search(rb'"kernelId": ?"([0-9a-f-]+)"', page)
        kernel = found[1].decode() if found else ""
        tries.see(f"{what}, the page with the token", bool(kernel), status)
    until = time.monotonic() + 30
    while len(_listening(process)) < 5 and time.monotonic() < until:  # the kernel's own ports, too
        time.sleep(0.2)
    for address, port in _listening(process):
        tries.see(f"{what}, port {port}", address in ("127.0.0.1", "::1"), f"listens on {address}")
    channel = f"/api/kernels/{kernel}/channels"
    paths = [
        "/", "/lab", "/tree", "/lab/tree/runs", "/api/contents", "/api/contents/runs", "/api/kernels", "/api/sessions",
        "/api/kernelspecs", "/api/terminals", "/api/config/notebook", "/files/runs", "/nbconvert/html/a.ipynb", "/metrics",
        "/voila/files/faal_lab.ipynb", "/voila/render/a.ipynb", "/api/me", "/lsp/status", f"/api/kernels/{kernel}",
    ]  # fmt: skip
    for path in paths:
        for name, one, headers in (
            ("no token", path, {}), ("a wrong token", f"{path}?token={secrets.token_hex(24)}", {}),
            ("a wrong header", path, {"Authorization": "token " + secrets.token_hex(24)}),
        ):  # fmt: skip
            status, body, _ = asked(host, one, **headers)
            tries.see(f"{what}, {path} with {name}", status not in range(200, 300), (status, body[:120]))
            tries.see(f"{what}, {path} with {name}, tells the token", token.encode() not in body, "the token")
    for method, path in (
        ("POST", "/api/kernels"), ("POST", "/api/sessions"), ("POST", "/api/terminals"), ("DELETE", f"/api/kernels/{kernel}"),
        ("POST", f"/api/kernels/{kernel}/restart"), ("POST", f"/api/kernels/{kernel}/interrupt"), ("PUT", "/api/contents/new"),
        ("POST", "/api/shutdown"), ("POST", f"/voila/api/shutdown/{kernel}"), ("PATCH", "/api/contents/runs"),
        ("DELETE", "/api/contents/runs"), ("POST", "/api/security/csp-report"), ("POST", "/lab/api/build"),
    ):  # fmt: skip
        for name, headers in (("no token", {}), ("a wrong one", {"Authorization": "token x"})):
            status, body, _ = asked(host, path, method, "{}", **headers)
            tries.see(f"{what}, {method} {path} with {name}", status not in range(200, 300), (status, body[:120]))
    status, _, _ = asked(host, channel, **_UPGRADE)
    tries.see(f"{what}, the kernel's channel without a token", status != 101, status)
    status, _, _ = asked(host, channel, **_UPGRADE, **mine)
    tries.see(f"{what}, the kernel's channel with it", status == 101, status)
    for climb in CLIMBS:
        for start in ("/files/", "/api/contents/", "/voila/files/", "/voila/static/", "/static/", "/nbconvert/html/", "/view/"):
            status, body, _ = asked(host, start + climb.format(whole=outside.lstrip("/")), **mine)
            tries.see(f"{what}, {start}{climb}", SECRET.encode() not in body, (status, body[:120]))
    for path in ("/files/.hidden", "/api/contents/.hidden", "/voila/files/.hidden", "/voila/files/voila.json"):
        status, body, _ = asked(host, path, **mine)
        tries.see(f"{what}, {path}", SECRET.encode() not in body, (status, body[:120]))
    # a page of another origin has no token; the browser may send the cookie of an earlier visit along
    _, _, headers = asked(host, f"/{'lab' if what == 'lab' else ''}?token={token}")
    cookie = {"Cookie": headers.get("cookies", "")}
    status, _, _ = asked(host, "/lab" if what == "lab" else f"/api/kernels/{kernel}", **cookie)
    tries.see(f"{what}, the cookie lets its own page in", status == 200 and bool(cookie["Cookie"]), (status, headers))
    for name, more in (
        ("another origin", {"Origin": _AWAY}), ("no origin at all", {"Origin": "null"}),
        ("a host of another name", {"Host": "somewhere.example"}), ("that name and its port", {"Host": f"a.example:{host[-4:]}"}),
        ("another site's page", {"Origin": _AWAY, "Referer": f"{_AWAY}/page", "Sec_Fetch_Site": "cross-site"}),
    ):  # fmt: skip
        for method, path in (("POST", "/api/kernels"), ("DELETE", f"/api/kernels/{kernel}"), ("PUT", "/api/contents/x.txt")):
            status, body, _ = asked(host, path, method, "{}", **more, **cookie)
            tries.see(f"{what}, {method} {path} from {name}", status not in range(200, 300), (status, body[:120]))
        status, body, answer = asked(host, "/api/kernels", **more, **cookie)
        readable = status == 200 and ("Host" in more or answer.get("access-control-allow-origin") in ("*", more.get("Origin")))
        tries.see(f"{what}, /api/kernels read from {name}", not readable, (status, answer.get("access-control-allow-origin")))
        status, _, _ = asked(host, channel, **_UPGRADE, **more, **cookie)
        tries.see(f"{what}, the kernel's channel from {name}", status != 101, status)
    status, _, _ = asked(host, f"/api/kernels/{kernel}", **mine)  # after all that: a dead server refuses everything
    tries.see(f"{what}, the kernel with the token, at the end", status == 200, status)
