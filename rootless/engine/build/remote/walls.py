"""What the system's git gets to see: its own directory, the system's files, and the network.

Git reads configs, hooks, filters and helpers from many places, and runs what they name. Here there
is nothing of the kind (security class 61):

    mounts        a mount namespace of its own: the home and runtime directories of the user and the
                  storage are empty, and /tmp is the work directory
    environment   built from nothing; no configuration of the system or the user
    protocols     http, https, ssh and git; all others are off, for submodules and redirects too
    rights        no capability, and none by set-id programs; one file has a largest size

Secrets are in a file of the work directory, never among the arguments.

Source: git-config(1), git(1) ENVIRONMENT VARIABLES, git-remote-ext(1).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from rootless.errors import RlessError, SyscallError, escape
from rootless.image.model import limits
from rootless.image.registry.http import proxies
from rootless.linux import mount, prctl, programs
from rootless.paths import storage_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PLACE = "/tmp"  # noqa: S108  # where git sees the work directory; another one than the host's
_CONFIG = "config"
_AGENT = "agent"
_HOSTS = "known_hosts"
_AUTHORITIES = "authorities.pem"
_ERRORS = "errors"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MOST_OUTPUT = 64 << 20
_PROTOCOLS = ("http", "https", "ssh", "git")
_SETTINGS = f"""\
[protocol]
	allow = never
{"".join(f'[protocol "{name}"]' + chr(10) + chr(9) + "allow = always" + chr(10) for name in _PROTOCOLS)}\
[core]
	hooksPath = /dev/null
	attributesFile = /dev/null
	fsmonitor = false
	logAllRefUpdates = false
	symlinks = true
	autocrlf = false
[http]
	followRedirects = false
	lowSpeedLimit = 1000
	lowSpeedTime = 60
[credential]
	helper =
[gc]
	auto = 0
[submodule]
	recurse = false
[fetch]
	recurseSubmodules = false
[advice]
	detachedHead = false
