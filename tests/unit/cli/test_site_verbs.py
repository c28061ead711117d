"""init, genpwd, mergepwd, import, post-deploy: verbs that need no host."""

import json
import stat
import subprocess

import pytest
import yaml

from kolla_salt import clouds, declarations, importer, passwords
from kolla_salt import site as sites
from kolla_salt.cli import main as cli
from kolla_salt.context import Resolver

INVENTORY = """
[control]
ctl[01:03] ansible_host=10.0.0.1   # range; one address is wrong for three hosts, and they are told apart by name
[compute]
cmp1 ansible_host=10.0.0.21 tunnel_interface_address=10.1.0.21 network_interface=bond0 ansible_user=root
10.0.0.22
[network:children]
control
[monitoring]
[mariadb:children]
control
[strange]
cmp1
[all:vars]
ansible_become=true
"""


@pytest.mark.parametrize("kind", ["all-in-one", "multinode"])
def test_an_example_site_is_valid_once_it_has_passwords(tmp_path, capsys, kind):
    directory = tmp_path / "site"
    assert cli.main(["init", str(directory), *(["--multinode"] if kind == "multinode" else [])]) == 0
    assert cli.main(["genpwd", "--site", str(directory)]) == 0
    assert stat.S_IMODE((directory / "passwords.yml").stat().st_mode) == 0o600
    assert sites.validate(sites.load(directory), declarations.load()) == []
    assert cli.main(["validate-config", "--offline", "--site", str(directory)]) == 0


def test_a_site_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "globals.yml").write_text("mine: 1\n")
    assert cli.main(["init", str(tmp_path)]) == 1
    assert (tmp_path / "globals.yml").read_text() == "mine: 1\n"
    assert not (tmp_path / "topology.yml").exists()


def test_missing_passwords_are_one_line_and_fail(tmp_path, capsys):
    cli.main(["init", str(tmp_path / "s")])
    capsys.readouterr()
    assert cli.main(["validate-config", "--offline", "--site", str(tmp_path / "s")]) == 1
    text = capsys.readouterr().err
    assert "not set: " in text and "kolla-salt genpwd" in text
    assert len(text.splitlines()) == 2


def test_merging_takes_old_values_but_not_old_gaps(tmp_path, capsys):
    (tmp_path / "old").write_text("a: old\nb:\ngone: 1\n")
    (tmp_path / "new").write_text("a: new\nb: made\n")
    argv = [
        "mergepwd",
        "--old",
        str(tmp_path / "old"),
        "--new",
        str(tmp_path / "new"),
        "--final",
        str(tmp_path / "final"),
    ]
    assert cli.main([*argv, "--clean"]) == 0
    assert passwords.read(tmp_path / "final") == {"a": "old", "b": "made"}
    assert stat.S_IMODE((tmp_path / "final").stat().st_mode) == 0o600


def test_an_inventory_is_read_with_ranges_children_and_variables():
    groups, hosts, children = importer.inventory(INVENTORY)
    assert importer.members("network", groups, children) == ["ctl01", "ctl02", "ctl03"]
    assert hosts["cmp1"]["network_interface"] == "bond0"
    assert hosts["ctl02"]["ansible_become"] == "true"


def test_an_import_takes_what_it_understands_and_names_the_rest():
    settings = {
        "kolla_internal_vip_address": "10.0.0.10",
        "enable_heat": "no",
        "openstack_release": 2026.1,
        "neutron_external_interface": "{{ foo }}",
        "made_up_option": 1,
    }
    found = importer.site(settings, INVENTORY, declarations.load())
    assert found.globals == {"internal_vip_address": "10.0.0.10", "enable_heat": False, "openstack_release": "2026.1"}
    assert found.topology["groups"]["compute"] == ["cmp1", "10.0.0.22"]
    assert found.topology["hosts"]["cmp1"] == {
        "addresses": {"api": "10.0.0.21", "tunnel": "10.1.0.21"},
        "options": {"network_interface": "bond0"},
    }
    assert found.topology["hosts"]["10.0.0.22"]["addresses"] == {"api": "10.0.0.22"}
    text = "\n".join(found.left)
    assert "made_up_option: no such option" in text
    assert "neutron_external_interface: '{{ foo }}' is an Ansible expression" in text
    assert "group strange" in text


