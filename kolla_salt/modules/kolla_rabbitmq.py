"""Accounts, policies, feature flags and health of the message broker."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import broker, converge, runtime
from kolla_salt.context import ContextError, Resolver, url_host

__virtualname__ = "kolla_rabbitmq"

CONTAINER = "rabbitmq"
#: Seconds to wait for a broker that was just started.
TIMEOUT = 120
#: Seconds between two looks at queues that are about to get a member.
RETRY_INTERVAL = 0.5
#: Members of a queue, where there are as many hosts.
_COPIES = 3

Changes = dict[str, dict[str, Any]]
Permissions = Mapping[str, Mapping[str, str]]

_KEY = "kolla_salt.rabbitmq"
#: All rights in the default virtual host.
_ALL = {"/": {"configure": ".*", "write": ".*", "read": ".*"}}


def __virtual__() -> str:
    return __virtualname__


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ContextError, broker.BrokerError) as err:
        raise CommandExecutionError(str(err)) from err


def _resolver() -> Resolver:
    return runtime.resolver(__opts__, __pillar__, __context__)


def _secret(name: str) -> str:
    return str(_resolver().names()["secret"](name))


def _broker() -> broker.Broker:
    """Return the member on this host, or the first one of the cluster."""
    cached = __context__.get(_KEY)
    # States with `parallel: True` are forked; two processes must not talk over one connection.
    if cached is None or cached["pid"] != os.getpid():
        resolver = _resolver()
        members = resolver.hosts("rabbitmq")
        if not members:
            raise CommandExecutionError(
                "looking for RabbitMQ: the group `rabbitmq` has no host (kolla:topology:groups)"
            )
        host = resolver.host if resolver.host in members else members[0]
        address = url_host(resolver.address("api", host))
        client = broker.Broker(
            f"http://{address}:{resolver.value('rabbitmq_management_port')}",
            str(resolver.value("rabbitmq_user")),
            _secret("rabbitmq_password"),
        )
        cached = __context__[_KEY] = {"pid": os.getpid(), "broker": client, "silent": None}
    return cached["broker"]


def _silent(timeout: float) -> str | None:
    """Wait for the broker; with ``timeout`` 0 return why it does not answer instead of failing."""
    client = _broker()
    client.timeout = timeout
    if timeout > 0:
        return None
    if __context__[_KEY]["silent"] is None:
        try:
            client.wait(0)
        except broker.Unreachable as err:
            __context__[_KEY]["silent"] = f"{converge.UNKNOWN}{err}"
    return __context__[_KEY]["silent"]


def user_diff(
    name: str,
    password_secret: str,
    tags: list[str] | None = None,
    permissions: Permissions | None = None,
    timeout: float = 0,
) -> Changes:
    """Compare an account with what it should be.

    :param name: the account
    :param password_secret: name of its password in the site's passwords
    :param tags: ``administrator``, ``monitoring``, ``management``; default: none
    :param permissions: virtual host -> ``configure``, ``write``, ``read`` (regular expressions); default: all in ``/``
    :param timeout: seconds to wait for RabbitMQ. With 0, one that does not answer yet is no error: the result says
        what will be created
    :returns: ``{}`` or some of ``user``, ``password``, ``tags``, ``permissions in VHOST``
    :raises CommandExecutionError: RabbitMQ refuses the account or a request, or did not answer in time

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.user_diff openstack rabbitmq_password
    """
    wanted = permissions if permissions is not None else _ALL
    with _errors():
        unknown = _silent(timeout)
        if unknown:
            changes = {
                "user": {"old": unknown, "new": name},
                "tags": {"old": unknown, "new": sorted(tags or [])},
            }
            for vhost, rights in wanted.items():
                changes[f"permissions in {vhost}"] = {"old": unknown, "new": dict(rights)}
            return changes
        return _broker().user_diff(name, _secret(password_secret), tags or [], wanted)


def set_user(
    name: str,
    password_secret: str,
    tags: list[str] | None = None,
    permissions: Permissions | None = None,
    timeout: float = TIMEOUT,
) -> Changes:
    """Create an account, or set right what differs. Parameters as for :func:`user_diff`.

    :returns: what was changed

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.set_user openstack rabbitmq_password
    """
    changes = user_diff(name, password_secret, tags, permissions, timeout)
    wanted = permissions if permissions is not None else _ALL
    with _errors():
        _broker().set_user(name, _secret(password_secret), tags or [], wanted, changes)
    return changes


def vhost_diff(name: str, timeout: float = 0) -> Changes:
    """Say whether a virtual host has to be created.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.vhost_diff /
    """
    with _errors():
        unknown = _silent(timeout)
        return {"vhost": {"old": unknown, "new": name}} if unknown else _broker().vhost_diff(name)


def create_vhost(name: str, timeout: float = TIMEOUT) -> None:
    """Create a virtual host; an existing one stays as it is.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.create_vhost notifications
    """
    with _errors():
        _silent(timeout)
        _broker().create_vhost(name)


def policy_diff(
    name: str,
    pattern: str,
    definition: dict[str, Any],
    apply_to: str = "queues",
    priority: int = 0,
    vhost: str = "/",
    timeout: float = 0,
) -> Changes:
    """Compare a policy with what it should be.

    :param name: the policy
    :param pattern: regular expression of the names it is for
    :param definition: what it sets
    :param apply_to: ``queues``, ``streams``, ``exchanges``, ``all``, ...
    :param priority: of several policies the highest holds
    :param vhost: virtual host

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.policy_diff ttl '.*' '{"message-ttl": 60000}'
    """
    wanted = {"pattern": pattern, "definition": definition, "apply-to": apply_to, "priority": priority}
    with _errors():
        unknown = _silent(timeout)
        if unknown:
            return {key: {"old": unknown, "new": value} for key, value in wanted.items()}
        return _broker().policy_diff(vhost, name, wanted)


def set_policy(
    name: str,
    pattern: str,
    definition: dict[str, Any],
    apply_to: str = "queues",
    priority: int = 0,
    vhost: str = "/",
    timeout: float = TIMEOUT,
) -> None:
    """Create or replace a policy. Parameters as for :func:`policy_diff`.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.set_policy ttl '.*' '{"message-ttl": 60000}'
    """
    with _errors():
        _silent(timeout)
        wanted = {"pattern": pattern, "definition": definition, "apply-to": apply_to, "priority": priority}
        _broker().set_policy(vhost, name, wanted)


def delete_policy(name: str, vhost: str = "/") -> None:
    """Remove a policy.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.delete_policy ha-all
    """
    with _errors():
        _broker().delete_policy(vhost, name)


def flags_diff(timeout: float = 0) -> Changes:
    """Return the stable feature flags that are not enabled yet; all must be before an upgrade.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.flags_diff
    """
    with _errors():
        unknown = _silent(timeout)
        if unknown:
            return {"stable feature flags": {"old": unknown, "new": "enabled"}}
        return {flag: {"old": "disabled", "new": "enabled"} for flag in _broker().disabled_flags()}


def enable_flags(timeout: float = TIMEOUT) -> list[str]:
    """Enable all stable feature flags; this cannot be undone.

    :returns: those that were enabled now

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.enable_flags
    """
    with _errors():
        _silent(timeout)
        flags = _broker().disabled_flags()
        for flag in flags:
            _broker().enable_flag(flag)
    return flags


def status() -> dict[str, Any]:
    """Return the cluster's name, version, members (running, alarms, partitions) and number of queues.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.status
    """
    with _errors():
        return _broker().status()


def health() -> dict[str, str]:
    """Return what is wrong with the member on this host: check -> reason; empty if all is well.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.health
    """
    with _errors():
        return _broker().health()


def verify() -> dict[str, Any]:
    """Return how the cluster is as the member on this host sees it, for ``kolla-salt verify``.

    Queues are looked at on the first host of the group alone: each member knows all of them.

    :returns: ``findings``, and ``alike``: what all members must say the same of

    CLI Example:

    .. code-block:: bash

        salt 'ctl*' kolla_rabbitmq.verify
    """
    with _errors():
        members, client = _resolver().hosts("rabbitmq"), _broker()
        client.timeout = 0
        status, alarms = client.status(), client.health()
        queues = client.replicated() if __opts__["id"] == members[0] else []
        running = sorted(name for name, node in status["nodes"].items() if node["running"])
        # Not the cluster's name: unless somebody gives it one, each member says its own.
        alike = {"running members": ", ".join(running), "version": status["version"]}
        return {"findings": broker.findings(__opts__["id"], members, status, alarms, queues), "alike": alike}


def quorum_critical() -> list[str]:
    """Return the queues that would lose their majority if the member on this host stopped now.

    :returns: ``VHOST:QUEUE`` each, sorted; empty: it may be stopped

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.quorum_critical
    """
    with _errors():
        return _broker().quorum_critical()


def upgrade_obstacles() -> list[str]:
    """Return what speaks against a change of RabbitMQ's release, as sentences.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.upgrade_obstacles
    """
    if _resolver().hosts(CONTAINER)[0] != __opts__["id"]:
        return []  # each member knows it of all
    with _errors():
        flags = _broker().disabled_flags()
    mend = "salt-call kolla_rabbitmq.enable_flags on a member enables them"
    return [f"feature flags are not enabled: {', '.join(flags)}; the next release needs them: {mend}"] if flags else []


def stop_obstacles() -> list[str]:
    """Return why the member on this host must not be stopped now, as sentences; empty: it may be.

    A member that does not answer holds nothing up. Else all others have to run, and no queue may lose its majority. One
    in maintenance has given up its queues already.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.stop_obstacles
    """
    with _errors():
        members = _resolver().hosts("rabbitmq")
        try:
            client = _broker()
            client.timeout = 0
            # Only what is needed: a page that fails must not keep a restart from mending it.
            nodes = client.nodes()
            left = nodes.get(broker.member(_resolver().host), {}).get("leaving")
            critical = client.quorum_critical() if len(members) > 1 and not left else []
        except broker.Unreachable:
            return []
    missing = len(members) - sum(1 for node in nodes.values() if node["running"])
    silent = [name for name, node in nodes.items() if not node["running"]]
    found = [f"{name} does not run, so the queues have no other member to spare" for name in silent]
    if missing > len(silent):
        found.append(f"the cluster has {len(nodes)} members, the group rabbitmq has {len(members)} hosts")
    if critical:
        shown = ", ".join(critical[:5]) + (f" and {len(critical) - 5} more" if len(critical) > 5 else "")
        found.append(f"without this member {shown} would lose their majority")
    return found


def leave() -> bool:
    """Have the member on this host let its clients and what it leads go to the others, as it is about to be stopped.

    It is in maintenance then (``rabbitmq-upgrade drain``) until it is started anew.

    :returns: whether there is another member
    :raises CommandExecutionError: RabbitMQ refuses

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.leave
    """
    with _errors():
        if len(_resolver().hosts("rabbitmq")) < 2:
            return False
    __salt__["kolla_container.exec"](CONTAINER, ["rabbitmqctl", "--quiet", "eval", "rabbit_maintenance:drain()."])
    return True


def forget(host: str) -> bool:
    """Let the cluster forget the member of a host that is gone for good, so that a new one of that name can join.

    :param host: its name in the topology
    :returns: whether the cluster knew it
    :raises CommandExecutionError: the member runs, or RabbitMQ refuses

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.forget node2
    """
    name = broker.member(host)
    with _errors():
        nodes = _broker().status()["nodes"]
    if name not in nodes:
        return False
    if nodes[name]["running"]:
        raise CommandExecutionError(
            f"forgetting RabbitMQ's member {name}: it runs, expected one that is gone; stop it first: "
            f"salt {host} kolla_container.stop rabbitmq"
        )
    command = ["rabbitmqctl", "--quiet", "forget_cluster_node", name]
    __salt__["kolla_container.exec"](CONTAINER, command, timeout=TIMEOUT)
    return True


#: Gives streams a member; the program of RabbitMQ that does it is for one stream and takes two seconds.
_ADD_MEMBER = """
Add = fun(VHost, Name) ->
    try rabbit_stream_queue:add_replica(VHost, Name, '{node}') catch _:Why -> {{error, Why}} end