"""


class Git:
    """Runs git in the work directory.

    Where it runs: as root of a user namespace and a mount namespace of its own, with nothing else to
    do: what is hidden from git is hidden from the caller too.
    """

    def __init__(self, work: str, agent: bool) -> None:
        """Raise the walls.

        Args:
            work: an empty directory; `PLACE` from now on.
            agent: there is a socket of an ssh agent in it (`AGENT`).

        Raises:
            RlessError: git is not installed.
        """
        found = programs.find("git")
        if found is None:
            raise RlessError("git is not installed", "install the package git", 1)
        self._git = found
        os.umask(0o022)
        work_fd = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _take_along(work_fd)
        flags = mount.MS_NOSUID | mount.MS_NODEV
        for hidden in _hidden():
            mount.mount("tmpfs", hidden, "tmpfs", flags, "mode=0755,size=1m")
        mount.mount(f"/proc/self/fd/{work_fd}", PLACE, None, mount.MS_BIND)
        os.close(work_fd)
        os.chdir(PLACE)
        os.mkdir("home", 0o700)
        self._environment = _environment(agent)
        if os.path.exists(_AUTHORITIES):
            path = f"{PLACE}/{_AUTHORITIES}"
            self._environment["GIT_SSL_CAINFO"] = os.environ["SSL_CERT_FILE"] = path
        self.configure({})

    def configure(self, headers: Mapping[str, str]) -> None:
        """Set the value of Authorization for the origins that have one ("https://host")."""
        text = _SETTINGS
        for origin, value in headers.items():
            text += f'[http "{origin}/"]\n\textraHeader = "Authorization: {value}"\n'
        with open(f"{PLACE}/{_CONFIG}", "w", opener=_private) as file:
            file.write(text)

    def __call__(
        self, *words: str, cwd: str = PLACE, seconds: float = limits.DOCUMENT_SECONDS
    ) -> bytes:
        """Run a command; return its output, 64 MiB at most.

        Raises:
            RlessError: it failed, with its own words; or it says too much.
        """
        said = b""
        for chunk in self.stream(*words, cwd=cwd, seconds=seconds):
            said += chunk
            if len(said) > _MOST_OUTPUT:
                raise RlessError(f"git {words[0]}: more output than {_MOST_OUTPUT} bytes", None, 1)
        return said

    def stream(self, *words: str, cwd: str = PLACE, seconds: float) -> Iterator[bytes]:
        """Run a command; yield its output as it comes. Who stops to read ends it.

        Raises:
            RlessError: it failed, with its own words.
        """
        command = [self._git, "-c", f"include.path={PLACE}/{_CONFIG}", *words]
        with open(f"{PLACE}/{_ERRORS}", "w+b") as errors:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=_confine,
            )
            assert process.stdout is not None
            poll = select.poll()
            poll.register(process.stdout, select.POLLIN)
            deadline = time.monotonic() + seconds
            try:
                while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    chunk = os.read(process.stdout.fileno(), limits.CHUNK)
                    if not chunk:
                        break
                    yield chunk
                else:
                    raise RlessError(f"git {words[0]}: it took too long", exit_code=1)
                code = process.wait()
            finally:
                process.kill()  # of one that has ended this is nothing
                process.wait()
                process.stdout.close()
            if code:
                errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4096))
                raise _failure(words[0], code, errors.read())


def _failure(verb: str, code: int, said: bytes) -> RlessError:
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    text = "\n".join(lines)
    hint = None
    if code < 0:
        why = f"ended by signal {-code}"
    elif "Host key verification failed" in text:
        why, hint = "the host's key is not known", "add it: ssh-keyscan HOST >> ~/.ssh/known_hosts"
    elif "Permission denied (" in text:
        why, hint = "the host refuses your keys", "name an agent that has one: --ssh default"
    else:
        told = [line for line in lines if line.startswith(("fatal: ", "remote: ", "error: "))]
        why = (told or lines or [f"exit code {code}"])[-1].removeprefix("fatal: ")
    return RlessError(f"git {verb}: {escape(why)[:300]}", hint, 1)


def _confine() -> None:
    """In the child, before it becomes git."""
    prctl.set_parent_death_signal(signal.SIGKILL)
    prctl.set_no_new_privs()
    for capability in range(64):
        try:
            prctl.drop_bounding(capability)
        except SyscallError:
            break  # the kernel knows no more
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.BLOB_BYTES, limits.BLOB_BYTES))


def _environment(agent: bool) -> dict[str, str]:
    ssh = programs.find("ssh") or "ssh"
    options = (
        *("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15"),
        *("ServerAliveInterval=15", "ForwardAgent=no", f"UserKnownHostsFile={PLACE}/{_HOSTS}"),
    )
    found = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C",
        "HOME": f"{PLACE}/home",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_ALLOW_PROTOCOL": ":".join(_PROTOCOLS),
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_SSH_COMMAND": " ".join([ssh, "-F", "/dev/null", *(f"-o {one}" for one in options)]),
        "GIT_SSH_VARIANT": "ssh",
    }
    if agent:
        found["SSH_AUTH_SOCK"] = f"{PLACE}/{_AGENT}"
    given = proxies()
    for scheme, value in given.items():
        found[f"{scheme}_proxy"] = value
    if given:
        found["no_proxy"] = ",".join(filter(None, (given.get("no"), "localhost,127.0.0.1,::1")))
    return found


def agent_path(work_fd: int) -> str:
    """Return where the socket of an ssh agent is to be, by a path of few characters."""
    return f"/proc/self/fd/{work_fd}/{_AGENT}"


def _take_along(work_fd: int) -> None:
    """Copy what git needs of what will be hidden: the known hosts of ssh, and authorities."""
    wanted = {_AUTHORITIES: os.environ.get("SSL_CERT_FILE", "")}
    for home in _homes():
        if os.path.exists(f"{home}/.ssh/known_hosts"):
            wanted.setdefault(_HOSTS, f"{home}/.ssh/known_hosts")
    for name, path in wanted.items():
        if not path:
            continue
        try:
            with open(path, "rb") as file:
                data = file.read(limits.MIB * 4)
        except OSError:
            continue
        with open(os.open(name, _NEW, 0o600, dir_fd=work_fd), "wb") as made:
            made.write(data)


def _homes() -> list[str]:
    found = [os.environ.get("HOME", "")]
    with contextlib.suppress(KeyError):
        found.append(pwd.getpwuid(os.getuid()).pw_dir)
    return [path for path in found if path.startswith("/")]


def _hidden() -> list[str]:
    """Return the directories that are hidden: none of the system's, none below another."""
    given = {*_homes(), os.environ.get("XDG_RUNTIME_DIR", ""), storage_root()}
    found: list[str] = []
    for path in sorted({os.path.realpath(path) for path in given if path.startswith("/")}):
        below = any(path.startswith(f"{one}/") for one in found)
        if os.path.isdir(path) and path not in ("/", "/usr", PLACE) and not below:
            found.append(path)
    return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
