"""What several scenarios do: markers that must survive, a server that must be reached, changes of the site."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos import watch
from benchmarks.chaos.cluster import ChaosError, Cluster, Done
from benchmarks.chaos.run import Run
from kolla_salt.availability import Probe, Receipt

SCHEMA = "chaos"


# --- what must survive ------------------------------------------------------------------------------------------------


def make_table(cluster: Cluster) -> None:
    """Make an empty table for rows that are counted afterwards."""
    with cluster.database(cluster.vip) as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {SCHEMA}")
        cursor.execute(f"DROP TABLE IF EXISTS {SCHEMA}.rows_of_a_run")
        cursor.execute(
            f"CREATE TABLE {SCHEMA}.rows_of_a_run (number BIGINT PRIMARY KEY, origin VARCHAR(40), filler LONGBLOB)"
        )


def drop_table(cluster: Cluster) -> None:
    """Remove what :func:`make_table` made."""
    with cluster.database(cluster.vip) as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {SCHEMA}")


class Writer:
    """Writes rows into the table, each in a transaction of its own, and remembers which were acknowledged when.

    Args:
        cluster: the cloud.
        address: of the server; the VIP by default.
        origin: the node whose network is used; None is the machine's.
        first: number of the first row.
        every: seconds from one row to the next.
        filler: bytes of each row.
    """

    def __init__(
        self, cluster: Cluster, address: str = "", origin: str | None = None, first: int = 1, every: float = 0.05,
        filler: int = 0, timeout: float = 5,
    ) -> None:  # fmt: skip
        import pymysql

        self.cluster, self.address, self.origin, self.timeout = cluster, address or cluster.vip, origin, timeout
        self.next, self.filler = first, b"x" * filler
        self.acknowledged: dict[int, float] = {}
        self._open: Any = None
        self.thread = watch.Repeated(self._write, every, (pymysql.MySQLError, OSError))
        self.thread.start()

    def _write(self) -> bool:
        number, self.next = self.next, self.next + 1
        try:
            if self._open is None:
                self._open = contextlib.ExitStack()
                self._cursor = self._open.enter_context(
                    self.cluster.database(self.address, timeout=self.timeout, origin=self.origin)
                )
            self._cursor.execute(
                f"INSERT INTO {SCHEMA}.rows_of_a_run VALUES (%s, %s, %s)",
                (number, self.origin or "machine", self.filler),
            )
        except Exception:
            stack, self._open = self._open, None
            with contextlib.suppress(Exception):
                stack.close()
            raise
        self.acknowledged[number] = time.monotonic()
        return True

    def stop(self) -> list[watch.Attempt]:
        """Stop writing and return the attempts."""
        attempts = self.thread.stop()
        if self._open is not None:
            with contextlib.suppress(Exception):
                self._open.close()
            self._open = None
        return attempts


def rows(cluster: Cluster, patience: float = 60) -> list[int]:
    """Return the numbers of the rows that are in the table, asked through the VIP until it answers."""
    import pymysql

    deadline = time.monotonic() + patience
    while True:
        try:
            with cluster.database(cluster.vip, timeout=10) as cursor:
                cursor.execute(f"SELECT number FROM {SCHEMA}.rows_of_a_run")
                return [int(row[0]) for row in cursor.fetchall()]
        except (pymysql.MySQLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def make_project(cluster: Cluster) -> str:
    """Make a Keystone project and return its name."""
    name = f"chaos-{uuid.uuid4().hex[:12]}"
    cluster.connection().identity.create_project(name=name, domain_id="default")
    return name


def project_is_there(cluster: Cluster, name: str) -> bool:
    """Return whether a project made by :func:`make_project` is in the database, whoever of the APIs answers."""
    with cluster.database(cluster.vip, timeout=20) as cursor:
        cursor.execute("SELECT 1 FROM keystone.project WHERE name = %s", (name,))
        return bool(cursor.fetchall())


def remove_projects(cluster: Cluster) -> None:
    """Remove what :func:`make_project` made, in all runs."""
    identity = cluster.connection().identity
    for project in identity.projects(domain_id="default"):
        if project.name.startswith("chaos-"):
            identity.delete_project(project)


# --- a server ---------------------------------------------------------------------------------------------------------


def server(cluster: Cluster) -> dict[str, Any]:
    """Return the server that `kolla-salt smoke --keep` makes or finds: ``id``, ``address``, ``host``."""
    done = cluster.kolla_salt("smoke", "--keep", "--json", timeout=400)
    said = done.json()
    if not said.get("ok"):
        raise ChaosError(f"making a server to look at: {said.get('error') or done.words}")
    return said["server"]


def routers(cluster: Cluster) -> dict[str, list[str]]:
    """Return router -> the hosts on which it is active."""
    network = cluster.connection().network
    return {
        router.name: [
            agent["host"]
            for agent in network.get(f"/routers/{router.id}/l3-agents", timeout=20).json()["agents"]
            if agent.get("ha_state") in (None, "active")
        ]
        for router in network.routers()
    }


def console_works(cluster: Cluster, server_id: str) -> bool:
    """Return whether the server's console can be read: a call over the message queue to its host, and back."""
    answer = cluster.connection().compute.post(
        f"/servers/{server_id}/action", json={"os-getConsoleOutput": {"length": 1}}, timeout=65
    )
    return answer.status_code == 200


