"""The master's side of a rollback: which run, what stands in the way, databases, and what is noted of it.

The functions run inside an orchestration whose run :py:mod:`kolla_run <kolla_salt.modules.kolla_run>` has begun; they
are not meant for minions.
"""

from __future__ import annotations

import time
from typing import Any

from salt.exceptions import CommandExecutionError

from kolla_salt import outcome, rollback, runs, runtime

__virtualname__ = "kolla_rollback"


def __virtual__() -> str:
    return __virtualname__


def _run() -> dict[str, Any]:
    return runtime.run(__context__, "rollback")


def begin(back: Any, run_id: str = "") -> dict[str, Any]:
    """Begin a rollback: see who answers and what is kept, refuse what cannot end well, open the record.

    :param back: what the runner ``kolla.back`` returned; a text is the error that came in its place.
    :param run_id: name of the record; made from the time when empty.
    :returns: as :py:func:`kolla_run.begin`.
    :raises CommandExecutionError: with everything that stands in the way; nothing was changed.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.rollback
    """
    if not isinstance(back, dict):
        raise CommandExecutionError(outcome.last_words(str(back)))
    begun = __salt__["kolla_run.begin"](rollback.VERB, back["steps"], run_id=run_id, back=back)
    run = _run()
    record: runs.Run = run["record"]
    of = back["run"]
    record.update(**{("of" if back["whole"] else "of_part"): of}, services=sorted(back["hosts"]))
    surveys = (record.plan() or {}).get("hosts") or {}
    unknown = run["progress"].unknown
    problems = rollback.problems(back, surveys, unknown, rollback.interrupted(runs.headers(record.root), of, record.id))
    if problems:
        __salt__["kolla_run.fail"](
            f"rolling back {of}: nothing was changed:\n  " + "\n  ".join(outcome.scrub(problems, run["secrets"]))
        )
    if back["restored"]:
        record.update(restored=back["restored"])
    return begun


def stop(step: dict[str, Any]) -> dict[str, Any]:
    """Stop the containers of a service that will be exchanged, on all hosts at once: its database is restored next.

    :param step: as for :py:func:`kolla_run.apply`.
    :returns: host -> outcome, as the record of a step has it.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.rollback
    """
    run, began, service = _run(), time.time(), step["services"][0]
    hosts = [host for host in step["minions"] if host not in run["progress"].unknown]
    answers = __salt__["kolla_run.ask"](
        hosts, "kolla_kept.apply", services=[service], run=run["back"]["runs"], role="stop"
    )
    return {host: _outcome(host, began, service, answers.get(host)) for host in hosts}


def database(step: dict[str, Any]) -> dict[str, Any]:
    """Restore the databases of a service from the snapshot that the run took before it changed them.

    :param step: as for :py:func:`kolla_run.apply`.
    :returns: host -> outcome, as the record of a step has it.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.rollback
    """
    run, began, service = _run(), time.time(), step["services"][0]
    host, record = step["minions"][0], run["record"]
    if any(name == service for name, _ in run["progress"].failed):
        return {host: _failed(run, host, began, service, "its containers could not all be stopped")}
    snapshot = run["back"]["restore"][service]
    # Which may be an earlier one that the upgrade went on with.
    answer = __salt__["kolla_run.ask"]([host], "kolla_db.restore", run=snapshot["run"], service=service).get(host)
    if not isinstance(answer, dict):
        return {host: _failed(run, host, began, service, outcome.why_not(answer))}
    record.update(restored={**(record.header().get("restored") or {}), service: time.time()})
    said = f"as in the snapshot of {rollback.clock(float(snapshot['taken']))}"
    change = {"id": f"{service} databases", "sls": service, "function": "kolla_db.restore",
              "changes": {"databases": {"old": None, "new": said}}}  # fmt: skip
    return {host: outcome.of_host(began, changed=[change])}


def recall(step: dict[str, Any]) -> dict[str, Any]:
    """Bring back the values in a service's databases that would keep the old release from starting.

    :param step: as for :py:func:`kolla_run.apply`.
    :returns: host -> outcome, as the record of a step has it.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.rollback
    """
    run, began, service = _run(), time.time(), step["services"][0]
    host, snapshot = step["minions"][0], run["back"]["recalled"][service]
    answer = __salt__["kolla_run.ask"]([host], "kolla_db.recall", run=snapshot["run"], service=service).get(host)
    if not isinstance(answer, dict):
        return {host: _failed(run, host, began, service, outcome.why_not(answer))}
    change = {"id": f"{service} databases", "sls": service, "function": "kolla_db.recall", "changes": answer}
    return {host: outcome.of_host(began, changed=[change] if answer else [])}


def _failed(run: dict[str, Any], host: str, began: float, service: str, why: str) -> dict[str, Any]:
    run["progress"].fail(service, host)
    failure = outcome.Failure(host, f"{service} databases", service, "kolla_rollback", why)
    return outcome.of_host(began, failure)


def _outcome(host: str, began: float, service: str, answer: Any) -> dict[str, Any]:
    run = _run()
    if answer is None:
        run["progress"].unknown.add(host)
        return {**outcome.of_host(began), "result": None}
    found = outcome.read(host, answer)
    if found.result is False:
        run["progress"].fail(service, host)
    return {
        **outcome.of_host(began),
        "result": found.result,
        "total": found.total,
        "changed": [{"id": c.id, "sls": c.sls, "function": c.function, "changes": c.changes} for c in found.changed],
        "failed": [vars(failure) for failure in found.failed],
    }


def end() -> dict[str, Any]:
    """Note in the record of the run that was taken back what of it was, and close this one.

    :returns: as :py:func:`kolla_run.end`.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate orch.rollback
    """
    run = _run()
    back, progress = run["back"], run["progress"]
    if not run.get("closed") and not __opts__.get("test"):
        bad = {service for service, _ in progress.failed}
        bad |= {service for service, hosts in back["hosts"].items() if set(hosts) & progress.unknown}
        for step in run["record"].steps():
            bad |= set(step.get("left_out") or {})
        good = sorted(set(back["hosts"]) - bad)
        whole = back["whole"] and not bad and run["result"] == "ok"
        for name in back["runs"].split(","):
            record = runs.load(name, run["record"].root)
            noted = {**(record.header().get("returned") or {}), **dict.fromkeys(good, run["record"].id)}
            if whole or set(back["touched"]) <= set(noted):
                noted["*"] = run["record"].id
            record.update(returned=noted)
    return __salt__["kolla_run.end"]()
