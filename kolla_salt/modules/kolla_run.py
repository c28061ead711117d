"""The master's side of a run: ask the hosts, predict, apply one step after the other, keep the record.

The functions run inside an orchestration (``salt-run state.orchestrate orch.deploy``), in which ``__context__`` lives
as long as the run. They are not meant for minions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import salt.client
import salt.config
import salt.utils.event
from salt.exceptions import CommandExecutionError

from kolla_salt import (
    __version__,
    declarations,
    expectation,
    freshness,
    haproxy,
    outcome,
    prediction,
    reality,
    rollback,
    runs,
    runtime,
    upgrade,
)
from kolla_salt import site as sites
from kolla_salt.availability import account, targets
from kolla_salt.availability.watcher import Watcher, touches_containers
from kolla_salt.context import Resolver
from kolla_salt.declarations import write_atomically
from kolla_salt.plan import UPGRADE
from kolla_salt.steps import Only, Progress, patience, service_of, told

__virtualname__ = "kolla_run"
#: How many hosts' states a step returns to the orchestration; the record has all.
_MOST_SHOWN = 20
#: Seconds for which hosts may go on with the step of a run that was interrupted, before another one gives up on them.
REST = 600.0
#: Seconds in which a host that Salt has given up may still say that it is at the job. Salt's own are those of the
#: master's `timeout` and `gather_job_timeout`; all together a host that died is given up within a minute.
INSIST = 30.0
#: Seconds for which a container has run at most whose agent need not have reported yet when a run begins.
YOUNG = 120.0
#: Seconds for which a run that is done waits for APIs that have answered before.
PATIENCE = 60.0


def __virtual__() -> str:
    return __virtualname__


# --- what the functions share ---------------------------------------------------------------------------------------


def _run() -> dict[str, Any]:
    return runtime.run(__context__, "deploy")


def _fire(kind: str, data: dict[str, Any]) -> None:
    """Tell whoever watches the bus. A run without listeners goes on all the same."""
    with salt.utils.event.get_master_event(__opts__, __opts__["sock_dir"], listen=False) as bus:
        bus.fire_event(data, f"kolla/run/{kind}")


def _master_opts() -> dict[str, Any]:
    """Return the master's own options; those of an orchestration are a minion's in part and cannot send jobs."""
    if "kolla_salt.master_opts" not in __context__:
        __context__["kolla_salt.master_opts"] = salt.config.master_config(__opts__["conf_file"])
    return dict(__context__["kolla_salt.master_opts"])


def _ask(hosts: list[str], function: str, timeout: int | None = None, **kwargs: Any) -> dict[str, Any]:
    """Run an execution function on ``hosts`` in one job: host -> what it returned; hosts that said nothing are absent.

    A host's error comes as an exception's text in place of data; the callers can tell by the type.
    """
    if not hosts:
        return {}
    options: dict[str, Any] = {} if timeout is None else {"timeout": timeout, "gather_job_timeout": timeout}
    return {
        host: said
        for host, said in _answers(_master_opts(), hosts, function, [], kwargs, insist=timeout is None, **options)
        if not said.get("failed")
    }


def _answers(
    opts: dict[str, Any], hosts: list[str], function: str, args: list[Any], kwarg: dict[str, Any], insist: bool = True,
    **options: Any,
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """Run an execution function on ``hosts`` in one job; yield host and what it returned, as answers come.

    :param insist: Salt gives a host up when it does not say in time that it is still at the job. A machine under load
        may not: it is asked once more, for :data:`INSIST` seconds.
    """
    with salt.client.LocalClient(mopts=dict(opts)) as client:
        job = client.run_job(
            hosts, function, args, tgt_type="list", kwarg=kwarg or None, listen=True, timeout=options.get("timeout")
        )
        missing, idle = set(job.get("minions") or ()), set()
        while missing:
            for answer in client.get_iter_returns(job["jid"], set(missing), tgt_type="list", **options):
                for host, said in answer.items():
                    if host in missing and isinstance(said, dict) and "ret" in said:
                        missing.discard(host)
                        yield host, said
                if not missing:
                    break
            if not missing or not insist:
                return
            found = _still_at(opts, missing, job["jid"])
            # What has ended by now has sent its answer, which waits for us; who has none the next time was restarted.
            missing = {host for host, at_it in found.items() if at_it or host not in idle}
            idle |= {host for host, at_it in found.items() if not at_it}


def _still_at(opts: dict[str, Any], hosts: Collection[str], jid: str) -> dict[str, bool]:
    """Return of the hosts that answer within :data:`INSIST` seconds whether they are still at a job."""
    found: dict[str, bool] = {}
    with salt.client.LocalClient(mopts=dict(opts)) as client:
        job = client.run_job(sorted(hosts), "saltutil.find_job", [jid], tgt_type="list", listen=True)
        deadline = time.monotonic() + INSIST
        while len(found) < len(hosts) and time.monotonic() < deadline and job.get("jid"):
            event = client.event.get_event(wait=1, tag=f"salt/job/{job['jid']}/ret", full=True, auto_reconnect=True)
            data = (event or {}).get("data") or {}
            if data.get("id") in hosts:
                found[data["id"]] = bool(data.get("return"))
    return found


def ask(hosts: list[str], function: str, **kwargs: Any) -> dict[str, Any]:
    """Run an execution function on ``hosts`` in one job: host -> what it returned; hosts that said nothing are absent.

    :param hosts: minion ids.
    :param function: such as ``kolla_node.look``.
    :param kwargs: its arguments.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.upgrade
    """
    given = {name: value for name, value in kwargs.items() if not name.startswith("__")}
    return {host: said["ret"] for host, said in _ask(hosts, function, **given).items()}


def fail(text: str) -> None:
    """End the run because of ``text``.

    :raises CommandExecutionError: always, with the text.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.upgrade
    """
    raise _failed(_run(), text)


def site_directory() -> str:
    """Return the folder of the site that this master serves.

    CLI Example:

    .. code-block:: bash

        salt-call --local kolla_run.site_directory
    """
    return sites.served_by(__opts__)


def records_root() -> Path:
    """Return the folder of the run records: the master's option ``kolla_runs``, else ``/var/lib/kolla-salt/runs``.

    CLI Example:

    .. code-block:: bash

        salt-call --local kolla_run.records_root
    """
    return Path(__opts__.get("kolla_runs") or runs.ROOT)


# --- the stages of a run --------------------------------------------------------------------------------------------


def begin(
    verb: str,
    steps: Any,
    run_id: str = "",
    every: bool = False,
    hosts: Any = None,
    expect: str = "",
    back: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Begin a run: see who answers, do the dry run, open the record.

    :param verb: what the run is called.
    :param steps: the steps of ``kolla.plan``; a text is the error that came in their place.
    :param run_id: name of the record; made from the time when empty. One that was begun for this run is gone on with.
    :param every: apply every step, also those in which the dry run sees nothing to do.
    :param hosts: restrict the run to these hosts: a list, or host -> list of SLS to which it is restricted there (null:
        all of them).
    :param expect: file of a plan (``kolla-salt plan --out``): refuse unless this run is what was planned.
    :param back: of a rollback: what the runner ``kolla.back`` returned.
    :returns: ``run``, ``unknown`` (hosts without an answer), ``predicted`` (host -> service -> number of changes),
        ``noted`` (host -> containers that run as declared since somebody else started them).
    :raises CommandExecutionError: no plan, no host answers, versions differ, a host cannot render its states, or the
        run is another one than `expect` says.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.deploy
    """
    if not isinstance(steps, list):
        raise CommandExecutionError(outcome.last_words(str(steps)))
    other = runs.running(records_root())
    if other and other["id"] != run_id:
        raise CommandExecutionError(
            f"beginning {verb}: the run {other['id']} of {other.get('who')} is going on (process {other.get('pid')}); "
            "expected none, since two runs would change the same hosts. Wait for its end"
        )
    directory = site_directory()
    site, decls = sites.load(directory), declarations.load()
    expected = _expected(expect) if expect else None
    only: Only | None = (dict(hosts) if isinstance(hosts, dict) else dict.fromkeys(hosts)) if hosts else None
    resolver = Resolver(decls, site.as_pillar(), next(iter(site.topology["hosts"])))
    found = prediction.forecast(resolver, steps, only)
    if back:
        found = replace(found, progress=rollback.progress(decls, back, limits=found.progress.limits))
    steps, services, progress = found.steps, found.services, found.progress
    if not steps:
        raise CommandExecutionError(
            f"planning {verb}: no enabled service is placed on "
            f"{', '.join(hosts) if hosts else 'any host'}; see topology.yml in {directory}"
        )
    record = (
        runs.load(run_id, records_root())
        if other
        else runs.create(
            verb,
            records_root(),
            run_id=run_id,
            site=directory,
            site_digest=runs.digest(directory),
            version=__version__,
            jid=str(__opts__.get("jid", "")),
            data=site,
            services=_asked("services"),
            limit=list(hosts or []),
            **({"expected": expected["hash"]} if expected else {}),
        )
    )
    runs.prune(
        records_root(), __opts__.get("kolla_runs_keep", runs.KEEP), __opts__.get("kolla_runs_keep_days", runs.KEEP_DAYS)
    )
    __context__[runtime.RUN] = run = {
        "record": record,
        "progress": progress,
        "secrets": outcome.secrets_of(site.passwords),
        "started": time.time(),
        "images": {},
        "result": "ok",
        "seconds": {},
        "balancers": prediction.balanced_by(resolver),
        "entries": prediction.entries(resolver),
        "fates": reality.Fates(resolver),
        "control": resolver.hosts("control"),
        # What is out of load balancers that could not be told; what an operator took out: load balancer -> servers.
        "left": {},
        "theirs": {},
        "verb": verb,
        "back": back,
        "due": {},
        "services": services,
        "release": str(resolver.value("openstack_release")) if "openstack_release" in resolver.settings else "",
    }
    wanted = found.wanted
    run["hosts"] = list(wanted)
    _fire("begun", {"run": record.id, "verb": verb, "steps": [_short(step) for step in steps], "hosts": list(wanted)})
    started = time.time()
    answers = _ask(list(wanted), "test.ping", timeout=patience(len(wanted)))
    progress.unknown = set(wanted) - set(answers)
    present = [host for host in wanted if host in answers]
    if not present:
        raise _failed(
            run,
            f"asking the {len(wanted)} hosts of the site for a sign of life: "
            f"none answered within {patience(len(wanted))} s; "
            "'salt-run manage.status' shows the minions, 'salt-key -L' whether their keys are accepted",
        )
    _await_rest(run, present)
    run["seconds"]["ask"] = round(time.time() - started, 3)
    started = time.time()
    if digest := freshness.stale(directory, records_root()):
        told_of = _ask(present, "saltutil.refresh_pillar", wait=True)
        freshness.mark(records_root(), digest)
        # Who dies meanwhile is not waited for twice.
        progress.unknown |= set(present) - set(told_of)
        present = [host for host in present if host in told_of]
    more = {"verb": verb} if verb == UPGRADE else {}
    look = "kolla_kept.survey" if back else "kolla_node.survey"
    more |= {"run": back["runs"]} if back else {}
    answers = _ask(present, look, sls=told(wanted), containers=True, **more)
    surveys = {host: said["ret"] for host, said in answers.items()}
    run["seconds"]["dry run"] = round(time.time() - started, 3)
    progress.unknown |= set(present) - set(surveys)
    if problems := outcome.scrub(prediction.problems(surveys, __version__), run["secrets"]):
        raise _failed(run, "the dry run failed, nothing was changed:\n  " + "\n  ".join(problems))
    if verb not in {UPGRADE, "rollback"} and (why := upgrade.refusal(verb, upgrade.overview(_releases(surveys)))):
        raise _failed(run, why)
    run["fates"].before = {host: said.pop("containers") for host, said in surveys.items() if "containers" in said}
    found.learn(surveys, every)
    if back:
        # Not what the services need that are taken back: nothing is done to it.
        progress.todo = {name for names in found.predicted.values() for name in names} | set(back["restore"])
    run["predicted"] = found.predicted
    run["images"] = {host: said["missing_images"] for host, said in surveys.items()}
    shown = outcome.scrub(surveys, run["secrets"])
    files = expectation.site_files(directory, expectation.key_of(Path(_master_opts()["pki_dir"]) / "master.pem"))
    parts = expectation.parts(
        verb, _asked("services"), None if isinstance(hosts, dict) else hosts, replace(found, reports=shown), files,
        __version__,
    )  # fmt: skip
    if expected:
        _refuse_another(run, expected, parts)
    run["fates"].predict(surveys)
    run["every"] = every
    run["touches"] = (every or touches_containers(surveys.values())) and not __opts__.get("test")
    if run["touches"]:
        # It needs a moment to learn who is there; the first step that may touch a container waits for that.
        run["watcher"] = Watcher(record, targets(resolver), account(resolver, site.passwords))
        run["watcher"].launch()
        record.write_containers({"before": run["fates"].before, "after": {}})
    _put_in_left_behind(run)
    order = prediction.order(found, run["entries"])
    plan = {
        "hash": expectation.content_hash(parts),
        "steps": [_short(step) for step in steps],
        "order": order,
        "effects": prediction.effects(resolver, found, order, run["entries"], run["balancers"]),
        "hosts": shown,
        "unknown": sorted(progress.unknown),
    }
    record.write_plan(plan, clean=True)
    result = {
        "run": record.id,
        "unknown": sorted(progress.unknown),
        "predicted": found.counts,
        "noted": {host: names for host, names in found.noted.items() if names},
        "missing_images": {h: i for h, i in run["images"].items() if i},
        "seconds": run["seconds"],
        "todo": sorted(services if progress.todo is None else progress.todo),
    }
    _fire("surveyed", result)
    return result


