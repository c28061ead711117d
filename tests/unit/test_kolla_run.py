"""Steps of a run that are no ``state.apply``."""

from __future__ import annotations

import json
import time

import pytest
from salt.exceptions import CommandExecutionError

from kolla_salt import outcome, reality, rollback, runs, runtime
from kolla_salt.context import Resolver
from kolla_salt.modules import kolla_run as module
from kolla_salt.steps import Progress, Rule

STEP = {
    "id": "web: verification on ctl1, ctl2", "wave": 1, "role": "verify", "services": ["web"], "sls": ["web"],
    "minions": ["ctl1", "ctl2"], "phases": ["verified"], "by": "kolla_upgrade.verify",
}  # fmt: skip


@pytest.fixture
def run(decls, site_data, tmp_path, monkeypatch):
    """A run that was begun; ``done`` are the steps that were given to their function, ``answers`` what that returns."""
    found = {
        "record": runs.create("upgrade", tmp_path / "runs"), "progress": Progress({}, {}), "secrets": ["s3cret-of-it"],
        "fates": reality.Fates(Resolver(decls, site_data, "ctl1", cache=tmp_path / "cache")), "result": "ok",
        "every": False, "due": {}, "done": [],
        "answers": {host: outcome.of_host(time.time()) for host in ("ctl1", "ctl2")},
    }  # fmt: skip

    def verify(step):
        found["done"].append(step)
        return found["answers"]

    monkeypatch.setattr(module, "__opts__", {"sock_dir": str(tmp_path), "test": False}, raising=False)
    monkeypatch.setattr(module, "__context__", {runtime.RUN: found}, raising=False)
    monkeypatch.setattr(module, "__salt__", {"kolla_upgrade.verify": verify}, raising=False)
    monkeypatch.setattr(module, "_fire", lambda kind, data: None)
    return found


def test_a_step_is_done_by_the_function_that_it_names(run):
    done = module.apply(STEP)
    assert run["done"] == [STEP]
    assert done["ok"] and done["hosts"] == run["answers"] and done["state"]["result"] is True
    assert [step["id"] for step in run["record"].steps()] == [STEP["id"]]


def test_what_its_function_finds_wrong_fails_the_step_and_shows_no_secret(run):
    failure = outcome.Failure("ctl2", "web is well", "web", "kolla_upgrade", "no s3cret-of-it")
    run["answers"]["ctl2"] = outcome.of_host(time.time(), failure)
    done = module.apply(STEP)
    assert (done["ok"], done["state"]["result"], run["result"]) == (False, False, "failed")
    assert "failed on ctl2" in done["state"]["comment"]
    assert "s3cret-of-it" not in (run["record"].folder / "steps.jsonl").read_text()


def test_a_function_is_not_called_for_a_service_that_is_not_due(run):
    run["due"] = {"kolla_upgrade.verify": ["base"]}
    done = module.apply(STEP)
    assert (run["done"], done["ok"], list(run["record"].steps())) == ([], True, [])
    run["due"]["kolla_upgrade.verify"].append("web")
    assert module.apply(STEP)["ok"] and len(run["done"]) == 1


def test_a_function_is_not_called_in_a_dry_run(run, monkeypatch):
    monkeypatch.setitem(module.__opts__, "test", True)
    done = module.apply(STEP)
    assert (run["done"], done["ok"], done["state"]["comment"]) == ([], True, "nothing to do")


def test_a_step_without_a_run_says_what_begins_one(run, monkeypatch):
    monkeypatch.setattr(module, "__context__", {})
    with pytest.raises(CommandExecutionError, match="none was begun.*kolla-salt deploy"):
        module.apply(STEP)


def test_a_function_is_not_called_where_its_service_would_be_left_out(run):
    run["progress"] = rollback.Backwards({}, {}, placed={"ctl1": {"web"}}, unknown={"ctl1"})
    done = module.apply(STEP)
    assert (run["done"], done["ok"], run["result"]) == ([], False, "incomplete")
    assert done["left_out"] == {"web": dict.fromkeys(STEP["minions"], "ctl1 does not answer")}


