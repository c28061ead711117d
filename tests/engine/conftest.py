"""A real container engine, a tiny image that behaves as a Kolla image does, and Salt's own loader over both.

The engine is the first of KOLLA_SALT_TEST_DOCKER_HOST, DOCKER_HOST, /var/run/docker.sock and the sandbox's node1.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import uuid
from pathlib import Path

import pytest

from kolla_salt.engine import Engine, EngineError
from kolla_salt.sandbox.errors import SandboxError
from kolla_salt.sandbox.node import find_node
from kolla_salt.sandbox.paths import find_paths

IMAGE = "localhost/kolla-salt-test-{}/app"  # podman takes a name without a registry for one on Docker Hub

# As kolla_start does: copy the configuration in, then become the program.
KOLLA_START = """#!/bin/sh
kolla_set_configs || exit $?
exec app
"""

KOLLA_SET_CONFIGS = """#!/bin/sh
[ -n "$KOLLA_CONFIG_STRATEGY" ] || { echo "KOLLA_CONFIG_STRATEGY is not set"; exit 1; }
for file in /var/lib/kolla/config_files/*; do
    [ -e "$file" ] || continue
    name=${file##*/}
    if [ "$1" = --check ]; then
        [ "$(cat "$file")" = "$(cat "/etc/app/$name" 2>/dev/null)" ] || { echo "$name differs"; exit 1; }
    else
        mkdir -p /etc/app && cat "$file" > "/etc/app/$name"
    fi
done
"""

# Notes each start and reload, and does what its configuration file says.
APP = """#!/bin/sh
echo "start $(cat /etc/app/app.conf 2>/dev/null)" >> /tmp/journal
trap 'echo "reload $(cat /etc/app/app.conf)" >> /tmp/journal' HUP
trap 'exit 0' TERM
trap '' INT
case "$(cat /etc/app/app.conf 2>/dev/null)" in
    *crash*) echo "cannot start: $APP_PASSWORD is wrong"; exit 7 ;;
    *stubborn*) trap '' TERM ;;
    *mute*) rm -f /tmp/ready; while :; do sleep 0.2; done ;;
esac
echo ready > /tmp/ready
echo "app is up"
while :; do sleep 0.2; done
"""


def _sockets() -> list[str]:
    found = [os.environ.get("KOLLA_SALT_TEST_DOCKER_HOST"), os.environ.get("DOCKER_HOST")]
    given = [item for item in found if item]
    sockets = given[:1] or ["/var/run/docker.sock", *_sandbox_sockets()]
    return [item if "://" in item else f"unix://{item}" for item in sockets]


def _sandbox_sockets() -> list[str]:
    try:
        node = find_node(find_paths(), "node1")
    except (SandboxError, OSError):
        return []
    return [f"/proc/{node.pid}/root/run/docker.sock"]


@pytest.fixture(scope="session")
def engine_url() -> str:
    tried = []
    for url in _sockets():
        try:
            Engine(url, timeout=10).get("/version")
        except EngineError as error:
            tried.append(str(error))
        else:
            return url
    pytest.fail(
        "the tests marked `engine` need docker or podman: start one, make a sandbox, or set "
        "KOLLA_SALT_TEST_DOCKER_HOST=unix:///path/to/docker.sock; leave them out with `-m 'not engine'`. Tried: "
        + "; ".join(tried),
        pytrace=False,
    )


@pytest.fixture(scope="session")
def engine_kind(engine_url) -> str:
    return "podman" if "Podman" in json.dumps(Engine(engine_url).get("/version")) else "docker"


def _libraries(programs: list[str]) -> set[str]:
    output = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"(/\S+) \(0x", output))


def _archive() -> bytes:
    """A root file system with a shell, a few tools and the three scripts above."""
    programs = [
        shutil.which(name) for name in ("sh", "cat", "sleep", "mkdir", "test", "true", "false", "env", "id", "rm")
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted({item for item in programs if item} | _libraries([item for item in programs if item])):
            name = f"bin/{Path(path).name}" if path in programs else path.lstrip("/")
            archive.add(os.path.realpath(path), name)
        for name, text in (("kolla_start", KOLLA_START), ("kolla_set_configs", KOLLA_SET_CONFIGS), ("app", APP)):
            info = tarfile.TarInfo(f"bin/{name}")
            info.size, info.mode = len(text.encode()), 0o755
            archive.addfile(info, io.BytesIO(text.encode()))
        for name in ("tmp", "etc", "var/lib/kolla/config_files", "proc", "sys", "dev"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(info)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def images(engine_url, worker_id):
    """Two images of the same content but for one label and one variable."""
    client = Engine(engine_url).sdk
    archive = _archive()
    image = IMAGE.format(worker_id)  # tests run side by side
    for tag in ("1", "2"):
        # What Kolla's images have: variables, a label, a command; and a health check, which they do not.
        client.import_image_from_data(
            archive,
            repository=f"{image}:{tag}",
            changes=[
                "ENV PATH=/bin",
                f"ENV KOLLA_BASE_DISTRO=debian RELEASE={tag}",
                f"LABEL kolla_version={tag}",
                'CMD ["kolla_start"]',
                "VOLUME /var/scratch",
            ],
        )
    yield [f"{image}:1", f"{image}:2"]
    for tag in ("1", "2"):
        client.remove_image(f"{image}:{tag}", force=True)


@pytest.fixture
def workdir(engine_url, tmp_path):
    """A directory that has the same name for the tests and for the engine, which may live in a sandbox node."""
    match = re.match(r"unix://(/proc/\d+/root)/", engine_url)
    if not match:
        yield tmp_path
        return
    path = Path(f"/var/tmp/kolla-salt-engine-tests-{uuid.uuid4().hex[:8]}")
    inside = Path(match.group(1) + str(path))
    inside.mkdir(mode=0o755)
    path.symlink_to(inside)
    yield path
    path.unlink()
    shutil.rmtree(inside)


class Minion:
    """Execution and state functions as a minion's job has them; each `job()` starts without what was cached."""

    def __init__(self, opts: dict):
        self.opts = opts
        self.job()

    def job(self, test: bool = False):
        import salt.loader

        self.opts["test"] = test
        self.context: dict = {}
        utils = salt.loader.utils(self.opts, context=self.context)
        self.functions = salt.loader.minion_mods(self.opts, utils=utils, context=self.context)
        serializers = salt.loader.serializers(self.opts)
        self.states = salt.loader.states(self.opts, self.functions, utils, serializers, context=self.context)
        return self

    def __getattr__(self, name: str):
        """`minion.diff(...)` is `kolla_container.diff`."""
        return self.functions[f"kolla_container.{name}"]

    def converge(self, function: str, name: str, *, test: bool = False, **arguments) -> dict:
        self.job(test)
        return self.states[f"kolla_container.{function}"](name, **json.loads(json.dumps(arguments)))

    def apply(self, high: dict, test: bool = False) -> dict:
        """Apply high data with Salt's own compiler; returns the results by ID."""
        import salt.state

        self.opts["test"] = test
        state = salt.state.State(self.opts)
        results = state.call_high(json.loads(json.dumps(high)))
        assert isinstance(results, dict), results
        return {item["__id__"]: item for item in results.values()}