def _await_rest(run: dict[str, Any], hosts: list[str]) -> None:
    """Wait until hosts have ended the step that an earlier run had given them which was interrupted or lost them."""
    root = records_root()
    earlier = [name for name in runs.list_ids(root) if name != run["record"].id][-1:]
    if not earlier or runs.load(earlier[0], root).header().get("result") == "ok":
        return
    busy, started = _busy(hosts), time.monotonic()
    if busy:
        _fire("waits", {"run": run["record"].id, "for": earlier[0], "hosts": busy})
    while busy:
        if time.monotonic() > started + REST:
            host, what = next(iter(busy.items()))
            raise _failed(
                run,
                f"waiting for {', '.join(busy)} to end what {earlier[0]} began: still at it after {REST:g} s "
                f"({host}: {', '.join(what)}); 'salt {host} saltutil.running' shows its jobs, "
                f"'salt {host} saltutil.kill_job JID' ends one",
            )
        time.sleep(1)
        busy = _busy(list(busy))


def _busy(hosts: list[str]) -> dict[str, list[str]]:
    """Return which hosts are still doing something that no run waits for any more, and what."""
    return {
        host: said["ret"]
        for host, said in _ask(hosts, "kolla_node.unfinished", dry=bool(__opts__.get("test"))).items()
        if said["ret"]
    }


