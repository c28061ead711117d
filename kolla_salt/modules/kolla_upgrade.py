"""The master's side of an upgrade: what must be true before it, snapshots, verification, and what was done so far.

The functions run inside an orchestration that :py:mod:`kolla_run <kolla_salt.modules.kolla_run>` has begun; they are
not meant for minions.
"""

from __future__ import annotations

import time
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import outcome, runs, runtime, upgrade
from kolla_salt.prechecks import Finding

__virtualname__ = "kolla_upgrade"
#: Seconds that a host may take to confirm a job.
_CONFIRM = 15


def __virtual__() -> str:
    return __virtualname__


def _run() -> dict[str, Any]:
    return runtime.run(__context__, "upgrade")


def _asked(hosts: list[str], function: str, **kwargs: Any) -> dict[str, Any]:
    """Run a function on hosts; host -> what it returned. Fails for a host without an answer, or with an error."""
    answers = __salt__["kolla_run.ask"](hosts, function, **kwargs)
    wrong = [f"{host}: no answer" for host in hosts if host not in answers]
    wrong += [f"{host}: {outcome.last_words(str(said))}" for host, said in answers.items() if isinstance(said, str)]
    if wrong:
        raise CommandExecutionError(f"running {function}: " + "; ".join(wrong))
    return answers


def check() -> list[str]:
    """Refuse an upgrade that cannot end well, naming everything that stands in its way.

    The images are on their hosts by now. Nothing was changed yet.

    :returns: the services that will change their release or images.
    :raises CommandExecutionError: with all findings.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.upgrade
    """
    run = _run()
    record: runs.Run = run["record"]
    started = time.time()
    services = sorted(upgrade.replaced(record.plan() or {}) & set(run["services"]))
    headers = runs.headers(record.root)
    earlier = run["earlier"] = upgrade.unfinished(headers, run["release"])
    unverified = sorted(upgrade.unverified(earlier) & set(run["services"]))
    run["verify"], run["overview"] = sorted({*services, *unverified}), {}
    run["due"] = {"kolla_upgrade.snapshot": services, "kolla_upgrade.verify": run["verify"]}
    if not run["verify"]:
        return []
    hosts = [host for host in run["hosts"] if host not in run["progress"].unknown]
    findings = upgrade.absent(sorted(run["progress"].unknown))
    try:
        found = upgrade.overview(_asked(hosts, "kolla_release.survey"))
        chosen = {name: item for name, item in found.items() if name in run["verify"]}
        findings += upgrade.distance(chosen, run["release"])
        begun, ahead = sorted(upgrade.unverified(earlier)), sorted(upgrade.ahead(headers, run["release"]))
        told = {} if findings else _asked(hosts, "kolla_release.problems", services=services, begun=begun, ahead=ahead)
    except CommandExecutionError as error:
        __salt__["kolla_run.fail"](str(error))
    findings += [Finding(**item) for said in told.values() for item in said]
    if findings:
        __salt__["kolla_run.fail"](outcome.scrub(upgrade.report(findings), run["secrets"]))
    run["overview"] = chosen
    old = sorted({release for item in chosen.values() for release in item["from"]} - {run["release"]})
    run["seconds"]["prechecks"] = round(time.time() - started, 3)
    record.update(
        **{"from": ", ".join(old) or (earlier[0]["from"] if earlier else run["release"]), "to": run["release"]},
        releases={name: item["from"] for name, item in chosen.items()},
        phases={}, begun={}, snapshots={}, continues=[header["id"] for header in earlier],
    )  # fmt: skip
    return services


def apply(step: dict[str, Any]) -> dict[str, Any]:
    """Apply one step and note in the run's record which phases of its service were begun and done.

    :param step: as for :py:func:`kolla_run.apply`, with ``phases``.
    :returns: as :py:func:`kolla_run.apply`.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.upgrade
    """
    run = _run()
    record, service = run["record"], step["services"][0]
    involved = service in run["verify"] and not __opts__.get("test")
    if involved and not step.get("by"):
        header = record.header()
        record.update(begun={**(header.get("begun") or {}), service: step["phases"][0]})
    done = __salt__["kolla_run.apply"](step)
    if involved and done["ok"]:
        phases = record.header().get("phases") or {}
        new = [name for name in step["phases"] if name not in phases.get(service, [])]
        record.update(phases={**phases, service: [*phases.get(service, []), *new]})
    return done


def snapshot(step: dict[str, Any]) -> dict[str, Any]:
    """Take the snapshot of a service's schemas, unless it is there: before the service is changed, and only then.

    :param step: as for :py:func:`apply`.
    :returns: host -> outcome, as the record of a step has it.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.upgrade
    """
    run, service, began = _run(), step["services"][0], time.time()
    host, record = step["minions"][0], run["record"]
    earlier = upgrade.inherited(run["earlier"], service)
    if earlier:
        host, function, more = earlier["host"], "kolla_db.take_over", {"of": earlier["run"]}
    else:
        function, more = "kolla_db.snapshot", {}
    taken = __salt__["kolla_run.ask"]([host], function, run=record.id, service=service, **more).get(host)
    what = f"snapshot of {service}"
    if not isinstance(taken, dict):
        failure = outcome.Failure(host, what, service, "kolla_upgrade", outcome.why_not(taken))
        return {host: outcome.of_host(began, failure)}
    record.update(snapshots={**(record.header().get("snapshots") or {}), service: taken})
    said = f"{taken['bytes'] / 2**20:.1f} MiB in {taken['path']}"
    change = {"id": what, "function": "kolla_upgrade", "changes": {"snapshot": {"old": None, "new": said}}}
    return {host: outcome.of_host(began, changed=[change])}


def verify(step: dict[str, Any]) -> dict[str, Any]:
    """See whether a service is well on all hosts, of the new release, and answers through the VIP.

    :param step: as for :py:func:`apply`.
    :returns: host -> outcome, as the record of a step has it.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.upgrade
    """
    run, service, began = _run(), step["services"][0], time.time()
    hosts = [host for host in step["minions"] if host not in run["progress"].unknown]
    release = run["overview"].get(service, {}).get("to")
    answers = __salt__["kolla_run.ask"](hosts, "kolla_release.verify", service=service, release=release)
    wrong = {host: _sentences(answers.get(host)) for host in hosts}
    asker = hosts[0]
    if not wrong[asker]:
        said = __salt__["kolla_run.ask"]([asker], "kolla_release.endpoints", services=[service])
        wrong[asker] = _sentences(said.get(asker))
    failures = {
        host: outcome.Failure(host, f"{service} is well", service, "kolla_upgrade", why)
        for host, why in wrong.items()
        if why
    }
    return {host: outcome.of_host(began, failures.get(host)) for host in hosts}


def _sentences(answer: Any) -> str:
    return "; ".join(answer) if isinstance(answer, list) else outcome.why_not(answer)