# --- the site ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def options(cluster: Cluster, **values: Any) -> Iterator[None]:
    """Set options of the site for a while. The file is as before afterwards; nothing is deployed here."""
    path = cluster.paths.site / "globals.yml"
    block = "# Set by a test for a while.\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    text = path.read_text()
    path.write_text(text + ("" if text.endswith("\n") else "\n") + block)
    try:
        yield
    finally:
        path.write_text(path.read_text().replace(block, ""))


@contextlib.contextmanager
def override(cluster: Cluster, name: str, text: str) -> Iterator[Path]:
    """Have a configuration override of the site for a while."""
    path = cluster.paths.site / "overrides" / name
    if path.exists():
        raise ChaosError(f"the site has an override {name} already; expected none, since the test sets and removes it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def deploy(run: Run, *services: str, timeout: float = 400) -> Done:
    """Deploy, and keep it as a problem when that does not end well."""
    done = run.cluster.kolla_salt("deploy", "--json", *services, timeout=timeout)
    answer = done.json()
    why = answer.get("error") or answer.get("first_failure") or done.words
    run.expect(done.status == 0, f"deploy {' '.join(services)}".strip(), f"status {done.status}: {why}", "status 0")
    return done


# --- looking ----------------------------------------------------------------------------------------------------------


def watched(run: Run, rate: float = 5, token_rate: float = 1, services: Sequence[str] = ()) -> Probe:
    """Return a probe that has begun to ask; it is stopped at the end of the run at the latest."""
    for left in (1, 0):
        probe = run.cluster.probe(rate, token_rate, services).start(settle=6)
        absent = [entry["entry"] for entry in probe.snapshot().entries if entry["first_answer"] is None]
        if not absent or not left:
            break
        # What has not answered its first request counts as absent, and nothing of it would be measured.
        probe.stop()
        run.note(f"no answer from {', '.join(absent)} to the first request, before anything was done")
    run.undo(probe.stop)
    run.expect(not absent, "APIs before", f"no answer from {', '.join(absent)}", "answers from all")
    return probe


def settle(probe: Probe, limit: float, calm: float = 12) -> None:
    """Wait until all that is asked has answered for ``calm`` seconds, at most ``limit`` seconds and those."""
    # So long it takes until a request that hangs has failed.
    time.sleep(probe.timeout + 1)
    began = good = time.monotonic()
    while time.monotonic() - good < calm:
        time.sleep(0.3)
        if any(entry["open"] for entry in probe.snapshot().entries):
            good = time.monotonic()
            if good - began > limit:
                return


def apis_back(run: Run, receipt: Receipt, label: str, what: str, must: float = 20, aim: float = 8) -> None:
    """Keep how long after the mark ``label`` it took until every API answers again, and what failed."""
    seconds = receipt.recovery(label)
    worst = None if None in seconds.values() else max(value for value in seconds.values() if value is not None)
    run.figure(what, worst, must, aim)
    away = sorted(
        ((value, name) for name, value in seconds.items() if value is None or value > 0),
        key=lambda item: -(item[0] if item[0] is not None else 1e9),
    )
    shown = ", ".join(f"{name} {'never' if value is None else f'{value:.1f} s'}" for value, name in away)
    run.note(f"until they answer: {shown or 'no API was away'}")
    run.note(f"{receipt.data['requests']} requests, {receipt.failed} failed: {said(receipt)}")


def said(receipt: Receipt) -> str:
    """Return what failed requests were told, in a line."""
    words: dict[str, int] = {}
    for entry in receipt.entries:
        for text, count in entry["said"].items():
            words[text] = words.get(text, 0) + count
    return (
        "; ".join(f"{count} times {text}" for text, count in sorted(words.items(), key=lambda i: -i[1])[:4]) or "none"
    )


def comes_back(run: Run, began: float, wall: float, limit: float = 130) -> None:
    """Keep how long it takes from ``began`` (``wall``: the same by the clock) until the cloud is whole again."""
    cluster = run.cluster

    def until(name: str, look: Any, timeout: float) -> None:
        seconds, ailing = cluster.await_(look, timeout, every=0.5)
        run.figure(name, None if seconds is None else time.monotonic() - began)
        run.expect(seconds is not None, name, "; ".join(ailing[:3]), f"this within {limit:g} s, without a deploy")

    for name, look in (
        ("three database members are Synced", cluster.members_ail),
        ("three brokers run", cluster.brokers_ail),
        ("all agents and services were heard of", lambda: cluster.agents_ail(wall)),
    ):
        until(name, look, max(5.0, limit - (time.monotonic() - began)))


def verified(run: Run, tries: int = 3) -> None:
    """Expect `kolla-salt verify` to find nothing."""
    done = None
    for attempt in range(tries):
        done = run.cluster.kolla_salt("verify", "--json", timeout=120)
        if done.status == 0:
            return
        if attempt + 1 < tries:
            time.sleep(10)
    said = done.json() if done else {}
    found = [
        *said.get("problems", []),
        *(f"drift on {host}: {json.dumps(what)[:200]}" for host, what in said.get("drift", {}).items()),
    ]
    run.expect(False, "verify", "; ".join(found[:4]) or (done.words if done else ""), "nothing")


def started(cluster: Cluster, name: str) -> dict[str, str]:
    """Return when each container of a node was started."""
    done = cluster.inside(
        name, "sh", "-c", "docker ps -q | xargs -r docker inspect -f '{{.Name}} {{.State.StartedAt}}'"
    )
    return dict(line.lstrip("/").split() for line in done.out.splitlines())
