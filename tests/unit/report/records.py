"""Records of runs as a deploy leaves them, for looking at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kolla_salt import runs

BEGIN = 1_795_000_000.0
WAVES = {
    1: ["kolla", "common", "loadbalancer", "mariadb", "rabbitmq"],
    2: ["keystone"],
    3: ["glance", "neutron", "nova", "placement"],
}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}{% if %}"


def change(name: str, function: str, at: float, seconds: float, **changes: Any) -> dict[str, Any]:
    return {
        "id": name, "sls": name.split("_")[0], "function": function, "comment": f"{name} was changed",
        "changes": changes, "at": at, "seconds": seconds,
    }  # fmt: skip


def file_change(service: str, at: float) -> dict[str, Any]:
    diff = "@@ -1,4 +1,5 @@\n [DEFAULT]\n-debug = False\n+debug = True\n workers = 2\n+[database]\n+password = ***"
    return change(
        f"{service}/{service}.conf", "kolla_config.managed", at, 0.02, content={"old": "40 lines", "new": diff}
    )


def container(service: str, at: float, seconds: float, new: str = "recreated") -> dict[str, Any]:
    return change(
        service, "kolla_container.running", at, seconds,
        state={"old": "running", "new": new},
        image={"old": f"quay.io/openstack.kolla/{service}:2025.2", "new": f"quay.io/openstack.kolla/{service}:2026.1"},
    )  # fmt: skip


def failure(host: str, name: str, comment: str, at: float = 1.0) -> dict[str, Any]:
    return {
        "host": host, "id": name, "sls": "nova", "function": "kolla_container.running", "comment": comment,
        "seconds": 3.5, "at": at,
    }  # fmt: skip


def host_result(services: list[str], at: float, speed: float) -> dict[str, Any]:
    """Return what a host did in a step: each service's file, then its container; the span is known."""
    changed, slowest, moment = [], [], 0.0
    for number, service in enumerate(services):
        changed.append(file_change(service, moment))
        seconds = round(speed * (1 + number * 0.4), 3)
        changed.append(container(service, moment + 0.05, seconds))
        slowest.append([seconds, service, round(moment + 0.05, 3)])
        moment = round(moment + 0.05 + seconds, 3)
    return {
        "result": True, "total": len(changed) + 3, "seconds": moment, "wall": round(moment + 0.6, 3), "span": moment,
        "at": at, "changed": changed, "failed": [], "skipped": 0, "slowest": sorted(slowest, reverse=True)[:5],
    }  # fmt: skip


