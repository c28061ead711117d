"""Measure what a large site costs on the master and on one host, and write JSON, a table and a chart.

``python -m benchmarks.scale [--sizes 10,100,300,1000] [--layout control|network] [--real N] [--out DIR]``

Seconds are those of a CPU: nothing here waits, and what else the machine does would show in the wall clock. Everything
measured is the code that runs a real cloud; hosts are simulated below Salt's ``LocalClient``: it hands out
answers that were recorded in this process from real dry runs (``test=True``) of one host of each kind, whose engine has
nothing yet, with names and addresses put in. Bytes are counted as Salt sends them (msgpack). Each size is measured in a
process of its own. ``--real N`` also starts a master with N minions on the loopback and sets the same verbs beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.server
import io
import json
import math
import os
import re
import resource
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SIZES = (10, 100, 300, 1000)
#: Steps that have a limit (seconds, at 1,000 hosts): must, aim.
LIMITS = {"pillar, every further one": (1, 0.1), "kolla-salt plan, all new": (60, 10)}
#: A step must not grow faster than the hosts: exponent of the cost over hosts, with room for the clock's unsteadiness.
STEEPEST = 1.1

Row = dict[str, Any]


# --- synthetic sites --------------------------------------------------------------------------------------------------


def site_data(count: int, layout: str = "control") -> dict[str, Any]:
    """Return a site of ``count`` hosts as plain data: globals, topology, passwords, overrides.

    Addresses are of the loopback: where nobody is, the answer comes at once.

    Three controllers; with the layout ``network`` three network nodes of their own; the rest are compute hosts in racks
    of twenty. Every tenth host has another interface, each rack in five runs on another CPU model, one compute host in
    fifty has a configuration file of its own.
    """
    from kolla_salt import declarations

    control = ["ctl1", "ctl2", "ctl3"]
    network = ["net1", "net2", "net3"] if layout == "network" else control
    special = list(dict.fromkeys([*control, *network]))
    compute = [f"cmp{number:04d}" for number in range(1, count - len(special) + 1)]
    hosts: dict[str, Any] = {}
    for number, name in enumerate([*special, *compute]):
        third, fourth = divmod(number, 250)
        hosts[name] = {
            "addresses": {
                network_name: f"{net}.{third}.{fourth + 1}"
                for net, network_name in (("127.10", "api"), ("127.20", "tunnel"), ("127.30", "storage"))
            }
        }
        options: dict[str, Any] = {}
        if number % 10 == 5:
            options["network_interface"] = "bond0"
        if name in compute and number // 20 % 5 == 0:
            options["nova_compute_virt_type"] = "qemu"
        if options:
            hosts[name]["options"] = options
    passwords = {
        name: _password(name, kind["kind"])
        for decl in declarations.load().values()
        for name, kind in decl["passwords"].items()
    }
    overrides = {
        "global.conf": "[DEFAULT]\ndebug = false\n",
        "nova.conf": "[scheduler]\nworkers = 2\n",
        "nova/nova-compute.conf": "[compute]\nmax_disk_devices_to_attach = 8\n",
        **{f"nova/{name}/nova.conf": f"[DEFAULT]\nreserved_host_memory_mb = {8192}\n" for name in compute[::50]},
    }
    return {
        "globals": {
            "internal_vip_address": "127.10.255.1",
            "external_vip_address": "192.0.2.10",
            "neutron_external_interface": "eth1",
        },
        "topology": {
            "networks": {"api": {"cidr": "127.10.0.0/16"}, "tunnel": {"cidr": "127.20.0.0/16"}},
            "hosts": hosts,
            "groups": {"control": control, "network": network, "compute": compute, "storage": [], "monitoring": []},
        },
        "passwords": passwords,
        "overrides": overrides,
    }


def _password(name: str, kind: str) -> Any:
    if kind == "ssh_key":
        return {"private_key": f"PRIVATE {name} " * 100, "public_key": f"ssh-rsa {name} " * 12}
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def write_site(data: Mapping[str, Any], folder: Path) -> Path:
    """Write a site's files and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("globals", "topology", "passwords"):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(data[name], sort_keys=False))
    for path, text in data["overrides"].items():
        (folder / "overrides" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "overrides" / path).write_text(text)
    # What has only just been written is read again each time; a site in use is older.
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1e9, 1e9))
    return folder


