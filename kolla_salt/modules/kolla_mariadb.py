"""This host's member of the database's cluster."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import database, expand, galera, knock, paths, runtime
from kolla_salt.context import ContextError, Resolver

__virtualname__ = "kolla_mariadb"

Changes = dict[str, dict[str, Any]]

CONTAINER = "mariadb"
#: Galera's own records in the data directory: the position at the last stop, and the last cluster.
STATE, VIEW = "grastate.dat", "gvwstate.dat"
#: Exists while the database is made: what it leaves behind when it is cut off must not be taken for a database.
UNFINISHED = paths.STATE_DIR / "mariadb-bootstrap-unfinished"
#: Exists from the moment at which a new member may get its data until it has them.
JOINING = paths.STATE_DIR / "mariadb-joins"
#: Holds the directory in which this host's database was last seen: a volume that is not there does not mean that there
#: never was a database. It is beside what run-once steps remember, and is forgotten with it when all is destroyed.
SEEN = paths.STATE_DIR / "stamps" / "mariadb-data"
CONNECT_TIMEOUT = 1.5
#: A new member receives all data before it answers.
JOIN_TIMEOUT = 1800
#: Seconds after which a member gives up if no member of the group is in a cluster that works.
ALONE = 120.0
#: Seconds for which a server that has lost its cluster is given the chance to say so by mistake, while it starts.
DISCONNECTED = 10.0
#: Starts of the container that one attempt to become a member may take.
STARTS = 3
#: Seconds for which a new member lets one before it begin that has not been started yet.
TURN = 60.0
#: Seconds between members that give up waiting for another one to leave, so that they do not leave at once either.
APART = 5.0
#: Databases that a new server has; each is a directory with a file `db.opt`.
OWN_SCHEMAS = frozenset({"mysql", "performance_schema", "sys", "test"})
#: Account with which the load balancer looks at a member; its name stands in the check of salt/mariadb/service.yaml.
BALANCER_USER = "haproxy"


def __virtual__() -> str:
    return __virtualname__


def _resolver() -> Resolver:
    return runtime.resolver(__opts__, __pillar__, __context__)


def _data_dir() -> Path | None:
    """Return the host's directory with the data, or None if there is none.

    :raises CommandExecutionError: the engine does not answer, so nobody knows.
    """
    volume = str(_resolver().value("mariadb_datadir_volume"))
    if volume.startswith("/"):
        return Path(volume)
    path = __salt__["kolla_container.volume_path"](volume)
    return Path(path) if path else None


def _used(directory: Path) -> bool:
    """Return whether anybody has a database among the data, other than the server itself."""
    return any((path / "db.opt").exists() for path in directory.iterdir() if path.name not in OWN_SCHEMAS)


def _container() -> str:
    try:
        return str(__salt__["kolla_container.state"](CONTAINER))
    except CommandExecutionError:
        # No engine yet; whoever starts containers says what is wrong with it.
        return "absent"


def _running() -> bool:
    """Return whether there is a server, or the engine keeps on starting one."""
    return _container().startswith(("running", "restarting"))


def lookup() -> dict[str, Any]:
    """Return what is known of this member without asking its server.

    :returns: ``host``; ``time``: now; ``known``: its engine answered, else it only seems to have nothing; ``data``: it
        has a database; ``container``: its state; ``running``; ``one_shot``: it starts as the first of a new cluster;
        ``joining``: it is getting its first data; ``had``: directory of data that were seen here at some time, empty if
        never; ``uuid``, ``seqno`` and ``safe_to_bootstrap`` as Galera wrote them at
        its last stop, ``written``: when that was; ``view``: the last cluster that it was part of.

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_mariadb.lookup
    """
    try:
        directory, container, known = _data_dir(), str(__salt__["kolla_container.state"](CONTAINER)), True
    except CommandExecutionError:
        directory, container, known = None, "absent", False  # rendering has to work on a bare host
    found: dict[str, Any] = {
        "host": __opts__["id"],
        "time": time.time(),
        "known": known,
        "data": False,
        "container": container,
        "running": container.startswith(("running", "restarting")),
        "one_shot": False,
        "joining": JOINING.exists(),
        "had": SEEN.read_text().strip() if SEEN.exists() else "",
        "written": 0.0,
        "view": None,
    }
    found |= galera.parse_state("")
    if directory is not None:
        found["data"] = (directory / "mysql").is_dir() and (not UNFINISHED.exists() or _used(directory))
        found["one_shot"] = (directory / galera.ONE_SHOT).exists()
        if (directory / STATE).exists():
            found |= galera.parse_state((directory / STATE).read_text(errors="replace"))
            found["written"] = (directory / STATE).stat().st_mtime
        if (directory / VIEW).exists():
            found["view"] = galera.parse_view((directory / VIEW).read_text(errors="replace"))
    return found


def announce() -> bool:
    """Tell the master what this member has, so that the others know it even when this host is gone; note it here too.

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_mariadb.announce
    """
    if __opts__["id"] not in _resolver().hosts("mariadb"):
        return False
    try:
        __salt__["kolla_container.state"](CONTAINER)
    except CommandExecutionError:
        return False  # what was told before must not be forgotten for an engine that does not answer
    _note_data()
    return bool(__salt__["mine.send"]("kolla_mariadb.lookup"))


def _note_data() -> None:
    """Have it remembered where this host has a database, if it has one."""
    if SEEN.exists() and (Path(SEEN.read_text().strip()) / "mysql").is_dir():
        return  # as each time but the first; the engine need not be asked
    directory = _data_dir()
    if lookup()["data"] and directory:
        SEEN.parent.mkdir(parents=True, exist_ok=True)
        beside = SEEN.with_name(f".{SEEN.name}.new")
        beside.write_text(f"{directory}\n")
        beside.replace(SEEN)


def _others() -> list[str]:
    return [host for host in _resolver().hosts("mariadb") if host != __opts__["id"]]


def _answers(address: str, port: int) -> bool:
    """Whether somebody listens there. Runs in a thread, where Salt's dunders are not at hand."""
    try:
        with closing(socket.create_connection((address, port), timeout=CONNECT_TIMEOUT)):
            return True
    except OSError:
        return False


