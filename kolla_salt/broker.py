"""RabbitMQ through its management interface: accounts, policies, feature flags, health.

No Salt here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from kolla_salt import knock

Changes = dict[str, dict[str, Any]]

REQUEST_TIMEOUT = 30
RETRY_INTERVAL = 1.0
_LONGEST_BODY = 400
#: Kinds of queues whose messages are on several members.
REPLICATED = (QUORUM, STREAM) = ("quorum", "stream")
_HASHES = {"rabbit_password_hashing_sha256": "sha256", "rabbit_password_hashing_sha512": "sha512"}


class Queue(NamedTuple):
    """A queue with copies on several members."""

    kind: str
    vhost: str
    name: str

    def __str__(self) -> str:
        return f"{self.vhost}:{self.name}"


class BrokerError(Exception):
    """RabbitMQ refused something; the message holds no secret."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class Unreachable(BrokerError):
    """RabbitMQ does not answer (yet)."""


class Broker:
    """The management interface of one member, as an administrator sees it.

    url
        without ``/api``
    user, password
        account with the tag ``administrator`` (``monitoring`` is enough for reading)
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url, self.user, self._password = url.rstrip("/"), user, password
        self.timeout: float = 0
        self._session: Any = None

    # --- talking -------------------------------------------------------------------------------------------------

    def wait(self, timeout: float) -> None:
        """Log in, and try again for ``timeout`` seconds as long as nobody answers."""
        self.timeout = timeout
        if timeout <= 0 and self._session is None and (why := knock.silent_url(self.url)):
            raise Unreachable(f"RabbitMQ's management interface at {self.url} does not answer ({why})")
        self.request("GET", "/whoami")

    def get(self, path: str) -> Any | None:
        """Return what is at ``path`` (below ``/api``), or None if there is nothing."""
        try:
            return self.request("GET", path)
        except BrokerError as err:
            if err.status == 404:
                return None
            raise

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send one request; as long as nobody answers, try again for ``self.timeout`` seconds."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return self._request(method, path, body)
            except Unreachable as err:
                if time.monotonic() + RETRY_INTERVAL > deadline:
                    waited = f"; gave up after {self.timeout:g} seconds" if self.timeout else ""
                    raise Unreachable(f"{err}{waited}") from err
            time.sleep(RETRY_INTERVAL)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import requests

        if self._session is None:
            self._session = requests.Session()
            # A proxy of the host's environment is for the world outside, not for the cloud's own addresses.
            self._session.trust_env = False
            self._session.auth = (self.user, self._password)
        try:
            response = self._session.request(method, f"{self.url}/api{path}", json=body, timeout=REQUEST_TIMEOUT)
        except (requests.ConnectionError, requests.Timeout) as err:
            raise Unreachable(f"RabbitMQ's management interface at {self.url} does not answer ({err})") from err
        except requests.RequestException as err:
            raise BrokerError(f"{method} {self.url}/api{path}: {err}") from err
        if response.status_code == 401:
            raise BrokerError(
                f"RabbitMQ at {self.url} refuses the account {self.user}: expected its password from the site's "
                "passwords and the tag administrator",
                401,
            )
        # Health checks say what is wrong with status 503 and JSON; a load balancer without member does not.
        failed = response.status_code >= 400
        if failed and not ("/health/" in path and response.status_code == 503):
            text = " ".join(response.content.decode(errors="replace").split())[:_LONGEST_BODY]
            message = f"{method} {self.url}/api{path}: HTTP {response.status_code}: {text}"
            raise (Unreachable if response.status_code == 503 else BrokerError)(message, response.status_code)
        return response.json() if response.content else None

    # --- accounts ------------------------------------------------------------------------------------------------

    def user_diff(
        self, name: str, password: str, tags: list[str], permissions: Mapping[str, Mapping[str, str]]
    ) -> Changes:
        """Compare an account; ``permissions`` is virtual host -> configure, write, read."""
        found = self.get(f"/users/{_quote(name)}")
        changes: Changes = {}
        if found is None:
            changes["user"] = {"old": None, "new": name}
            changes["tags"] = {"old": None, "new": sorted(tags)}
        else:
            if not _matches(found, password):
                changes["password"] = {"old": "another one", "new": "as in the site's passwords"}
            present = found["tags"].split(",") if isinstance(found["tags"], str) else found["tags"]
            present = sorted(tag.strip() for tag in present if tag.strip())
            if present != sorted(tags):
                changes["tags"] = {"old": present, "new": sorted(tags)}
        for vhost, wanted in permissions.items():
            granted = self.get(f"/permissions/{_quote(vhost)}/{_quote(name)}") if found else None
            old = {key: granted[key] for key in ("configure", "write", "read")} if granted else None
            if old != dict(wanted):
                changes[f"permissions in {vhost}"] = {"old": old, "new": dict(wanted)}
        return changes

    def set_user(
        self, name: str, password: str, tags: list[str], permissions: Mapping[str, Mapping[str, str]], diff: Changes
    ) -> None:
        """Set right what :meth:`user_diff` found."""
        if {"user", "password", "tags"} & diff.keys():
            self.request("PUT", f"/users/{_quote(name)}", {"password": password, "tags": ",".join(tags)})
        for vhost, wanted in permissions.items():
            if f"permissions in {vhost}" in diff:
                self.request("PUT", f"/permissions/{_quote(vhost)}/{_quote(name)}", wanted)

    def vhost_diff(self, name: str) -> Changes:
        """Say whether a virtual host has to be created."""
        return {} if self.get(f"/vhosts/{_quote(name)}") is not None else {"vhost": {"old": None, "new": name}}

    def create_vhost(self, name: str) -> None:
        """Create a virtual host; an existing one stays as it is."""
        self.request("PUT", f"/vhosts/{_quote(name)}")

    # --- policies ------------------------------------------------------------------------------------------------

    def policy_diff(self, vhost: str, name: str, wanted: Mapping[str, Any]) -> Changes:
        """Compare a policy; ``wanted`` has ``pattern``, ``definition``, ``priority``, ``apply-to``."""
        found = self.get(f"/policies/{_quote(vhost)}/{_quote(name)}")
        if found is None:
            return {key: {"old": None, "new": value} for key, value in wanted.items()}
        return {key: {"old": found.get(key), "new": value} for key, value in wanted.items() if found.get(key) != value}

    def set_policy(self, vhost: str, name: str, wanted: Mapping[str, Any]) -> None:
        """Create or replace a policy."""
        self.request("PUT", f"/policies/{_quote(vhost)}/{_quote(name)}", wanted)

    def delete_policy(self, vhost: str, name: str) -> None:
        """Remove a policy."""
        self.request("DELETE", f"/policies/{_quote(vhost)}/{_quote(name)}")

    # --- the cluster ---------------------------------------------------------------------------------------------

    def disabled_flags(self) -> list[str]:
        """Return the stable feature flags that are not enabled. An upgrade needs all of them enabled before."""
        return sorted(
            flag["name"]
            for flag in self.request("GET", "/feature-flags")
            if flag["state"] != "enabled" and flag.get("stability", "stable") != "experimental"
        )

    def enable_flag(self, name: str) -> None:
        """Enable a feature flag; this cannot be undone."""
        self.request("PUT", f"/feature-flags/{_quote(name)}/enable", {"name": name})

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the members: name -> ``running``, ``alarms``, ``partitions``, ``leaving`` (in maintenance)."""
        return {
            node["name"]: {
                "running": bool(node["running"]),
                "alarms": [kind for kind in ("mem", "disk_free") if node.get(f"{kind}_alarm")],
                "partitions": node.get("partitions", []),
                "leaving": bool(node.get("being_drained")),
            }
            for node in self.request("GET", "/nodes")
        }

    def status(self) -> dict[str, Any]:
        """Return the cluster's name, versions, members with alarms and partitions, and number of queues."""
        overview = self.request("GET", "/overview")
        return {
            "cluster": overview["cluster_name"],
            "version": overview["rabbitmq_version"],
            "nodes": self.nodes(),
            "queues": overview.get("object_totals", {}).get("queues", 0),
        }

    def health(self) -> dict[str, str]:
        """Return what is wrong: check -> reason; empty if all is well."""
        wrong = {}
        for check in ("alarms", "local-alarms", "virtual-hosts"):
            answer = self.request("GET", f"/health/checks/{check}")
            if answer.get("status") != "ok":
                wrong[check] = str(answer.get("reason", answer))
        return wrong

    def replicated(self) -> list[dict[str, Any]]:
        """Return the queues with copies: ``vhost``, ``name``, ``type``, ``members``, ``online`` (those that run)."""
        # Without statistics the answer costs milliseconds.
        found = self.request("GET", "/queues?disable_stats=true&columns=vhost,name,type,members,online")
        return [queue for queue in found if queue.get("type") in REPLICATED and queue.get("members")]

    def quorum_critical(self) -> list[str]:
        """Return the queues that would lose their majority if this member stopped."""
        answer = self.request("GET", "/health/checks/node-is-quorum-critical")
        queues = answer.get("queues", [])
        return sorted(f"{queue['virtual_host']}:{queue['name']}" for queue in queues if queue.get("name"))


