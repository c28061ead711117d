"""Which compute hosts Nova knows, and how servers leave one: its databases and its API, compared with the topology."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kolla_salt.cloud_api import CloudError, same_host

Changes = dict[str, dict[str, Any]]

#: Seconds after which a service that does not report counts as down; Nova's own default of `service_down_time`.
DOWN_AFTER = 60
#: Seconds after which nobody waits for it any longer: no container takes that long to start again.
GONE_AFTER = 180

#: Host and age of the last report of every nova-compute, and whether it has switched itself off for lack of libvirt.
COMPUTES = """
    SELECT host, TIMESTAMPDIFF(SECOND, COALESCE(last_seen_up, updated_at, created_at), UTC_TIMESTAMP()),
        disabled AND COALESCE(disabled_reason, '') LIKE 'AUTO:%'
    FROM services WHERE `binary` = 'nova-compute' AND deleted = 0
"""
#: Hosts that a cell has; the scheduler chooses among no others.
MAPPED = "SELECT host FROM host_mappings"


def status(computes: Iterable[Sequence[Any]], mapped: Iterable[Sequence[Any]]) -> dict[str, list[str]]:
    """Return what the rows of :data:`COMPUTES` and :data:`MAPPED` mean.

    :returns: host names: ``up``, ``held`` and ``down`` (registered; those that report, those that do but have lost
        libvirt, those that do not report), ``gone`` (those of ``down`` that have a cell and have been silent for long),
        ``mapped``
    """
    cells = {str(row[0]) for row in mapped}
    found: dict[str, list[str]] = {"up": [], "held": [], "down": [], "gone": [], "mapped": sorted(cells)}
    for host, age, held in computes:
        reports = age is not None and int(age) <= DOWN_AFTER
        found["down" if not reports else "held" if held else "up"].append(str(host))
        if age is not None and int(age) > GONE_AFTER and str(host) in cells:
            found["gone"].append(str(host))
    return {key: sorted(value) for key, value in found.items()}


def missing(hosts: Sequence[str], up: Sequence[str]) -> list[str]:
    """Return the hosts of the site on which no nova-compute reports.

    Nova goes by the machine's own name, which may be longer or shorter than the one in the topology; where no names fit
    at all, as many are missing as the numbers differ by.

    :param hosts: names in the topology
    :param up: hosts that Nova sees
    """
    seen = {name.split(".")[0] for name in up}
    absent = [host for host in hosts if host.split(".")[0] not in seen]
    strangers = len(up) - (len(hosts) - len(absent))
    return absent[max(0, strangers) :]


def awaited(hosts: Sequence[str], found: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the hosts of the site that have still to announce themselves.

    Not one that has done so before and has died since: it is in its cell, and nobody knows when it comes back.

    :param hosts: names in the topology
    :param found: as :func:`status` returns it
    """
    return missing(hosts, [*found["up"], *found["gone"]])


def hosts_diff(hosts: Sequence[str], found: dict[str, list[str]]) -> Changes:
    """Compare the compute hosts of the site with those that Nova schedules to.

    :param hosts: hosts of the group compute
    :param found: as :func:`status` returns it
    :returns: ``registered`` if some have not announced themselves, ``mapped`` if some belong to no cell yet
    """
    changes: Changes = {}
    absent = awaited(hosts, found)
    if absent:
        changes["registered"] = {"old": found["up"], "new": sorted({*found["up"], *absent})}
    unmapped = [host for host in found["up"] if host not in found["mapped"]]
    if unmapped or absent:
        wanted = sorted({*found["mapped"], *unmapped, *absent})
        if wanted != found["mapped"]:
            changes["mapped"] = {"old": found["mapped"], "new": wanted}
    return changes


# --- servers that have to leave a host --------------------------------------------------------------------------------

#: Reason of a switched-off nova-compute by which it is known again who did it.
DRAINED = "drained by kolla-salt"
LIVE, COLD, EVACUATE, WAIT, STUCK = "live", "cold", "evacuate", "wait", "stuck"