def _answering(others: list[str]) -> list[str]:
    """Return those hosts on which a member listens."""
    if not others:
        return []
    resolver = _resolver()
    ports = [int(resolver.value(option)) for option in ("mariadb_port", "mariadb_wsrep_port")]
    addresses = [resolver.address("api", host) for host in others]
    tried = [(host, address, port) for host, address in zip(others, addresses, strict=True) for port in ports]
    with ThreadPoolExecutor(len(tried)) as pool:
        found = list(pool.map(lambda item: _answers(item[1], item[2]), tried))
    up = {host for (host, _, _), answers in zip(tried, found, strict=True) if answers}
    return [host for host in others if host in up]


def _decision(predict: bool = False) -> str:
    resolver = _resolver()
    own, others = lookup(), _others()
    if not own["known"] and not predict:
        raise CommandExecutionError(
            f"looking for the database's data on {own['host']}: the container engine did not answer, expected that it "
            "says whether there are any; a new database is only made where there are none. See that the engine runs "
            "(`systemctl status docker`), then give the same command again"
        )
    answering: list[str] = []
    known: dict[str, Any] = {}
    primary = resolver.is_primary("mariadb")
    if others and not (own["running"] and own["data"]):
        answering = _answering(others)
        if not answering and (own["data"] or primary):
            known = __salt__["mine.get"](",".join(others), "kolla_mariadb.lookup", tgt_type="list") or {}
            # One whose engine did not answer has said nothing.
            known = {host: said for host, said in known.items() if said.get("known", True)}
    try:
        action = galera.decide(own, others, answering, known, primary, None if predict else time.time())
    except galera.GaleraError as exc:
        raise CommandExecutionError(str(exc)) from exc
    if action == galera.BOOTSTRAP and own["known"] and own["had"]:
        volume = resolver.value("mariadb_datadir_volume")
        raise CommandExecutionError(
            f"making a new, empty database on {own['host']}: it had one in {own['had']}; found none in "
            f"{_data_dir() or f'the volume {volume}, which does not exist'}. Mount the disk with the data, or set "
            "mariadb_datadir_volume to where they are, then give the same command again. If they are lost and an empty "
            f"database is wanted in their place, which no service knows anything of: remove {SEEN} on {own['host']}"
        )
    return action