def test_the_next_host_stays_as_it_is_where_the_one_before_lacks_something_afterwards(run, monkeypatch):
    planned = {host: {"switch": "recreated"} for host in ("ctl1", "ctl2", "ctl3")}
    rule = Rule("web", 1, settled="kolla_web.unsettled")
    run["progress"] = Progress({}, {}, planned=planned, limits={"switch": rule})
    run["entries"], run["balancers"], applied, asked = {}, [], [], []

    def apply_on(run, step, jobs):
        applied.extend(jobs)
        return {host: outcome.of_host(time.time()) for hosts, _ in jobs for host in hosts}, {}

    def ask(hosts, function, **kwargs):
        asked.append((hosts, function))
        return {host: {"ret": ["no flows"] if host == "ctl2" else []} for host in hosts}

    monkeypatch.setattr(module, "_apply_on", apply_on)
    monkeypatch.setattr(module, "_ask", ask)
    step = {**STEP, "role": "primary", "minions": list(planned)}
    del step["by"]
    done = module.apply(step)
    assert applied == [(["ctl1"], ["web"]), (["ctl2"], ["web"])]
    assert asked == [(["ctl1"], "kolla_web.unsettled"), (["ctl2"], "kolla_web.unsettled")]
    assert done["hosts"]["ctl1"]["result"] is True and done["hosts"]["ctl2"]["result"] is False
    assert "no flows" in done["hosts"]["ctl2"]["failed"][0]["comment"]
    assert list(done["left_out"]["web"]) == ["ctl3"] and run["result"] == "failed"
    assert [(wait["what"], wait["hosts"]) for wait in done["waits"]] == [
        ("all is there again", ["ctl1"]), ("all is there again", ["ctl2"]),
    ]  # fmt: skip


def test_the_host_that_clients_use_comes_last(run, monkeypatch):
    planned = {host: {"vip": "recreated"} for host in ("ctl1", "ctl2", "ctl3")}
    run["progress"] = Progress({}, {}, planned=planned, limits={"vip": Rule("web", 1, last="kolla_vip.holds")})
    run["entries"], run["balancers"], applied = {}, [], []

    def apply_on(run, step, jobs):
        applied.extend(host for hosts, _ in jobs for host in hosts)
        return {host: outcome.of_host(time.time()) for hosts, _ in jobs for host in hosts}, {}

    monkeypatch.setattr(module, "_apply_on", apply_on)
    # ctl2 says nothing: it keeps its place.
    monkeypatch.setattr(module, "_ask", lambda hosts, function: {"ctl1": {"ret": True}, "ctl3": {"ret": False}})
    step = {name: value for name, value in STEP.items() if name != "by"} | {"minions": list(planned)}
    assert module.apply(step)["ok"]
    assert applied == ["ctl2", "ctl3", "ctl1"]


def test_a_host_that_does_not_say_whether_all_is_there_again_has_failed(run, monkeypatch):
    planned = {host: {"switch": "recreated"} for host in ("ctl1", "ctl2")}
    rule = Rule("web", 1, settled="kolla_web.unsettled")
    run["progress"] = Progress({}, {}, planned=planned, limits={"switch": rule})
    hosts = {"ctl1": outcome.of_host(time.time())}
    monkeypatch.setattr(module, "_ask", lambda hosts, function: {})
    assert module._await_settled(run, [(["ctl1"], ["web"])], hosts) > 0
    assert (hosts["ctl1"]["result"], run["progress"].failed) == (False, {("web", "ctl1")})
    assert "no answer" in hosts["ctl1"]["failed"][0]["comment"]


def test_a_run_waits_for_what_an_interrupted_one_began_and_only_then(run, tmp_path, monkeypatch):
    asked, busy = [], [{"ctl1", "ctl2"}, {"ctl2"}, set()]

    def ask(hosts, function, **kwargs):
        asked.append((list(hosts), function, kwargs))
        now = busy.pop(0)
        return {host: {"ret": ["job 1"] if host in now else []} for host in hosts}

    monkeypatch.setattr(module, "_ask", ask)
    fired = []
    monkeypatch.setattr(module, "_fire", lambda *event: fired.append(event))
    monkeypatch.setattr(module, "records_root", lambda: tmp_path / "runs")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    module._await_rest(run, ["ctl1", "ctl2"])  # there was none before
    before = runs.create("upgrade", tmp_path / "runs", run_id="20260101-000000-upgrade")
    before.close("ok")
    module._await_rest(run, ["ctl1", "ctl2"])
    assert asked == []
    interrupted = runs.create("deploy", tmp_path / "runs", run_id="20260102-000000-deploy")
    module._await_rest(run, ["ctl1", "ctl2"])
    assert [hosts for hosts, *_ in asked] == [["ctl1", "ctl2"], ["ctl1", "ctl2"], ["ctl2"]]
    assert {function for _, function, _ in asked} == {"kolla_node.unfinished"}
    assert [(kind, data["for"], list(data["hosts"])) for kind, data in fired] == [
        ("waits", interrupted.id, ["ctl1", "ctl2"])
    ]
    monkeypatch.setattr(module, "REST", -1.0)
    monkeypatch.setattr(module, "_failed", lambda run, text: CommandExecutionError(text))
    busy += [{"ctl1"}, {"ctl1"}]
    said = rf"ctl1 to end what {interrupted.id} began.*job 1.*saltutil.kill_job"
    with pytest.raises(CommandExecutionError, match=said):
        module._await_rest(run, ["ctl1"])