def _asked(what: str) -> list[str]:
    """Return names that the orchestration was given."""
    said = (__pillar__.get("kolla_run") or {}).get(what) or []
    return [name.strip() for name in said.split(",")] if isinstance(said, str) else list(said)


def _releases(surveys: dict[str, Any]) -> dict[str, Any]:
    """Return what each host said of the releases that it runs."""
    return {host: said.get("releases") or {} for host, said in surveys.items()}


def _expected(file: str) -> dict[str, Any]:
    try:
        return expectation.read(file)
    except expectation.PlanFileError as error:
        raise CommandExecutionError(str(error)) from error


def _refuse_another(run: dict[str, Any], expected: dict[str, Any], parts: expectation.Parts) -> None:
    """Refuse a run that is not the one that was planned, naming what is different."""
    if expected["hash"] == expectation.content_hash(parts):
        return
    earlier = [
        header["id"]
        for header in runs.headers(records_root())
        if header.get("expected") == expected["hash"] and header["id"] != run["record"].id and header["result"] != "ok"
    ]
    begun = any(next(runs.load(name, records_root()).steps(), None) for name in earlier)
    differences = expectation.differences(expected["parts"], parts, begun)
    if differences:
        more = [f"and {len(differences) - _MOST_SHOWN} more"] if len(differences) > _MOST_SHOWN else []
        raise _failed(
            run,
            "this is not what was planned, nothing was changed:\n  "
            + "\n  ".join(outcome.scrub([*differences[:_MOST_SHOWN], *more], run["secrets"]))
            + "\n  make a new plan and look at it: kolla-salt plan --out FILE",
        )


