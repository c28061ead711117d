"""Kernel parameters and directories of a host, on a tree of the test's own."""

import stat

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from kolla_salt.modules import kolla_host as module
from kolla_salt.states import kolla_host as state


@pytest.fixture
def host(tmp_path, monkeypatch):
    proc = tmp_path / "proc"
    (proc / "net/ipv4/conf/eth0.100").mkdir(parents=True)
    (proc / "net/ipv4/ip_forward").write_text("0\n")
    (proc / "net/ipv4/tcp_rmem").write_text("4096\t131072\t6291456\n")
    (proc / "net/ipv4/conf/eth0.100/rp_filter").write_text("1\n")
    monkeypatch.setattr(module, "PROC", proc)
    monkeypatch.setattr(module, "SYSCTL_FILE", tmp_path / "sysctl.d/kolla-salt.conf")
    functions = {
        f"kolla_host.{name}": getattr(module, name)
        for name in ("sysctl_diff", "set_sysctl", "sysctl_value", "directory_diff", "make_directory")
    }
    monkeypatch.setattr(state, "__salt__", functions, raising=False)
    monkeypatch.setattr(state, "__opts__", {"test": False}, raising=False)
    return tmp_path


def run(function, *arguments, test=False, **options):
    state.__opts__["test"] = test
    return getattr(state, function)(*arguments, **options)


def test_a_parameter_is_predicted_set_and_then_left_alone(host):
    predicted = run("sysctl", "net.ipv4.ip_forward", 1, test=True)
    assert predicted["result"] is None
    assert (host / "proc/net/ipv4/ip_forward").read_text() == "0\n"
    assert not module.SYSCTL_FILE.exists()
    real = run("sysctl", "net.ipv4.ip_forward", 1)
    assert real["result"] is True
    assert real["changes"] == predicted["changes"]
    assert real["changes"] == {"value": {"old": "0", "new": "1"}, "file": {"old": None, "new": "1"}}
    assert (host / "proc/net/ipv4/ip_forward").read_text() == "1\n"
    assert "net.ipv4.ip_forward = 1\n" in module.SYSCTL_FILE.read_text()
    for test in (True, False):
        assert run("sysctl", "net.ipv4.ip_forward", "1", test=test)["changes"] == {}


def test_blanks_between_words_do_not_matter(host):
    run("sysctl", "net.ipv4.tcp_rmem", "4096  131072 6291456")
    assert run("sysctl", "net.ipv4.tcp_rmem", "4096 131072 6291456")["changes"] == {}


def test_an_interface_with_a_dot_in_its_name(host):
    assert run("sysctl", "net.ipv4.conf.eth0/100.rp_filter", 2)["changes"]["value"] == {"old": "1", "new": "2"}


def test_a_parameter_that_is_not_here_is_set_at_boot_and_reported(host):
    name = "net.ipv4.neigh.default.gc_thresh1"
    predicted = run("sysctl", name, 1024, test=True)
    real = run("sysctl", name, 1024)
    assert (predicted["result"], real["result"]) == (None, True)
    assert predicted["changes"] == real["changes"] == {"file": {"old": None, "new": "1024"}}
    again = run("sysctl", name, 1024)
    assert again["changes"] == {}
    for ret in (predicted, real, again):
        assert f"This host has no {name} at present" in ret["comment"]


def test_other_lines_of_the_file_stay(host):
    run("sysctl", "net.ipv4.ip_forward", 1)
    run("sysctl", "net.ipv4.tcp_rmem", "1 2 3")
    assert module._persisted() == {"net.ipv4.ip_forward": "1", "net.ipv4.tcp_rmem": "1 2 3"}


@pytest.mark.parametrize("name", ["../etc/passwd", "/proc/x", "net ipv4", ""])
@pytest.mark.parametrize("test", [True, False])
def test_what_is_no_parameter_is_refused(host, name, test):
    ret = run("sysctl", name, 1, test=test)
    assert ret["result"] is False and "is not the name of a kernel parameter" in ret["comment"]


def test_a_value_that_the_kernel_refuses_names_parameter_value_and_cause(monkeypatch):
    """The real kernel: a parameter that nobody may write."""
    with pytest.raises(CommandExecutionError, match="setting kernel parameter kernel.ostype to 'x'"):
        monkeypatch.setattr(module, "SYSCTL_FILE", module.Path("/nonexistent/x"))
        module.set_sysctl("kernel.ostype", "x")


def test_a_directory_is_predicted_made_and_then_left_alone(host):
    path = str(host / "var/lib/nova")
    predicted = run("directory", path, test=True)
    assert predicted["result"] is None and not (host / "var").exists()
    real = run("directory", path)
    assert real["result"] is True and real["changes"] == predicted["changes"]
    assert set(real["changes"]) == {"directory", "mode"}
    for test in (True, False):
        assert run("directory", path, test=test)["changes"] == {}
    changed = run("directory", path, mode="2770")
    assert changed["changes"] == {"mode": {"old": "0755", "new": "2770"}}
    assert stat.S_IMODE((host / "var/lib/nova").stat().st_mode) == 0o2770


@pytest.mark.parametrize("test", [True, False])
def test_a_file_in_the_way_and_a_wrong_mode_are_errors(host, test):
    path = host / "file"
    path.write_text("")
    ret = run("directory", str(path), test=test)
    assert ret["result"] is False and "has to be a directory" in ret["comment"]
    ret = run("directory", str(host / "x"), test=test, mode="rwx")
    assert ret["result"] is False and "expected octal digits" in ret["comment"]
    ret = run("directory", "relative", test=test)
    assert ret["result"] is False and "absolute path" in ret["comment"]


def test_modes_are_checked_by_the_verb_too():
    with pytest.raises(SaltInvocationError):
        module.make_directory("/tmp", mode="9")
