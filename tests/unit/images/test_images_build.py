import argparse
import json
import time
from subprocess import DEVNULL, Popen

import pytest

from kolla_salt.images import build, cli, engine, registry, tools, workspace
from kolla_salt.images.build import Options, Records, failure_lines, to_build
from kolla_salt.images.errors import ImageError
from kolla_salt.images.keys import ImageKey, image_keys, parent_of
from kolla_salt.images.places import Cache, default_images, load_release, releases
from kolla_salt.images.process import Daemon, command_line, locked
from kolla_salt.images.progress import Event, Progress, Report, Result, parse_line, parse_summary


def tree(folder, **images):
    for name, (parent, files) in images.items():
        context = folder / "group" / name.replace("_", "-")
        context.mkdir(parents=True)
        (context / "Dockerfile").write_text(f'FROM {parent}\nLABEL build-date="20260101"\n')
        for file, text in files.items():
            (context / file).parent.mkdir(exist_ok=True)
            (context / file).write_text(text)
    return folder


@pytest.fixture
def rendered(tmp_path):
    return tree(
        tmp_path / "docker",
        base=("kolla-salt/debian:trixie", {"start.sh": "x"}),
        openstack_base=("r:4000/ns/base:tag", {}),
        nova_base=("r:4000/ns/openstack-base:tag", {}),
        nova_api=("r:4000/ns/nova-base:tag", {}),
        cron=("r:4000/ns/base:tag", {}),
    )


SOURCES = {"nova-base": "1", "openstack-base": "2"}


def changed(before, after):
    return {name for name in before if before[name].key != after[name].key}


def test_parents_come_before_children(rendered):
    keys = image_keys(rendered, SOURCES, "root")
    assert list(keys) == ["base", "cron", "openstack-base", "nova-base", "nova-api"]
    assert [key.parent for key in keys.values()] == [None, "base", "base", "openstack-base", "nova-base"]


def test_a_changed_file_reaches_its_image_and_the_images_on_it(rendered):
    before = image_keys(rendered, SOURCES, "root")
    (rendered / "group" / "nova-base" / "extra.sh").write_text("new")
    assert changed(before, image_keys(rendered, SOURCES, "root")) == {"nova-base", "nova-api"}


def test_a_changed_source_reaches_its_image_and_the_images_on_it(rendered):
    before = image_keys(rendered, SOURCES, "root")
    after = image_keys(rendered, {**SOURCES, "nova-base-plugin-x": "3"}, "root")
    assert changed(before, after) == {"nova-base", "nova-api"}
    assert changed(before, image_keys(rendered, SOURCES, "another root")) == set(before)


def test_neither_the_day_nor_the_machine_changes_an_image(rendered):
    before = image_keys(rendered, SOURCES, "root")
    dockerfile = rendered / "group" / "base" / "Dockerfile"
    dockerfile.write_text("\n\n" + dockerfile.read_text().replace("20260101", "20260202") + "  \n")
    (rendered / "group" / "base" / "build-input").mkdir()
    (rendered / "group" / "base" / "build-input" / "pip.conf").write_text("[global]\n")
    assert changed(before, image_keys(rendered, SOURCES, "root")) == set()


def test_executable_bit_counts(rendered):
    before = image_keys(rendered, SOURCES, "root")
    (rendered / "group" / "base" / "start.sh").chmod(0o755)
    assert "base" in changed(before, image_keys(rendered, SOURCES, "root"))


def test_parent_of_takes_a_registry_with_a_port():
    assert parent_of("# x\nFROM host:4000/ns/openstack-base:2026.1\n") == "openstack-base"
    with pytest.raises(ValueError, match="FROM"):
        parent_of("RUN x\n")


def test_children_of_a_built_image_are_built():
    keys = {name: ImageKey(name, parent, name) for name, parent in [("a", None), ("b", "a"), ("c", "a"), ("d", "b")]}
    assert to_build(keys, {"a", "c", "d"}) == ["b", "d"]
    assert to_build(keys, {"a", "b", "c", "d"}) == []
    assert to_build(keys, {"b", "c", "d"}) == ["a", "b", "c", "d"]


