"""One RUN: its mounts, its config, the runtime, its output, its exit code.

It is done like the start of a container, by the same rooms: `engine.spec` makes the config, and
`runtime.host.parent` clones init, which is process 1 of a pid namespace of its own. So what a RUN
leaves running ends with it. There is no container directory, no monitor and no start of Python.

Where it runs: in a step process, root of the build's user namespace, in a mount namespace of its
own. All mounts here are made there, so no other step sees them.
"""

from __future__ import annotations

import os
import select
import stat
import time
from typing import TYPE_CHECKING, Any

from rootless import rootfs
from rootless.engine.build.mounts import Mounts
from rootless.engine.build.network import enter_empty
from rootless.engine.build.stubs import Stubs
from rootless.engine.request import Device
from rootless.engine.spec import etc_files, fakeroot, generate
from rootless.engine.spec.generate import SpecInputs
from rootless.errors import RlessError, SyscallError, escape
from rootless.image.config.user import resolve_user
from rootless.linux import caps
from rootless.linux.openat2 import openat2
from rootless.runtime.cgroup.none import NoCgroup
from rootless.runtime.host import parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rootless.dockerfile.ignore import IgnoreRules
    from rootless.engine.build.messages import Say
    from rootless.engine.build.network import Client
    from rootless.engine.build.owners import Recorder
    from rootless.engine.build.steps import Origin, RunStep
    from rootless.engine.request import RunRequest
    from rootless.linux.idmap import IdMap
    from rootless.oci.runtime_spec import Spec
    from rootless.rootfs import Mounted
    from rootless.runtime.cgroup.base import Cgroup
    from rootless.runtime.host.optional_features import OptionalFeatures
    from rootless.runtime.host.parent import Begun


HOSTNAME = "rless-build"
_USERS_LIMIT = 1 << 20  # bytes of /etc/passwd and /etc/group (security class 69)
_BLOCK = 64 << 10  # bytes of output in one message, and of a line that is not cut
_KEPT = 32 << 20  # bytes of output in one file; there are two of them
_SCRIPT = "/dev/pipes/script"  # BuildKit's directory; /dev is no part of the image


class StepEnvironment:
    """What a RUN takes from the build.

    Attributes:
        idmap: of the build's user namespace.
        mounted: the tree before, writable.
        directory: absolute, private, empty: for files of ours.
        common: absolute, private: for files that are alike in all RUNs that have it; "": the same.
        cache_dir: where compiled seccomp filters are kept.
        settings: options of `run` that hold for each RUN: --add-host, --dns, --ulimit, ...
        network: where the network of the build is asked for.
        proxies: NAME=VALUE, which are in no key and no history.
        hostname: BUILDKIT_SANDBOX_HOSTNAME.
        allowed: entitlements of --allow.
        cgroup: of the build (`limits`); None: no limit is asked for, and the caller's is kept.
        open_origin: returns the descriptor of the directory that a mount takes files from; a tree
            that has to be mounted for it gets a workspace of the name.
        find_ignored: returns the patterns of .dockerignore that hold there, if there are any.
        secrets, agents: by id, the value of a secret and the socket of an agent.
        root: of the store, where cache mounts are (`caches`).
        emptied: absolute: where a build notes which of them it has begun anew, each once; "": none.
        cache_namespace: BUILDKIT_CACHE_MOUNT_NS, which sets them apart from others.
        timeout: seconds after which a RUN is ended, 0: never.
    """

    def __init__(
        self,
        idmap: IdMap,
        mounted: Mounted,
        directory: str,
        cache_dir: str,
        settings: RunRequest,
        network: Client,
        *,
        common: str = "",
        proxies: tuple[str, ...] = (),
        hostname: str = HOSTNAME,
        allowed: frozenset[str] = frozenset(),
        cgroup: Cgroup | None = None,
        open_origin: Callable[[Origin, str], int] | None = None,
        find_ignored: Callable[[Origin], IgnoreRules | None] | None = None,
        secrets: Mapping[str, bytes] | None = None,
        agents: Mapping[str, str] | None = None,
        root: str = "",
        emptied: str = "",
        cache_namespace: str = "",
        timeout: float = 0,
    ) -> None:
        self.idmap = idmap
        self.mounted = mounted
        self.directory = directory
        self.common = common or directory
        self.cache_dir = cache_dir
        self.settings = settings
        self.network = network
        self.proxies = proxies
        self.hostname = hostname
        self.allowed = allowed
        if cgroup is None:
            if settings.asks_limits():
                raise RlessError("limits are not supported for a build yet")
            cgroup = NoCgroup("no limit is asked for")
        self.cgroup = cgroup
        self.open_origin = open_origin or _no_origin
        self.find_ignored = find_ignored or (lambda _: None)
        self.secrets = secrets or {}
        self.agents = agents or {}
        self.root = root
        self.emptied = emptied
        self.cache_namespace = cache_namespace
        self.timeout = timeout


