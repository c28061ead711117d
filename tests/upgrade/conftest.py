"""The sandbox's cloud of the old release, with a server and data in it; scripts/test-upgrade.sh makes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from kolla_salt.sandbox.paths import find_paths
from kolla_salt.upgrade import began

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = os.environ.get("OLD", "2025.2"), os.environ.get("NEW", "2026.1")
FIGURES = ROOT / "build/test-upgrade/figures.json"
#: What the command prints when a step begins: its wave of how many, and its name.
STEP = re.compile(r"^\d+/\d+  (.+)$")
BEFORE = "the prechecks"


def kolla_salt(*arguments: str, timeout: int = 1800) -> subprocess.CompletedProcess:
    """Run the command as a user would."""
    command = [sys.executable, "-m", "kolla_salt.cli.main", *arguments]
    return subprocess.run(command, text=True, capture_output=True, timeout=timeout, check=False)


def answer(*arguments: str, status: int | None = 0) -> dict[str, Any]:
    """Run a verb with ``--json`` and return what it said; its exit status has to be ``status``."""
    done = kolla_salt(*arguments, "--json")
    assert status is None or done.returncode == status, done.stdout[-6000:] + done.stderr[-4000:]
    return json.loads(done.stdout)


def figure(name: str, value: Any) -> None:
    """Keep and print a measurement."""
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps({**found, name: value}, indent=1) + "\n")
    print(f"{name}: {value}", flush=True)


class Upgrade:
    """The command as it runs, with the step that it is in."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.step = BEFORE
        command = [sys.executable, "-m", "kolla_salt.cli.main", "upgrade"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if found := STEP.match(line):
                self.step = found[1]

    def goes_on(self) -> bool:
        """Return whether it has not ended."""
        return self.process.poll() is None

    def ended(self, seconds: float = 1800) -> tuple[bool, str]:
        """Return whether it ended well, and its last words."""
        status = self.process.wait(seconds)
        self.reader.join()
        return status == 0, "".join(self.lines[-80:])


class Cloud:
    """What a user and an operator see of it."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self.hosts = list(yaml.safe_load((site / "topology.yml").read_text())["hosts"])
        self.before = (site / "globals.yml").read_text()
        self.access = answer("post-deploy")
        self.made: dict[str, list[str]] = {}
        self._connection: Any = None

    def connection(self) -> Any:
        """An administrator's connection, made anew after an upgrade."""
        import openstack

        os.environ["OS_CLIENT_CONFIG_FILE"] = self.access["clouds"]
        return openstack.connect(cloud=self.access["cloud"])

    def name_release(self, release: str) -> None:
        """Write the release into globals.yml."""
        data = yaml.safe_load((self.site / "globals.yml").read_text())
        (self.site / "globals.yml").write_text(yaml.safe_dump({**data, "openstack_release": release}, sort_keys=False))

    def images(self, container: str = "") -> dict[str, str]:
        """host/container -> tag of the image that runs."""
        said = answer("status", status=None)
        return {
            f"{host}/{name}": data["image"].rpartition(":")[2]
            for host, report in said["hosts"].items()
            for name, data in report["containers"].items()
            if not container or name == container
        }

    def machines(self) -> dict[str, list[str]]:
        """host -> virtual machines as process numbers and names: another number is another machine."""
        found = {}
        for host in self.hosts:
            done = kolla_salt("sandbox", "exec", host, "--", "pgrep", "--list-full", "qemu-system")
            found[host] = sorted(f"{line.split()[0]} {line.split('guest=')[1].split(',')[0]}" for line in
                                 done.stdout.splitlines() if "guest=" in line)  # fmt: skip
        return found

    def server(self) -> Any:
        """The server that `smoke --keep` left, with its floating address."""
        found = [
            item
            for item in self.connection().compute.servers(details=True, all_projects=True)
            if item.name == "kolla-salt-demo-server"
        ]
        assert len(found) == 1, "expected the one server of `kolla-salt smoke --keep`"
        return found[0]

    def fill(self) -> None:
        """Make what users have."""
        cloud, kept = self.connection(), f"kept-{os.getpid()}"
        self.made["users"] = [
            cloud.identity.create_user(name=f"{kept}-{n}", password=f"Pw-{n}-kept").id for n in range(40)
        ]
        self.made["projects"] = [cloud.identity.create_project(name=f"{kept}-{n}").id for n in range(40)]
        self.made["networks"] = [cloud.network.create_network(name=f"{kept}-{n}").id for n in range(15)]
        self.made["images"] = [
            cloud.image.create_image(f"{kept}-{n}", data=b"data" * 1000, disk_format="raw", container_format="bare",
                                     wait=True).id
            for n in range(5)
        ]  # fmt: skip
        self.made["flavors"] = [
            cloud.compute.create_flavor(name=f"{kept}-{n}", ram=64, vcpus=1, disk=0).id for n in range(5)
        ]

    def missing(self) -> dict[str, set[str]]:
        """What users had and have not any more."""
        cloud = self.connection()
        there = {
            "users": cloud.identity.users(), "projects": cloud.identity.projects(),
            "networks": cloud.network.networks(), "images": cloud.image.images(), "flavors": cloud.compute.flavors(),
        }  # fmt: skip
        lost = {kind: set(ids) - {item.id for item in there[kind]} for kind, ids in self.made.items()}
        return {kind: ids for kind, ids in lost.items() if ids}

    def go_back(self, earlier: set[str], happened: Any) -> None:
        """Roll back what was begun since ``earlier`` runs: the last one, with all that it has gone on with."""
        runs = [item["id"] for item in answer("runs", "list")["runs"] if item["id"] not in earlier and began(item)]
        if runs:
            said = answer("rollback", max(runs), "--restore-database", status=None)
            assert said["ok"], json.dumps([happened, said], indent=1, default=str)[:4000]
        self.name_release(OLD)
        verified = answer("verify", status=None)
        assert verified["ok"], json.dumps([happened, verified], indent=1)[:4000]
        assert all(tag.startswith(OLD) for tag in self.images().values()), happened
        assert self.missing() == {}, happened


@pytest.fixture(scope="session")
def cloud() -> Cloud:
    site = find_paths().site
    if not (site / "globals.yml").exists():
        pytest.skip("there is no sandbox: scripts/test-upgrade.sh makes one of the old release")
    FIGURES.unlink(missing_ok=True)
    found = Cloud(site)
    found.fill()
    return found