def preparation_diff() -> Changes:
    """Return what has to be done before this member's server is started; ``{}`` if nothing.

    :raises CommandExecutionError: there is a cluster that this member must not start.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.preparation_diff
    """
    try:
        # In a dry run the other hosts tell the master only now what they have.
        return galera.describe(_decision(predict=True))
    except ContextError as exc:
        raise CommandExecutionError(str(exc)) from exc


def prepare() -> str:
    """Let this member be started: make a new database on the first member of a new cluster, wait for its turn, ...

    :returns: what was done.
    :raises CommandExecutionError: there is a cluster that this member must not start, or making the database failed.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.prepare
    """
    action = _decision()
    if action == galera.RUN:
        return ""
    if action == galera.TIDY:
        _remove_one_shot()
        return "it does not start as the first member any more"
    if action == galera.JOIN:
        waited = _await_turn(JOIN_TIMEOUT)
        if not _running():
            _clear_unfinished()
        JOINING.parent.mkdir(parents=True, exist_ok=True)
        JOINING.touch()
        return f"it gets its data from another member, after {waited:.0f} s of waiting for those before it"
    if action == galera.BOOTSTRAP:
        _bootstrap()
    if _others():
        _write_data(galera.ONE_SHOT, galera.ONE_SHOT_TEXT)
    return "a new database was made" if action == galera.BOOTSTRAP else "the cluster starts from this member's data"


def _clear_unfinished() -> None:
    """Remove what an attempt to make a database has left behind, but never what somebody has in it."""
    directory = _data_dir()
    if UNFINISHED.exists() and directory is not None and directory.is_dir():
        if _used(directory):
            raise CommandExecutionError(
                f"removing what was left in {directory} when making a database was interrupted: there are databases "
                f"of services, expected none, so nothing was removed. To keep them: remove {UNFINISHED}, then deploy"
            )
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    UNFINISHED.unlink(missing_ok=True)


def _write_data(name: str, text: str) -> None:
    """Write a file beside the data, whole or not at all, for the server to read."""
    directory = _data_dir()
    if directory is None:
        raise CommandExecutionError(f"writing {name} beside the database's data: there is no volume with data")
    owner = (directory / "mysql").stat()
    temporary = directory / f".{name}.new"
    temporary.write_text(text)
    os.chown(temporary, owner.st_uid, owner.st_gid)
    temporary.replace(directory / name)


def _remove_one_shot() -> None:
    directory = _data_dir()
    if directory is not None:
        (directory / galera.ONE_SHOT).unlink(missing_ok=True)


def _await_turn(timeout: float) -> float:
    """Wait until the members before this one have their data, and nobody gives or gets any; return the seconds.

    A host that cannot be reached is not waited for, one on which no server was started yet only for a moment.
    """
    began = time.monotonic()
    members = _resolver().hosts("mariadb")
    before = members[: members.index(__opts__["id"])]
    while True:
        waited = time.monotonic() - began
        peers = _peers()
        busy = [host for host, server in peers.items() if galera.is_primary(server) and not galera.is_synced(server)]
        silent = [host for host in before if not peers[host]]
        busy += [host for host in silent if host in _answering(silent)]
        if waited < TURN:
            busy += [host for host in silent if host not in busy and not _unreachable(host)]
        if not busy or waited > timeout:
            return waited
        time.sleep(1)


def _unreachable(host: str) -> bool:
    """Return whether the host itself is gone, other than one on which only nothing listens."""
    why = knock.silent(_resolver().address("api", host), int(_resolver().value("mariadb_port")))
    return bool(why) and "refused" not in str(why)