# --- recorded answers -------------------------------------------------------------------------------------------------


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A container engine that lists :attr:`containers` and has nothing else, as far as a dry run asks."""

    daemon_threads = True
    request_queue_size = 1024  # all minions ask at once

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _FakeEngineHandler)
        self.containers: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _FakeEngineHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        """Answer a question."""
        path = self.path.split("?")[0].removeprefix("/v").partition("/")[2]
        known = {
            "containers/json": self.server.containers,
            "images/json": [],
            "volumes": {"Volumes": []},
            "version": {"ApiVersion": "1.47", "Version": "28.0.0"},
            "info": {"CgroupVersion": "2", "Driver": "overlay2", "ServerVersion": "28.0.0"},
        }
        answer = known.get(path, {"message": f"No such {path.split('/')[0].rstrip('s')}: {path}"})
        body = json.dumps(answer).encode()
        self.send_response(200 if path in known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """A unix socket has no address."""
        return "unix"

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


class Recorder:
    """Runs execution functions as a minion of a site would, in this process."""

    def __init__(self, site: Path, work: Path, engine: FakeEngine) -> None:
        self.site, self.work, self.engine = site, work, engine

    def caller(self, host: str) -> Any:
        """Return Salt's ``Caller`` as minion ``host``."""
        import salt.client
        import salt.config

        opts = salt.config.minion_config(None)
        opts.update(
            id=host, file_client="local", root_dir=str(self.work), cachedir=str(self.work / "cache"),
            file_roots={"base": [str(ROOT / "salt")]}, pillar_roots={"base": []},
            ext_pillar=[{"kolla": str(self.site)}],
            grains={"id": host, "os": "Debian", "os_family": "Debian", "kernel": "Linux", "init": "unknown"},
            log_level="critical", log_file=str(self.work / "log"), fileserver_list_cache_time=0,
        )  # fmt: skip
        return salt.client.Caller(mopts=opts)

    def record(self, host: str, sls: Sequence[str]) -> dict[str, Any]:
        """Return what ``host`` says to the questions that a plan, a run and a verification ask."""
        caller = self.caller(host)
        functions = caller.sminion.functions
        survey = functions["kolla_node.survey"](list(sls))
        assert not survey["errors"], survey["errors"][:2]
        applied = functions["state.sls"](",".join(sls), test=True)
        for state in applied.values():
            state["result"] = True  # as if it had been done
        declared = functions["kolla.containers"]()
        self.engine.containers = [
            {"Names": [f"/{name}"], "Id": name, "Image": item["image"], "ImageID": name, "State": "running",
             "Status": "Up 3 days (healthy)", "Labels": {"kolla_version": "22"}}
            for name, item in declared.items()
        ]  # fmt: skip
        look = self.caller(host).sminion.functions["kolla_node.look"]()
        self.engine.containers = []
        assert look["containers"] and not look["problems"], look["problems"][:2]
        settled = {**survey, "states": [], "failed": [], "missing_images": []}
        return {
            "test.ping": True,
            "new": survey,
            "settled": settled,
            "kolla_node.look": look,
            "kolla_node.verify": {"survey": settled, "look": look, "stopped": {}, "members": {}},
            "state.sls": applied,
        }


@contextlib.contextmanager
def _replaced(where: Any, name: str, value: Any) -> Iterator[None]:
    before = where[name] if isinstance(where, dict) else getattr(where, name)
    put = where.__setitem__ if isinstance(where, dict) else lambda key, thing: setattr(where, key, thing)
    put(name, value)
    try:
        yield
    finally:
        put(name, before)


