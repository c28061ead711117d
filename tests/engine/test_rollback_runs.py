"""Runs that are rolled back, with a real master, a real minion and real containers."""

from __future__ import annotations

import json

import pytest
from cluster import DATA, Cluster

pytestmark = [pytest.mark.salt, pytest.mark.engine, pytest.mark.timeout(300)]

SECRET = "a-secret-that-must-not-show"
WEB, BASE = "kst_rollback_web", "kst_rollback_base"


@pytest.fixture(scope="module")
def cluster():
    # What it remembers is its own; its containers' folders are where the engine sees them.
    own = ["/var/lib/kolla-salt"]
    formula = DATA / "rollback_formula"
    with Cluster(formula, {"control": ["c1"]}, {"web_password": SECRET}, private=own).running() as made:
        yield made


@pytest.fixture
def cloud(cluster, engine_url, engine_kind, engine, images, workdir):
    """Write the options of the site and deploy them; what the test leaves is removed."""

    def tidy():
        engine.forget()
        for name in list(engine.containers()):
            if name.startswith("kst_rollback_"):
                engine.act("tidy up", "remove_container", name, force=True, v=True)

    class Cloud:
        web = base = images[0]

        def write(self, **options):
            values = {
                "root": str(workdir),
                "docker_registry": "localhost",
                "docker_namespace": images[0].split("/")[1],
                "container_engine": engine_kind,
                "container_engine_socket": engine_url,
                "web_image": images[0],
                "base_image": images[0],
                **options,
            }
            cluster.options(**values)

        def deploy(self, **options):
            self.write(**options)
            return self.run("deploy")

        def run(self, *arguments, status=0):
            done = cluster.cli(*arguments, "--json")
            assert done.returncode == status, done.stdout[-4000:] + done.stderr[-3000:]
            assert SECRET not in done.stdout + done.stderr
            return json.loads(done.stdout)

        def containers(self):
            engine.forget()
            return {
                name.removeprefix("kst_rollback_"): (found["Id"], found["State"]["Running"])
                for name in engine.containers()
                if name.startswith("kst_rollback_") and (found := engine.inspect(name))
            }

        def read(self, service):
            return (workdir / f"kst-rollback-{service}" / f"{service}.conf").read_text()

    tidy()
    yield Cloud()
    tidy()


def test_a_run_is_rolled_back_and_the_site_of_before_has_nothing_to_do(cloud, cluster, images):
    cloud.deploy()
    before = cloud.containers()
    run = cloud.deploy(web_image=images[1], base_image=images[1], web_level=2)["run"]
    after = cloud.containers()
    assert {name: running for name, (_, running) in after.items()} == {
        "web": True,
        "base": True,
        f"web.{run}": False,
        f"base.{run}": False,
    }
    shown = cloud.run("rollback", "--plan")
    assert shown["runs"][0]["run"] == run
    assert cloud.containers() == after

    done = cloud.run("rollback")
    assert done["result"] == "ok"
    assert [step["services"] for step in done["steps"]] == [["web"], ["base"]]  # what needs others comes first
    assert cloud.containers() == before
    assert "level = 1" in cloud.read("web")
    header = cloud.run("runs", "show", done["run"])
    assert (header["of"], header["verb"]) == (run, "rollback")
    assert not header.get("deviations")
    refused = cloud.run("rollback", run, status=1)
    assert f"was rolled back by {done['run']}" in refused["error"]
    assert SECRET not in "".join(path.read_text(errors="replace") for path in (cluster.base / "runs").rglob("*.json*"))

    cloud.write()
    assert cloud.run("plan")["changes"] == 0


def test_a_changed_option_is_taken_back_by_a_restart_of_its_reader_alone(cloud):
    cloud.deploy()
    before = cloud.containers()
    cloud.deploy(web_level=2)
    assert "level = 2" in cloud.read("web")
    done = cloud.run("rollback")
    assert "level = 1" in cloud.read("web")
    assert cloud.containers() == before
    changed = [change["id"] for step in done["steps"] for change in step["hosts"]["c1"]["changed"]]
    assert WEB in changed and BASE not in changed


def test_one_service_of_a_run_then_the_rest(cloud, images):
    cloud.deploy()
    before = cloud.containers()
    run = cloud.deploy(web_image=images[1], base_image=images[1])["run"]
    cloud.run("rollback", run, "--service", "web")
    now = cloud.containers()
    assert now["web"] == before["web"] and now["base"] != before["base"]
    cloud.run("rollback", run)
    assert cloud.containers() == before
    assert "was rolled back by" in cloud.run("rollback", run, status=1)["error"]


def test_later_runs_over_the_same_files_go_first(cloud, cluster):
    cloud.deploy()
    first = cloud.deploy(web_level=2)["run"]
    second = cloud.deploy(web_level=3)["run"]
    refused = cloud.run("rollback", first, status=1)
    assert second in refused["error"] and "--through" in refused["error"]
    assert "level = 3" in cloud.read("web")
    shown = cloud.run("rollback", first, "--through", "--plan")
    assert [said["run"] for said in shown["runs"]] == [second, first]
    done = cluster.cli("rollback", first, "--through")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "level = 1" in cloud.read("web")


def test_a_rollback_that_fails_goes_on_when_it_is_given_again(cloud, images, workdir, engine):
    cloud.deploy()
    before = cloud.containers()
    run = cloud.deploy(web_image=images[1], base_image=images[1])["run"]
    # The old container does not come up with what somebody has put there.
    extra = workdir / "kst-rollback-web" / "app.conf"
    extra.write_text("crash\n")
    failed = cloud.run("rollback", run, status=1)
    assert failed["first_failure"]["id"] == WEB
    assert any("web, which requires it, failed" in why for step in failed["steps"]
               for by in step["left_out"].values() for why in by.values())  # fmt: skip
    assert cloud.containers()["base"][1] is True
    extra.write_text("mended\n")
    assert cloud.run("rollback", run)["result"] == "ok"
    assert cloud.containers() == before
