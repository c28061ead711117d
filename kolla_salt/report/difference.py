"""What differs between two runs, from their records. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kolla_salt import prediction

#: Fields of ``run.json`` that are compared, and what they are called.
_FIELDS = (
    "verb", "services", "limit", "result", "who", "from", "where", "via", "command", "version", "site", "site_digest",
)  # fmt: skip
#: Steps whose seconds differ by less than this, and by less than a tenth, took equally long.
_EQUAL = 0.5

Parts = Mapping[str, Any]


def parts(record: Any) -> dict[str, Any]:
    """Return what is compared of a record (:class:`kolla_salt.runs.Run`)."""
    from kolla_salt import runs

    return {
        "header": runs.told(record),
        "steps": list(record.steps()),
        "plan": record.plan() or {},
        "availability": record.availability(),
        "containers": record.containers() or {},
        "site": record.site(),
    }


def compare(old: Parts, new: Parts) -> dict[str, Any]:
    """Return what differs; what is equal is left out.

    Returns:
        ``old`` and ``new`` (ids); ``fields`` (name -> old, new); ``revision``; ``site``: ``files``, ``keys`` (by file)
        and ``options``; ``predicted`` and ``real``: changes that only one of the runs has, with their hosts;
        ``images``: what containers run after each of the runs; ``between``: containers that became others after the
        older run and before the newer one; ``seconds``: of steps and of the whole; ``availability``: per service.
    """
    first, second = old["header"], new["header"]
    fields = {
        name: {"old": first.get(name), "new": second.get(name)}
        for name in _FIELDS
        if (first.get(name) or None) != (second.get(name) or None)
    }
    return {
        "old": first["id"],
        "new": second["id"],
        "fields": fields,
        "revision": _revision(first, second),
        "site": _site(old["site"], new["site"]),
        "predicted": _only(_predicted(old["plan"]), _predicted(new["plan"])),
        "real": _only(_real(old["steps"]), _real(new["steps"])),
        "images": _images(old["containers"].get("after"), new["containers"].get("after")),
        "between": _images(old["containers"].get("after"), new["containers"].get("before"), identity=True),
        "seconds": _seconds(old, new),
        "availability": _availability(old["availability"], new["availability"]),
    }


def _revision(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    first, second = old.get("revision"), new.get("revision")
    if first == second:
        return {}
    compared: dict[str, Any] = {"old": first, "new": second}
    if first and second and not first["dirty"] and not second["dirty"]:
        compared["command"] = f"git -C {new['site']} diff {first['commit'][:12]} {second['commit'][:12]} -- ."
    return compared


def _names(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[str]]:
    found = {
        "changed": sorted(name for name in old if name in new and old[name] != new[name]),
        "added": sorted(set(new) - set(old)),
        "removed": sorted(set(old) - set(new)),
    }
    return {kind: names for kind, names in found.items() if names}


def _site(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    if not old or not new:
        return {}
    keys = {}
    for file in sorted({*old["keys"], *new["keys"]}):
        names = _names(old["keys"].get(file) or {}, new["keys"].get(file) or {})
        if names:
            keys[file] = names
    before, after = old["options"], new["options"]
    options = {
        name: {"old": before.get(name), "new": after.get(name)}
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }
    found = {"files": _names(old["files"], new["files"]), "keys": keys, "options": options}
    return {kind: said for kind, said in found.items() if said}


def _predicted(plan: Mapping[str, Any]) -> dict[tuple[str, str], set[str]]:
    return _by_change(
        (host, state) for host, survey in (plan.get("hosts") or {}).items() for state in survey.get("states") or []
    )


def _real(steps: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], set[str]]:
    return _by_change(
        (host, change)
        for step in steps
        for host, said in step["hosts"].items()
        for change in said["changed"]
        if isinstance(change, Mapping)
    )


def _by_change(changes: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[tuple[str, str], set[str]]:
    """Return (ID of a state, what was done) -> hosts."""
    found: dict[tuple[str, str], set[str]] = {}
    for host, change in changes:
        action = "change"
        if change["function"].startswith("kolla_container."):
            action = prediction.container_action(change)[0]
        found.setdefault((change["id"], action), set()).add(host)
    return found


def _only(old: Mapping[Any, set[str]], new: Mapping[Any, set[str]]) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for side, own, other in (("old", old, new), ("new", new, old)):
        rows = [
            {"id": name, "action": action, "hosts": sorted(hosts - other.get((name, action), set()))}
            for (name, action), hosts in own.items()
            if hosts - other.get((name, action), set())
        ]
        if rows:
            found[side] = rows
    return found


def _images(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, identity: bool = False
) -> list[dict[str, Any]]:
    """Return the containers whose image differs, those alike together.

    Args:
        old: host -> container -> what it was.
        new: the same, later.
        identity: also those that have the same image but are another container or were started anew.
    """
    if old is None or new is None:
        return []
    groups: dict[tuple[Any, ...], list[str]] = {}
    for host in sorted({*old, *new}):
        first, second = old.get(host) or {}, new.get(host) or {}
        for name in sorted({*first, *second}):
            one, other = first.get(name), second.get(name)
            same = _image(one) == _image(other)
            if same and not (identity and _incarnation(one) != _incarnation(other)):
                continue
            what = "" if not same else "recreated" if one["id"] != other["id"] else "started anew"
            groups.setdefault((name, _image(one), _image(other), what), []).append(host)
    return [
        {"container": name, "old": one, "new": other, "hosts": hosts, **({"what": what} if what else {})}
        for (name, one, other, what), hosts in groups.items()
    ]


def _image(container: Mapping[str, Any] | None) -> str | None:
    if not container:
        return None
    digest = str(container.get("digest") or "").rpartition("@")[2].removeprefix("sha256:")[:12]
    return f"{container.get('image')}" + (f" ({digest})" if digest else "")


def _incarnation(container: Mapping[str, Any] | None) -> Any:
    return (container.get("id"), container.get("started")) if container else None


def _seconds(old: Parts, new: Parts) -> list[dict[str, Any]]:
    first, second = _durations(old), _durations(new)
    rows = []
    for name in dict.fromkeys([*first, *second]):
        one, other = first.get(name), second.get(name)
        near = one is not None and other is not None and abs(other - one) < max(_EQUAL, 0.1 * max(one, other))
        if not near:
            rows.append({"id": name, "old": one, "new": other})
    return rows


def _durations(run: Parts) -> dict[str, float]:
    header = run["header"]
    found = {"the whole run": header["seconds"]} if "seconds" in header else {}
    for name, seconds in (header.get("stages") or {}).items():
        if isinstance(seconds, int | float):
            found[name] = seconds
    for step in run["steps"]:
        found[step["id"]] = round(found.get(step["id"], 0.0) + step["seconds"], 3)
    return found


def _availability(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    first, second = (old or {}).get("services") or {}, (new or {}).get("services") or {}
    told: dict[str, Any] = {}
    for name in sorted({*first, *second}):
        pair = [_noticed(side.get(name)) for side in (first, second)]
        if pair[0] != pair[1]:
            told[name] = {"old": pair[0], "new": pair[1]}
    return told


def _noticed(said: Mapping[str, Any] | None) -> Any:
    return {"failed": said["failed"], "outage": said["outage"]} if said else None


def empty(difference: Mapping[str, Any]) -> bool:
    """Return whether the runs are alike, but for the time they took."""
    return not any(value for name, value in difference.items() if name not in ("old", "new", "seconds"))
