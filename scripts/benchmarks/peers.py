"""The programs that are compared, on one machine, set up in one directory on a tmpfs."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from hashlib import sha256

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PACKAGES = {
    "podman": "podman",
    "crun": "crun",
    "bwrap": "bubblewrap",
    "ch-run": "charliecloud",
    "mksquashfs": "squashfs-tools",
    "squashfuse": "squashfuse",
    "strace": "strace",
    "docker": "docker.io",
    "docker-compose": "docker-compose",
}
SHM = "/dev/shm"  # noqa: S108  # a directory with a random name is made in it
BUSYBOX = "/bin/busybox"
APPLETS = ("dd", "head", "sh", "sha256sum", "sleep", "true", "yes")
IMAGE = "localhost/rless-bench:latest"
AT_ONCE = 8
SETTLES = 1.0  # seconds; podman's second process cleans up after the first has ended


# As root: cgroup2 on /sys/fs/cgroup, and in it a group of the user $0, where the command runs.
PREPARE = """
stat -f -c %T /sys/fs/cgroup | grep -qx cgroup2fs || mount -t cgroup2 cgroup2 /sys/fs/cgroup
group=/sys/fs/cgroup/rless-bench-$$ && mkdir $group && cd $group || exit
chown "$0:" . cgroup.procs cgroup.threads cgroup.subtree_control && cd /
sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' $group "$@"
status=$?
echo 1 >$group/cgroup.kill; sleep 0.2
find $group -depth -type d -exec rmdir {} +
exit $status
"""


def become_user(name: str, script: str) -> None:
    """Run this script again as an ordinary user, in a mount namespace and a cgroup of its own."""
    import pwd

    try:
        user = pwd.getpwnam(name)
    except KeyError:
        sys.exit(f"bench: there is no user {name}: give one with subordinate ids by --user")
    isolate = ["unshare", "--mount", "--propagation", "private", "sh", "-c", PREPARE, name]
    become = ["setpriv", "--reuid", name, "--regid", str(user.pw_gid), "--init-groups"]
    clean = ["env", "-i", f"HOME={user.pw_dir}", f"USER={name}", "LANG=C.UTF-8"]
    clean += ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
    again = [sys.executable, "-I", script, *sys.argv[1:]]
    os.execvp("unshare", [*isolate, *become, *clean, *again])


def find_rless(given: str | None) -> str:
    """Return the absolute path of the program that was given, or else of one that is found."""
    for path in (given,) if given else (f"{TREE}/.venv/bin/rless", shutil.which("rless")):
        if path and os.access(path, os.X_OK):
            return os.path.abspath(path)
    if given:
        sys.exit(f"bench: cannot execute {given} as {os.environ.get('USER', os.getuid())}")
    sys.exit("bench: no rless: run scripts/quickstart, or give --rless PROGRAM")


def environment(work: str) -> dict[str, str]:
    """Return what all programs get: stores below one directory."""
    return {
        "HOME": f"{work}/home",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "LANG": "C.UTF-8",
        "USER": "bench",  # of ch-run
        "XDG_RUNTIME_DIR": f"{work}/runtime",
        "RLESS_STORAGE": f"{work}/rless",
        "TMPDIR": f"{work}/tmp",  # noqa: S108
        "DISABLE_HC_SYSTEMD": "true",  # else podman wants a timer for a container with a check
        "CONTAINERS_CONF": f"{work}/containers.conf",
        "CONTAINERS_STORAGE_CONF": f"{work}/storage.conf",
    }


def environment_before(work: str) -> dict[str, str]:
    """Return what the version before gets instead: whatever rless keeps is its own."""
    own = {"HOME": "home", "XDG_RUNTIME_DIR": "runtime", "RLESS_STORAGE": "rless"}
    return environment(work) | {name: f"{work}/before/{path}" for name, path in own.items()}


def configure_podman(work: str) -> None:
    """Write podman's files: the defaults of the distribution, but for what needs systemd."""
    for name in ("home", "runtime", "tmp", "before/home", "before/runtime"):
        os.makedirs(f"{work}/{name}", 0o700)
    write(
        f"{work}/storage.conf",
        f'[storage]\ndriver = "overlay"\nrunroot = "{work}/runtime/podman"\n'
        f'graphroot = "{work}/podman"\n',
    )
    write(
        f"{work}/containers.conf",
        '[engine]\nruntime = "crun"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n',
    )


def clear(work: str, rless: str) -> None:
    """End podman's pause process, and remove all."""
    for name in ("libpod/tmp/pause.pid", "podman/libpod/tmp/pause.pid"):
        try:
            with open(f"{work}/runtime/{name}", encoding="ascii") as file:
                os.kill(int(file.read()), signal.SIGKILL)
        except (OSError, ValueError):
            pass
    # Some files belong to subordinate ids: only their map can delete them.
    subprocess.run([rless, "unshare", "rm", "-rf", work], check=False)