# --- load balancers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def balanced(run, monkeypatch, tmp_path):
    """``web`` on three controllers, which have a load balancer each; ``dead`` ones say nothing."""
    planned = {host: {"web_api": "recreated"} for host in ("ctl1", "ctl2", "ctl3")}
    run["progress"] = Progress({}, {}, planned=planned, limits={"web_api": Rule("web", 1)})
    entry = {"entry": "web", "service": "web", "hosts": list(planned), "active_passive": False}
    run |= {"entries": {"web_api": [entry]}, "balancers": list(planned), "dead": set(), "asked": [], "applied": []}
    run |= {"before": {}, "kept": [], "left": {}, "theirs": {}}

    def apply_on(run, step, jobs):
        run["applied"] += [host for hosts, _ in jobs for host in hosts]
        return {host: outcome.of_host(time.time()) for hosts, _ in jobs for host in hosts}, {}

    def ask(hosts, function, targets, keep=None):
        run["asked"].append((function, list(hosts), list(targets)))
        run["kept"].append(keep)
        before = run["before"]
        return {
            host: {"ret": {"before": before.get(host, []), "down": {}}} for host in hosts if host not in run["dead"]
        }

    monkeypatch.setattr(module, "_apply_on", apply_on)
    monkeypatch.setattr(module, "_ask", ask)
    monkeypatch.setattr(module, "records_root", lambda: tmp_path)
    step = {name: value for name, value in STEP.items() if name != "by"}
    run["step"] = step | {"role": "primary", "minions": list(planned)}
    return run


def test_a_balancer_that_says_nothing_is_waited_for_once_and_its_host_left_alone(balanced, tmp_path):
    balanced["dead"] = {"ctl3"}
    done = module.apply(balanced["step"])
    assert [hosts for _, hosts, _ in balanced["asked"]] == [["ctl1", "ctl2", "ctl3"]] + [["ctl1", "ctl2"]] * 3
    assert balanced["applied"] == ["ctl1", "ctl2"] and balanced["result"] == "incomplete"
    assert done["left_out"] == {"web": {"ctl3": "ctl3 does not answer"}}
    # It may still have them out, if only its minion is away: the next run puts them in.
    assert json.loads((tmp_path / "taken-out.json").read_text()).keys() == {"web_back/ctl1", "web_back/ctl2"}
    balanced |= {"dead": set(), "left": {}, "asked": []}
    balanced["progress"].unknown = set()
    module._put_in_left_behind(balanced)
    assert balanced["asked"] == [("kolla_haproxy.ready", ["ctl1", "ctl2", "ctl3"], ["web_back/ctl1", "web_back/ctl2"])]
    assert not (tmp_path / "taken-out.json").exists()


def test_what_an_operator_has_taken_out_stays_out_where_he_did(balanced, tmp_path):
    balanced["before"] = {"ctl2": ["web_back/ctl1"]}
    balanced["step"]["minions"] = ["ctl1"]
    assert module.apply(balanced["step"])["ok"]
    assert [function for function, *_ in balanced["asked"]] == ["kolla_haproxy.drain", "kolla_haproxy.ready"]
    assert balanced["kept"][-1] == {"ctl2": ["web_back/ctl1"]}
    balanced |= {"before": dict.fromkeys(balanced["balancers"], ["web_back/ctl1"]), "asked": []}
    assert module.apply(balanced["step"])["ok"]
    assert [function for function, *_ in balanced["asked"]] == ["kolla_haproxy.drain"]
    assert not (tmp_path / "taken-out.json").exists()


