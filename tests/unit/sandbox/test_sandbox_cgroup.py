"""Who is in a control group of the sandbox."""

from __future__ import annotations

from types import SimpleNamespace

from kolla_salt.sandbox import host


def test_the_processes_of_a_group_are_those_of_all_hierarchies_without_groups_below(tmp_path):
    for hierarchy, text in (("cpu", "12\n13\n"), ("memory", "13\n")):
        (tmp_path / hierarchy / "master" / "below").mkdir(parents=True)
        (tmp_path / hierarchy / "master" / "cgroup.procs").write_text(text)
        (tmp_path / hierarchy / "master" / "below" / "cgroup.procs").write_text("99\n")
    points = ("cpu", "memory", "absent")
    groups = SimpleNamespace(group_dirs=lambda group: [tmp_path / point / group for point in points])
    assert host.in_cgroup(groups, "master") == {12, 13}
    assert host.in_cgroup(groups, "none") == set()