LINES = [
    ("INFO:kolla.common.utils.nova-api:Building started at 2026-01-01 00:00:00.1", Event("nova-api", "building")),
    ("INFO:kolla.common.utils.nova-api:Built at 2026-01-01 (took 0:01:02.500000)", Event("nova-api", "built", 62.5)),
    ("INFO:kolla.common.utils.nova-api:Pushed successfully", Event("nova-api", "pushed")),
    ("ERROR:kolla.common.utils.base:Error'd with the following message", Event("base", "error")),
    ("INFO:kolla.common.utils:Added image base to queue", None),
    ("INFO:kolla.common.utils.base:Step 1/9 : FROM x", None),
]


@pytest.mark.parametrize(("line", "event"), LINES)
def test_builder_output_as_events(line, event):
    assert parse_line(line) == event


def test_builder_summary():
    data = {
        "built": [{"name": "a"}],
        "failed": [{"name": "b", "status": "error"}, {"name": "c", "status": "parent_error"}],
        "not_matched": [{"name": "z"}],
        "skipped": [{"name": "d"}],
        "unbuildable": [],
    }
    assert parse_summary(json.dumps(data)) == {"a": "built", "b": "error", "c": "parent_error", "d": "skipped"}
    assert parse_summary("") == {}


def test_report_counts_and_fails():
    rows = [Result("a", "built", 61.4, 2_000_000), Result("b", "failed"), Result("c", "parent failed")]
    report = Report("2026.1", "2026.1-debian-trixie", "r:4000", "built", rows, 70)
    lines = report.lines()
    assert lines[1].split() == ["a", "built", "61", "2", "MB"]
    assert lines[-1] == "3 images of 2026.1-debian-trixie in 70 s: 1 built, 1 failed, 1 parent failed"
    assert [row.name for row in report.failed] == ["b", "c"]
    assert report.as_dict()["ok"] is False


def test_progress_numbers_what_is_ready():
    lines = []
    progress = Progress(10, lines.append)
    progress.ready("base", "built", 57.2)
    progress.ready("cron", "failed", note="error")
    assert lines[0].startswith("[ 1/10] base") and lines[0].endswith("57 s")
    assert lines[1].startswith("[ 2/10] cron") and lines[1].endswith("error")


def test_failure_shows_the_end_of_the_log_and_its_path(tmp_path):
    log = tmp_path / "nova.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    lines = failure_lines(Result("nova", "failed", log=str(log)), 3)
    assert lines == ["    | line 97", "    | line 98", "    | line 99", f"    whole log: {log}"]
    assert failure_lines(Result("nova-api", "parent failed")) == []


def test_log_lines_are_readable():
    raw = [
        "INFO:kolla.common.utils.cron:\x1b[91mE: no such package\n",
        "\x1b[0m\n",
        "Traceback (most recent call last):\n",
        "  File x\n",
        "\n",
        "docker.errors.BuildError: code 100\n",
    ]
    assert list(build.readable(raw)) == ["E: no such package", "docker.errors.BuildError: code 100"]


class FakeRegistry:
    def __init__(self, digests):
        self.digests = digests

    def digest(self, repository, tag):
        return self.digests.get(f"{repository.split('/')[-1]}:{tag}")


def test_what_was_built_for_a_key_before_need_not_be_built_again(tmp_path):
    space = workspace.Workspace(load_release("2026.1"), Cache(tmp_path), "r:4000")
    keys = [ImageKey(name, None, name * 30) for name in "abc"]
    tag = space.release.tag
    found = {f"a:{tag}": "1", f"a:{keys[0].tag}": "1", f"b:{tag}": "2", f"b:{keys[1].tag}": "3", f"c:{tag}": "4"}
    states = build.key_states(keys, space, FakeRegistry(found))
    assert states == {"a": "current", "b": "former", "c": "absent"}


