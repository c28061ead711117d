"""What a report shows, as plain data for its template. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kolla_salt import drift, outcome, prediction, progress
from kolla_salt.cli import view
from kolla_salt.report import timeline

#: Lines of differences that a report shows in all, and of one change; the record has more.
_LINES, _LINES_OF_ONE = 30_000, 120
#: Hosts whose changes, and whose plan, are listed.
_HOSTS = 200
#: Rows of tables that could become long.
_ROWS = 60
_VERDICTS = {
    "ok": ("Done", "good"),
    "failed": ("Failed", "bad"),
    "incomplete": ("Incomplete", "warn"),
    "deviated": ("Deviated", "bad"),
    "interrupted": ("Interrupted", "warn"),
    "running": ("Still running", "warn"),
}


def build(
    header: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    plan: Mapping[str, Any] | None = None,
    receipt: Mapping[str, Any] | None = None,
    containers: Mapping[str, Any] | None = None,
    site: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return everything that the template of a report needs, from the parts of one record."""
    failures = _failures(steps, header["id"])
    changed = _changes(steps)
    drawn = timeline.build(header, steps, receipt)
    images = _images(containers)
    deviations = [sentence(item) for item in header.get("deviations") or []]
    left_out = [
        {"service": service, "host": host, "why": why}
        for step in steps
        for service, hosts in (step.get("left_out") or {}).items()
        for host, why in hosts.items()
    ]
    word, tone = _VERDICTS.get(header["result"], (header["result"], "warn"))
    around = timeline.outer(steps)
    apart = [step for number, step in enumerate(steps) if number not in around]
    timing = progress.timing_table(apart)
    return {
        "id": header["id"],
        "verb": header["verb"].replace("node-", "node "),
        "word": word,
        "tone": tone,
        "sentence": _summary(header, steps, failures, receipt),
        "facts": _facts(header, drawn["seconds"]),
        "numbers": _numbers(header, steps, failures, receipt, deviations, drawn["seconds"], containers),
        "error": header.get("error"),
        "errors": header.get("errors") or [],
        "unknown": header.get("unknown") or [],
        "deviations": deviations,
        "failures": failures,
        "left_out": left_out[:_ROWS],
        "left_out_more": max(0, len(left_out) - _ROWS),
        "timeline": drawn,
        "bars": _told(drawn, steps),
        "waves": _waves(timing, apart),
        "availability": _availability(receipt, steps),
        "images": images,
        "changes": changed,
        "plan": _plan(plan),
        "site": _site(header, site),
        "version": header.get("version"),
    }


# --- the head -------------------------------------------------------------------------------------------------------


def clock(moment: float | None, tenth: bool = False) -> str:
    """Return the time of day of ``moment`` (seconds since the epoch)."""
    if not moment:
        return "?"
    return time.strftime("%H:%M:%S", time.localtime(moment)) + (f".{int(moment * 10) % 10}" if tenth else "")


