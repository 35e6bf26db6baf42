"""`rless run --join`: the ranks of a node share one container, and each keeps its own identity.

Theory of operation. The first rank makes the container, detached, with a first process that only
holds its namespaces (rless-init --hold). Then all ranks, the first one too, enter the container and
execute their program:

    rank                            monitor                        init
      | -- J own pidfd ---------->   |  counts, by descriptor        |
      | <- j 0 -------------------   |                               |
      | setns(init's pidfd) -------------------------------------->  |
      | execve: the application      |
      | ends, however                |  its pidfd tells
                                     |  the last one: TERM --------> |  clean-up

So a rank is the process that srun or mpirun has started. It keeps its pid, session, streams,
signals, exit code, control group and PMI descriptor, and no process stands in between. All ranks
are in one user namespace, where the kernel lets them read each other's memory
(process_vm_readv(2)), and in the host's pid namespace, whose numbers MPI exchanges.

A rank is counted before it enters, by a pidfd, so the kernel reports when it is killed, at any
moment. The rank that makes the container holds a lock. If it is killed before it is counted, the
monitor waits ten seconds for another rank. A rank that finds its container ending makes a new one.
"""

from __future__ import annotations

import errno
import os
import time

from rootless import paths
from rootless.engine.request import RunRequest
from rootless.engine.spec import generate
from rootless.engine.start.image_argument import resolve
from rootless.engine.state import container as containers
from rootless.engine.state import monitor_client
from rootless.errors import RlessError
from rootless.linux import locks
from rootless.linux.process import pidfd_open
from rootless.linux.procfs import start_time
from rootless.runtime.host import exec as runtime_exec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from rootless.engine.state.container import Container
    from rootless.oci.runtime_spec import Spec

LOCK = "join-"  # what the name of a lock among the run records begins with
_NAME = "join-"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_PATIENCE = 10.0  # seconds that a container of the same key may take to be cleared
# What each rank has of its own; all else is the container's, and so must be the same.
_OWN = frozenset(
    (
        *("argv", "attach", "command", "cwd", "debug", "entrypoint", "env", "env_host"),
        *("env_remove", "env_under", "env_unset", "interactive", "oom_score_adj", "pull"),
        *("quiet", "rm", "sig_proxy", "ulimits", "workdir"),
    )
)


def join(request: RunRequest) -> NoReturn:
    """Enter the container of a key, made if it is not there, and become the program.

    Raises:
        RlessError: it cannot be made or entered, or was made with other flags.
    """
    key = request.join or default_key(os.environ)
    own = pidfd_open(os.getpid())
    # Each stays in the control group that its job is counted by.
    cgroupns = "host" if request.cgroupns == "private" else request.cgroupns
    request = request.replace(pid="host", cgroupns=cgroupns)
    wanted = _container_request(request, key)
    container = _count(wanted, own)
    while container is None:
        container = _make(wanted, own)
    os.close(own)
    _compare(container, wanted, key)
    _become(container, request)


def default_key(environment: Mapping[str, str]) -> str:
    """Return what the ranks of one launch have in common: its name, else their parent."""
    if space := environment.get("PMIX_NAMESPACE"):
        return space
    job, step = environment.get("SLURM_JOB_ID"), environment.get("SLURM_STEP_ID")
    if job and step:
        return f"{job}.{step}"
    parent = os.getppid()
    return f"{parent}-{start_time(parent) or 0}"


def container_name(key: str) -> str:
    """Return the name of a key's container: readable where that can be; a key is no path."""
    if len(key) <= 64 and _PLAIN.issuperset(key):
        return _NAME + key
    from hashlib import sha256

    return _NAME + sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _container_request(request: RunRequest, key: str) -> RunRequest:
    """Return the request of the container itself."""
    always = dict.fromkeys(("holds", "init", "detach", "rm"), True)
    # Each rank has streams of its own.
    streams = {"interactive": False, "log_driver": "none"}
    return request.replace(name=container_name(key), **always, **streams)


# -- the ranks in a container --------------------------------------------------------------------


def _count(wanted: RunRequest, pidfd: int) -> Container | None:
    """Have a process counted by the monitor; None: there is no such container, or it ends.

    Raises:
        RlessError: the name is that of another container, or it is full.
    """
    assert wanted.name is not None
    container = _named(wanted.name)
    client = monitor_client.connect(container) if container is not None else None
    if client is None:
        return None
    try:
        error = client.join(pidfd)
    finally:
        client.close()
    if error == 0:
        return container
    if error == errno.ESRCH:
        return None
    if error == errno.EINVAL:
        raise RlessError(f"container {wanted.name} was not made by --join", "give another KEY")
    raise RlessError(f"cannot join container {wanted.name}: {os.strerror(error)}")


def _named(name: str) -> Container | None:
    try:
        container_id = os.readlink(f"{paths.storage_root()}/names/{name}")
    except FileNotFoundError:
        return None
    return containers.load(container_id)