def test_records_survive_a_damaged_file(tmp_path):
    path = tmp_path / "records.json"
    Records(path).put("base", key="k", seconds=3)
    Records(path).put("base", size=5)
    assert Records(path).rows == {"base": {"key": "k", "seconds": 3, "size": 5}}
    path.write_text("{ half")
    assert Records(path).get("base", "key", "none") == "none"


def test_default_images_are_named_once_and_toolbox_is_extra():
    names = default_images("2026.1")
    assert len(names) == len(set(names)) and "keystone" in names and "kolla-toolbox" not in names
    assert "kolla-toolbox" in default_images("2026.1", extra=True)
    assert Options("2026.1", ["a", "b", "a"]).names() == ["a", "b"]


def test_ini_repeats_keys():
    text = workspace.render_ini({"DEFAULT": [("docker_dir", "a"), ("docker_dir", "b")], "x": [("enabled", "False")]})
    assert text == "[DEFAULT]\ndocker_dir = a\ndocker_dir = b\n\n[x]\nenabled = False\n"


def test_operators_block_replaces_the_projects():
    ours = "{% extends p %}\n{% block a %}\n1\n{% endblock %}\n{% block b %}\n2\n{% endblock %}\n"
    theirs = "{% extends p %}\n{%- block a -%}\nmine\n{%- endblock a -%}\n"
    assert workspace.without_blocks(ours, theirs) == "{% extends p %}\n{% block b %}\n2\n{% endblock %}\n"


def test_a_release_tells_the_templates_its_packages_and_the_name_of_its_system():
    text = workspace.template_data(load_release("2025.2"))
    assert '{% set openstack_base_packages_remove = ["libpcre3-dev"] %}' in text.splitlines()
    assert '{% set supported_distro_name = "Debian GNU/Linux 13 (trixie)" %}' in text.splitlines()


def test_site_without_customisation(tmp_path):
    assert workspace.Site(tmp_path).override is None
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "template-override.j2").write_text("x")
    assert workspace.Site(tmp_path).override == tmp_path / "images" / "template-override.j2"
    assert workspace.Site(tmp_path).docker is None


def test_packages_from_apt():
    text = "'http://d/x' docker.io_26.1.5%2bdfsg1-9_amd64.deb 362 SHA256:00\n'http://d/y' tini_0.19.0-1_amd64.deb 1 S\n"
    assert tools.parse_print_uris(text) == ["docker.io=26.1.5+dfsg1-9", "tini=0.19.0-1"]


