"""Verbs that change hosts: deploy, reconfigure, genconfig, pull, stop, destroy."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from kolla_salt import outcome, progress, runs
from kolla_salt.cli import view
from kolla_salt.cli.errors import CliError
from kolla_salt.cli.master import Master
from kolla_salt.cli.options import add_limit, add_selection


def add_parser(subparsers: Any) -> None:
    """Add the verbs of this module."""
    for verb in ("deploy", "reconfigure"):
        parser = subparsers.add_parser(verb)
        add_selection(parser)
        parser.add_argument(
            "--every-step", action="store_true", help="apply every step, also where the dry run sees nothing to do"
        )
        parser.set_defaults(handler=run_orchestration, orchestration=verb)

    parser = subparsers.add_parser("pull")
    add_limit(parser)
    parser.add_argument("--again", action="store_true", help="also images that are there: a tag may have moved")
    parser.set_defaults(handler=pull)

    parser = subparsers.add_parser("genconfig")
    add_selection(parser)
    parser.add_argument("--diff", action="store_true", help="show what changed in the files, secrets masked")
    parser.set_defaults(handler=genconfig)

    parser = subparsers.add_parser("stop")
    add_selection(parser)
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="until a container is killed (default: its own)")
    _confirmation(parser)
    parser.set_defaults(handler=stop)

    parser = subparsers.add_parser("destroy")
    add_limit(parser)
    parser.add_argument("--include-images", action="store_true", help="also remove the images")
    parser.add_argument("--kill-servers", action="store_true", help="also where virtual machines run; they are lost")
    _confirmation(parser)
    parser.set_defaults(handler=destroy)


def _confirmation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes-i-really-really-mean-it", action="store_true", dest="confirmed", help="needed to do it")


def run_orchestration(args: argparse.Namespace, **more: Any) -> int:
    """Run ``orch.<verb>``, show it, and say how it ended.

    Args:
        args: ``orchestration`` is its name.
        more: further fields of the pillar ``kolla_run``.
    """
    master = Master(args)
    verb = args.orchestration
    cloud = _cloud(master)
    cloud.check()
    cloud.limited(args.limit)
    ask: dict[str, Any] = {"id": runs.new_id(verb), **more}
    for key, value in (
        ("services", getattr(args, "services", None)),
        ("hosts", getattr(args, "limit", None)),
        ("every", getattr(args, "every_step", False)),
    ):
        if value:
            ask[key] = value
    pillar = {"kolla_run": ask}
    state = progress.RunState()
    live = view.LiveView(state) if not args.json else None
    if live:
        live.line(master.command("state.orchestrate", f"orch.{verb}", pillar=pillar))
    returned = master.orchestrate(
        f"orch.{verb}", pillar, live.event if live else state.feed, live.tick if live else _nothing
    )
    return report(args, master, ask["id"], state, returned)


def _nothing() -> None:
    """Stand in for a view that does not move."""


def report(args: argparse.Namespace, master: Master, run_id: str, state: progress.RunState, returned: Any) -> int:
    """Print how a run ended: the first failure and what to do, timings, hosts that are unknown."""
    try:
        record = runs.load(state.run or run_id, master.runs_root())
    except runs.UnknownRun:
        raise CliError(orchestration_error(returned)) from None
    header, steps = record.header(), list(record.steps())
    if header["result"] == "running":
        # The orchestration ended without closing its record: it broke, and says why.
        record.close("failed", error=orchestration_error(returned))
        header = record.header()
    ok = header["result"] == "ok"
    timing = progress.timing_table(steps)
    first = first_failure(steps)
    seen = record.availability()
    if args.json:
        print(
            json.dumps(
                {
                    "ok": ok,
                    "run": record.id,
                    **{k: header.get(k) for k in ("result", "error", "unknown", "seconds")},
                    "deviations": header.get("deviations") or [],
                    "availability": seen,
                    "first_failure": vars(first) if first else None,
                    "steps": steps,
                    "timing": timing,
                },
                indent=1,
                default=str,
            )
        )
        return 0 if ok else 1
    print()
    if header.get("error"):
        print(header["error"])
    text = view.timings(timing)
    if text:
        print(text + "\n")
    if first:
        print(view.failure(first, record.id))
    if seen:
        from kolla_salt.availability import Receipt

        print("\n".join(Receipt(seen).lines()))
    changed = sum(len(host["changed"]) for step in steps for host in step["hosts"].values())
    print("".join(f"{line}\n" for line in deviating(header)), end="")
    ending = {"ok": "done", "failed": "FAILED", "incomplete": "INCOMPLETE", "deviated": "done, but DEVIATED"}.get(
        header["result"], header["result"]
    )
    noted = sum(len(host.get("noted") or []) for step in steps for host in step["hosts"].values())
    said = view.plural(changed, "change") if changed else "nothing had to be changed"
    said += f", {view.plural(noted, 'start')} noted" if noted else ""
    print(f"{args.verb} {ending}: {said}, {header.get('seconds', 0):.1f} s; record: kolla-salt runs show {record.id}")
    for host in header.get("unknown") or []:
        print(
            f"  {host} did not answer; its state is unknown. Mend it (salt-key -L, systemctl status salt-minion), "
            "then give the same command again."
        )
    return 0 if ok else 1


def deviating(header: Mapping[str, Any]) -> list[str]:
    """Return the lines that say where reality was another than the plan; none if it was the same."""
    found = header.get("deviations") or []
    if not found:
        return []
    title = f"{view.plural(len(found), 'container')} fared otherwise than predicted, which is a defect:"
    return [title, *(f"  {item['text']}" for item in found)]


def first_failure(steps: list[dict[str, Any]]) -> outcome.Failure | None:
    """Return the first failing state of a run record."""
    for step in steps:
        for host in step["hosts"].values():
            if host.get("failed"):
                return outcome.Failure(**host["failed"][0])
    return None


def orchestration_error(returned: Any) -> str:
    """Return why an orchestration did nothing, from what it returned."""
    if isinstance(returned, dict) and isinstance(returned.get("data"), dict):
        for states in returned["data"].values():
            if isinstance(states, list):
                return "the orchestration could not be rendered:\n  " + "\n  ".join(map(str, states))
            if isinstance(states, dict):
                for state in states.values():
                    if isinstance(state, dict) and state.get("result") is False:
                        return outcome.last_words(str(state.get("comment")))
    return outcome.last_words(str(returned))


# --- verbs without an order between hosts: one job, all hosts at once -------------------------------------------------


def _together(
    master: Master, cloud: Any, limit: list[str] | None, function: str, **kwargs: Any
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Run ``function`` on all hosts at once: host -> answer, errors (sentences), hosts without an answer."""
    present, unknown = master.present(cloud.limited(limit))
    answers = master.ask(present, function, **kwargs)
    errors = [
        f"{host}: {outcome.last_words(str(said))}" for host, said in answers.items() if not isinstance(said, dict)
    ]
    good = {host: said for host, said in answers.items() if isinstance(said, dict)}
    return good, errors, unknown + [host for host in present if host not in answers]


