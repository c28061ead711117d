"""The seam between the command line and Salt on the master. Salt is imported here, and only when a verb needs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kolla_salt import freshness, outcome
from kolla_salt.cli import place, view
from kolla_salt.cli.errors import CliError
from kolla_salt.steps import patience

Listener = Callable[[str, Mapping[str, Any]], None]
#: Seconds for which a master may be away during a run: long enough for one that is started again.
AWAY = 15.0
#: Seconds between two looks whether it is there, while it says nothing.
LOOK = 2.0
#: How it is started.
START = "systemctl start salt-master (in a sandbox: kolla-salt sandbox up)"


class Master:
    """Runs runners, jobs and orchestrations on the master of this machine.

    Args:
        args: the parsed command line (``--master-config``, ``--site``).
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.config = place.master_config(args)
        self.site = place.served_site(args)
        if os.geteuid() != 0 and not os.access(self.config.parent, os.W_OK):
            raise CliError(
                f"talking to the Salt master of {self.config}: it belongs to another user; run this as root (sudo)"
            )
        self._opts: dict[str, Any] | None = None
        self._fresh = False

    @property
    def opts(self) -> dict[str, Any]:
        """The master's options, read once. Raises CliError when no master listens."""
        if self._opts is None:
            warnings.simplefilter("ignore")
            import salt.config

            logging.getLogger("salt").setLevel(logging.CRITICAL)
            opts = salt.config.master_config(str(self.config))
            opts["conf_file"] = str(self.config)
            opts["quiet"] = True
            if silent := _silent(opts):
                raise CliError(
                    f"talking to the Salt master of {self.config}: nothing listens on {silent}; start it: {START}"
                )
            self._opts = opts
        return self._opts

    def command(self, function: str, *arguments: str, **kwargs: Any) -> str:
        """Return the ``salt-run`` command that does the same, ready to be pasted."""
        words = ["salt-run"]
        if self.config != place.DEFAULT_MASTER:
            words += ["-c", str(self.config.parent)]
        words += [function, *arguments]
        words += [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in kwargs.items()]
        return shlex.join(words)

    def runner(self, function: str, *arguments: Any, **kwargs: Any) -> Any:
        """Run a runner in this process and return what it returns.

        Raises:
            CliError: with what the runner said.
        """
        import salt.runner

        with quiet():
            client = salt.runner.RunnerClient(dict(self.opts))
            done = client.cmd(function, list(arguments), kwarg=kwargs, print_event=False, full_return=True)
        if not done.get("success", True) and isinstance(done.get("return"), str):
            raise CliError(outcome.last_words(done["return"]))
        return done["return"]

    def ask(
        self,
        hosts: Sequence[str],
        function: str,
        *arguments: Any,
        timeout: int | None = None,
        progress: Callable[[str, Any], None] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run an execution function on ``hosts`` in one job and return host -> answer, in the order of ``hosts``.

        A host that says nothing is not in the result.

        Args:
            hosts: minion ids.
            function: such as ``kolla_container.list``.
            arguments: its arguments.
            timeout: seconds to wait for a host that does not even confirm the job; default: the master's.
            progress: called with each host's answer as it comes.
            kwargs: its keyword arguments.
        """
        if not hosts:
            return {}
        if function != "test.ping":
            self._refresh(hosts)
        import salt.client
        from salt.exceptions import SaltClientError

        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout, "gather_job_timeout": timeout}
        answers: dict[str, Any] = {}
        with quiet(), salt.client.LocalClient(mopts=dict(self.opts)) as client:
            try:
                for part in client.cmd_iter(
                    list(hosts), function, list(arguments), tgt_type="list", kwarg=kwargs or None, **options
                ):
                    for host, said in part.items():
                        if isinstance(said, dict) and "ret" in said and not (said.get("failed") and not said["ret"]):
                            answers[host] = said["ret"]
                            if progress:
                                progress(host, said["ret"])
                    if len(answers) == len(hosts):
                        break
            except SaltClientError as error:
                raise CliError(f"running {function} on {view.some(hosts)}: {error}") from error
        return {host: answers[host] for host in hosts if host in answers}

    def _refresh(self, hosts: Sequence[str]) -> None:
        """Let the minions read the site again if it has changed since they were told to."""
        if self._fresh:
            return
        self._fresh = True
        if digest := freshness.stale(self.site, self.runs_root()):
            self.ask(hosts, "saltutil.refresh_pillar", wait=True)
            freshness.mark(self.runs_root(), digest)

    def present(self, hosts: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return which of ``hosts`` answer in time (:func:`kolla_salt.steps.patience`), and which do not."""
        answers = self.ask(hosts, "test.ping", timeout=patience(len(hosts)))
        return [h for h in hosts if answers.get(h) is True], [h for h in hosts if answers.get(h) is not True]

    def orchestrate(self, sls: str, pillar: Mapping[str, Any], listener: Listener, tick: Callable[[], None]) -> Any:
        """Run ``state.orchestrate`` in this process and feed every event of the bus to ``listener``.

        Args:
            sls: such as ``orch.deploy``.
            pillar: handed to the orchestration.
            listener: called with tag and data of each event.
            tick: called about twice a second, for a view that moves.

        Returns:
            What the orchestration returned.

        Raises:
            CliError: the master has been gone for a while, so that nobody would tell this process of any end.
        """
        import salt.utils.event

        done: list[Any] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                done.append(self.runner("state.orchestrate", sls, pillar=dict(pillar)))
            except BaseException as error:  # handed to the main thread, which raises it
                errors.append(error)

        with (
            quiet(),
            salt.utils.event.get_event(
                "master", sock_dir=self.opts["sock_dir"], opts=dict(self.opts), listen=True
            ) as bus,
        ):
            bus.connect_pub()
            worker = threading.Thread(target=work, daemon=True)
            worker.start()
            heard = looked = time.monotonic()
            while worker.is_alive():
                event = bus.get_event(wait=0.3, full=True, auto_reconnect=True)
                now = time.monotonic()
                if event:
                    heard = now
                    listener(event["tag"], event["data"])
                elif now - max(heard, looked) > LOOK:
                    looked, silent = now, _silent(self.opts)
                    if not silent:
                        heard = now
                    elif now - heard > AWAY:
                        raise CliError(
                            f"running {sls}: the Salt master of {self.config} has ended; nothing has listened on "
                            f"{silent} for {now - heard:.0f} s. Hosts end the step that they are in. "
                            f"Start it: {START}; then give the same command again, it goes on from there"
                        )
                tick()
            while event := bus.get_event(wait=0.02, full=True):
                listener(event["tag"], event["data"])
        if errors:
            raise errors[0]
        return done[0]

    def runs_root(self) -> Path:
        """Return the folder of the run records."""
        return runs_root(self.config)


def _silent(opts: Mapping[str, Any]) -> str:
    """Return the address on which no master listens; empty: it does."""
    address = "127.0.0.1" if opts["interface"] in {"0.0.0.0", "::"} else opts["interface"]
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as link:
        link.settimeout(2)
        return f"{address}:{opts['ret_port']}" if link.connect_ex((address, opts["ret_port"])) else ""


def runs_root(config: Path) -> Path:
    """Return the folder of the run records of the master with configuration file ``config``; Salt is not needed."""
    from kolla_salt.runs import ROOT

    return Path(master_option(config, "kolla_runs", ROOT))


def master_option(config: Path | None, name: str, default: Any) -> Any:
    """Return an option of one word in a master's configuration, read without Salt, which takes long to start."""
    found = default
    for file in (config, *sorted((config.parent / "master.d").glob("*.conf"))) if config else ():
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines():
                if line.startswith(f"{name}:"):
                    found = line.split(":", 1)[1].partition(" #")[0].strip().strip("'\"")
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Salt's farewell messages about sockets, which it writes to stderr itself, off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tty() -> bool:
    """Return whether a person looks at the output."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