def _bootstrap() -> None:
    resolver = _resolver()
    try:
        kept, environment = _own_container()
        seconds = int(resolver.value("database_max_timeout"))
    except ContextError as exc:
        raise CommandExecutionError(str(exc)) from exc
    _clear_unfinished()
    directory = _data_dir()
    if directory is not None and (directory / "mysql").is_dir():
        raise CommandExecutionError(
            f"making a new database in {directory}: there is one, expected none, so nothing was done; give the same "
            "command again, it starts with what there is"
        )
    UNFINISHED.parent.mkdir(parents=True, exist_ok=True)
    UNFINISHED.touch()
    environment |= {
        "KOLLA_BOOTSTRAP": "", "DB_MAX_TIMEOUT": str(seconds), "DB_ROOT_PASSWORD": {"secret": "database_password"},
    }  # fmt: skip
    # The script in the image waits that long twice, for the server and for its answers.
    __salt__["kolla_container.run"]("bootstrap_mariadb", timeout=2 * seconds + 60, environment=environment, **kept)
    directory = _data_dir()
    if directory is None or not (directory / "mysql").is_dir():
        raise CommandExecutionError(
            f"making the database in {directory} with container bootstrap_mariadb: it succeeded, but there is no "
            "database; see /var/log/kolla/mariadb/mariadb-bootstrap.log in the volume kolla_logs"
        )
    UNFINISHED.unlink()


def _server(host: str | None = None) -> database.Database:
    """Return this member's own server, or another one, but not the one behind the load balancer."""
    resolver = _resolver()
    return database.Database(
        resolver.address("api", host),
        int(resolver.value("mariadb_port")),
        str(resolver.value("database_user")),
        str(resolver.names("mariadb")["secret"]("database_password")),
    )


def _ask(server: database.Database) -> dict[str, Any]:
    """Return what a server says of itself.

    :raises database.Unreachable: it does not answer.
    """
    if why := knock.silent(server.address, server.port):
        raise database.Unreachable(f"the database server {server.where} does not answer ({why})")
    names = ", ".join("%s" for _ in galera.STATUS)
    rows = server.query(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})", galera.STATUS)
    return galera.read_status(rows)


def _ask_once(server: database.Database) -> dict[str, Any] | None:
    """Return what a server says of itself, None if it does not answer or lets nobody in yet.

    :raises database.DatabaseError: it refuses our account.
    """
    try:
        return _ask(server)
    except database.Unreachable:
        return None
    finally:
        server.close()


def _peers() -> dict[str, dict[str, Any] | None]:
    """Return what the other members' servers say of themselves."""
    others = _others()
    if not others:
        return {}
    servers = [_server(host) for host in others]
    with ThreadPoolExecutor(len(others)) as pool:
        return dict(zip(others, pool.map(_ask_once, servers), strict=True))


def _state(server: database.Database) -> str:
    try:
        found = _ask(server)
    except database.Unreachable as exc:
        return f"no answer: {exc}"
    if found["cluster"] in ("Primary", "without Galera"):
        return str(found["state"])
    return f"{found['state']}, its cluster is {found['cluster']}"


def status() -> str:
    """Return the state of this member's server in Galera's words, e.g. ``Synced``, or why it does not answer.

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_mariadb.status
    """
    try:
        return _state(_server())
    except database.DatabaseError as exc:
        raise CommandExecutionError(str(exc)) from exc


def examine() -> dict[str, Any]:
    """Return all that is known of this member.

    :returns: as :py:func:`lookup`, and ``server``: what the server says (None: no answer), ``reached``: hosts of the
        group on which a member listens, as seen from here.

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_mariadb.examine
    """
    with _errors():
        found = lookup()
        found["server"] = _ask_once(_server()) if found["running"] else None
        found["reached"] = _answering(_others())
        return found


def verify() -> dict[str, Any]:
    """Return how this member is, for ``kolla-salt verify``.

    :returns: ``findings``, and ``alike``: what all members must say the same of

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_mariadb.verify
    """
    with _errors():
        own = _ask_once(_server())
        alike = {"cluster": own["uuid"], "number of members": own["size"]} if own else {}
        return {"findings": galera.findings(__opts__["id"], own, len(_others()) + 1), "alike": alike}