class Compute:
    """What draining and removing a host needs of Nova's API.

    Args:
        api: of the cloud.
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def service(self, host: str) -> dict[str, Any] | None:
        """Return the nova-compute of ``host``, None if Nova knows none."""
        found = self.api.get("compute", "/os-services", binary="nova-compute")["services"]
        return next((service for service in found if same_host(service["host"], host)), None)

    def others(self, host: str) -> list[str]:
        """Return the other hosts that take servers."""
        return sorted(
            service["host"]
            for service in self.api.get("compute", "/os-services", binary="nova-compute")["services"]
            if not same_host(service["host"], host) and service["state"] == "up" and service["status"] == "enabled"
        )

    def set_service(self, service_id: str, **fields: Any) -> None:
        """Change a service: ``status`` (enabled, disabled), ``disabled_reason``, ``forced_down``."""
        try:
            self.api.request("PUT", "compute", f"/os-services/{service_id}", fields)
        except CloudError as error:
            # Nova has written it, and waits for a host that is dead longer than the load balancer waits for Nova.
            found = self.api.get("compute", "/os-services", binary="nova-compute")["services"]
            now = next((service for service in found if service["id"] == service_id), {})
            if error.status not in (502, 504) or any(now.get(key) != value for key, value in fields.items()):
                raise

    def delete_service(self, service_id: str) -> bool:
        """Delete a service, with its resource provider and its mapping to a cell; False if it was gone."""
        return self.api.delete("compute", f"/os-services/{service_id}")

    def servers(self, host: str) -> list[dict[str, Any]]:
        """Return the servers of all projects on ``host``, by Nova's name of it."""
        found: list[dict[str, Any]] = []
        marker = None
        while True:
            page = self.api.get("compute", "/servers/detail", all_tenants=1, host=host, marker=marker)
            found += page["servers"]
            if not page["servers"] or not page.get("servers_links"):
                return sorted(found, key=lambda server: server["name"])
            marker = page["servers"][-1]["id"]

    def server(self, server_id: str) -> dict[str, Any] | None:
        """Return a server, None if it is gone."""
        found = self.api.find("compute", f"/servers/{server_id}")
        return found["server"] if found else None

    def act(self, server_id: str, action: str, body: Any = None) -> None:
        """Do something with a server, such as ``migrate`` or ``confirmResize``."""
        self.api.request("POST", "compute", f"/servers/{server_id}/action", {action: body})

    def unconfirmed(self, host: str) -> dict[str, str]:
        """Return the servers that left ``host`` and wait to be confirmed: id -> ``migration`` or ``resize``."""
        found = self.api.get("compute", "/os-migrations", source_compute=host, status="finished")["migrations"]
        kinds = {item["instance_uuid"]: item["migration_type"] for item in found}
        return {key: kind for key, kind in kinds.items() if kind in ("resize", "migration")}

    def percent(self, server_id: str) -> int | None:
        """Return how much of a running live migration's memory has been sent."""
        found = (self.api.find("compute", f"/servers/{server_id}/migrations") or {}).get("migrations") or []
        for item in found:
            if item.get("memory_total_bytes"):
                return round(100 * item["memory_processed_bytes"] / item["memory_total_bytes"])
        return None

    def failed(self, server_id: str, host: str) -> bool:
        """Return whether the last attempt of a server to leave ``host`` came to nothing.

        Without a task and still on its host is also one that has arrived: Nova notes the new host last.
        """
        found = self.api.get("compute", "/os-migrations", source_compute=host)["migrations"]
        own = [item for item in found if item["instance_uuid"] == server_id]
        last = max(own, key=lambda item: str(item.get("created_at")), default={"status": "error"})
        return last["status"] in ("error", "failed", "cancelled")

    def why(self, server_id: str) -> str:
        """Return why the last action on a server failed, as Nova tells it."""
        path = f"/servers/{server_id}/os-instance-actions"
        actions = (self.api.find("compute", path) or {}).get("instanceActions") or []
        if not actions:
            return "Nova does not say why"
        detail = self.api.get("compute", f"{path}/{actions[0]['request_id']}")["instanceAction"]
        said = [str(event["details"]) for event in detail.get("events") or [] if event.get("details")]
        return said[-1] if said else str(detail.get("message") or "Nova does not say why")


def way(server: Mapping[str, Any], cold: bool = False, dead: bool = False) -> tuple[str, str]:
    """Return how a server can leave its host, and in case of :data:`STUCK` why it cannot and what helps.

    A running server moves live. One that is shut off has nothing to interrupt and moves cold; others only if ``cold``.

    Args:
        server: as ``/servers/detail`` returns it.
        cold: servers may be stopped for it.
        dead: the host is gone for good, with the disks on it: the server is made anew from its image.
    """
    status, name = server["status"], server["name"]
    if server.get("OS-EXT-STS:task_state"):
        return WAIT, str(server["OS-EXT-STS:task_state"])
    if dead:
        if status in ("ACTIVE", "SHUTOFF", "ERROR"):
            return EVACUATE, ""
        return STUCK, f"it is {status}; openstack server set --state error {name}, or delete it"
    if status == "SHUTOFF" or status == "ACTIVE" and cold:
        return COLD, ""
    if status in ("ACTIVE", "PAUSED"):
        return LIVE, ""
    helps = {
        "VERIFY_RESIZE": f"its owner has to confirm or revert a resize: openstack server resize confirm|revert {name}",
        "SUSPENDED": f"wake it (openstack server resume {name}) or shelve it (openstack server shelve {name})",
        "RESCUE": f"end its rescue: openstack server unrescue {name}",
        "ERROR": f"openstack server set --state active {name} if it is well, or delete it",
        "SHELVED": f"openstack server shelve offload {name}",
    }
    return STUCK, f"it is {status}; " + helps.get(status, "wait until it is ACTIVE or SHUTOFF")