def pull() -> dict[str, Any]:
    """Fetch the images that hosts lack, on all hosts at once.

    :returns: host -> images fetched.
    :raises CommandExecutionError: naming every image that cannot be had, before any container is touched.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.pull
    """
    run = _run()
    missing = {host: images for host, images in run["images"].items() if images}
    if not missing:
        return {}
    started = time.time()
    _fire("step", {"run": run["record"].id, "id": "pull images", "state": "started", "hosts": list(missing)})
    answers = _ask(list(missing), "kolla_node.pull")  # each knows what it lacks
    problems = []
    for host in missing:
        said = answers.get(host, {}).get("ret")
        if not isinstance(said, dict):
            problems.append(f"{host}: {outcome.last_words(str(said)) if said else 'no answer'}")
            continue
        problems += [f"{host}: {image}: {why}" for image, why in said["failed"].items()]
    seconds = round(time.time() - started, 3)
    run["record"].append_step(
        {
            "id": "pull images",
            "wave": 0,
            "role": "pull",
            "services": [],
            "started": started,
            "seconds": seconds,
            "ok": not problems,
            "hosts": {
                host: {"result": True, "seconds": seconds, "changed": images, "failed": []}
                for host, images in missing.items()
            },
        }
    )
    _fire(
        "step", {"run": run["record"].id, "id": "pull images", "state": "ended", "seconds": seconds, "ok": not problems}
    )
    if problems:
        raise _failed(
            run,
            "fetching images: some cannot be had, no container was touched:\n  "
            + "\n  ".join(problems)
            + "\n  check docker_registry, docker_namespace and openstack_tag in globals.yml, "
            "or build the images: kolla-salt images build --release RELEASE",
        )
    return missing