end,
[{{Name, Add(VHost, Name)}} || {{VHost, Name}} <- [{streams}]].
"""


def _lacking() -> list[broker.Queue]:
    resolver = _resolver()
    hosts = resolver.hosts("rabbitmq")
    if resolver.host not in hosts or len(hosts) < 2:
        return []
    members = [broker.member(host) for host in hosts]
    return broker.lacking(_broker().replicated(), broker.member(resolver.host), members, min(_COPIES, len(hosts)))


def lacking() -> list[str]:
    """Return the replicated queues that have too few members, and shall get one on this host: ``VHOST:QUEUE`` each.

    A queue or stream has three, or one on each host where there are fewer. It lacks one when a member of the cluster
    was lost with its data, or was not there yet when the queue was made.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.lacking
    """
    with _errors():
        return [str(queue) for queue in _lacking()]


def copies_diff(timeout: float = 0) -> Changes:
    """Say whether queues are to get a member on this host, see :func:`lacking`.

    :param timeout: seconds to wait for RabbitMQ. With 0, one that does not answer yet is no error: it has no queues, or
        what they lack is seen when it runs

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.copies_diff
    """
    with _errors():
        if len(_resolver().hosts("rabbitmq")) < 2 or _silent(timeout):
            return {}
        found = [str(queue) for queue in _lacking()]
    return {"queues without a member here": {"old": found, "new": []}} if found else {}


def grow(timeout: float = TIMEOUT) -> list[str]:
    """Give the queues that have too few members one on this host, see :func:`lacking`.

    Quorum queues would get it by themselves in a while (``continuous_membership_reconciliation``), streams never.

    :param timeout: seconds within which the queues must have it
    :returns: the queues, ``VHOST:QUEUE`` each
    :raises CommandExecutionError: some still lack it, with what RabbitMQ said

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.grow
    """
    deadline = time.monotonic() + timeout
    with _errors():
        _silent(timeout)
        left = wanted = _lacking()
        said = [__salt__["kolla_container.exec"](CONTAINER, command, check=False) for command in _grow_commands(wanted)]
        while left and time.monotonic() < deadline:
            time.sleep(RETRY_INTERVAL)
            left = [queue for queue in _lacking() if queue in wanted]
    if left:
        heard = " ".join(" ".join(answer["output"].split()) for answer in said)
        raise CommandExecutionError(
            f"giving {len(wanted)} queues a member on {_resolver().host}: {len(left)} still lack it after {timeout:g} "
            f"s ({', '.join(str(queue) for queue in left[:5])}). RabbitMQ said: {heard[-400:] or 'nothing'}. "
            "kolla-salt deploy rabbitmq tries again; a queue whose other members are gone for good has to be deleted: "
            "docker exec rabbitmq rabbitmqctl delete_queue NAME"
        )
    return [str(queue) for queue in wanted]


def _grow_commands(queues: list[broker.Queue]) -> Iterator[list[str]]:
    """Yield the commands that give ``queues`` a member on this host."""
    node = broker.member(_resolver().host)
    streams = [queue for queue in queues if queue.kind == broker.STREAM]
    if streams:
        pairs = ", ".join(f"{{<<{_quoted(queue.vhost)}>>, <<{_quoted(queue.name)}>>}}" for queue in streams)
        yield ["rabbitmqctl", "--quiet", "eval", _ADD_MEMBER.format(node=node, streams=pairs)]
    names: dict[str, list[str]] = {}
    for queue in queues:
        if queue.kind == broker.QUORUM:
            names.setdefault(queue.vhost, []).append(re.escape(queue.name))
    for vhost, found in names.items():
        patterns = ["--vhost-pattern", f"^{re.escape(vhost)}$", "--queue-pattern", f"^(?:{'|'.join(found)})$"]
        yield ["rabbitmq-queues", "--quiet", "grow", node, "all", *patterns]


def _quoted(text: str) -> str:
    """Return ``text`` as a string of Erlang."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def wait(timeout: float = TIMEOUT) -> dict[str, Any]:
    """Wait until RabbitMQ's management interface answers and return :func:`status`.

    CLI Example:

    .. code-block:: bash

        salt node1 kolla_rabbitmq.wait timeout=60
    """
    with _errors():
        _broker().wait(timeout)
        return _broker().status()