def write(
    root: Path, hosts: int = 4, fail: str = "", verb: str = "deploy", site: Path | None = None, **header: Any
) -> runs.Run:
    """Write the record of a run over ``hosts`` hosts; with ``fail`` its last step fails saying that."""
    names = [f"node{number}" for number in range(1, hosts + 1)]
    fields = {"site": str(site)} if site else {"site": "/etc/kolla-salt"}
    record = runs.create(verb, root, now=BEGIN, site_digest="a58d9782bf6b3fd9", version="0.1.0", **fields)
    steps, moment = [], BEGIN + 6.0
    surveys: dict[str, Any] = {}
    for wave, services in WAVES.items():
        for role, minions in (("primary", names[:1]), ("rest", names[1:])):
            step_id = f"wave {wave}: {', '.join(services)} on {', '.join(minions[:3])}"
            results, last = {}, 0.0
            for number, host in enumerate(minions):
                # The three controllers come one after the other; the rest at once.
                at = round(last, 3) if number and hosts <= 8 and number < 2 else 0.0
                results[host] = host_result(services, at, 0.5 + (number * 7 % 5) * 0.25)
                last = at + results[host]["wall"]
            seconds = round(max(said["at"] + said["wall"] for said in results.values()) + 0.2, 3)
            steps.append(
                {
                    "id": step_id, "wave": wave, "role": role, "services": services, "minions": minions,
                    "sls": services,
                    "started": moment, "seconds": seconds, "ok": True, "hosts": results, "left_out": {},
                }
            )  # fmt: skip
            moment = round(moment + seconds + 0.3, 3)
            for host in minions:
                survey = surveys.setdefault(host, {"states": [], "failed": [], "missing_images": []})
                survey["states"] += results[host]["changed"]
    if fail:
        host = steps[-1]["minions"][-1]
        said = steps[-1]["hosts"][host]
        said["result"], said["failed"] = False, [failure(host, "nova_compute", fail, at=said["span"] - 3.5)]
        steps[-1]["ok"] = False
        steps[-1]["left_out"] = {"placement": {host: "nova failed there"}}
    steps[-1]["waits"] = [
        {"what": "taken out", "at": 0.0, "seconds": 0.8, "hosts": names[1:2], "targets": 3},
        {"what": "put in", "at": 3.0, "seconds": 1.1, "hosts": names[1:2], "targets": 3},
    ]
    kept = ("id", "wave", "role", "services", "minions", "sls")
    planned = [{name: step[name] for name in kept} for step in steps]
    record.write_plan({"steps": planned, "hosts": surveys, "unknown": []})
    for step in steps:
        record.append_step(step)
    record.write_availability(receipt(BEGIN + 5.0, moment, 0 if not fail else 7))
    record.write_containers(containers(names))
    record.update(**header)
    record.close(
        "failed" if fail else "ok", seconds=round(moment - BEGIN, 3), unknown=[], failed=[],
        stages={"ask": 0.4, "dry run": 4.6}, deviations=header.get("deviations", []),
    )  # fmt: skip
    record.update(finished=moment + 0.5)
    return record


def receipt(begin: float, end: float, failed: int) -> dict[str, Any]:
    entries, services = [], {}
    for number, name in enumerate(("glance", "keystone", "mariadb", "neutron", "nova")):
        bad = failed if name == "nova" else 0
        outages = [[begin + 9.0, begin + 10.5], [end - 3.0, end - 2.9]] if bad else []
        there = name != "glance"
        outage = round(sum(last - first for first, last in outages), 3)
        entries.append(
            {
                "service": name, "entry": f"{name}_api", "kind": "tcp" if name == "mariadb" else "plain",
                "where": f"10.0.0.10:{9000 + number}", "there_before": there,
                "first_answer": begin if there else begin + 8.0, "requests": 240, "failed": bad, "outage": outage,
                "open": False, "longest_gap": 0.31, "p50": 0.012, "p99": 0.2, "max": 0.31,
                "first_failure": {"at": outages[0][0], "said": "no answer within 2 s"} if bad else None,
                "said": {"no answer within 2 s": bad} if bad else {}, "silent": "", "outages": outages,
                "outages_left_out": 0,
            }
        )  # fmt: skip
        services[name] = {
            "requests": 240, "failed": bad, "outage": outage, "open": False, "there_before": there,
            "first_failure": entries[-1]["first_failure"], "outages": outages, "outages_left_out": 0,
        }  # fmt: skip
    total = round(sum(entry["outage"] for entry in entries), 3)
    return {
        "schema": 1, "started": begin, "finished": end, "seconds": round(end - begin, 3), "requests": 1200,
        "failed": failed, "outage": total, "longest_gap": 1.5 if failed else 0.31, "stall": 0.1, "marks": [],
        "services": services, "entries": entries,
    }  # fmt: skip


def containers(names: list[str]) -> dict[str, Any]:
    def of(release: str, digit: str, services: list[str]) -> dict[str, Any]:
        return {
            service: {
                "id": digit * 12, "image": f"quay.io/openstack.kolla/{service}:{release}",
                "digest": f"sha256:{digit * 64}", "started": "2026-11-24T22:00:00Z",
            }
            for service in services
        }  # fmt: skip

    changed, same = ["glance", "keystone", "neutron", "nova"], ["mariadb", "rabbitmq"]
    return {
        "before": {name: of("2025.2", "a", changed) | of("2026.1", "c", same) for name in names},
        "after": {name: of("2026.1", "b", changed) | of("2026.1", "c", same) for name in names},
    }
