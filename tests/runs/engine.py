"""A container engine as its clients see it: it makes, starts, stops and lists containers that run nothing.

And a cluster whose minion has such an engine.
"""

from __future__ import annotations

import datetime
import hashlib
import http.server
import json
import re
import shutil
import socketserver
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from cluster import DATA, ROOT, Cluster, short_folder

from kolla_salt import declarations

IMAGE = {"Id": "sha256:" + "1" * 64, "RepoTags": [], "RepoDigests": [], "Config": {}}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens at ``path``. What was asked of it is in :attr:`acts`; :attr:`looks` counts lists."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.containers: dict[str, dict[str, Any]] = {}
        self.acts: list[str] = []
        self.looks = 0
        self.fails: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        identity = hashlib.sha256(f"{name} {len(self.acts)}".encode()).hexdigest()
        host = body.pop("HostConfig", {})
        self.containers[name] = {
            "Id": identity,
            "Name": f"/{name}",
            "Image": IMAGE["Id"],
            "Config": body,
            "HostConfig": host,
            "Mounts": [],
            "RestartCount": 0,
            "State": {"Status": "created", "Running": False, "ExitCode": 0, "StartedAt": "0001-01-01T00:00:00Z"},
        }
        return {"Id": identity, "Warnings": []}

    def set(self, name: str, status: str, code: int = 0) -> None:
        """Let a container be in a state, as if something had happened to it."""
        state = self.containers[name]["State"]
        state.update(Status=status, Running=status == "running", ExitCode=code)
        if status == "running":
            state["StartedAt"] = _now()

    def find(self, key: str) -> dict[str, Any] | None:
        return next((c for name, c in self.containers.items() if key in (name, c["Id"])), None)

    def listed(self) -> list[dict[str, Any]]:
        words = {"running": "Up 3 seconds", "created": "Created"}
        return [
            {
                "Id": item["Id"],
                "Names": [item["Name"]],
                "Image": item["Config"]["Image"],
                "ImageID": item["Image"],
                "Labels": item["Config"].get("Labels", {}),
                "State": item["State"]["Status"],
                "Status": words.get(item["State"]["Status"], f"Exited ({item['State']['ExitCode']}) 2 seconds ago"),
            }
            for item in self.containers.values()
        ]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:  # noqa: N802
        path = re.sub(r"^/v[0-9.]+", "", urlsplit(self.path).path)
        fixed = {
            "/version": {"ApiVersion": "1.47", "MinAPIVersion": "1.24", "Version": "28.0.0"},
            "/info": {"CgroupVersion": "2", "Driver": "overlay2", "ServerVersion": "28.0.0"},
        }
        if path in fixed:
            return self.answer(200, fixed[path])
        if path == "/events":
            return self.answer(200, None)  # it remembers none
        if path == "/containers/json":
            self.server.looks += 1
            return self.answer(200, self.server.listed())
        if path.startswith("/exec/"):
            return self.answer(200, {"ExitCode": 0})  # whatever is run in a container is well
        if path.startswith("/images/"):
            return self.answer(200, IMAGE)
        if path.startswith("/volumes/"):
            return self.answer(200, {"Name": path.split("/")[2], "Mountpoint": "/nonexistent"})
        found = self.server.find(path.split("/")[2]) if path.startswith("/containers/") else None
        return self.answer(200, found) if found else self.answer(404, {"message": f"no such thing: {path}"})

    def do_POST(self) -> None:  # noqa: N802
        url = urlsplit(self.path)
        path = re.sub(r"^/v[0-9.]+", "", url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/containers/create":
            name = parse_qs(url.query)["name"][0]
            self.server.acts.append(f"create {name}")
            return self.answer(201, self.server.create(name, json.loads(body)))
        if path.startswith("/exec/"):
            self.send_response(200)
            return self.end_headers()  # the output: none
        _, _, key, verb = path.split("/", 3)
        found = self.server.find(key)
        if found is None:
            return self.answer(404, {"message": f"no such container: {key}"})
        if verb == "exec":
            return self.answer(201, {"Id": "e" * 64})
        name = found["Name"].lstrip("/")
        self.server.acts.append(f"{verb} {name}")
        if verb == "start" and name in self.server.fails:
            return self.answer(500, {"message": "cannot assign requested address"})
        self.server.set(name, {"start": "running", "stop": "exited"}[verb])
        return self.answer(204, None)

    def answer(self, status: int, data: Any) -> None:
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_arguments: Any) -> None:
        return


def cluster_with_engine(
    settings: Sequence[str], passwords: dict | None = None, master: dict | None = None, minion: dict | None = None
) -> Cluster:
    """Return a cluster of one minion with the two containers of the drift formula and an :attr:`engine` for them.

    ``settings`` are options of the real service ``kolla`` that the site can set.
    """
    base = short_folder()
    formula, socket = base / "formula", base / "engine.sock"
    shutil.copytree(DATA / "runs_formula/kolla", formula / "kolla")
    shutil.copytree(DATA / "drift_formula", formula, dirs_exist_ok=True)
    (formula / "orch").symlink_to(ROOT / "orch")
    text = yaml.safe_load((formula / "kolla/service.yaml").read_text())
    real = declarations.load(ROOT / "salt")["kolla"]["settings"]
    text["settings"] |= {name: real[name] for name in settings}
    (formula / "kolla/service.yaml").write_text(yaml.safe_dump(text))
    made = Cluster(
        formula, {"control": ["c1"]}, passwords, base, private=["/etc/kolla", "/var/lib/kolla-salt", "/var/log/kolla"],
        master={"timeout": 30, "gather_job_timeout": 60, **(master or {})},
        minion={"kolla_container_engine_socket": str(socket), **(minion or {})},
    )  # fmt: skip
    made.engine = Engine(socket)
    return made