def apply(step: dict[str, Any]) -> dict[str, Any]:
    """Apply one step: what is to be done of it and not blocked, as one ``state.apply`` job; or by its own function.

    :param step: ``id``, ``wave``, ``role``, ``services``, ``sls``, ``minions``; ``by``: the execution function that
        does it in place of ``state.apply``. It takes the step and returns host -> outcome; where the run's ``due`` has
        it, it is called for these services only, and never with ``test=True``.
    :returns: ``ok``, ``left_out`` (service -> host -> why), ``hosts`` (host -> outcome), ``state`` (result, changes and
        comment of a state).

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.deploy
    """
    run = _run()
    by = step.get("by")
    if by:
        service = step["services"][0]
        due = not __opts__.get("test") and service in run["due"].get(by, [service])
        why = run["progress"].holds(service) if due else ""
        todo = dict.fromkeys(step["minions"], step["sls"]) if due and not why else {}
        left_out = {service: dict.fromkeys(step["minions"], why)} if why else {}
    else:
        todo, left_out = run["progress"].targets(step)
    started = time.time()
    if todo:
        _fire("step", {"run": run["record"].id, **_short(step), "state": "started", "hosts": list(todo)})
    if run.get("watcher") and (run["every"] or run["fates"].touches(todo)):
        run["watcher"].ready()
    returns: dict[str, Any] = {}
    waits: list[dict[str, Any]] = []
    if by:
        hosts = __salt__[by](step) if todo else {}
    else:
        hosts, returns, waits = _in_batches(run, step, todo, left_out, started)
    ok = not left_out and all(host["result"] is True for host in hosts.values())
    if not ok:
        run["result"] = (
            "failed" if any(h["result"] is False for h in hosts.values()) or run["result"] == "failed" else "incomplete"
        )
    report = outcome.scrub(
        {
            **_short(step),
            "started": started,
            "seconds": round(time.time() - started, 3),
            "ok": ok,
            "hosts": hosts,
            "left_out": left_out,
            **({"waits": waits} if waits else {}),
        },
        run["secrets"],
    )
    if todo or left_out:
        run["record"].append_step(report, clean=True)
        _fire("step", {"run": run["record"].id, "state": "ended", **_coarse(report)})
    return {**report, "state": _as_state(report, returns)}