def start_obstacles() -> list[str]:
    """Return why this member must not simply be started again; empty: it may be.

    It may if it has data and the others are in a cluster that works, which it then joins; also the only one of a group.
    Everything else is a recovery, or the making of a cluster.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.start_obstacles
    """
    with _errors():
        own = lookup()
        return galera.start_obstacles(own, _peers() if own["data"] else {})


def stop_obstacles() -> list[str]:
    """Return why this member must not be stopped now; empty: it may be.

    It may if enough other members have all data for the cluster to go on, and none of them is giving or getting data;
    also if it is in no cluster that works, or the only one of the group.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.stop_obstacles
    """
    with _errors():
        if not _others() or not _running():
            return []
        own = _ask_once(_server())
        return galera.stop_obstacles(__opts__["id"], own, _peers() if galera.is_primary(own) else {})


def let_others_leave(patience: float = 15.0) -> int:
    """Wait until the members after this one, in the order of the group's hosts, have left the cluster.

    So the first host's is the last one: a deployment begins there, and can start a stopped cluster only where it was
    left last. And no two leave in the same moment: to those that stay, that may look as if they were cut off.

    :param patience: seconds after which nobody else is believed to leave; a few more for each member in between.
    :returns: how many members are left, this one included; 0 if it is in no cluster, or does not let us ask.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.let_others_leave
    """
    with _errors():
        members = _resolver().hosts("mariadb")
        if len(members) < 2 or __opts__["id"] not in members or not _running():
            return 0
        position = members.index(__opts__["id"]) + 1
        patience += APART * max(len(members) - position - 1, 0)
        least, since = len(members), time.monotonic()
        while True:
            try:
                own = _ask_once(_server())
            except database.DatabaseError:
                own = None  # a password that is not right must not keep it from being stopped
            left = own["size"] if own and galera.is_primary(own) else 0
            if left <= position:
                return left
            if left < least:  # not more either: one that comes and goes is not waited for
                least, since = left, time.monotonic()
            if time.monotonic() - since > patience:
                return left
            time.sleep(0.3)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ContextError, database.DatabaseError, galera.GaleraError) as exc:
        raise CommandExecutionError(str(exc)) from exc


def _balancers() -> list[str]:
    resolver = _resolver()
    if not resolver.enabled("loadbalancer"):
        return []
    return [resolver.address("api", host) for host in resolver.hosts("loadbalancer")]


def _account_changes(server: database.Database) -> dict[str, Changes]:
    """Return what differs in the accounts of health checks: ``user@host`` -> changes."""
    resolver = _resolver()
    monitor = str(resolver.value("mariadb_monitor_user"))
    password = str(resolver.names("mariadb")["secret"]("mariadb_monitor_password"))
    found = {f"{monitor}@%": server.user_diff(monitor, "%", password, {"*.*": "REPLICATION CLIENT"})}
    for address in _balancers():
        if not server.has_user(BALANCER_USER, address):
            found[f"{BALANCER_USER}@{address}"] = {"user": {"old": None, "new": "without password and rights"}}
    return {account: changes for account, changes in found.items() if changes}


def membership_diff() -> Changes:
    """Return what is missing until this member's server is in the cluster and can be watched.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.membership_diff
    """
    try:
        server = _server()
        state = _state(server) if _running() else "not running"
        # A donor serves queries as well while it gives its data to another member.
        if not state.startswith(("Synced", "Donor")):
            return {"state": {"old": state, "new": "Synced"}}
        found: Changes = {}
        if lookup()["one_shot"]:
            found["start"] = {"old": "as the first of a new cluster", "new": "as a member"}
        if _resolver().is_primary("mariadb"):
            for account, changes in _account_changes(server).items():
                found |= {f"account {account}, {field}": value for field, value in changes.items()}
        return found
    except (ContextError, database.DatabaseError) as exc:
        raise CommandExecutionError(str(exc)) from exc