def execute(step: RunStep, environment: StepEnvironment, say: Say) -> int:
    """Do a RUN; return its exit code, 128+N for a signal.

    The tree is unmounted then, and what it has written is in `upper` of its workspace (drivers
    overlay and fuse-overlayfs) or in the tree itself (driver copy).

    Args:
        say: gets {"kind": "output", "stream": 1 or 2, "text": whole lines}.

    Raises:
        RlessError: it could not be begun (exit code 126 or 127: no such program).
    """
    return _Run(step, environment, say).run()


def failure(step: RunStep, code: int) -> RlessError:
    """Return the error of a RUN that has ended with an exit code other than 0."""
    command = "the script" if step.script else escape(" ".join(step.args))
    what = f"process {command} did not complete successfully: exit code {code}"
    return RlessError(what, exit_code=code)


def _no_origin(origin: Origin, name: str) -> int:
    raise RlessError(f"there is no {origin.kind} to mount from ({name})")


class _Run:
    def __init__(self, step: RunStep, environment: StepEnvironment, say: Say) -> None:
        self.step = step
        self.environment = environment
        self.say = say
        self.root = environment.mounted.path
        self.files: list[str] = []
        self.mounts = Mounts(step, environment, say)
        self.request = self._request()
        self.recorder: Recorder | None = None

    def _request(self) -> RunRequest:
        """Return what `run` would be asked for."""
        step, environment = self.step, self.environment
        settings = environment.settings
        network = settings.network
        if step.network != "default":
            network = step.network
        if network == "host" != settings.network and "network.host" not in environment.allowed:
            raise RlessError(
                "RUN --network=host is not allowed", "give --allow network.host, or --network=host"
            )
        if step.security == "insecure" and "security.insecure" not in environment.allowed:
            raise RlessError(
                "RUN --security=insecure is not allowed", "give --allow security.insecure"
            )
        for name in (device.name for device in step.devices):
            if not {"device", f"device={name}"} & environment.allowed:
                raise RlessError(f"RUN --device={escape(name)} is not allowed", "give --allow device")
        return settings.replace(
            command=(*step.args, _SCRIPT) if step.script else step.args,
            env=(*step.env, *environment.proxies),
            env_remove=("HOSTNAME",),  # the host name is not for the image's files
            workdir=step.directory,
            network=network,
            privileged=settings.privileged or step.security == "insecure",
            systemd="false",
        )

    def run(self) -> int:
        environment = self.environment
        stubs = None
        shown = None
        try:
            self.mounts.prepare()
            spec = self._make_spec()
            upper = _upper(environment.mounted)
            stubs = Stubs(self.root, upper)
            stubs.make(_places(spec))
            shown = etc_files.show(environment.directory, self.files)
            return self._run(spec)
        finally:
            if shown is not None:
                rootfs.unmount(shown)
            self.mounts.close()
            self._end_recorder()
            if stubs is not None and stubs.in_root:
                stubs.remove()
            rootfs.unmount(environment.mounted)
            if stubs is not None and not stubs.in_root:
                stubs.remove()

    # -- spec --------------------------------------------------------------------------------

    def _make_spec(self) -> Spec:
        environment, request = self.environment, self.request
        uid, gid, groups, home = self._user()
        inputs = SpecInputs(environment.idmap, uid, gid)
        inputs.groups = [one for one in groups if environment.idmap.host_gid(one) is not None]
        inputs.home = home
        inputs.last_cap = caps.last_capability()
        if environment.idmap.single and (uid, gid) != (0, 0):
            inputs.inner_map = (
                [{"containerID": uid, "hostID": 0, "size": 1}],
                [{"containerID": gid, "hostID": 0, "size": 1}],
            )
            inputs.groups = []
        inputs.hostname = environment.hostname
        directory = environment.directory
        inputs.files = self._etc_files(inputs.hostname)
        inputs.seccomp = generate.seccomp_profile(request, inputs)
        if environment.idmap.single and uid == 0 and request.fakeroot is not False:
            inputs.seccomp = fakeroot.pretend(inputs.seccomp, notifies=True)
            inputs.files.update(fakeroot.write_files(directory))
            inputs.env += fakeroot.ENVIRONMENT
        self.files = [*inputs.files.values()]
        inputs.files = {path: etc_files.shown(directory, one) for path, one in inputs.files.items()}
        inputs.mounts = [*self.mounts.wanted]
        inputs.env_over = self.mounts.env
        self._add_devices(inputs)
        cgroup = environment.cgroup
        inputs.resources = cgroup.resources
        spec = generate.generate(request, {}, inputs)
        spec["process"]["rlimits"] = [*spec["process"]["rlimits"], *cgroup.rlimits]
        spec["root"]["path"] = self.root
        if self.step.script:
            self._add_script(spec)
        if request.network != "host":
            if request.network == "none":
                enter_empty(environment.idmap, gid)
            else:
                environment.network.enter(environment.idmap, gid)
            path = f"/proc/{os.getpid()}/ns/net"
            spec["linux"]["namespaces"].append({"type": "network", "path": path})
        return spec

    def _etc_files(self, hostname: str) -> dict[str, str]:
        """Return path inside -> file outside of /etc/hosts, hostname and resolv.conf.

        A RUN gets copies of them, so they are written once.
        """
        place = f"{self.environment.common}/etc-{self.step.network}"
        os.makedirs(self.environment.common, 0o700, exist_ok=True)
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            return {f"/etc/{name}": f"{place}/{name}" for name in sorted(os.listdir(place))}
        return etc_files.write(self.request, place, hostname)

    def _add_devices(self, inputs: SpecInputs) -> None:
        """Add what the devices need, by path or by name (CDI); one that is not there is left out.

        Raises:
            RlessError: one is required and not there, or it needs links in the image.
        """
        settings = self.environment.settings
        etc_files.check_devices(settings.devices)
        if self.step.devices or settings.cdi:
            self._add_named_devices(inputs, [*settings.cdi])
        etc_files.check_devices(inputs.devices)

    def _add_named_devices(self, inputs: SpecInputs, names: list[str]) -> None:
        from rootless.engine.spec import cdi

        for device in self.step.devices:
            try:
                if device.name.startswith("/"):
                    nodes = [Device(device.name, device.name)]
                    etc_files.check_devices(nodes)
                    inputs.devices += nodes
                else:
                    found = cdi.names(device.name)
                    cdi.resolve(found)
                    names += found
            except RlessError as error:
                if device.required:
                    raise
                text = f"RUN --device={escape(device.name)} is left out: {error.message}"
                self.say({"kind": "warning", "text": text})
        if names:
            edits = cdi.resolve(names)
            if edits.links:
                raise RlessError(
                    f"RUN --device={escape(names[0])} needs links in the image, where they would stay",
                    "make them in the Dockerfile, or describe the device without them",
                )
            taken = {mount.target for mount in inputs.mounts}
            inputs.devices += edits.devices
            inputs.mounts += [mount for mount in edits.mounts if mount.target not in taken]
            inputs.env += cdi.environment(edits, {"Env": self.step.env})
            inputs.keep_groups = edits.keep_groups

    def _user(self) -> tuple[int, int, list[int], str]:
        """Return uid, gid, groups and home by the files of the tree.

        Raises:
            RlessError: there is no such user, or the map does not have it.
        """
        root_fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            passwd, group = (read_users(root_fd, name) for name in ("passwd", "group"))
        finally:
            os.close(root_fd)
        uid, gid, groups, home = resolve_user(self.step.user, passwd=passwd, group=group)
        idmap = self.environment.idmap
        if idmap.single:
            return uid, gid, groups, home  # it gets a map of its own
        if idmap.host_uid(uid) is None or idmap.host_gid(gid) is None:
            raise RlessError(
                f"user {uid}:{gid} is not in the id map of the build",
                "`rless doctor` shows your subordinate ids",
            )
        return uid, gid, groups, home

    def _add_script(self, spec: Spec) -> None:
        """Put the body of a here-document where it can be executed, and nowhere else."""
        file = f"{self.environment.directory}/script"
        etc_files.put(file, self.step.script)
        os.chmod(file, 0o755)
        self.files.append(file)
        spec["mounts"].append(
            {
                "destination": _SCRIPT,
                "type": "bind",
                "source": etc_files.shown(self.environment.directory, file),
                "options": ["bind", "nosuid", "nodev", "ro"],
            }
        )

    # -- process -----------------------------------------------------------------------------

    def _begin_recorder(self, spec: Spec) -> OptionalFeatures | None:
        """Have changes of owners noted, where the filter notifies of them."""
        seccomp = spec["linux"].get("seccomp") or {}
        if not self.environment.idmap.single or "listenerPath" not in seccomp:
            return None
        from rootless.engine.build.owners import Recorder
        from rootless.runtime.host.listener import Listener
        from rootless.runtime.host.optional_features import OptionalFeatures, state_of

        self.recorder = Recorder(self.root)
        state = state_of(HOSTNAME, self.root, {})
        plain = {name: value for name, value in seccomp.items() if name != "listenerPath"}
        optional = OptionalFeatures({"linux": {"seccomp": plain}}, spec["process"], state)
        optional.listener = Listener(self.recorder.fd, state)
        return optional

    def _end_recorder(self) -> None:
        """End the recorder; say what was answered without effect."""
        if self.recorder is not None:
            self.recorder.close()
            lost = self.recorder.without_effect()
            self.recorder = None
            if lost:
                text = f"without subordinate ids, changes seemed to succeed, but had no effect: {lost}"
                self.say({"kind": "warning", "text": text})

    def _run(self, spec: Spec) -> int:
        optional = self._begin_recorder(spec)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        out, err = os.pipe(), os.pipe()
        try:
            begun = parent.begin(
                spec,
                lambda: self.environment.cgroup,
                cache_dir=self.environment.cache_dir,
                start_fifo=-1,
                stdio=(null, out[1], err[1]),
                die_with_parent=True,
                optional=optional,
            )
        except BaseException:
            os.close(out[0])
            os.close(err[0])
            raise
        finally:
            for fd in (null, out[1], err[1]):
                os.close(fd)
            if optional is not None and optional.listener is not None:
                os.close(optional.listener.fd)
        try:
            begun.wait_ready()
            begun.wait_exec()
            self._copy_output(begun, {out[0]: 1, err[0]: 2})
        except BaseException:
            begun.end()
            raise
        finally:
            os.close(out[0])
            os.close(err[0])
        _, status = os.waitpid(begun.pid, 0)
        os.close(begun.pidfd)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _copy_output(self, begun: Begun, fds: Mapping[int, int]) -> None:
        """Pass on what it writes, until it has ended and all is read.

        Somebody else may have got hold of a pipe (through a socket of the network): once process 1
        has ended, nobody waits for its end.

        Raises:
            RlessError: it takes longer than --timeout says.
        """
        limit = self.environment.timeout
        latest = time.monotonic() + limit if limit else None
        kept = _Kept(f"{self.environment.directory}/output")
        lines = {fd: _Lines(stream, self.say, kept) for fd, stream in fds.items()}
        poll = select.poll()
        for fd in (*fds, begun.pidfd):
            poll.register(fd, select.POLLIN)
        ended = False
        left = set(fds)
        while left or not ended:
            left_ms = None if latest is None else max(0, (latest - time.monotonic()) * 1000)
            events = poll.poll(0 if ended else left_ms)
            if not ended and latest is not None and time.monotonic() >= latest:
                raise RlessError(
                    f"the process was ended after {limit:g} s", "give it more time: --timeout", 1
                )
            if not events:
                break
            for fd, _ in events:
                if fd == begun.pidfd:
                    ended = True
                    poll.unregister(fd)
                    continue
                data = os.read(fd, _BLOCK)
                lines[fd].feed(data)
                if not data:
                    poll.unregister(fd)
                    left.discard(fd)
        for one in lines.values():
            one.feed(b"")
        kept.close()