def test_what_was_put_in_everywhere_is_not_remembered(balanced, tmp_path):
    assert module.apply(balanced["step"])["ok"]
    assert balanced["applied"] == ["ctl1", "ctl2", "ctl3"] and not (tmp_path / "taken-out.json").exists()


# --- agents -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(run, monkeypatch):
    """End ``run``, in which ``ctl2`` got an agent; ``said`` is what the first controller answers of it."""
    run |= {"control": ["ctl1", "ctl2"], "started": time.time(), "seconds": {}, "touches": True, "asked": []}
    run["fates"].before = {"ctl1": {}, "ctl2": {}}
    run["fates"].reports = {"web_helper": "web-helper"}
    new = {"id": "1", "image": "i", "digest": "d", "started": time.time(), "state": "running", "restarts": 0}

    def end(*said):
        def ask(hosts, function, **more):
            if function == "kolla_container.snapshot":
                return {"ctl2": {"ret": {"web_helper": new}}, "ctl1": {"ret": {}}}
            run["asked"].append((hosts, function, more))
            return {host: {"ret": answer} for host, answer in zip(hosts, said, strict=False)}

        monkeypatch.setattr(module, "_ask", ask)
        return module.end()

    return end


def test_a_run_ends_well_when_new_agents_have_reported(run, ended):
    assert ended([])["result"] == "ok"
    assert run["asked"] == [(["ctl1"], "kolla_check.await_agents", {"wanted": {"web-helper": ["ctl2"]}})]


def ago(seconds):
    """As an engine writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(time.time() - seconds))


def test_an_agent_that_an_interrupted_run_has_just_started_is_waited_for(run, ended):
    run["fates"].before["ctl2"] = {"web_helper": {"started": ago(20)}}
    assert ended([])["result"] == "ok"
    assert run["asked"] == [(["ctl1"], "kolla_check.await_agents", {"wanted": {"web-helper": ["ctl2"]}})]


def test_an_agent_that_has_run_for_long_is_not_waited_for(run, ended):
    run["fates"].before["ctl2"] = {"web_helper": {"started": ago(200)}}
    assert ended([])["result"] == "ok" and run["asked"] == []


def test_a_run_has_failed_where_a_new_agent_does_not_report(run, ended):
    done = ended(["web-helper on ctl2 does not report: docker logs web_agent"])
    assert done["result"] == "failed"
    assert "web-helper on ctl2 does not report: docker logs" in run["record"].header()["error"]


def test_a_controller_that_is_away_does_not_fail_a_run_on_others(run, ended):
    assert ended()["result"] == "ok"


def test_agents_are_not_waited_for_where_a_service_has_failed_or_no_container_is_new(run, ended):
    run["result"] = "failed"
    assert ended([])["result"] == "failed" and run["asked"] == []
    run |= {"result": "ok", "closed": False}
    run["fates"].before["ctl2"] = {"web_helper": {}}
    ended([])
    assert run["asked"] == []


# --- what users notice ------------------------------------------------------------------------------------------------


class Watching:
    """A probe that still misses a service at the end."""

    def __init__(self, away):
        self.away, self.patience = away, None

    def stop(self, patience=0):
        self.patience = patience
        return self

    def brief(self):
        return {"failed": 3}


def test_a_run_after_which_an_api_does_not_answer_has_not_ended_well(run, ended):
    run["watcher"] = watching = Watching(["web"])
    done = ended([])
    assert watching.patience == module.PATIENCE
    assert done["result"] == "failed" and done["availability"] == {"failed": 3}
    assert "web has answered before and does not any more, after 60 s" in run["record"].header()["error"]


def test_a_run_after_which_all_answer_ends_well(run, ended):
    run["watcher"] = Watching([])
    assert ended([])["result"] == "ok"


def test_an_api_is_not_waited_for_where_the_run_has_failed_or_has_removed_containers(run, ended):
    run |= {"result": "failed", "watcher": (watching := Watching(["web"]))}
    assert ended([])["result"] == "failed" and watching.patience == 0
    run |= {"result": "ok", "closed": False, "watcher": (watching := Watching(["web"]))}
    run["fates"].before["ctl1"] = {"web": {"id": "0"}}
    assert ended([])["result"] == "ok" and watching.patience == 0
