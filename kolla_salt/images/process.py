"""Programs that run on after the command that started them, known by a pid file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kolla_salt.images.errors import ImageError


def command_line(pid: int) -> list[str]:
    """Return the argument list of a process, empty when there is none (or it is a zombie)."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def processes_mentioning(text: str, programs: tuple[str, ...]) -> list[int]:
    """Return the ids of the processes of some programs that have a text in one of their arguments.

    :param programs: names of programs; a reader or editor of a file with this name is none of ours.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        arguments = command_line(int(entry.name))
        if arguments and Path(arguments[0]).name in programs and any(text in part for part in arguments):
            found.append(int(entry.name))
    return found


def tail(path: Path, lines: int = 5) -> str:
    """Return the last lines of a file in one line, for a message."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return "(no log)"
    return " | ".join(line.strip() for line in text.splitlines()[-lines:]) or "(log is empty)"


class Daemon:
    """A program in the background.

    :param name: what it is called in messages.
    :param pidfile: holds its process id; a stale one is recognised.
    :param marker: a text that is in the program's argument list, which tells it from a later owner of its id.
    """

    def __init__(self, name: str, pidfile: Path, marker: str):
        self.name, self.pidfile, self.marker = name, pidfile, marker

    def pid(self) -> int | None:
        """Return the id of the running program, or None."""
        try:
            pid = int(self.pidfile.read_text())
        except (OSError, ValueError):
            return None
        return pid if any(self.marker in part for part in command_line(pid)) else None

    def start(
        self,
        command: list[str],
        log: Path,
        ready: Callable[[], bool],
        *,
        env: dict[str, str] | None = None,
        timeout: float = 30,
        write_pid: bool = True,
    ) -> None:
        """Start the program and wait until it is ready.

        :param ready: says whether it does its work.
        :param write_pid: False for a program that writes its pid file itself.
        :raises ImageError: it ended, or was not ready in time; with the end of its log.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd="/",
                start_new_session=True,
            )
        if write_pid:
            self.pidfile.write_text(f"{process.pid}\n")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if ready():
                return
            if process.poll() is not None:
                break
            time.sleep(0.1)
        ended = process.poll()
        found = f"ended with status {ended}" if ended is not None else f"not ready after {timeout:.0f} s"
        if ended is None:
            process.terminate()
        raise ImageError(f"starting {self.name}", f"{found}: {tail(log)}", "", f"less {log}")

    def stop(self, timeout: float = 30) -> bool:
        """Stop the program and wait for its end; return whether it ran."""
        pid = self.pid()
        if pid is None:
            self.pidfile.unlink(missing_ok=True)
            return False
        for signal_number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                if self.pid() is None:
                    self.pidfile.unlink(missing_ok=True)
                    return True
                time.sleep(0.1)
        raise ImageError(f"stopping {self.name}", f"process {pid} did not end", "", f"kill -9 {pid}")


@contextlib.contextmanager
def locked(path: Path, doing: str, wait: bool = True) -> Iterator[None]:
    """Hold a lock file, so that two commands do not do the same work at the same time.

    The lock ends with the process, however it ends.

    :param wait: False to fail at once when another process holds it.
    :raises ImageError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            command = " ".join(command_line(int(holder))) if holder.isdigit() else ""
            found = f"process {holder} is at it ({command})"
            raise ImageError(doing, found, "one at a time", f"wait for process {holder}") from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def held(path: Path) -> bool:
    """Say whether another process holds a lock file."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
