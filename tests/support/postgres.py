"""PostgreSQL server for tests, on a socket in a temporary folder; a server of the machine is not used."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

TRUSTING = "--auth=trust"


def find_programs() -> Path | None:
    """Returns the folder of PostgreSQL's server programs; None if it is not installed."""
    folders = [Path(path) for path in sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]
    if found := shutil.which("postgres"):
        folders.insert(0, Path(found).resolve().parent)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


class Server:
    """Server with one database, `nas`, that can be stopped and restarted."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        # Not in the test's folder, because a socket path is limited to about 100 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="nas-pg-"))
        if os.geteuid() == 0:  # PostgreSQL does not run as root
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", str(self.data), "-U", "nas", TRUSTING, "--no-sync", "-E", "UTF8", "--locale=C")
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\nmax_connections = 200\n")
        self.start()
        self._run("createdb", "-h", str(self.folder), "-U", "nas", "nas")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://nas@/nas?host={self.folder}"

    def start(self) -> None:
        """Starts the server; retries while remains of a killed one are in the way."""
        tries = 30
        while not self._run(
            "pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "start", check=not tries
        ):
            tries -= 1
            time.sleep(1)

    def stop(self) -> None:
        """Stops the server as a restart does; all clients are disconnected."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "fast", "stop")

    def kill(self) -> None:
        """Kills the server, as a machine failure does."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str, check: bool = True) -> bool:
        as_user: Sequence[str] = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        command = [*(as_user if os.geteuid() == 0 else ()), str(self.programs / program), *arguments]
        # No pipes for pg_ctl: the server that it starts would keep them open.
        output = subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE
        done = subprocess.run(
            command, check=False, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        if check and done.returncode:
            raise RuntimeError(f"{program}: {(done.stderr or b'').decode()}")
        return not done.returncode


def why_none() -> str:
    """Returns why no server can run on this machine; empty if one can."""
    if find_programs() is None:
        return "PostgreSQL is not installed"
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""
