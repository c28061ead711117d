from __future__ import annotations

import pytest

from kolla_salt import plan
from kolla_salt.context import Resolver


def test_waves_follow_requirements_and_the_primary_comes_first(decls, site_data, tmp_path):
    steps = plan.steps(Resolver(decls, site_data, "ctl1", cache=tmp_path))
    assert [(s["wave"], s["role"], s["services"], s["minions"]) for s in steps] == [
        (1, "primary", ["kolla", "base"], ["ctl1"]),
        (1, "rest", ["kolla", "base"], ["ctl2", "cmp1"]),
        (2, "primary", ["web"], ["ctl1"]),
        (2, "rest", ["web"], ["ctl2", "cmp1"]),
    ]


def test_a_finish_list_is_a_step_of_its_own_on_a_single_host_too(decls, site_data, tmp_path):
    """In the job before it, states that run in parallel may not have ended."""
    decls["web"]["finish"] = ["web.finish"]
    site_data["topology"]["hosts"] = {"ctl1": {"addresses": {"api": "10.0.0.11"}}}
    site_data["topology"]["groups"] = {"control": ["ctl1"], "compute": ["ctl1"]}
    steps = plan.steps(Resolver(decls, site_data, "ctl1", cache=tmp_path))
    assert [(step["role"], step["sls"]) for step in steps] == [
        ("primary", ["kolla", "base"]),
        ("primary", ["web"]),
        ("finish", ["web.finish"]),
    ]


def test_a_finish_list_is_a_step_of_its_own_with_several_hosts(decls, site_data, tmp_path):
    decls["web"]["finish"] = ["web.finish"]
    last = plan.steps(Resolver(decls, site_data, "ctl1", cache=tmp_path))[-1]
    assert (last["role"], last["sls"], last["minions"]) == ("finish", ["web.finish"], ["ctl1"])


def test_a_switched_off_service_is_not_planned(decls, site_data, tmp_path):
    site_data["globals"]["enable_web"] = False
    assert [s["services"] for s in plan.steps(Resolver(decls, site_data, "ctl1", cache=tmp_path))][-1] == [
        "kolla",
        "base",
    ]


def test_a_run_can_be_restricted_to_services(decls, site_data, tmp_path):
    steps = plan.steps(Resolver(decls, site_data, "ctl1", cache=tmp_path), only=["web"])
    assert {tuple(step["services"]) for step in steps} == {("web",)}


def test_a_circle_is_refused(decls, site_data, tmp_path):
    decls["base"]["after"] = ["web"]
    with pytest.raises(plan.PlanError, match="wait for each other"):
        plan.waves(Resolver(decls, site_data, "ctl1", cache=tmp_path))