@pytest.fixture
def minion(engine_url, engine_kind, tmp_path, monkeypatch):
    import salt.config

    from kolla_salt import paths

    monkeypatch.setattr(paths, "STATE_DIR", tmp_path / "state")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    opts = salt.config.DEFAULT_MINION_OPTS.copy()
    opts |= {
        "id": "ctl1",
        "file_client": "local",
        "root_dir": str(tmp_path),
        "cachedir": str(tmp_path / "cache"),
        "extension_modules": str(tmp_path / "extmods"),
        "test": False,
        "grains": {"id": "ctl1", "os_family": "Debian", "kernel": "Linux", "shell": "/bin/sh"},
        "pillar": {
            "kolla": {
                "globals": {"container_engine": engine_kind, "container_engine_socket": engine_url},
                "passwords": {"app_password": "s3cret-of-app", "docker_registry_password": "reg-pw-1"},
            }
        },
    }
    (tmp_path / "cache").mkdir()
    return Minion(opts)


@pytest.fixture
def name(engine_url):
    """A container name of this test's own; what it leaves behind is removed."""
    unique = f"kst_{uuid.uuid4().hex[:10]}"
    yield unique
    engine = Engine(engine_url)
    for found in list(engine.containers()):
        if found.startswith(unique):
            engine.act("tidy up", "remove_container", found, force=True, v=True)
    for volume in engine.get("/volumes")["Volumes"] or []:
        if volume["Name"].startswith(unique):
            engine.act("tidy up", "remove_volume", volume["Name"])


@pytest.fixture
def config_dir(workdir):
    """A configuration directory as kolla_config writes it."""
    path = workdir / "config"
    path.mkdir()
    (path / "app.conf").write_text("one\n")
    (path / "policy.yaml").write_text("rules: 1\n")
    return path


@pytest.fixture
def spec(images, config_dir, name):
    """The specification of a service that uses much of what there is."""
    return {
        "image": images[0],
        "volumes": [f"{config_dir}/:/var/lib/kolla/config_files/:ro", f"{name}_data:/var/lib/app/"],
        "environment": {"KOLLA_CONFIG_STRATEGY": "COPY_ALWAYS", "APP_PASSWORD": {"secret": "app_password"}},
        "config_dir": str(config_dir),
        "ready": {"exec": ["test", "-e", "/tmp/ready"], "timeout": 20},
        "reload": {"signal": "HUP"},
        "reload_files": ["policy.yaml"],
        "stop_timeout": 5,
    }


@pytest.fixture
def engine(engine_url):
    """The engine itself, for what somebody else does."""
    return Engine(engine_url)
