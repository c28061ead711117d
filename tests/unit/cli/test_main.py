"""The command's entry point."""

import json
import subprocess
import sys

import pytest

from kolla_salt.cli import main as cli
from kolla_salt.cli.errors import CliError


def test_help_lists_every_verb(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself_and_takes_json(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: kolla-salt {verb} ")
    assert "--json" in text


def test_help_imports_neither_salt_nor_yaml():
    code = (
        "import sys; from kolla_salt.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(sorted({'salt', 'yaml', 'docker', 'jinja2'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_verb_names_the_nearest(capsys):
    assert cli.main(["depoly"]) == 2
    assert "did you mean 'deploy'?" in capsys.readouterr().err


def test_no_verb_is_no_success(capsys):
    assert cli.main([]) == 2
    assert "deploy" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["genpwd", "--site", "/nowhere/x", "--json"], ["--json", "--site", "/nowhere/x", "genpwd"]]
)
def test_options_work_before_and_after_the_verb_and_errors_are_json_too(argv, capsys):
    assert cli.main(argv) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert "/nowhere/x" in answer["error"] and "kolla-salt init" in answer["error"]


def test_a_verb_that_needs_a_master_says_where_it_looked(tmp_path, capsys):
    assert cli.main(["status", "--master-config", str(tmp_path / "none")]) == 1
    assert f"no file {tmp_path}/none" in capsys.readouterr().err


def test_a_master_that_does_not_run_is_named_with_the_command_that_starts_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "topology.yml").write_text("hosts: {a: {addresses: {api: 10.0.0.1}}}\n")
    config = tmp_path / "master"
    config.write_text(
        f"interface: 127.0.0.1\nret_port: 1\nroot_dir: {tmp_path}\next_pillar: [{{kolla: {tmp_path}/site}}]\n"
    )
    assert cli.main(["status", "--master-config", str(config)]) == 1
    text = capsys.readouterr().err
    assert "nothing listens on 127.0.0.1:1" in text and "systemctl start salt-master" in text


def test_another_site_than_the_masters_is_refused(tmp_path, capsys):
    config = tmp_path / "master"
    config.write_text("ext_pillar: [{kolla: /etc/other}]\n")
    assert cli.main(["status", "--master-config", str(config), "--site", str(tmp_path)]) == 1
    assert "serves the site /etc/other" in capsys.readouterr().err


def test_destroying_needs_to_be_meant(tmp_path, capsys):
    assert cli.main(["destroy"]) == 2
    assert "--yes-i-really-really-mean-it" in capsys.readouterr().err


def test_an_error_keeps_its_status(monkeypatch, capsys):
    def fail(args):
        raise CliError("no", status=7, found="x")

    monkeypatch.setattr("kolla_salt.cli.site.init", fail)
    assert cli.main(["init", "--json"]) == 7
    assert json.loads(capsys.readouterr().out) == {"ok": False, "error": "no", "found": "x"}


@pytest.mark.parametrize("verb", ["upgrade", "rollback"])
def test_services_are_named_with_commas_or_one_after_the_other(verb):
    parse = cli.build(verb).parse_args
    assert parse([verb, "--service", "glance, heat", "--service", "nova"]).services == ["glance", "heat", "nova"]
    assert parse([verb]).services == []


@pytest.mark.parametrize("verb", ["deploy", "pull", "destroy", "prechecks", "status", "plan"])
def test_hosts_are_named_with_commas(verb):
    parse = cli.build(verb).parse_args
    assert parse([verb, "--limit", "ctl1, ctl2"]).limit == ["ctl1", "ctl2"]
    assert parse([verb]).limit is None


def test_a_run_that_was_left_does_not_keep_the_program_from_its_end(tmp_path):
    program = tmp_path / "left.py"
    program.write_text(
        "import concurrent.futures, time\n"
        "from kolla_salt.cli import main\n"
        "def left(words=None):\n"
        "    concurrent.futures.ThreadPoolExecutor().submit(time.sleep, 30)\n"
        "    print('said')\n"
        "    return 3\n"
        "main.main = left\n"
        "main.command()\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=15, check=False)
    assert (done.returncode, done.stdout) == (3, "said\n")


def test_an_upgrade_is_not_planned_for_some_hosts_only(capsys):
    assert cli.main(["plan", "upgrade", "--limit", "control1"]) == 2
    error = capsys.readouterr().err
    assert "--limit control1" in error and "kolla-salt plan upgrade SERVICE" in error