def findings(
    host: str, hosts: Sequence[str], status: Mapping[str, Any], alarms: Mapping[str, str], queues: Iterable[Any] = ()
) -> list[dict[str, Any]]:
    """Return what is wrong with the cluster as the member of ``host`` sees it, for ``kolla-salt verify``.

    hosts
        of the group, names of the topology
    status, alarms, queues
        as :meth:`Broker.status`, :meth:`Broker.health` and :meth:`Broker.replicated` return them
    """
    nodes, wanted = status["nodes"], {member(name): name for name in hosts}
    found = []
    for name in sorted(wanted.keys() - nodes.keys()):
        mend = f"kolla-salt deploy --limit {wanted[name]} lets it join"
        found.append(
            {"name": "members", "found": f"{name} is none", "expected": "a member", "winner": "site", "mend": mend}
        )
    for name, node in nodes.items():
        item = {"name": f"member {name}", "winner": "site"}
        if name not in wanted:
            mend = (
                f"if it is gone for good: salt {host} kolla_rabbitmq.forget {name.partition('@')[2]}; else add its host"
            )
            found.append(
                {**item, "found": "a member", "expected": "a host of the site", "winner": "undecided", "mend": mend}
            )
        elif not node["running"]:
            mend = f"docker logs --tail 50 rabbitmq on {wanted[name]}"
            found.append({**item, "found": "does not run", "expected": "running", "mend": mend})
        if node["leaving"]:
            mend = f"docker exec rabbitmq rabbitmq-upgrade revive on {wanted.get(name, name)}"
            found.append(
                {**item, "found": "in maintenance, takes no clients", "expected": "takes clients", "mend": mend}
            )
        if node["alarms"]:
            mend = f"free what is short on {wanted.get(name, name)}: publishers wait until then"
            found.append({**item, "found": f"alarm: {', '.join(node['alarms'])}", "expected": "none", "mend": mend})
        if node["partitions"]:
            text = f"does not see {', '.join(node['partitions'])}"
            found.append({**item, "found": text, "expected": "sees all", "mend": "look at the network between them"})
    for check, reason in alarms.items():
        if check != "alarms":  # every member tells them of all, and they stand above
            mend = f"docker logs --tail 50 rabbitmq on {host}"
            found.append({"name": f"check {check}", "found": reason, "expected": "ok", "winner": "site", "mend": mend})
    return found + _lacking(host, hosts, queues)