def duration(seconds: float) -> str:
    """Return a length of time as one reads it: ``0.4 s``, ``12.3 s``, ``4 min 05 s``, ``1 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 59.95 else "1 min 00 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _brief(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _unit(seconds: float) -> str:
    return "duration" if seconds < 59.95 else "minutes" if seconds < 3600 else "hours"


def _summary(
    header: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    failures: Sequence[Any],
    receipt: Mapping[str, Any] | None,
) -> str:
    touched = {host for step in steps for host, said in step["hosts"].items() if said["changed"]}
    count = sum(len(said["changed"]) for step in steps for said in step["hosts"].values())
    said = [
        f"{view.plural(count, 'change')} on {view.plural(len(touched), 'host')}"
        if count
        else "nothing had to be changed"
    ]
    if failures:
        said.append(f"{view.plural(len(failures), 'state')} failed")
    if header.get("unknown"):
        said.append(f"{view.plural(len(header['unknown']), 'host')} did not answer")
    if receipt:
        failed = receipt["failed"]
        said.append(f"{view.plural(failed, 'request')} failed" if failed else "no request failed")
    return ", ".join(said)


def _facts(header: Mapping[str, Any], seconds: float) -> list[dict[str, str]]:
    revision = header.get("revision") or {}
    who = str(header.get("who") or "?")
    behind = [f"as {header['as']}"] if header.get("as") not in (None, who) else []
    behind += [f"from {header['from']}"] if header.get("from") else []
    facts = [
        {"name": "Who", "value": who, "more": f"{' '.join(behind)} on {header.get('where', '?')}".strip()},
        {
            "name": "When",
            "value": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(header["started"])),
            "more": f"to {clock(header.get('finished'))} {time.strftime('%Z')}, {duration(seconds)}"
            if header.get("finished")
            else "it has no end",
        },
    ]
    site = {"name": "Site", "value": str(header.get("site") or "?"), "more": f"digest {header.get('site_digest')}"}
    if revision:
        state = f"{view.plural(len(revision['changed']), 'file')} not committed" if revision["dirty"] else "clean"
        branch = f" on {revision['branch']}" if revision.get("branch") else ""
        site["more"] = f"{revision['commit'][:10]}{branch}, {state} - {revision['subject']}"
    facts.append(site)
    facts.append(
        {
            "name": "Command",
            "value": str(header.get("command") or header.get("equivalent") or header["verb"]),
            "more": f"the same: {header['equivalent']}"
            if header.get("equivalent") and header.get("command") != header.get("equivalent")
            else "",
        }
    )
    return facts


def _numbers(
    header: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    failures: Sequence[Any],
    receipt: Mapping[str, Any] | None,
    deviations: Sequence[Any],
    seconds: float,
    containers: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    changes = [change for step in steps for said in step["hosts"].values() for change in said["changed"]]
    hosts = {host for step in steps for host in step["hosts"]}
    touched = {host for step in steps for host, said in step["hosts"].items() if said["changed"]}
    moved = [
        change
        for change in changes
        if isinstance(change, Mapping) and change["function"].startswith("kolla_container.")
    ]
    found = [
        {"value": _brief(seconds), "name": _unit(seconds), "tone": ""},
        {"value": str(len(changes)), "name": "changes", "tone": ""},
        {"value": str(len(touched)), "name": f"of {view.plural(len(hosts), 'host')} changed", "tone": ""},
        {"value": str(len(moved)), "name": "containers acted on", "tone": ""},
        {"value": str(len(failures)), "name": "failed states", "tone": "bad" if failures else "good"},
    ]
    if "deviations" in header:
        tone = "bad" if deviations else "good"
        found.append({"value": str(len(deviations)), "name": "not as predicted", "tone": tone})
    if receipt:
        failed = receipt["failed"]
        found.append({"value": str(failed), "name": "failed requests", "tone": "bad" if failed else "good"})
        found.append(
            {
                "value": _brief(receipt["outage"] or 0.0),
                "name": "of outage" if (receipt["outage"] or 0.0) < 60 else f"{_unit(receipt['outage'])} of outage",
                "tone": "bad" if receipt["outage"] else "good",
            }
        )
    return found


def sentence(item: Any) -> str:
    """Return a deviation in words."""
    if isinstance(item, Mapping):
        for name in ("text", "sentence", "said"):
            if item.get(name):
                return str(item[name])
        return ", ".join(f"{name}: {value}" for name, value in item.items())
    return str(item)


def _failures(steps: Iterable[Mapping[str, Any]], run: str) -> list[dict[str, Any]]:
    found = []
    for step in steps:
        for said in step["hosts"].values():
            for failure in said.get("failed") or []:
                read = outcome.Failure(**failure)
                found.append({**failure, "step": step["id"], "next": view.next_steps(read, run)})
    return found


# --- the timeline's words -------------------------------------------------------------------------------------------


def _told(drawn: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Number the bars, and return what is said of each when it is pointed at."""
    told = []
    for lane in drawn["lanes"]:
        for bar in lane["bars"]:
            bar["number"] = len(told)
            told.append(
                {
                    "host": lane["host"],
                    "step": steps[bar["step"]]["id"],
                    "at": f"{clock(bar['started'], True)}, {bar['started'] - drawn['begin']:.1f} s after the beginning",
                    "took": duration(bar["seconds"]),
                    "kind": bar["kind"],
                    "changed": bar["changed"],
                    "states": [[f"{s['seconds']:.2f}", s["id"], s["kind"]] for s in bar["states"][:10]],
                }
            )
    return told