def join(timeout: float = JOIN_TIMEOUT) -> str:
    """Wait until this member's server is in the cluster, then set up the accounts of health checks (first member).

    :param timeout: seconds; a new member receives all data first.
    :returns: what was done.
    :raises CommandExecutionError: the server did not become a member in time.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.join timeout=600
    """
    resolver = _resolver()
    try:
        server = _server()
        _await_member(server, timeout)
        _remove_one_shot()
        JOINING.unlink(missing_ok=True)
        if resolver.is_primary("mariadb"):
            monitor = str(resolver.value("mariadb_monitor_user"))
            password = str(resolver.names("mariadb")["secret"]("mariadb_monitor_password"))
            for account, changes in _account_changes(server).items():
                user, _, host = account.partition("@")
                if user == monitor:
                    server.set_user(user, host, password, {"*.*": "REPLICATION CLIENT"}, changes)
                else:
                    server.set_user(user, host, None, {}, changes)
    except (ContextError, database.DatabaseError) as exc:
        raise CommandExecutionError(str(exc)) from exc
    announce()
    return f"{__opts__['id']} is in the cluster"


def _await_member(server: database.Database, timeout: float, starts: int = STARTS) -> None:
    """Wait until a server has all data of its cluster.

    :raises CommandExecutionError: it will not be a member: it ended, it gave up, or there is no cluster.
    """
    began = looked = company = time.monotonic()
    connected = began
    # The first member has nobody to look for.
    first = not _others() or lookup()["one_shot"]
    begun: set[str] = set()
    while True:
        own = _ask_once(server)
        if galera.is_member(own):
            return
        now = time.monotonic()
        container = __salt__["kolla_container.inspect"](CONTAINER) or {"state": "absent", "started_at": ""}
        begun.add(container["started_at"])
        if not container["state"].startswith(("running", "restarting")) or len(begun) > starts:
            raise _no_member(server, "ended before it was in the cluster")
        if own is None or own["cluster"] != "Disconnected":
            connected = now
        elif now - connected > DISCONNECTED:
            raise _no_member(server, "gave up getting the data that it missed, and is not in the cluster")
        if not first and now - looked > 3:
            looked = now
            if any(galera.is_primary(peer) for peer in _peers().values()):
                company = now
            elif now - company > ALONE:
                raise _no_member(server, "found no cluster: no member of the group is in one that works")
        if now - began > timeout:
            raise _no_member(server, f"is not in the cluster after {timeout:g} s")
        time.sleep(0.3)


def _no_member(server: database.Database, what: str) -> CommandExecutionError:
    return CommandExecutionError(
        f"the database server {server.where} {what} (its state: {_state(server)}, expected Synced); see "
        "`kolla_container.logs mariadb` and mariadb/mariadb.log in the volume kolla_logs. "
        "`kolla-salt mariadb-recovery` brings a stopped cluster and single members back"
    )


# --- what a recovery does, one step each ------------------------------------------------------------------------------


def halt() -> bool:
    """Stop this member, for good if need be: a server that waits for others does not listen to requests.

    :returns: whether it was running.

    CLI Example:

    .. code-block:: bash

        salt ctl2 kolla_mariadb.halt
    """
    with _errors():
        patience = 60 if _ask_once(_server()) else 3
    return bool(__salt__["kolla_container.stop"](CONTAINER, timeout=patience))


def position(timeout: float = 900) -> dict[str, Any] | None:
    """Return how far the data of this stopped member got, as the server itself finds it out.

    :param timeout: seconds; what was not written at a crash is redone first.
    :returns: ``uuid`` and ``seqno``; None if the data were never part of a cluster, or are incomplete.
    :raises CommandExecutionError: the server runs, or cannot read its data.

    CLI Example:

    .. code-block:: bash

        salt ctl2 kolla_mariadb.position
    """
    _must_be_stopped("finding out the position of the database's data")
    with _errors():
        kept, environment = _own_container()
        # Reads the same configuration as the server; what it prints must not go into the log file.
        command = "sudo -E kolla_set_configs && exec mariadbd --wsrep-recover --disable-log-error 2>&1"
        done = __salt__["kolla_container.run"](
            "recover_mariadb", timeout=timeout, environment=environment, command=["bash", "-c", command], **kept
        )
        found = galera.parse_position(done["output"])
    return {"uuid": found[0], "seqno": found[1]} if found else None