def _lacking(host: str, hosts: Sequence[str], queues: Iterable[Any]) -> list[dict[str, Any]]:
    """Return one finding for all replicated queues that have too few members, and one for those with members away."""
    size = min(3, len(hosts))
    few = [q for q in queues if len(q.get("members") or ()) < size]
    away = [q for q in queues if q not in few and len(q.get("online") or ()) < len(q["members"])]
    found = []
    for listed, what, mend in (
        (
            few,
            f"fewer than {size} members",
            "kolla-salt deploy rabbitmq",
        ),
        (away, "members that are not online", "kolla-salt status: which broker is away"),
    ):
        if listed:
            names = ", ".join(f"{q['vhost']}:{q['name']}" for q in listed[:3])
            text = f"{len(listed)} with {what}, such as {names}"
            found.append(
                {"name": "queues and streams", "found": text, "expected": "none", "winner": "site", "mend": mend}
            )
    return found


def lacking(queues: Iterable[Mapping[str, Any]], name: str, members: Sequence[str], size: int) -> list[Queue]:
    """Return the queues that have fewer than ``size`` members, of which ``name`` is to become one.

    Where more could become one than are needed, the queue's name decides, so that all hosts decide alike.

    Args:
        queues: as :meth:`Broker.replicated` returns them.
        name: a member of the cluster.
        members: all of them; others do not count.
        size: members of each queue.
    """
    found = []
    for queue in queues:
        free = sorted(set(members) - set(queue["members"]))
        needed = size - (len(members) - len(free))
        if needed <= 0 or name not in free:
            continue
        turn = zlib.crc32(queue["name"].encode()) % len(free)
        if name in (free[turn:] + free[:turn])[:needed]:
            found.append(Queue(queue["type"], queue["vhost"], queue["name"]))
    return sorted(found)


def member(host: str) -> str:
    """Return the name of the cluster's member on ``host``, a name of the topology."""
    return f"rabbit@{host.split('.')[0]}"


def _matches(user: Mapping[str, Any], password: str) -> bool:
    """Say whether the stored hash is that of ``password``: four bytes of salt, then the hash of salt and password."""
    algorithm = _HASHES.get(str(user.get("hashing_algorithm")))
    if algorithm is None:
        return False
    stored = base64.b64decode(user["password_hash"])
    salt = stored[:4]
    return hmac.compare_digest(stored[4:], hashlib.new(algorithm, salt + password.encode()).digest())


def _quote(name: str) -> str:
    return quote(name, safe="")
