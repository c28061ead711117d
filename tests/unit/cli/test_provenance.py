"""Who gave a command, which command, and of which revision the site was."""

import os
import pwd
import subprocess

import pytest

from kolla_salt import provenance


def process(proc, pid, parent, login=2**32 - 1, **environ):
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} (a (strange) name) S {parent} 1 1")
    (folder / "loginuid").write_text(str(login))
    (folder / "environ").write_bytes("\0".join(f"{k}={v}" for k, v in environ.items()).encode())


def test_the_person_behind_sudo_is_named_and_where_he_came_from(tmp_path):
    process(tmp_path, 30, 20, SUDO_USER="root")  # sudo -u root once more
    process(tmp_path, 20, 10, SUDO_USER="alice")
    process(tmp_path, 10, 1, USER="alice", SSH_CONNECTION="192.0.2.7 5022 192.0.2.1 22")
    found = provenance.person(tmp_path, 30)
    assert found["who"] == "alice" and found["from"] == "192.0.2.7"


def test_the_login_counts_more_than_an_environment(tmp_path):
    process(tmp_path, 30, 1, login=pwd.getpwnam("daemon").pw_uid, SUDO_USER="somebody")
    assert provenance.person(tmp_path, 30)["who"] == "daemon"


def test_without_any_trace_it_is_the_user_of_the_process(tmp_path):
    assert provenance.person(tmp_path, 30) == {"who": provenance._user(), "as": provenance._user()}


def test_the_command_is_told_without_what_looks_like_a_secret():
    assert provenance.command(["/usr/bin/salt-run", "state.orchestrate", "orch.deploy"]) == (
        "salt-run state.orchestrate orch.deploy"
    )
    assert provenance.command(["/x/kolla_salt/cli/main.py", "deploy", "glance"]) == "kolla-salt deploy glance"
    assert "hunter2" not in provenance.command(["salt-run", "x", "http://user:hunter2@host/"])
    assert provenance.command(["/usr/bin/python3", "-c", "anything"]) == "python3"


def test_the_equivalent_command():
    assert provenance.equivalent("deploy", ["glance"], ["n1", "n2"]) == "kolla-salt deploy glance --limit n1,n2"
    assert provenance.equivalent("node-add") == "kolla-salt node add"


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "globals.yml").write_text("a: 1\n")
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *words],
            check=True, capture_output=True, text=True, env=environ,
        ).stdout.strip()  # fmt: skip

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "One option")
    return folder, git


def test_a_site_in_git_has_a_revision(site):
    folder, git = site
    found = provenance.revision(folder)
    assert found == {
        "commit": git("rev-parse", "HEAD"),
        "branch": "main",
        "subject": "One option",
        "dirty": False,
        "changed": [],
    }
    (folder / "globals.yml").write_text("a: 2\n")
    (folder / "overrides").mkdir()
    (folder / "overrides" / "nova.conf").write_text("x")
    dirty = provenance.revision(folder)
    assert dirty["dirty"] and sorted(dirty["changed"]) == ["globals.yml", "overrides/nova.conf"]


def test_a_site_below_the_top_of_its_repository_sees_only_itself(site):
    folder, git = site
    (folder / "cloud").mkdir()
    (folder / "cloud" / "globals.yml").write_text("b: 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "Another")
    (folder / "globals.yml").write_text("a: 3\n")
    assert not provenance.revision(folder / "cloud")["dirty"]
    (folder / "cloud" / "globals.yml").write_text("b: 2\n")
    assert provenance.revision(folder / "cloud")["changed"] == ["globals.yml"]


def test_reading_a_revision_runs_nothing_of_the_repository(site, tmp_path):
    folder, git = site
    trap, script = tmp_path / "trapped", tmp_path / "trap.sh"
    script.write_text(f"#!/bin/sh\ntouch {trap}\n")
    script.chmod(0o755)
    hooks = folder / ".git" / "hooks"
    for name in ("post-index-change", "reference-transaction", "post-checkout"):
        (hooks / name).write_text(script.read_text())
        (hooks / name).chmod(0o755)
    git("config", "core.fsmonitor", str(script))
    git("config", "core.pager", str(script))
    (folder / "globals.yml").write_text("a: 9\n")
    assert provenance.revision(folder)["dirty"]
    assert not trap.exists()


def test_a_folder_without_git_has_no_revision(tmp_path):
    assert provenance.revision(tmp_path) is None


def test_a_site_is_described_by_names_and_digests_only(tmp_path):
    (tmp_path / "globals.yml").write_text("release: '2026.1'\nmy_password: short\nurl: http://u:topsecretvalue@h/\n")
    (tmp_path / "topology.yml").write_text("hosts: {n1: {a: 1}, n2: {a: 1}}\ngroups: {control: [n1]}\n")
    (tmp_path / "passwords.yml").write_text("admin: topsecretvalue\nother: anothersecret\n")
    (tmp_path / "overrides").mkdir()
    (tmp_path / "overrides" / "nova.conf").write_text("[x]\n")
    key = provenance.key(tmp_path)
    told = provenance.describe(tmp_path, key)
    assert set(told["files"]) == {"globals.yml", "topology.yml", "passwords.yml", "overrides/nova.conf"}
    assert set(told["keys"]["topology.yml"]) == {"hosts.n1", "hosts.n2", "groups"}
    assert told["options"]["release"] == "2026.1"
    assert "short" not in str(told) and "topsecretvalue" not in str(told)
    (tmp_path / "passwords.yml").write_text("admin: topsecretvalue\nother: changed-by-now\n")
    again = provenance.describe(tmp_path, provenance.key(tmp_path))
    assert [name for name in again["files"] if again["files"][name] != told["files"][name]] == ["passwords.yml"]
    changed = again["keys"]["passwords.yml"]
    assert [name for name in changed if changed[name] != told["keys"]["passwords.yml"][name]] == ["other"]
    assert provenance.describe(tmp_path, b"another key" * 3)["files"] != again["files"]