class Move:
    """Moves all servers away from one host.

    Args:
        compute: Nova's API.
        host: by Nova's name.
        cold: stop and move those that cannot move live.
        dead: the host is gone for good, see :func:`way`.
        timeout: seconds in all.
        say: takes a line when something has happened.
        interval: seconds between two looks.
    """

    def __init__(
        self,
        compute: Compute,
        host: str,
        cold: bool = False,
        dead: bool = False,
        timeout: float = 600,
        say: Callable[[str], None] = print,
        interval: float = 1.0,
    ) -> None:
        self.compute, self.host, self.cold, self.dead = compute, host, cold, dead
        self.timeout, self.say, self.interval = timeout, say, interval
        #: id -> how it is being moved
        self.started: dict[str, str] = {}
        #: name -> where it went
        self.moved: dict[str, str] = {}
        #: name -> why it is still here, and what helps
        self.stuck: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._confirmed: set[str] = set()

    def run(self) -> None:
        """Move them; what came of it is in ``moved`` and ``stuck``."""
        deadline = time.monotonic() + self.timeout
        for key, kind in self.compute.unconfirmed(self.host).items():
            server = self.compute.server(key)
            if server is None or server["status"] != "VERIFY_RESIZE":
                continue
            if kind == "migration":
                # Of a drain that was interrupted.
                self.started[key] = COLD
            else:
                self.stuck[server["name"]] = f"it left, but {way(server)[1]}"
        told = time.monotonic()
        while True:
            here = {server["id"]: server for server in self.compute.servers(self.host)}
            self._names.update({key: server["name"] for key, server in here.items()})
            waiting = [server for server in here.values() if self._look(server)]
            waiting += [server for key in list(self.started) if key not in here and (server := self._arrived(key))]
            if not waiting:
                return
            if time.monotonic() > deadline:
                for server in waiting:
                    state = server.get("OS-EXT-STS:task_state") or server["status"]
                    self.stuck[server["name"]] = (
                        f"it is still {state} after {self.timeout:g} s; the same command goes on waiting, --timeout "
                        "gives it longer"
                    )
                return
            if time.monotonic() - told > 10:
                told = time.monotonic()
                self.say(f"{len(self.moved)} moved, under way: {', '.join(self._progress(s) for s in waiting[:5])}")
            time.sleep(self.interval)

    def _progress(self, server: Mapping[str, Any]) -> str:
        percent = self.compute.percent(server["id"]) if self.started.get(server["id"]) == LIVE else None
        state = server.get("OS-EXT-STS:task_state") or server["status"]
        return f"{server['name']} ({state}{f' {percent} %' if percent is not None else ''})"

    def _look(self, server: Mapping[str, Any]) -> bool:
        """Do what is next for a server that is still here; return whether to wait for it."""
        key, name = server["id"], server["name"]
        if name in self.stuck:
            return False
        how, why = way(server, self.cold, self.dead)
        if how == WAIT:
            return True
        if key in self.started:
            if not self.compute.failed(key, self.host):
                return True
            verb = {LIVE: "live migration", EVACUATE: "evacuation"}.get(self.started[key], "migration")
            helps = (
                f"; kolla-salt node drain {self.host} --cold stops it and moves it"
                if self.started[key] == LIVE and not self.cold
                else ""
            )
            self.stuck[name] = f"its {verb} failed: {self.compute.why(key)}{helps}"
            return False
        if how == STUCK:
            self.stuck[name] = why
            return False
        try:
            if how == LIVE:
                self.compute.act(key, "os-migrateLive", {"host": None, "block_migration": "auto"})
            elif how == EVACUATE:
                self.compute.act(key, "evacuate", {})
            else:
                self.compute.act(key, "migrate")
        except CloudError as error:
            helps = f"; kolla-salt node drain {self.host} --cold" if how == LIVE and not self.cold else ""
            self.stuck[name] = f"{error}{helps}"
            return False
        self.started[key] = how
        return True

    def _confirm(self, key: str) -> None:
        """Confirm a cold migration, once: Nova takes its time for it, and knows of none to confirm meanwhile."""
        if key in self._confirmed:
            return
        try:
            self.compute.act(key, "confirmResize")
        except CloudError as error:
            # An earlier drain has done it.
            if error.status != 400:
                raise
        self._confirmed.add(key)

    def _arrived(self, key: str) -> dict[str, Any] | None:
        """Look after a server that has left the host; return it if there is more to wait for."""
        server = self.compute.server(key)
        if server is None:
            # Its owner deleted it meanwhile.
            self.started.pop(key)
            return None
        if server.get("OS-EXT-STS:task_state"):
            return server
        if server["status"] == "VERIFY_RESIZE" and self.started[key] == COLD:
            self._confirm(key)
            return server
        how = self.started.pop(key)
        self.moved[server["name"]] = str(server.get("OS-EXT-SRV-ATTR:host"))
        done = "made anew" if how == EVACUATE else f"{how} migration"
        self.say(f"{server['name']} is on {self.moved[server['name']]} ({done})")
        return None