class Peers:
    """rless and those it is compared with, each with the same image.

    Attributes:
        before: another installation of rless, which does all that `rless` does.
    """

    def __init__(self, directory: str, rless: str, before: str | None = None) -> None:
        self.rless = rless
        self.before = before
        self.oci = f"{rless}-oci"
        self.missing = [name for name in PACKAGES if not shutil.which(name)]
        if self.missing:
            names = " ".join(PACKAGES[name] for name in self.missing)
            print(f"bench: missing, left out: {' '.join(self.missing)} (packages: {names})")
        if not os.path.exists(BUSYBOX):
            sys.exit(f"bench: {BUSYBOX} is missing (package: busybox-static)")
        adopt_orphans()
        self.locks = f"{SHM}/libpod_rootless_lock_{os.getuid()}"
        self.had_locks = os.path.exists(self.locks)
        self.work = tempfile.mkdtemp(prefix="rless-bench-", dir=directory)
        self.environment = environment(self.work)
        self.environment_before = environment_before(self.work)
        self.archive = f"{self.work}/image.tar"
        self.image = f"docker-archive:{self.archive}"

    def __enter__(self) -> Peers:
        """Make the image, and give it to each peer."""
        try:
            configure_podman(self.work)
            self._make_image()
            for program, own in self.installations():
                self.check([program, "run", "--rm", "--network", "none", self.image, "true"], own)
            if "podman" not in self.missing:
                self.check(["podman", "load", "-q", "-i", self.archive])
            if "crun" not in self.missing:
                self._make_bundle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all, containers too."""
        for program, own in self.installations():
            left = self.run([program, "ps", "-aq"], own).stdout.split()
            if left:
                self.run([program, "rm", "-f", *left], own)
        if "podman" not in self.missing:
            self.run(["podman", "rm", "-f", "-a", "-t", "0"])
        end_orphans()
        clear(self.work, self.rless)
        if not self.had_locks and os.path.exists(self.locks):
            os.unlink(self.locks)

    def _make_image(self) -> None:
        """Make a root directory of busybox, and a docker-archive of it."""
        root = f"{self.work}/rootfs"
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            os.makedirs(f"{root}/{name}", 0o755)
        shutil.copy(BUSYBOX, f"{root}/bin/busybox")
        for name in APPLETS:
            os.symlink("busybox", f"{root}/bin/{name}")
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            tar.add(root, "", filter=as_root)
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, ""),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "history": [{"created_by": "scripts/bench"}],  # podman builds on none without
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer.getvalue())}"]},
        }
        text = json.dumps(config).encode()
        manifest = [
            {"Config": f"{digest(text)}.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}
        ]
        with tarfile.open(self.archive, "w") as tar:
            for name, data in (
                (f"{digest(text)}.json", text),
                ("layer.tar", layer.getvalue()),
                ("manifest.json", json.dumps(manifest).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    def _make_bundle(self) -> None:
        bundle = f"{self.work}/bundle"
        os.mkdir(bundle)
        self.check(["crun", "spec", "--rootless"], cwd=bundle)
        with open(f"{bundle}/config.json", encoding="utf-8") as file:
            spec = json.load(file)
        spec["process"].update(args=["true"], terminal=False)
        spec["root"]["path"] = f"{self.work}/rootfs"
        write(f"{bundle}/config.json", json.dumps(spec))

    def installations(self) -> list[tuple[str, dict[str, str]]]:
        """Return each rless with its environment."""
        found = [(self.rless, self.environment)]
        return [*found, (self.before, self.environment_before)] if self.before else found

    def twin(self, command: list[str]) -> list[str] | None:
        """Return the same command for the version before, if there is one and it is of rless."""
        if self.before is None or not any(self.rless in word for word in command):
            return None
        ours, theirs = (own["RLESS_STORAGE"] for _, own in self.installations())
        return [word.replace(self.rless, self.before).replace(ours, theirs) for word in command]

    # -- running ---------------------------------------------------------------------------------

    def run(
        self, argv: list[str], env: dict[str, str] | None = None, cwd: str = "/"
    ) -> subprocess.CompletedProcess[str]:
        """Run a program and keep what it says."""
        return subprocess.run(
            argv,
            check=False,
            env=env or self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            errors="replace",
        )

    def check(self, argv: list[str], env: dict[str, str] | None = None, cwd: str = "/") -> None:
        """Run a program that must work."""
        done = self.run(argv, env, cwd)
        if done.returncode:
            sys.exit(f"bench: {' '.join(argv)}: {done.stdout.strip()}")

    def time(
        self, commands: list[list[str]], at_once: int = 1, env: dict[str, str] | None = None
    ) -> tuple[float, float]:
        """Return the milliseconds that the commands take, and those of processor time.

        One after another or some at a time. Processor time is that of all their processes, also
        those that a command leaves behind, if they end within SETTLES seconds.
        """
        null = os.open("/dev/null", os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        running: set[int] = set()
        failed = 0
        known = children()
        before = processor_time()
        began = time.perf_counter()
        for number, argv in enumerate(commands, 1):
            running.add(
                os.posix_spawnp(argv[0], argv, env or self.environment, file_actions=actions)
            )
            while len(running) == at_once or (running and number == len(commands)):
                pid, status = os.wait()
                failed += pid in running and status != 0
                running.discard(pid)
        spent = time.perf_counter() - began
        while not children() <= known and time.perf_counter() < began + spent + SETTLES:
            time.sleep(0.01)
        os.close(null)
        if failed:
            print(f"bench: {failed} of {len(commands)} failed: {' '.join(commands[0][:3])}")
        return 1000 * spent, 1000 * (processor_time() - before)

    def machine(self) -> str:
        version = ".".join(os.uname().release.split(".")[:2])
        parts = [f"{os.cpu_count()} cores", f"kernel {version}"]
        for argv in (["podman", "--version"], ["crun", "--version"], ["bwrap", "--version"]):
            if argv[0] not in self.missing:
                said = self.run(argv).stdout.partition("\n")[0]
                parts.append(said.replace(" version", ""))
        return ", ".join(parts)


def adopt_orphans() -> None:
    """Become the parent of all that the measured programs leave behind, so that it is counted."""
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def end_orphans() -> None:
    """End all that the measured programs have left behind, for whatever reason."""
    for _ in range(100):
        left = children()
        if not left:
            return
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def children() -> set[int]:
    """Return our children and adopted ones that still run; wait for those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return set(map(int, file.read().split()))


def processor_time() -> float:
    """Return the seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def as_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()