def record_all(work: Path, layout: str, engine: FakeEngine) -> dict[str, Any]:
    """Return the answers of one host of each kind: its name -> address, and question -> answer."""
    from kolla_salt import plan, steps
    from kolla_salt import site as sites
    from kolla_salt.context import Resolver

    data = site_data(10, layout)
    folder = write_site(data, work / "recorded")
    resolver = Resolver(_declarations(), sites.load(folder).as_pillar(), "ctl1")
    planned = plan.steps(resolver)
    wanted = steps.sls_by_host(planned, steps.placement(resolver, {n for step in planned for n in step["services"]}))
    names = [name for name in ("ctl1", "ctl2", "net1", "cmp0001", "cmp0002") if name in wanted]
    recorder = Recorder(folder, work / "minion", engine)
    return {
        name: {
            "address": resolver.address("api", name),
            "tunnel": resolver.address("tunnel", name),
            "answers": recorder.record(name, wanted[name]),
        }
        for name in names
    }


def _declarations() -> dict[str, Any]:
    from kolla_salt import declarations

    return declarations.load()


class Hosts:
    """The simulated hosts of one site: every answer as the bytes that would arrive."""

    def __init__(self, data: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
        self.kind = "new"
        self.asked: list[dict[str, Any]] = []
        self.packed: dict[tuple[str, str], bytes] = {}
        for host, entry in data["topology"]["hosts"].items():
            like = host if host in recorded else {"ctl": "ctl2", "net": "net1", "cmp": "cmp0002"}[host[:3]]
            model = recorded[like]
            for question, answer in model["answers"].items():
                text = json.dumps(answer).replace(like, host)
                for network in ("address", "tunnel"):
                    text = text.replace(model[network], entry["addresses"]["api" if network == "address" else network])
                self.packed[host, question] = msgpack.packb(json.loads(text))
        first = data["topology"]["groups"]["control"][0]
        agents = ("nova-compute", "neutron-openvswitch-agent")
        cloud = {
            "endpoints": [
                {"url": f"http://127.10.255.1:{port}/", "entry": f"entry_{port}", "ok": True, "said": "200"}
                for port in range(9000, 9020)
            ],
            "agents": [
                {"agent": agent, "host": host, "ok": True, "said": "up", "disabled": ""}
                for host in data["topology"]["hosts"]
                for agent in agents
                if not (agent == "nova-compute" and host.startswith(("ctl", "net")))
            ],
            "strangers": [],
            "problems": [],
        }
        key = (first, "kolla_node.verify")
        self.packed[key] = msgpack.packb({**msgpack.unpackb(self.packed[key]), "cloud": cloud})
        self.yes = msgpack.packb(True)

    def client(self, **_options: Any) -> Hosts:
        """Stand in for the class ``salt.client.LocalClient``."""
        return self

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def cmd_iter(
        self, hosts: Sequence[str], function: str, arguments: Sequence[Any] = (), kwarg: Any = None, **_options: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the answer of each host, unpacked as it would be, and note how much travels."""
        load = {"fun": function, "tgt": list(hosts), "arg": [*arguments, *([kwarg] if kwarg else [])]}
        # A minion returns the arguments with its answer.
        echo = len(msgpack.packb(load["arg"]))
        question = {"kolla_node.survey": self.kind}.get(function, function)
        answers = {host: self.packed.get((host, question), self.yes) for host in hosts}
        self.asked.append(
            {"function": function, "hosts": len(hosts), "sent": len(msgpack.packb(load)), "arguments": echo,
             "received": sum(len(answer) + echo for answer in answers.values())}
        )  # fmt: skip
        for host, answer in answers.items():
            yield {host: {"ret": msgpack.unpackb(answer), "jid": "1"}}


# --- measuring --------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], least: float = 0.3, most: int = 20) -> tuple[float, Any]:
    """Return the least of several times of CPU that ``work`` took, and its result; short work is done more often."""
    best, spent, done, result = math.inf, 0.0, 0, None
    while done < 1 or (spent < least and done < most):
        began = time.process_time()
        result = work()
        took = time.process_time() - began
        best, spent, done = min(best, took), spent + took, done + 1
    return best, result


class Listening:
    """A port that accepts connections: the command line looks whether a master is there before it asks."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)
        self.port = self.socket.getsockname()[1]


def measure(count: int, layout: str, recorded: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Return the seconds of each step, and sizes, for a site of ``count`` hosts."""
    import salt.client
    import salt.config
    import salt.pillar

    from kolla_salt import expand, plan, steps
    from kolla_salt import site as sites
    from kolla_salt.context import Resolver

    data = site_data(count, layout)
    folder = write_site(data, work / f"site{count}")
    seconds: dict[str, float] = {}
    sizes: dict[str, int] = {}
    decls = _declarations()
    hosts = list(data["topology"]["hosts"])
    compute = data["topology"]["groups"]["compute"]

    # the master
    seconds["read the site"], site = timed(lambda: sites.load(folder))
    seconds["check the site"], problems = timed(lambda: sites.validate(site, decls))
    assert problems == [], problems[:3]
    port = Listening()
    config = work / f"master{count}"
    config.mkdir(exist_ok=True)
    (config / "master").write_text(
        yaml.safe_dump(
            {"root_dir": str(config), "interface": "127.0.0.1", "ret_port": port.port, "pki_dir": "/pki",
             "cachedir": "/cache", "sock_dir": "/run", "log_file": "/log", "log_level": "critical",
             "kolla_runs": str(config / "runs"), "ext_pillar": [{"kolla": str(folder)}], "pillar_roots": {"base": []},
             "file_roots": {"base": [str(ROOT / "salt")]}, "user": "root"}
        )
    )  # fmt: skip
    opts = salt.config.master_config(str(config / "master"))

    def pillar(host: str) -> Any:
        compiled = salt.pillar.Pillar(opts, {"id": host}, host, "base").compile_pillar()
        assert compiled["kolla"]["passwords"] and "_errors" not in compiled
        return compiled

    began = time.process_time()
    pillar(compute[0])
    seconds["pillar, a process's first one"] = time.process_time() - began
    sample = [*hosts[:3], *compute[:: max(1, len(compute) // 40)]]
    took, _ = timed(lambda: [pillar(host) for host in sample], most=3)
    seconds["pillar, every further one"] = took / len(sample)
    from kolla_salt.pillar import kolla as own

    own.__opts__ = opts
    took, _ = timed(lambda: [own.ext_pillar(host, {}, str(folder)) for host in sample], most=3)
    seconds["pillar, kolla-salt's part of it"] = took / len(sample)
    sizes["bytes of a compute host's pillar"] = len(msgpack.packb(pillar(compute[0])))
    sizes["bytes of a controller's pillar"] = len(msgpack.packb(pillar("ctl1")))

    resolver = Resolver(decls, site.as_pillar(), hosts[0])
    seconds["waves and steps"], planned = timed(lambda: plan.steps(Resolver(decls, site.as_pillar(), hosts[0])))
    services = {name for step in planned for name in step["services"]}
    seconds["who gets what"], wanted = timed(
        lambda: steps.sls_by_host(planned, steps.placement(Resolver(decls, site.as_pillar(), hosts[0]), services))
    )
    assert set(wanted) == set(hosts)

    simulated = Hosts(data, recorded)
    with _replaced(salt.client, "LocalClient", simulated.client):
        for kind, label in (("new", "all new"), ("settled", "nothing to do")):
            simulated.kind = kind
            seconds[f"kolla-salt plan, {label}"], printed = timed(
                lambda: command(config, "plan", status=0), least=2, most=3
            )
            if kind == "new":
                plan_text = without_seconds(printed)
                sizes["lines that plan prints"] = printed.count("\n")
                asked = [entry for entry in simulated.asked if entry["function"] == "kolla_node.survey"][-1]
                sizes["bytes of arguments that each host is sent and sends back"] = asked["arguments"]
                sizes["bytes that all hosts answer to the dry run"] = asked["received"]
        seconds["kolla-salt verify"], _ = timed(lambda: command(config, "verify", status=0), least=2, most=3)
        seconds["kolla-salt status"], _ = timed(lambda: command(config, "status", status=0), least=2, most=3)
        run = Run(opts, str(config / "master"))
        for kind, label in (("new", "all new"), ("settled", "nothing to do")):
            simulated.kind = kind
            seconds[f"a run begins, {label}"], begun = timed(lambda: run.begin(planned), least=2, most=3)
            assert begun["unknown"] == []
        widest = max(planned, key=lambda step: len(step["minions"]))
        several = [run.begin(planned, widest) for _ in range(3)]
        seconds["a step is applied on all hosts"] = min(applied["seconds of CPU"] for applied in several)
        applied = several[0]
        assert len(applied["hosts"]) == len(widest["minions"])
        sizes["bytes that this step adds to what the orchestration returns"] = len(msgpack.packb(applied["state"]))
    seconds["steps of a run become states"], _ = timed(lambda: orchestration(opts, planned), least=1, most=3)
    todo = steps.Progress(
        requires={name: decls[name]["requires"] for name in decls},
        primaries={name: resolver.service_hosts(name)[0] for name in services},
        placed=steps.placement(resolver, services),
    )
    todo.fail("neutron", compute[-1])
    seconds["who gets which job, all steps"], targets = timed(lambda: [todo.targets(step)[0] for step in planned])
    todo.limits = steps.rules(resolver, services)
    views = {host: resolver.seen_from(host) for host in hosts}
    todo.planned = {
        host: {name: "restarted" for service in services for name, on in view.containers(service).items() if on}
        for host, view in views.items()
    }
    seconds["who is changed together, everything restarts"], groups = timed(
        lambda: [todo.batches(target) for target in targets]
    )
    sizes["groups one after the other where everything restarts"] = sum(map(len, groups))

    # one host
    def one(host: str) -> dict[str, Any]:
        seen = Resolver(decls, pillars[host], host)
        return {name: expand.expand(name, seen) for name in seen.enabled_services() if seen.placed(name)}

    pillars = {host: pillar(host)["kolla"] for host in ("ctl1", compute[0])}
    seconds["states of a controller"], _ = timed(lambda: one("ctl1"))
    seconds["states of a compute host"], _ = timed(lambda: one(compute[0]))
    seconds["catalogue on a controller"], _ = timed(lambda: Resolver(decls, pillars["ctl1"], "ctl1").catalogue)
    seconds["configuration of a compute host"], _ = timed(
        lambda: files(Resolver(decls, pillars[compute[0]], compute[0]))
    )
    sizes["megabytes of memory of the measuring process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"hosts": count, "seconds": seconds, "sizes": sizes, "plan": plan_text}


def without_seconds(text: str) -> str:
    """Return what a verb printed without the time it took."""
    return re.sub(r"\([0-9.]+ s\)", "", text)


def files(resolver: Any) -> int:
    """Render every configuration file of the resolver's host; return how many there are."""
    from kolla_salt import config, expand

    count = 0
    for service in resolver.enabled_services():
        for container, on in resolver.containers(service).items():
            for file in expand.config_files(resolver, service, container) if on else []:
                config.render(resolver, service, container, file)
                count += 1
    return count


def command(config: Path, *words: str, status: int) -> str:
    """Run a verb of ``kolla-salt`` in this process and return what it printed."""
    from kolla_salt.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main.main(["--master-config", str(config / "master"), *words])
    assert code == status, out.getvalue()[-2000:]
    return out.getvalue()


class Run:
    """The master's side of a run, outside an orchestration and without listeners."""

    def __init__(self, opts: Mapping[str, Any], conf_file: str) -> None:
        from kolla_salt.modules import kolla_run

        self.module = kolla_run
        kolla_run.__opts__ = {**opts, "conf_file": conf_file, "jid": "1"}
        kolla_run.__context__ = {}

    def begin(self, planned: list[dict[str, Any]], step: dict[str, Any] | None = None) -> dict[str, Any]:
        """Begin a run, apply a step of it if one is given, and close its record; return the last outcome."""
        self.module.__context__.clear()
        with _replaced(self.module, "_fire", lambda kind, data: msgpack.packb(data, default=str)):
            found = self.module.begin("deploy", planned, every=step is not None)
            if step is not None:
                began = time.process_time()
                found = self.module.apply(step)
                found["seconds of CPU"] = time.process_time() - began
            self.module.end()
        return found


def orchestration(opts: Mapping[str, Any], planned: list[dict[str, Any]]) -> int:
    """Render ``orch/deploy.sls`` with the steps of a plan as an orchestration does; return the number of its states."""
    import jinja2

    text = (ROOT / "orch" / "deploy.sls").read_text()
    answers = {"pillar.get": lambda key, default=None: default, "saltutil.runner": lambda *_, **__: planned}
    rendered = jinja2.Environment().from_string(text).render(salt=answers)
    return len(yaml.load(rendered, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


# --- results ----------------------------------------------------------------------------------------------------------


def slope(points: Sequence[tuple[int, float]]) -> float:
    """Return the exponent with which a cost grows: the slope of its logarithm over the hosts' (least squares)."""
    logs = [(math.log(hosts), math.log(cost)) for hosts, cost in points if cost > 0]
    middle = sum(x for x, _ in logs) / len(logs), sum(y for _, y in logs) / len(logs)
    spread = sum((x - middle[0]) ** 2 for x, _ in logs)
    return sum((x - middle[0]) * (y - middle[1]) for x, y in logs) / spread if spread else 0.0


def table(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return one row for each step and size: name, values, and the exponent between the largest sizes."""
    rows = []
    for kind, unit in (("seconds", "ms"), ("sizes", "")):
        for name in results[-1][kind]:
            values = {result["hosts"]: result[kind][name] for result in results}
            large = [(hosts, value) for hosts, value in values.items() if hosts >= 100] or list(values.items())
            rows.append({"name": name, "unit": unit, "values": values, "slope": round(slope(large), 2)})
    return rows


def shown(row: Row, value: float) -> str:
    """Return a value as the table has it."""
    if row["unit"] == "ms":
        return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
    return f"{value:,}"


def markdown(rows: Sequence[Row], about: str, real: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the table as Markdown."""
    sizes = list(rows[0]["values"])
    lines = [
        about,
        "",
        f"| step | {' | '.join(f'{size:,} hosts' for size in sizes)} | grows with hosts^ | must / aim |",
    ]
    lines.append("|" + "---|" * (len(sizes) + 3))
    for row in rows:
        limits = LIMITS.get(row["name"])
        lines.append(
            f"| {row['name']} | {' | '.join(shown(row, value) for value in row['values'].values())} "
            f"| {row['slope']:.2f} | {f'{limits[0]} s / {limits[1]} s' if limits else ''} |"
        )
    if real:
        lines += ["", "Beside real minions, all on this machine:", ""]
        titles = list(real[0])
        lines += [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
        lines += [f"| {' | '.join(str(entry[title]) for title in titles)} |" for entry in real]
    return "\n".join(lines) + "\n"


def chart(rows: Sequence[Row], width: int = 860, height: int = 560) -> str:
    """Return the curves of the steps as SVG, both axes logarithmic; the dotted lines grow with the hosts."""
    rows = [row for row in rows if row["unit"] == "ms"]
    sizes = list(rows[0]["values"])
    left, right, top, bottom = 70, 330, 20, 50
    low = math.floor(math.log10(min(value for row in rows for value in row["values"].values())))
    high = math.ceil(math.log10(max(value for row in rows for value in row["values"].values())))

    def x(hosts: float) -> float:
        share = (math.log(hosts) - math.log(sizes[0])) / ((math.log(sizes[-1]) - math.log(sizes[0])) or 1)
        return left + share * (width - left - right)

    def y(cost: float) -> float:
        return height - bottom - (math.log10(cost) - low) / (high - low) * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        label = f"{10**power:g} s" if power >= 0 else f"{10.0 ** (power + 3):g} ms"
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{at:.0f}" y2="{at:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.0f}" text-anchor="end">{label}</text>')
        if power < high:
            until = min(sizes[-1], sizes[0] * 10 ** (high - power))
            end = 10.0**power * until / sizes[0]
            parts.append(
                f'<line x1="{x(sizes[0]):.0f}" y1="{at:.0f}" x2="{x(until):.0f}" y2="{y(end):.0f}" stroke="#ccc" '
                'stroke-dasharray="2 4"/>'
            )
    for size in sizes:
        parts.append(f'<text x="{x(size):.0f}" y="{height - bottom + 18}" text-anchor="middle">{size:,}</text>')
    parts.append(
        f'<text x="{(left + width - right) / 2:.0f}" y="{height - 12}" text-anchor="middle">hosts '
        "(dotted: proportional to hosts)</text>"
    )
    ordered = sorted(rows, key=lambda row: -row["values"][sizes[-1]])
    for number, row in enumerate(ordered):
        colour = f"hsl({number * 360 // len(ordered)}, 65%, 42%)"
        points = " ".join(f"{x(hosts):.0f},{y(cost):.0f}" for hosts, cost in row["values"].items())
        at = top + 14 + number * (height - top - bottom) / len(ordered)
        end = y(row["values"][sizes[-1]])
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(
            f'<path d="M{width - right:.0f},{end:.0f} L{width - right + 22},{at - 4:.0f}" stroke="{colour}" '
            'stroke-width="0.6" fill="none"/>'
        )
        parts.append(
            f'<text x="{width - right + 26}" y="{at:.0f}" fill="{colour}">{row["name"]}: '
            f"{shown(row, row['values'][sizes[-1]])} (^{row['slope']:.2f})</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def one_size(count: int, layout: str, recorded: Path, work: Path) -> dict[str, Any]:
    """Measure one size in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--measure", str(count), "--layout", layout, "--recorded",
         str(recorded), "--work", str(work)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"measuring {count} hosts failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def write(rows: Sequence[Row], layout: str, out: Path, real: Sequence[Mapping[str, Any]] = ()) -> str:
    """Write the results as JSON, Markdown and SVG to the folder ``out``; return the Markdown."""
    about = (
        f"Three controllers{' and three network nodes' if layout == 'network' else ''}, the rest compute hosts. "
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}. Seconds of CPU, the least of up to twenty times. "
        "The exponent is that between 100 hosts and the most."
    )
    text = markdown(rows, about, real)
    out.mkdir(parents=True, exist_ok=True)
    name = "scale" if layout == "control" else f"scale-{layout}"
    (out / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows, "real": real}, indent=1) + "\n")
    (out / f"{name}.md").write_text(text)
    (out / f"{name}.svg").write_text(chart(rows))
    return text


def main() -> int:
    """Measure, print and write the results; 0 only if no step grows faster than the hosts and all limits are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--layout", choices=["control", "network"], default="control")
    parser.add_argument("--real", type=int, default=0, metavar="N", help="also start N real minions")
    parser.add_argument("--out", type=Path, default=RESULTS)
    for hidden in ("--measure", "--recorded", "--work"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        recorded = json.loads(Path(args.recorded).read_text())
        print(json.dumps(measure(int(args.measure), args.layout, recorded, Path(args.work))))
        return 0
    with tempfile.TemporaryDirectory(prefix="ks-scale-", dir="/tmp") as folder:
        work = Path(folder)
        # No proxy, no other engine, and no cache of another checkout.
        os.environ.update(
            NO_PROXY="*", no_proxy="*", DOCKER_HOST=f"unix://{work}/engine", KOLLA_SALT_CACHE_DIR=str(work / "cache")
        )
        engine = FakeEngine(work / "engine")
        os.environ.pop("KOLLA_SALT_SITE", None)
        recorded = work / "recorded.json"
        recorded.write_text(json.dumps(record_all(work, args.layout, engine)))
        results = []
        for size in map(int, args.sizes.split(",")):
            results.append(one_size(size, args.layout, recorded, work))
            print(f"{size} hosts: measured", file=sys.stderr, flush=True)
        rows = table(results)
        text = write(rows, args.layout, args.out)
        if args.real:
            from benchmarks import farm

            simulated = one_size(args.real, args.layout, recorded, work)
            text = write(rows, args.layout, args.out, farm.compare(args.real, work, simulated))
    print(text)
    bad = [row["name"] for row in rows if row["slope"] > STEEPEST]
    largest = results[-1]["seconds"]
    bad += [
        f"{step}: {largest[step]:.2f} s, must {must} s" for step, (must, _) in LIMITS.items() if largest[step] > must
    ]
    if bad:
        print("too much: " + "; ".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