def _own_container() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a container that runs once on this member's data has in common with its own, and its environment."""
    spec = expand.container_spec(_resolver(), "mariadb", CONTAINER, {"paths": ["/etc/localtime"]})
    return {key: spec[key] for key in ("image", "volumes", "dimensions", "network_mode") if key in spec}, dict(
        spec["environment"]
    )


def _must_be_stopped(what: str) -> None:
    if _running():
        raise CommandExecutionError(
            f"{what} on {__opts__['id']}: container {CONTAINER} runs, expected none; `kolla_mariadb.halt` stops it"
        )


def discard() -> bool:
    """Let this stopped member forget how far its data got: at its next start it gets all data from another one.

    :returns: whether it knew. The data themselves stay until then.
    :raises CommandExecutionError: the server runs.

    CLI Example:

    .. code-block:: bash

        salt ctl2 kolla_mariadb.discard
    """
    _must_be_stopped("giving up the database's data")
    directory = _data_dir()
    if directory is None:
        return False
    (directory / VIEW).unlink(missing_ok=True)
    if not (directory / STATE).exists():
        return False
    (directory / STATE).replace(directory / f"{STATE}.discarded")
    return True


def revive(uuid: str | None = None, timeout: float = 900) -> str:
    """Start the stopped cluster from this member's data. Which member that must be, `mariadb-recovery` finds out.

    :param uuid: the cluster of its data, where the member itself does not know it any more.
    :param timeout: seconds until it has to serve.
    :returns: its state.
    :raises CommandExecutionError: it has no data, or did not start.

    CLI Example:

    .. code-block:: bash

        salt ctl2 kolla_mariadb.revive
    """
    own = lookup()
    if not own["data"]:
        raise CommandExecutionError(
            f"starting the database's cluster from the data of {own['host']}: it has none; see `kolla_mariadb.lookup`"
        )
    with _errors():
        server = _server()
        if not galera.is_primary(_ask_once(server)):
            _must_be_stopped("starting the database's cluster")
            if own["uuid"] or uuid:
                _write_data(STATE, galera.format_state(own["uuid"] or str(uuid), own["seqno"]))
            if _others():
                _write_data(galera.ONE_SHOT, galera.ONE_SHOT_TEXT)
            _start()
            _await_member(server, timeout, starts=1)
    settle()
    return status()


def rejoin(full: bool = False, timeout: float = JOIN_TIMEOUT) -> str:
    """Make this member part of the cluster that runs.

    :param full: it gets all data anew.
    :param timeout: seconds that it may take.
    :returns: its state.
    :raises CommandExecutionError: it has no container, or did not become a member.

    CLI Example:

    .. code-block:: bash

        salt ctl2 kolla_mariadb.rejoin
    """
    with _errors():
        server = _server()
        if not _on_its_way(server):
            if _running():
                halt()
            _remove_one_shot()
            if full:
                discard()
            _start()
        _await_member(server, timeout, starts=1)
    settle()
    return status()


def _on_its_way(server: database.Database, patience: float = 20.0) -> bool:
    """Return whether a running member gets into the cluster without being started again."""
    directory, began = _data_dir(), time.monotonic()
    while _running() and time.monotonic() - began < patience:
        own = _ask_once(server)
        if galera.is_primary(own):
            return True
        if own is None and directory is not None and (directory / "sst_in_progress").exists():
            return True
        time.sleep(0.5)
    return False


def _start() -> None:
    if _container() == "absent":
        raise CommandExecutionError(
            f"starting the database on {__opts__['id']}: there is no container {CONTAINER}; "
            f"`kolla-salt deploy --limit {__opts__['id']}` makes it"
        )
    __salt__["kolla_container.start"](CONTAINER)


def settle() -> bool:
    """Let this running member start as one of several the next time.

    :returns: whether it would have started as the first one of a new cluster.

    CLI Example:

    .. code-block:: bash

        salt ctl1 kolla_mariadb.settle
    """
    had = bool(lookup()["one_shot"])
    _remove_one_shot()
    JOINING.unlink(missing_ok=True)
    announce()
    return had
