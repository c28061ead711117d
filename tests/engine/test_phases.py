"""Phases of a change of release: when they run, when bootstrap steps need not, and what starts twice."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]


class Service:
    """A bootstrap step with the phases that do the same in parts, over a note of what ran."""

    def __init__(self, minion, name, images, workdir):
        self.minion, self.name, self.images = minion, name, images
        self.note = workdir / "note"
        self.note.write_text("")

    def _state(self, what, image, test, **more):
        spec = {"command": ["sh", "-c", f"echo {what} $RELEASE >> /note"], "volumes": [f"{self.note}:/note"]}
        ret = self.minion.converge(
            "ran", f"{self.name}_{what}", test=test, image=self.images[image], timeout=20, **spec, **more
        )
        assert ret["result"] is not False, ret["comment"]
        return bool(ret["changes"])

    def bootstrap(self, image, upgrade=False, test=False):
        return self._state(
            "bootstrap", image, test, instead=[f"{self.name}_expand"], **({"partial": True} if upgrade else {})
        )

    def phase(self, what, image, test=False):
        return self._state(what, image, test, of=[f"{self.name}_bootstrap"])

    def ran(self):
        return self.note.read_text().split("\n")[:-1]


@pytest.fixture
def service(minion, name, images, workdir):
    return Service(minion, name, images, workdir)


def test_on_a_new_database_the_bootstrap_step_does_all(service):
    assert not service.phase("expand", 0, test=True) and not service.phase("expand", 0)
    assert service.bootstrap(0, upgrade=True)
    assert not service.phase("contract", 0)
    assert service.ran() == ["bootstrap 1"]


def test_on_a_new_image_the_phases_are_run_in_its_place_and_once(service):
    service.bootstrap(0)
    for test in (True, False):
        assert service.phase("expand", 1, test)
        assert not service.bootstrap(1, upgrade=True, test=test)
        assert service.phase("contract", 1, test)
    assert service.ran() == ["bootstrap 1", "expand 2", "contract 2"]
    assert not service.phase("expand", 1) and not service.phase("contract", 1)
    # And a deploy afterwards finds nothing either.
    assert not service.bootstrap(1)


def test_an_upgrade_that_ended_half_way_goes_on_where_it_ended(service):
    service.bootstrap(0)
    assert service.phase("expand", 1)
    assert not service.phase("expand", 1)
    assert not service.bootstrap(1)
    assert service.phase("contract", 1)
    assert service.ran() == ["bootstrap 1", "expand 2", "contract 2"]


def test_a_bootstrap_step_without_phases_before_it_leaves_those_after_it_to_be_done(minion, service):
    service.bootstrap(0)
    spec = {"command": ["sh", "-c", "echo bootstrap $RELEASE >> /note"], "volumes": [f"{service.note}:/note"]}
    again = {"image": service.images[1], "timeout": 20, "partial": True, **spec}
    assert minion.converge("ran", f"{service.name}_bootstrap", **again)["changes"]
    assert service.phase("contract", 1)
    assert service.ran() == ["bootstrap 1", "bootstrap 2", "contract 2"]


def test_a_bootstrap_step_that_a_deploy_has_run_leaves_nothing(service, minion):
    service.bootstrap(0)
    spec = {"command": ["sh", "-c", "echo bootstrap $RELEASE >> /note"], "volumes": [f"{service.note}:/note"]}
    assert minion.converge("ran", f"{service.name}_bootstrap", image=service.images[1], timeout=20, **spec)["changes"]
    assert not service.phase("expand", 1) and not service.phase("contract", 1)


def test_without_bootstrap_steps_a_phase_follows_the_container(service, minion, name, spec, images):
    def due(image):
        step = {"command": ["true"], "timeout": 20, "image": images[image], "of": [], "serves": name}
        return bool(minion.converge("ran", f"{name}_tables", **step)["changes"])

    assert not due(0)  # there is no container yet
    minion.converge("running", name, **spec)
    assert not due(0)
    minion.converge("running", name, **{**spec, "image": images[1]})
    assert due(1)
    assert not due(1)


def test_what_replaced_another_image_starts_once_more_and_what_did_not_does_not(minion, name, spec, images, engine):
    state = {"container": name}
    first = {**spec, "reload": None, "reload_files": []}
    minion.converge("running", name, **first)
    assert minion.converge("renewed", f"{name} again", **state, **first)["changes"] == {}
    second = {**first, "image": images[1]}
    predicted = minion.converge("renewed", f"{name} again", test=True, **state, **second)
    assert predicted["changes"]["state"]["new"] == "restarted"
    minion.converge("running", name, **second)
    before = engine.inspect(name)["State"]["StartedAt"]
    real = minion.converge("renewed", f"{name} again", **state, **second)
    assert real["result"] is True and real["changes"] == predicted["changes"]
    assert engine.inspect(name)["State"]["StartedAt"] != before
    assert minion.converge("renewed", f"{name} again", **state, **second)["changes"] == {}
    assert minion.converge("running", name, **second)["changes"] == {}


def test_a_program_that_can_reload_is_not_restarted(minion, name, spec, images, engine):
    minion.converge("running", name, **spec)
    second = {**spec, "image": images[1]}
    minion.converge("running", name, **second)
    before = engine.inspect(name)["State"]["StartedAt"]
    real = minion.converge("renewed", f"{name} again", container=name, **second)
    assert real["changes"]["state"]["new"] == "reloaded"
    assert engine.inspect(name)["State"]["StartedAt"] == before
    assert minion.converge("renewed", f"{name} again", container=name, **second)["changes"] == {}


def test_versions_are_told_by_label(minion, name, spec, images):
    minion.converge("running", name, **spec)
    found = minion.functions["kolla_container.versions"](images)
    assert found["containers"][name] == {"version": "1", "image": images[0]}
    assert found["images"] == {images[0]: "1", images[1]: "2"}