def _finish(
    args: argparse.Namespace, data: dict[str, Any], errors: list[str], unknown: list[str], lines: list[str]
) -> int:
    """Print the end of such a verb and return its exit status."""
    ok = not errors and not unknown
    if args.json:
        print(json.dumps({"ok": ok, **data, "errors": errors, "unknown": unknown}, indent=1, default=str))
    else:
        silent = [f"{host} does not answer: nothing was done there" for host in unknown]
        print("\n".join([*lines, *errors, *silent]))
    return 0 if ok else 1


def _cloud(master: Master) -> Any:
    from kolla_salt.cli.look import Cloud

    return Cloud(master.site)


def _record(master: Master, verb: str, args: argparse.Namespace) -> runs.Run:
    from kolla_salt import __version__

    return runs.create(
        verb,
        master.runs_root(),
        site=str(master.site),
        site_digest=runs.digest(master.site),
        version=__version__,
        services=getattr(args, "services", None) or [],
        limit=args.limit or [],
    )


def _close(
    record: runs.Run, began: float, verb: str, hosts: dict[str, Any], errors: list[str], unknown: list[str]
) -> None:
    """Write what such a verb did into its record."""
    seconds = round(time.time() - began, 3)
    record.append_step(
        {
            "id": verb,
            "wave": 0,
            "role": verb,
            "services": [],
            "started": began,
            "seconds": seconds,
            "ok": not errors,
            "hosts": {
                host: {"result": True, "seconds": seconds, "changed": changed, "failed": []}
                for host, changed in hosts.items()
            },
        }
    )
    record.close(
        "failed" if errors else "incomplete" if unknown else "ok", seconds=seconds, unknown=unknown, errors=errors
    )