class _Lines:
    """Whole lines of one stream; a longer one than `_BLOCK` is cut."""

    def __init__(self, stream: int, say: Say, kept: _Kept) -> None:
        self._stream = stream
        self._say = say
        self._kept = kept
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was read; b"" is the end."""
        self._kept.write(data)
        whole, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        text = whole + newline
        if not data or len(rest) >= _BLOCK:
            text, self._rest = text + rest, b""
        if text:
            shown = text.decode("utf-8", "surrogateescape")
            self._say({"kind": "output", "stream": self._stream, "text": shown})


class _Kept:
    """The end of the output in at most two files, `PATH` and, before it, `PATH.1`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append; a full disk is no reason to stop the RUN."""
        if not data:
            return
        try:
            if self._size >= _KEPT:
                self.close()
                os.replace(self._path, f"{self._path}.1")
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
                self._size = 0
            self._size += os.write(self._fd, data)
        except OSError:
            pass

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_users(root_fd: int, name: str) -> bytes:
    """Return /etc/passwd or /etc/group of a tree; b"" if there is none (security class 69).

    Raises:
        RlessError: it is not a regular file, or too long.
    """
    try:
        fd = openat2(root_fd, f"/etc/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except SyscallError:
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RlessError(f"/etc/{name} of the image is not a regular file")
        if status.st_size > _USERS_LIMIT:
            raise RlessError(f"/etc/{name} of the image is longer than {_USERS_LIMIT} bytes")
        return os.read(fd, _USERS_LIMIT)
    finally:
        os.close(fd)


def _upper(mounted: Mounted) -> str | None:
    """Return the kernel's upper directory; other drivers have marks of their own in theirs: None."""
    if mounted.driver != "overlay":
        return None
    return f"{os.path.dirname(mounted.path)}/upper"


def _places(spec: Spec) -> list[tuple[str, bool]]:
    """Return the mount points that lie in the tree itself: (path, whether it is a directory)."""
    places: list[tuple[str, bool]] = []
    mounted: list[str] = []
    for entry in spec["mounts"]:
        path = os.path.normpath(entry["destination"])
        if not any(path.startswith(f"{one}/") for one in mounted):
            binds = entry.get("type") == "bind"
            places.append((path, not binds or os.path.isdir(entry["source"])))
        mounted.append(path)
    return places