def _waves(timing: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not any(step["wave"] for step in steps):
        longest = max((step["seconds"] for step in steps), default=0.0) or 1.0
        return [
            {
                "services": step["id"].split("\n")[0],
                "seconds": step["seconds"],
                "share": round(step["seconds"] / longest * 100, 2),
            }
            for step in steps
        ]
    longest = max((wave["seconds"] for wave in timing["waves"]), default=0.0) or 1.0
    found = []
    for wave in timing["waves"]:
        slowest = max(wave["hosts"].items(), key=lambda item: item[1], default=("", 0.0))
        names = dict.fromkeys(name for step in steps if step["wave"] == wave["wave"] for name in step["services"])
        found.append(
            {
                "name": f"wave {wave['wave']}" if wave["wave"] else "before",
                "services": ", ".join(names)
                or "; ".join(step["id"].split("\n")[0] for step in steps if step["wave"] == wave["wave"]),
                "seconds": wave["seconds"],
                "share": round(wave["seconds"] / longest * 100, 2),
                "steps": sum(1 for step in steps if step["wave"] == wave["wave"]),
                "slowest": slowest[0],
            }
        )
    return found


# --- availability ---------------------------------------------------------------------------------------------------


def _availability(receipt: Mapping[str, Any] | None, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not receipt:
        return None
    from kolla_salt.availability import Receipt

    head, rows, notes = Receipt(receipt).table(steps)
    joined: list[str] = []
    for note in notes:
        # An indented line belongs to the one before it.
        if note.startswith(" ") and joined:
            joined[-1] += f"; {note.strip()}"
        else:
            joined.append(note.strip())
    return {"head": head, "rows": rows, "notes": joined, "lines": Receipt(receipt).lines(), "failed": receipt["failed"]}


# --- images ---------------------------------------------------------------------------------------------------------


def _images(containers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the images of containers before and after, those together that changed alike."""
    if not containers:
        return None
    before, after = containers.get("before") or {}, containers.get("after") or {}
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    restarted: dict[str, list[str]] = {}
    same = 0
    for host in sorted({*before, *after}):
        old_ones, new_ones = before.get(host) or {}, after.get(host) or {}
        for name in sorted({*old_ones, *new_ones}):
            old, new = old_ones.get(name) or {}, new_ones.get(name) or {}
            if _image(old) == _image(new):
                same += 1
                if old.get("id") == new.get("id") and old.get("started") != new.get("started"):
                    restarted.setdefault(name, []).append(host)
                elif old.get("id") != new.get("id"):
                    restarted.setdefault(f"{name} (new container)", []).append(host)
                continue
            entry = groups.setdefault(
                (name, *_image(old), *_image(new)),
                {"name": name, "old": _shown(old, new), "new": _shown(new, old), "hosts": []},
            )
            entry["hosts"].append(host)
    rows = sorted(groups.values(), key=lambda entry: entry["name"])
    return {
        "rows": [{**row, "hosts": view.some(row["hosts"])} for row in rows[: _ROWS * 4]],
        "more": max(0, len(rows) - _ROWS * 4),
        "same": same,
        "restarted": [{"name": name, "hosts": view.some(hosts)} for name, hosts in sorted(restarted.items())],
    }


def _image(container: Mapping[str, Any]) -> tuple[str, str]:
    return str(container.get("image") or ""), str(container.get("digest") or "")


def _shown(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str] | None:
    if not one:
        return None
    image = str(one.get("image") or "")
    place, _, tagged = image.rpartition("/")
    shared = str(other.get("image") or "").startswith(place + "/") or not other
    digest = str(one.get("digest") or "").rpartition("@")[2].removeprefix("sha256:")
    return {"image": tagged if shared else image, "full": image, "digest": digest[:12], "whole": digest}


# --- changes --------------------------------------------------------------------------------------------------------


def _changes(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return host -> steps -> states that changed, with their differences as lines."""
    hosts: dict[str, dict[str, Any]] = {}
    room = _LINES
    for step in steps:
        for host, said in step["hosts"].items():
            if not said["changed"]:
                continue
            entry = hosts.setdefault(host, {"host": host, "count": 0, "kinds": {}, "steps": []})
            if len(hosts) > _HOSTS and not entry["steps"]:
                entry["count"] += len(said["changed"])
                continue
            rows = []
            for change in said["changed"]:
                entry["count"] += 1
                if not isinstance(change, Mapping):
                    rows.append({"id": str(change), "function": "", "seconds": None, "fields": [], "summary": ""})
                    continue
                kind = _kind(change["function"])
                entry["kinds"][kind] = entry["kinds"].get(kind, 0) + 1
                fields = _fields(change.get("changes") or {}, min(room, _LINES_OF_ONE))
                room -= sum(len(field.get("lines") or ()) for field in fields)
                rows.append(
                    {
                        "id": change["id"],
                        "function": change["function"],
                        "seconds": change.get("seconds"),
                        "fields": fields,
                        "summary": _short(change),
                    }
                )
            entry["steps"].append({"id": step["id"], "rows": rows})
    listed = sorted(
        (host for host in hosts.values() if host["steps"]), key=lambda entry: timeline._natural(entry["host"])
    )
    rest = [host for host in hosts.values() if not host["steps"]]
    for entry in listed:
        entry["kinds"] = [view.plural(count, kind) for kind, count in sorted(entry["kinds"].items())]
    return {"hosts": listed, "more": len(rest), "more_count": sum(entry["count"] for entry in rest)}


def _kind(function: str) -> str:
    module = function.split(".")[0]
    return {
        "kolla_config": "file",
        "kolla_container": "container",
        "kolla_db": "database",
        "kolla_keystone": "registration",
    }.get(module, "other")


def _short(change: Mapping[str, Any]) -> str:
    state = (change.get("changes") or {}).get("state")
    if isinstance(state, Mapping) and set(state) == {"old", "new"}:
        return f"{_value(state['old'], 60)} \N{RIGHTWARDS ARROW} {_value(state['new'], 60)}"
    names = list(change.get("changes") or {})
    return view.some(names, 4)


def _fields(changes: Mapping[str, Any], room: int) -> list[dict[str, Any]]:
    found = []
    for name, change in changes.items():
        old, new = (change["old"], change["new"]) if _is_pair(change) else (None, change)
        texts = [text for text in (old, new) if isinstance(text, str) and "\n" in text]
        if not texts:
            found.append({"name": str(name), "old": _value(old) if _is_pair(change) else None, "new": _value(new)})
            continue
        if isinstance(new, str) and not (isinstance(old, str) and "\n" in old) and _is_diff(new):
            lines = new.splitlines()
        else:
            lines = [f"-{line}" for line in _lines(old)] + [f"+{line}" for line in _lines(new)]
        shown = lines[: max(0, room)]
        room -= len(shown)
        found.append(
            {
                "name": str(name),
                "lines": [{"text": line, "kind": _line_kind(line)} for line in shown],
                "hidden": len(lines) - len(shown),
            }
        )
    return found


def _is_pair(change: Any) -> bool:
    return isinstance(change, Mapping) and set(change) == {"old", "new"}


def _is_diff(text: str) -> bool:
    return any(line.startswith("@@") for line in text.splitlines()[:10]) or text.startswith("secret ")


def _lines(value: Any) -> list[str]:
    return [] if value in (None, "") else str(value).splitlines()


def _line_kind(line: str) -> str:
    return {"+": "add", "-": "del", "@": "at"}.get(line[:1], "")


def _value(value: Any, limit: int = 400) -> str:
    if value is None or value == "":
        return "nothing"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= limit else text[:limit] + " ..."


# --- the plan and the site ------------------------------------------------------------------------------------------


def _plan(plan: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not plan:
        return None
    waves: dict[int, dict[str, Any]] = {}
    for step in plan.get("steps") or []:
        wave = waves.setdefault(step["wave"], {"wave": step["wave"], "steps": []})
        wave["steps"].append(
            {"services": ", ".join(step["services"]) or step["id"], "hosts": view.some(step["minions"])}
        )
    surveys = plan.get("hosts") or {}
    alike = view.alike({host: _foreseen(surveys[host]) for host in sorted(surveys, key=timeline._natural)})
    hosts = [{"host": view.some(names), **said} for names, said in alike[:_HOSTS]]
    more = sum(len(names) for names, _ in alike[_HOSTS:])
    return {"waves": list(waves.values()), "hosts": hosts, "more": more}


def _foreseen(survey: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the dry run of one host came to."""
    said = prediction.summary(survey)
    actions: dict[str, list[str]] = {}
    for container in said["containers"]:
        actions.setdefault(container["action"], []).append(container["name"])
    return {
        "total": len(drift.differing(survey["states"])),
        "files": [item["name"] for item in said["files"]],
        "actions": [{"action": action, "names": names} for action, names in actions.items()],
        "others": [item["name"] for kind in ("databases", "catalogue", "other") for item in said[kind]],
        "images": len(survey.get("missing_images") or []),
    }


def _site(header: Mapping[str, Any], site: Mapping[str, Any] | None) -> dict[str, Any]:
    site = site or {}
    revision = header.get("revision") or {}
    return {
        "files": sorted(site.get("files") or {}),
        "options": sorted((site.get("options") or {}).items()),
        "changed": revision.get("changed") or [],
    }