def _compare(container: Container, wanted: RunRequest, key: str) -> None:
    made, mine = container.facts.get("request", {}), wanted.to_data()
    if _is_same_file(made.get("image"), wanted):
        mine["image"] = made["image"]
    names = sorted({*made, *mine} - _OWN)
    other = [name for name in names if made.get(name) != mine.get(name)]
    if other:
        raise RlessError(
            f"the container of --join {key} differs in {', '.join(other)}",
            "all ranks must ask for the same, except for command, environment and directory",
        )


def _is_same_file(made: str | None, wanted: RunRequest) -> bool:
    """Tell whether both mean one file: the container's own facts have the path of an image."""
    if not made or not made.startswith("/") or made == wanted.image:
        return False
    return resolve(wanted, paths.storage_root()).path == made


# -- the first one -------------------------------------------------------------------------------


def _make(wanted: RunRequest, pidfd: int) -> Container | None:
    """Make the container if nobody else does; wait for who does. None: look again."""
    path = f"{containers.run_records_root()}/{LOCK}{wanted.name}"
    lock = locks.open_lock(path)
    try:
        _lock(lock, path)
        if os.fstat(lock).st_nlink == 0:
            return _count(wanted, pidfd)  # who had it has made one
        try:
            return _count(wanted, pidfd) or _make_locked(wanted, pidfd)
        finally:
            os.unlink(path)
            # A copy of the descriptor is the monitor's until that is a program.
            locks.unlock(lock)
    finally:
        os.close(lock)


def _lock(fd: int, path: str) -> None:
    if locks.lock(fd) is None:
        raise RlessError(
            f"--join: cannot lock {path}: the file system has no locks",
            "set RLESS_STORAGE to a directory on a local disk",
        )


def _make_locked(wanted: RunRequest, pidfd: int) -> Container | None:
    """Have a child make it: the monitor must not become a child of the application."""
    from rootless.linux import idmap

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        idmap.answer(writer, _start, wanted)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    # Not to the end of the file: the monitor may have a copy.
    text = os.read(reader, 65536).decode() if status == 0 else ""
    os.close(reader)
    idmap.take_answer(text, status)
    return _count(wanted, pidfd)


def _start(wanted: RunRequest) -> None:
    from rootless.engine.attach.foreground import Attachment, fork_foreground
    from rootless.engine.start.create import create
    from rootless.engine.start.start import run_to_exit

    _await_name(wanted.name or "")
    attachment = Attachment((), None, proxy=False, stop_on_disconnect=False)
    fork_foreground(
        lambda foreground: run_to_exit(create(wanted, run=True), attachment, foreground, keep=False)
    )


def _await_name(name: str) -> None:
    """Wait until the last container of this name is cleared, which ends just now."""
    from rootless.engine.state import reconcile

    deadline = time.monotonic() + _PATIENCE
    while (container := _named(name)) is not None and time.monotonic() < deadline:
        if not container.facts.get("request", {}).get("holds"):
            return  # `create` says whose the name is
        reconcile.reconcile()
        time.sleep(0.005)


# -- all -----------------------------------------------------------------------------------------


def _become(container: Container, request: RunRequest) -> NoReturn:
    """Enter the container that we are counted in, and become the program."""
    spec: Spec | None = containers.read_json(f"{container.directory}/config.json")
    first = container.run_record().get("init")
    if spec is None or not first:
        raise RlessError(f"container {container.facts['name']} has ended", exit_code=1)
    init = runtime_exec.Init(first[0], first[1])
    image = container.facts["image_config"]
    uid, gid, _, home = container.facts["user"]
    inputs = generate.SpecInputs(container.idmap(), uid, gid)
    inputs.home = home
    inputs.hostname = spec.get("hostname", "")
    inputs.env = _added(container, spec, inputs)
    description = spec["process"]
    description["args"] = generate.command(request, image, None)
    description["env"] = generate.environment(request, image, inputs)
    description["cwd"] = generate.directory(request, image)
    description["rlimits"] = generate.rlimits(request)
    from rootless.engine.spec.hpc import launcher_fds

    entrant = runtime_exec.prepare(
        spec,
        description,
        init,
        cgroup=None,
        cache_dir=f"{paths.storage_root()}/seccomp",
        keep_fds=launcher_fds(description["env"]),
        keep_groups=spec.get("annotations", {}).get("run.oci.keep_original_groups") == "1",
    )
    if not request.interactive:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
    entrant.become()


def _added(container: Container, spec: Spec, inputs: generate.SpecInputs) -> list[str]:
    """Return the variables that the start has added: of GPUs, links, --fakeroot."""
    asked = RunRequest.from_data(container.facts["request"])
    known = set(generate.environment(asked, container.facts["image_config"], inputs))
    return [entry for entry in spec["process"].get("env", ()) if entry not in known]