def pull(args: argparse.Namespace) -> int:
    """Fetch missing images on all hosts at once."""
    began = time.time()
    master = Master(args)
    cloud = _cloud(master)
    cloud.check()
    good, errors, unknown = _together(master, cloud, args.limit, "kolla_node.pull", again=args.again)
    for host, said in good.items():
        errors += [f"{host}: {image}: {why}" for image, why in said["failed"].items()]
    lines = [f"{host}: fetched {view.plural(len(said['pulled']), 'image')}" for host, said in good.items()]
    lines.append(f"pull: {time.time() - began:.1f} s")
    return _finish(args, {"hosts": good, "seconds": round(time.time() - began, 3)}, errors, unknown, lines)


def genconfig(args: argparse.Namespace) -> int:
    """Write configuration files on all hosts at once; containers are not touched."""
    began = time.time()
    master = Master(args)
    cloud = _cloud(master)
    cloud.check()
    record = _record(master, "genconfig", args)
    good, errors, unknown = _together(master, cloud, args.limit, "kolla_node.genconfig", services=args.services or None)
    good = outcome.scrub(good, outcome.secrets_of(cloud.site.passwords))
    _close(record, began, "genconfig", {host: list(files) for host, files in good.items()}, errors, unknown)
    lines = []
    for host, files in good.items():
        lines.append(f"{host}: wrote {view.plural(len(files), 'file')}")
        for path, changes in files.items() if args.diff else []:
            lines += [f"  {path}", *view.changes(changes, "    ")]
    lines.append(
        f"genconfig: {time.time() - began:.1f} s; no container was touched, the next deploy restarts what reads them"
    )
    return _finish(
        args, {"hosts": good, "run": record.id, "seconds": round(time.time() - began, 3)}, errors, unknown, lines
    )


def _confirm(args: argparse.Namespace, what: str) -> None:
    if not args.confirmed:
        raise CliError(f"{what}; nothing was done. If that is what you want: --yes-i-really-really-mean-it", status=2)


def stop(args: argparse.Namespace) -> int:
    """Stop containers: on all hosts those that need others first, then the rest."""
    _confirm(
        args, f"stop ends {', '.join(args.services) if args.services else 'all containers'} on every host of the site"
    )
    began = time.time()
    master = Master(args)
    cloud = _cloud(master)
    record = _record(master, "stop", args)
    present, unknown = master.present(cloud.limited(args.limit))
    stopped: dict[str, list[str]] = {host: [] for host in present}
    errors: list[str] = []
    for stage in ("services", "infrastructure"):
        answers = master.ask(
            present, "kolla_node.stop", stage=stage, services=args.services or None, timeout=args.timeout
        )
        for host in present:
            said = answers.get(host)
            if isinstance(said, dict):
                stopped[host] += said["stopped"]
            else:
                errors.append(f"{host}: {outcome.last_words(str(said)) if said else 'no answer'}")
        if errors:
            break  # what still runs may need the databases
    _close(record, began, "stop", stopped, errors, unknown)
    lines = [f"{host}: stopped {view.plural(len(names), 'container')}" for host, names in stopped.items()]
    lines.append(f"stop: {time.time() - began:.1f} s; kolla-salt deploy starts them again")
    return _finish(
        args, {"hosts": stopped, "run": record.id, "seconds": round(time.time() - began, 3)}, errors, unknown, lines
    )


def destroy(args: argparse.Namespace) -> int:
    """Remove what deploying made, on all hosts at once."""
    _confirm(
        args, "destroy removes all containers, volumes with their data, configuration, bridges and VIPs of the cloud"
    )
    began = time.time()
    master = Master(args)
    cloud = _cloud(master)
    record = _record(master, "destroy", args)
    good, errors, unknown = _together(
        master, cloud, args.limit, "kolla_node.destroy", force=args.kill_servers, images=args.include_images
    )
    _close(
        record,
        began,
        "destroy",
        {host: [f"{kind} {name}" for kind, names in said.items() for name in names] for host, said in good.items()},
        errors,
        unknown,
    )
    lines = [
        f"{host}: removed "
        + (
            ", ".join(
                view.plural(
                    len(names), kind.rstrip("s").replace("directorie", "directory").replace("addresse", "address")
                )
                for kind, names in said.items()
                if names
            )
            or "nothing, it was clean"
        )
        for host, said in good.items()
    ]
    lines.append(f"destroy: {time.time() - began:.1f} s")
    return _finish(
        args, {"hosts": good, "run": record.id, "seconds": round(time.time() - began, 3)}, errors, unknown, lines
    )