def test_extracted_programs_come_after_the_machines(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    path = tools.Tools(tmp_path).env()["PATH"].split(":")
    assert path[0] == "/usr/bin" and path[-1] == str(tmp_path / "sbin")


def test_mounts_of_a_killed_engine_are_found_deepest_first():
    info = "\n".join(
        [
            "1 2 8:1 / / rw - ext4 /dev/x rw",
            "3 1 0:1 / /c/data rw - overlay o rw",
            "4 3 0:1 / /c/data/merged rw - overlay o rw",
            "5 1 0:1 / /cc/data rw - overlay o rw",
        ]
    )
    assert engine.mounts_below(info, "/c") == ["/c/data/merged", "/c/data"]


def test_registry_configuration():
    text = registry.config("127.0.0.1:4000", "/data", "s")
    assert "addr: 127.0.0.1:4000" in text and "rootdirectory: /data" in text


def test_images_of_every_release_are_kept():
    tags = {"2025.2-debian-trixie": "old", "k-1": "old", "2026.1-debian-trixie": "new", "k-2": "new", "k-3": "former"}
    assert registry.stale_tags(tags) == ["former"]


def test_only_images_without_a_usual_tag_are_stale():
    tags = {"2026.1-debian-trixie": "new", "k-1": "old", "k-2": "new", "k-3": "older"}
    assert registry.stale_tags(tags) == ["old", "older"]


def test_the_registry_that_a_build_pushes_to_is_spared(tmp_path):
    cache = Cache(tmp_path)
    folder = cache.folder("registry")
    running = {}
    try:
        for listen in (registry.LOCAL, registry.BRIDGE):
            name = listen.replace(":", "-")
            (folder / f"{name}.yml").write_text(registry.config(listen, folder, "s"))
            running[listen] = Popen(["tail", "-f", str(folder / f"{name}.yml")], stdout=DEVNULL)
            (folder / f"{name}.pid").write_text(str(running[listen].pid))
        until = time.monotonic() + 10
        while not all(command_line(process.pid) for process in running.values()) and time.monotonic() < until:
            time.sleep(0.01)  # a program that has just begun has no arguments yet
        assert registry.running(cache=cache) == sorted([registry.LOCAL, registry.BRIDGE])
        with locked(cache.work / "lock", "building"):
            assert registry.stop(cache=cache, unless_building=True) == [registry.BRIDGE]
        assert registry.running(cache=cache) == [registry.LOCAL]
        assert registry.stop(cache=cache, unless_building=True) == [registry.LOCAL]
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def test_stale_pid_file_is_recognised(tmp_path):
    pidfile = tmp_path / "pid"
    daemon = Daemon("x", pidfile, str(tmp_path / "no-such-argument"))
    pidfile.write_text("1\n")
    assert daemon.pid() is None
    assert daemon.stop() is False and not pidfile.exists()
    pidfile.write_text("damaged")
    assert daemon.pid() is None


def test_second_holder_of_a_lock_is_told_who_has_it(tmp_path):
    second = locked(tmp_path / "lock", "building", wait=False)
    with locked(tmp_path / "lock", "building"), pytest.raises(ImageError, match="process"), second:
        pass


def test_daemon_that_ends_is_reported_with_its_log(tmp_path):
    daemon = Daemon("the thing", tmp_path / "pid", "x")
    with pytest.raises(ImageError, match=r"ended with status 3: broken"):
        daemon.start(["/bin/sh", "-c", "echo broken; exit 3"], tmp_path / "log", lambda: False, timeout=5)


def parse(*argv):
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["images", *argv])


def test_command_line(tmp_path):
    args = parse("build", "nova-api", "--site", str(tmp_path), "--threads", "3", "--json")
    options = cli._options(args)
    assert (options.images, options.site, options.threads, args.json) == (["nova-api"], tmp_path, 3, True)
    assert load_release(parse("list").release).name == releases()[-1]
    assert not hasattr(parse("build"), "json") and cli._options(parse("build")).site is None
    assert parse("registry", "start", "--listen", "a:1", "--listen", "b:2").listen == ["a:1", "b:2"]


def test_errors_are_data_with_json(capsys):
    error = ImageError("building x", "no", "yes", "try")
    assert cli.report_error(parse("list", "--json"), error) == 1
    assert json.loads(capsys.readouterr().out)["error"]["command"] == "try"
    assert cli.report_error(parse("list"), error) == 1
    assert "building x: no; expected: yes; to go on: try" in capsys.readouterr().err


def test_customised_images_are_never_taken_from_upstream(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(build, "reachable", lambda: pytest.fail("asked upstream"))
    monkeypatch.setattr(build, "build", lambda *rest: "built")
    assert build.ensure(Options("2026.1", [], site=tmp_path), print) == "built"


def test_a_release_that_upstream_has_on_another_suite_is_built_and_not_pulled(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "reachable", lambda: pytest.fail("asked upstream"))
    monkeypatch.setattr(build, "build", lambda *rest: "built")
    assert build.ensure(Options("2025.2", []), print) == "built"
    with pytest.raises(ImageError, match="none of this release on this suite.*images build --release 2025.2"):
        build.pull(Options("2025.2", []), print, Cache(tmp_path))


def test_images_that_upstream_lacks_are_built(monkeypatch):
    report = Report("2026.1", "t", "r", "upstream", [Result("a", "failed")])
    monkeypatch.setattr(build, "reachable", lambda: True)
    monkeypatch.setattr(build, "pull", lambda *rest, **more: report)
    monkeypatch.setattr(build, "build", lambda *rest: "built")
    assert build.ensure(Options("2026.1", []), lambda line: None) == "built"
    report.images[0].state = "pulled"
    assert build.ensure(Options("2026.1", []), lambda line: None) is report