def test_an_import_fails_softly_and_writes_a_site(tmp_path, capsys):
    (tmp_path / "globals.yml").write_text("kolla_internal_vip_address: 10.0.0.10\nunknown_thing: 1\n")
    (tmp_path / "passwords.yml").write_text("keystone_admin_password: secret-of-before\n")
    (tmp_path / "inventory").write_text("[control]\na ansible_host=10.0.0.1\n")
    (tmp_path / "config" / "nova").mkdir(parents=True)
    (tmp_path / "config" / "nova" / "nova-compute.conf").write_text("[DEFAULT]\n")
    (tmp_path / "certificates" / "ca").mkdir(parents=True)
    for name in ("ca/corp.crt", "haproxy.pem", "backend-key.pem"):
        (tmp_path / "certificates" / name).write_text("-----BEGIN\n")
    (tmp_path / "certificates" / "haproxy.pem").chmod(0o600)
    target = tmp_path / "site"
    argv = [
        "import",
        "--site",
        str(target),
        "--globals",
        str(tmp_path / "globals.yml"),
        "--json",
        "--passwords",
        str(tmp_path / "passwords.yml"),
        "--inventory",
        str(tmp_path / "inventory"),
    ]
    assert cli.main(argv) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [line for line in answer["not_taken_over"] if "unknown_thing" in line]
    assert answer["overrides"] == ["nova/nova-compute.conf", "certificates/ca/corp.crt", "certificates/haproxy.pem"]
    assert stat.S_IMODE((target / "overrides/certificates/haproxy.pem").stat().st_mode) == 0o600
    assert "secret-of-before" not in json.dumps(answer)
    assert passwords.read(target / "passwords.yml") == {"keystone_admin_password": "secret-of-before"}


def test_access_files_are_private_and_keep_other_clouds(tmp_path, capsys):
    directory = tmp_path / "site"
    cli.main(["init", str(directory)])
    cli.main(["genpwd", "--site", str(directory)])
    (directory / "clouds.yaml").write_text("clouds: {other: {auth: {}}}\n")
    capsys.readouterr()
    assert cli.main(["post-deploy", "--site", str(directory), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    data = yaml.safe_load((directory / "clouds.yaml").read_text())
    assert set(data["clouds"]) == {"other", "kolla-admin"}
    entry = data["clouds"]["kolla-admin"]
    password = passwords.read(directory / "passwords.yml")["keystone_admin_password"]
    assert entry["auth"]["password"] == password and entry["auth"]["auth_url"] == "http://192.0.2.10:5000/v3"
    assert answer["dashboard"].startswith("http://192.0.2.10")
    assert password not in json.dumps(answer)
    for name in ("clouds.yaml", "admin-openrc.sh"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    shell = f". {directory}/admin-openrc.sh; echo $OS_PASSWORD $OS_AUTH_URL"
    said = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout.split()
    assert said == [password, "http://192.0.2.10:5000/v3"]


def test_a_broken_clouds_file_is_not_overwritten(tmp_path, capsys):
    directory = tmp_path / "site"
    cli.main(["init", str(directory)])
    cli.main(["genpwd", "--site", str(directory)])
    (directory / "clouds.yaml").write_text("- a list\n")
    assert cli.main(["post-deploy", "--site", str(directory)]) == 1
    assert (directory / "clouds.yaml").read_text() == "- a list\n"


def test_without_the_administrators_password_there_is_no_access(site_data, decls):
    resolver = Resolver(decls, site_data, "ctl1")
    with pytest.raises(LookupError, match="genpwd"):
        clouds.access(resolver, {})