def _in_batches(
    run: dict[str, Any],
    step: dict[str, Any],
    todo: dict[str, list[str]],
    left_out: dict[str, dict[str, str]],
    started: float,
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Apply the states of a step, the hosts in the groups in which their containers may be changed at once.

    What stays as it is since another host failed is added to ``left_out``.

    :returns: host -> what came of it; host -> the return itself; how long the load balancers were waited for.
    """
    progress: Progress = run["progress"]
    hosts: dict[str, Any] = {}
    returns: dict[str, Any] = {}
    waits: list[dict[str, Any]] = []
    earlier: list[str] = []
    settle = 0
    for batch in progress.batches(_in_order(progress, todo)):
        jobs = progress.going_on({host: todo[host] for host in batch}, earlier, left_out)
        if jobs and settle and not __opts__.get("test"):
            wait = {"what": "clients come back", "at": round(time.time() - started, 3), "seconds": settle}
            waits.append({**wait, "hosts": list(earlier), "targets": 0})
            time.sleep(settle)
        settle = progress.settle(jobs)
        begun = time.time()
        # What comes last restarts nothing.
        silent = set(progress.unknown)
        out = _take_out(run, jobs) if step["role"] != "finish" else {}
        if progress.unknown != silent:
            jobs = progress.going_on({host: todo[host] for host in batch}, earlier, left_out)
        sent = time.time()
        applied, answers = _apply_on(run, step, jobs)
        for said in applied.values():
            said["at"] = round(sent - started, 3)
        hosts |= applied
        returns |= answers
        if waited := _await_settled(run, jobs, hosts):
            waits.append({"what": "all is there again", "at": round(waited - started, 3), "targets": 0,
                          "seconds": round(time.time() - waited, 3), "hosts": list(batch)})  # fmt: skip
        back = time.time()
        _put_in(run, out, hosts)
        earlier += batch
        if out:
            for what, since, until in (("taken out", begun, sent), ("put in", back, time.time())):
                wait = {"what": what, "at": round(since - started, 3), "seconds": round(until - since, 3)}
                waits.append({**wait, "hosts": sorted({t.partition("/")[2] for t in out}), "targets": len(out)})
    return hosts, returns, waits


def _in_order(progress: Progress, todo: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return ``todo`` with those hosts at its end that clients use at present: what they use moves once only."""
    late: set[str] = set()
    asked = {} if __opts__.get("test") else progress.last(todo)
    for function, hosts in asked.items():
        late |= {host for host, said in _ask(hosts, function).items() if said["ret"] is True}
    return dict(sorted(todo.items(), key=lambda item: item[0] in late))


def _await_settled(run: dict[str, Any], jobs: list[tuple[list[str], list[str]]], hosts: dict[str, Any]) -> float:
    """Wait until the hosts of ``jobs`` have again what was away with a container; where not, its service has failed.

    :returns: since when was waited; 0: there was nothing to wait for.
    """
    began, asked = time.time(), {} if __opts__.get("test") else run["progress"].settled(jobs)
    for function, services in asked.items():
        answers = _ask(list(services), function)
        for host, service in services.items():
            said = answers.get(host, {}).get("ret")
            lacking = said if isinstance(said, list) else [outcome.why_not(said)]
            if lacking:
                why = "; ".join(lacking) + ". The other hosts were left alone"
                _fail_on(run, hosts, outcome.Failure(host, f"{service} is there again", service, function, why))
    return began if asked else 0.0


def _fail_on(run: dict[str, Any], hosts: dict[str, Any], failure: outcome.Failure) -> None:
    """Note a failure that no state has reported: in what came of its host, and for the steps that follow."""
    run["progress"].fail(failure.sls, failure.host)
    hosts[failure.host]["result"] = False
    hosts[failure.host]["failed"].append(vars(failure))


def _apply_on(
    run: dict[str, Any], step: dict[str, Any], jobs: list[tuple[list[str], list[str]]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do ``jobs`` (hosts, sls) at once: host -> what came of it, and host -> the return itself."""
    progress: Progress = run["progress"]
    mark = {"id": step["id"], "wave": step["wave"], "role": step["role"], "run": run["record"].id, "verb": run["verb"]}
    opts, test = _master_opts(), bool(__opts__.get("test"))
    sent, arrived = time.time(), {}

    def do(job: tuple[list[str], list[str]]) -> dict[str, Any]:
        names, sls = job
        services = list(dict.fromkeys(service_of(name) for name in sls))
        return _states(opts, names, sls, {"kolla_step": {**mark, "services": services}}, test, arrived, run["back"])

    answers: dict[str, Any] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
        for said in pool.map(do, jobs):
            answers |= said
    applied = {host: sls for names, sls in jobs for host in names}
    hosts: dict[str, Any] = {}
    for host, sls in applied.items():
        returned = answers.get(host)
        if returned is None:
            progress.unknown.add(host)
            hosts[host] = {"result": None, "seconds": 0.0, "changed": [], "failed": [], "slowest": []}
            continue
        found = outcome.read(host, returned)
        run["fates"].see(host, sls, found.changed)
        for failure in found.failed:
            for service in [service_of(failure.sls)] if failure.sls else [service_of(name) for name in sls]:
                progress.fail(service, host)
        hosts[host] = {
            "result": found.result,
            "total": found.total,
            "seconds": round(found.seconds, 3),
            "wall": round(arrived[host] - sent, 3),
            "span": found.span,
            "changed": [
                {
                    "id": c.id,
                    "sls": c.sls,
                    "function": c.function,
                    "changes": outcome.cut(c.changes, 2000),
                    "comment": c.comment[:300],
                    "seconds": c.seconds,
                    "at": c.at,
                }
                for c in found.differing
            ],
            **({"noted": found.notes} if found.notes else {}),
            "failed": [vars(failure) for failure in found.failed],
            "skipped": found.skipped,
            "slowest": found.slowest,
        }
    return hosts, answers


# --- servers that are out of the load balancer while their containers are away ----------------------------------------


def _out_file() -> Path:
    """Return the file that names the servers which a run has taken out: another run puts in what it left behind."""
    return records_root() / "taken-out.json"


def _balancers(run: dict[str, Any]) -> list[str]:
    return [host for host in run["balancers"] if host not in run["progress"].unknown]


def _tell_balancers(run: dict[str, Any], function: str, **what: Any) -> dict[str, Any]:
    """Have all load balancers do something; one that says nothing is unknown from now on and is not asked again."""
    asked = _balancers(run)
    answers = _ask(asked, function, **what)
    run["progress"].unknown |= set(asked) - set(answers)
    return answers


def _note_taken_out(run: dict[str, Any], targets: dict[str, str]) -> None:
    """Keep, for a run that comes after this one, what is out of load balancers: ``targets``, and what was left so."""
    found = run["left"] | targets
    if found:
        write_atomically(_out_file(), json.dumps(found).encode())
    else:
        _out_file().unlink(missing_ok=True)


def _put_in_everywhere(run: dict[str, Any], targets: dict[str, str]) -> dict[str, Any]:
    """Have load balancers take servers in again. Where one does not answer the next run puts them in."""
    # What an operator has taken out of one of them is his to put in again there.
    answers = _tell_balancers(run, "kolla_haproxy.ready", targets=list(targets), keep=run["theirs"])
    if set(run["balancers"]) - set(answers):
        run["left"] |= targets
    _note_taken_out(run, {})
    return answers


def _take_out(run: dict[str, Any], jobs: list[tuple[list[str], list[str]]]) -> dict[str, str]:
    """Take the servers whose containers are about to be disturbed out of all load balancers; return them."""
    if __opts__.get("test"):
        return {}
    targets = prediction.taken_out(jobs, run["progress"].planned, run["entries"])
    if not targets or not _balancers(run):
        return {}
    _note_taken_out(run, targets)
    answers = _tell_balancers(run, "kolla_haproxy.drain", targets=targets)
    before = {host: said["ret"]["before"] for host, said in answers.items() if isinstance(said["ret"], dict)}
    run["theirs"] = {host: names for host, names in before.items() if names}
    if before:
        targets = {name: mode for name, mode in targets.items() if any(name not in names for names in before.values())}
        _note_taken_out(run, targets)
    return targets


def _put_in(run: dict[str, Any], out: dict[str, str], hosts: dict[str, Any]) -> None:
    """Put servers in again; one that the load balancers do not find well makes its service fail on its host."""
    if not out:
        return
    for balancer, said in _put_in_everywhere(run, out).items():
        down = said["ret"].get("down", {}) if isinstance(said["ret"], dict) else {}
        for target, status in down.items():
            host = target.partition("/")[2]
            service = next(
                entry["service"]
                for entries in run["entries"].values()
                for entry in entries
                if haproxy.backend(entry["entry"]) == target.partition("/")[0]
            )
            if host not in hosts or (service, host) in run["progress"].failed or host in run["progress"].unknown:
                continue
            failure = outcome.Failure(
                host, target, service, "kolla_haproxy.ready",
                f"HAProxy's checks of {target} say '{status}' after a minute, expected UP; "
                f"`salt {balancer} kolla_haproxy.servers` shows what it sees; the other hosts were left alone",
            )  # fmt: skip
            _fail_on(run, hosts, failure)


def _put_in_left_behind(run: dict[str, Any]) -> None:
    """Put in again what a run that was killed has taken out."""
    try:
        left = json.loads(_out_file().read_text())
    except (FileNotFoundError, ValueError):
        return
    if left:
        _put_in_everywhere(run, left)


def _as_state(report: dict[str, Any], returns: dict[str, Any]) -> dict[str, Any]:
    """Return a step's outcome as a state has it; hosts where nothing changed are left out, as ``salt.state`` does.

    Of many hosts some are shown, those that failed first: Salt keeps all of it in memory, and cuts events over 1 MB.
    """
    hosts = report["hosts"]
    told = {
        host: states for host, states in returns.items() if hosts[host]["result"] is False or hosts[host]["changed"]
    }
    shown = dict(sorted(told.items(), key=lambda item: hosts[item[0]]["result"] is not False)[:_MOST_SHOWN])
    more = [f"{len(told) - len(shown)} more hosts are in the run's record"] if len(told) > len(shown) else []
    failed = [f"failed on {host}" for host, said in hosts.items() if said["result"] is False]
    silent = [f"{host} did not return" for host in hosts if host not in returns]
    left_out = [
        f"{service} was left out on {host}: {why}"
        for service, by in report["left_out"].items()
        for host, why in by.items()
    ]
    if __opts__.get("test"):
        result = False if failed else None if shown else True
    else:
        result = report["ok"]
    return {
        "result": result,
        "changes": {"out": "highstate", "ret": shown} if shown else {},
        "comment": "\n".join([*failed, *silent, *left_out, *more]) or ("applied" if hosts else "nothing to do"),
    }


def _states(
    opts: dict[str, Any],
    hosts: list[str],
    sls: list[str],
    pillar: dict[str, Any],
    test: bool,
    arrived: dict[str, float],
    back: dict[str, Any] | None,
) -> dict[str, Any]:
    """Apply ``sls`` on ``hosts`` and return what each said; a host that was lost on the way is absent.

    It runs in a thread, where Salt's dunders are not at hand. ``arrived`` is told when each answer came. In a rollback
    (``back``) hosts take back what they did to these services.
    """
    function = "kolla_kept.apply" if back else "state.sls"
    kwarg: dict[str, Any] = {"pillar": pillar, **({"test": True} if test else {})}
    kwarg |= {"run": back["runs"]} if back else {}
    answers: dict[str, Any] = {}
    for host, said in _answers(opts, hosts, function, [",".join(sls)], kwarg):
        if not (said.get("failed") and not said["ret"]):
            answers[host] = said["ret"]
            arrived[host] = time.time()
    return answers


def end() -> dict[str, Any]:
    """Close the record.

    :returns: ``run``, ``result`` (``ok``, ``failed``, ``incomplete``; ``deviated``: all was done, but a container fared
        otherwise than predicted), ``seconds`` and ``deviations``.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.deploy
    """
    run = _run()
    progress: Progress = run["progress"]
    said: dict[str, Any] = {}
    if progress.unknown and run["result"] == "ok":
        run["result"] = "incomplete"
    after = _containers(run)
    deviations = []
    if after is not None:
        found = run["fates"].deviations(after, progress.failed, progress.unknown)
        deviations = [deviation.as_dict() for deviation in found]
    if run["result"] == "ok" and (lacking := _unheard(run, after or {})):
        run["result"] = "failed"
        said["error"] = (
            "all was done, but what runs in new containers has not reported to its service for two minutes:\n  "
            + "\n  ".join(lacking)
            + "\n'kolla-salt verify' looks again"
        )
    # Whoever removes containers may mean that an API goes.
    removed = any(set(run["fates"].before.get(host, ())) - set(there) for host, there in (after or {}).items())
    patience = PATIENCE if run["result"] == "ok" and not removed else 0
    availability, away = _stop_watching(run, patience)
    if patience and away:
        run["result"] = "failed"
        said["error"] = (
            f"all was done, but {', '.join(away)} has answered before and does not any more, after {patience:g} s of "
            f"waiting; 'kolla-salt runs show {run['record'].id}' says since when, 'kolla-salt verify' what is wrong"
        )
    if deviations and run["result"] == "ok":
        run["result"] = "deviated"
    seconds = round(time.time() - run["started"], 3)
    result = {
        "result": run["result"],
        "seconds": seconds,
        "unknown": sorted(progress.unknown),
        "failed": sorted(f"{service} on {host}" for service, host in progress.failed),
        "deviations": deviations,
        **said,
        **availability,
    }
    if not run.get("closed"):
        run["record"].close(**result, stages=run["seconds"])
        run["closed"] = True
    _fire("ended", {"run": run["record"].id, **result})
    return {"run": run["record"].id, **result}


def _containers(run: dict[str, Any]) -> dict[str, Any] | None:
    """Ask the engines what containers there are now, if the run may have touched any: host -> what it has."""
    fates: reality.Fates = run["fates"]
    if __opts__.get("test") or not (run.get("touches") or fates.done):
        return None
    hosts = [host for host in fates.before if host not in run["progress"].unknown]
    answers = _ask(hosts, "kolla_container.snapshot", since=run["started"])
    after = {host: said["ret"] for host, said in answers.items() if isinstance(said["ret"], dict)}
    run["record"].write_containers({"before": fates.before, "after": after})
    return after


def _unheard(run: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Wait until the services list what runs in new containers as alive; return what they do not, as sentences."""
    wanted = run["fates"].newcomers(after, run["started"] - YOUNG)
    asker = next((host for host in run["control"] if host not in run["progress"].unknown), "")
    if not wanted or not asker:
        return []
    # A controller that is away is no reason to call a run on other hosts failed: `kolla-salt verify` tells of it.
    said = _ask([asker], "kolla_check.await_agents", wanted=wanted).get(asker, {}).get("ret", [])
    return said if isinstance(said, list) else [f"{asker} was asked for it: {outcome.why_not(said)}"]


def _stop_watching(run: dict[str, Any], patience: float = 0) -> tuple[dict[str, Any], list[str]]:
    """End the probe, if there is one; return its figures as a field of the record, and the services that are away.

    What was started last may need a moment, the load balancer above all: it is waited for (``patience``, seconds).
    """
    watcher: Watcher | None = run.pop("watcher", None)
    receipt = watcher.stop(patience) if watcher else None
    return ({"availability": receipt.brief()}, receipt.away) if receipt else ({}, [])


def _failed(run: dict[str, Any], text: str) -> CommandExecutionError:
    """Close the record with ``text`` and return the error to raise."""
    run["result"] = "failed"
    run["closed"] = True
    availability, _ = _stop_watching(run)
    run["record"].close("failed", error=text, seconds=round(time.time() - run["started"], 3), **availability)
    _fire("ended", {"run": run["record"].id, "result": "failed", "error": text})
    return CommandExecutionError(text)


def _short(step: dict[str, Any]) -> dict[str, Any]:
    return {key: step[key] for key in ("id", "wave", "role", "services", "minions", "sls", "phases") if key in step}


def _coarse(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without the changes: an event is for watching."""
    hosts = {
        host: {
            "result": said["result"],
            "seconds": said["seconds"],
            "changed": len(said["changed"]),
            "failed": said["failed"][:3],
        }
        for host, said in report["hosts"].items()
    }
    return {
        **{key: report[key] for key in ("id", "wave", "role", "services", "seconds", "ok", "left_out")},
        "hosts": hosts,
    }
