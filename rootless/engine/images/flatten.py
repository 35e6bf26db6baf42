"""`flatten`: write an image as one squashfs or SIF file, to be run from a shared file system.

The layers are mounted as for a container, in a user namespace where their owners are right, and
mksquashfs archives that tree. mksquashfs may read every file, and has no other right and no
network, because the files are untrusted.

The same image gives the same bytes, with mksquashfs from 4.4 on. It writes in a fixed order, and
its time stamp is set to 0. So are the times of what is added: the image's config, and the
directories that other programs for such files (ch-run, Apptainer) use as mount points. A SIF file
also has what Apptainer reads (`image.squashfs.apptainer`).
"""

from __future__ import annotations

import contextlib
import errno
import os

from rootless import paths
from rootless.engine import idmap_policy
from rootless.engine.images.written import Written
from rootless.errors import RlessError, escape
from rootless.image.model import limits
from rootless.image.squashfs import apptainer
from rootless.image.squashfs.image_file import CONFIG_PATH, identity_of
from rootless.image.squashfs.sif_writer import Head, executable_mode
from rootless.image.store import records
from rootless.image.store.staging import Staging
from rootless.image.store.store import Store
from rootless.image.transfer.install import ensure_layers
from rootless.image.transfer.pull import pull
from rootless.linux import caps, idmap, ns, process, programs
from rootless.linux.exec_helper import exec_helper
from rootless.linux.files import Output, default_mode
from rootless.rootfs import fuse
from rootless.rootfs import mount as mount_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.image.store.store import Image
    from rootless.linux.idmap import IdMap

PROGRAM = "mksquashfs"
COMPRESSIONS = ("lz4", "zstd", "gzip", "xz")  # the first is the default (docs/hpc.md)
_COMPRESSION_OF_SIF = "gzip"  # the only one that each Apptainer reads
# What is mounted on by others: directories, and empty files.
_DIRECTORIES = ("dev", "etc", "home", "mnt", "opt", "proc", "root", "srv", "sys", "tmp", "usr")
_FILES = ("etc/group", "etc/hosts", "etc/passwd", "etc/resolv.conf")
_RIGHTS = ["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]
_TIME_AT = 8  # of the superblock: when the image was made, 4 bytes


def flatten(
    name: str,
    output: str,
    *,
    sif: bool = False,
    deffile: str = "",
    platform: str | None = None,
    compression: str = "",
    keep_owners: bool = False,
    force: bool = False,
    signature_policy: str | None = None,
    described: bool = False,
    shared: bool = False,
    quiet: bool = False,
) -> None:
    """Write an image as a squashfs or SIF file, whole or not at all.

    Args:
        output: absolute path of the file.
        sif: a SIF file. deffile: the definition file in it; "": the one that names the image.
        compression: one of COMPRESSIONS; "": the usual one.
        keep_owners: each file belongs to whom the image says; else all to root, as a user
            without subordinate ids needs it.
        force: replace a file.
        signature_policy: that an image has to satisfy which is pulled.
        described: of a SIF file: the image was built of a definition file, so its files in
            /.singularity.d say what it is, and its config does not.
        shared: of a SIF file: it may be another name of one that was written before.
        quiet: nothing is shown of a pull.

    Raises:
        RlessError: no such image, mksquashfs is missing or failed, no room, the file exists.
    """
    program = programs.find(PROGRAM)
    if program is None:
        raise RlessError(
            f"{PROGRAM} is not installed", "ask the administrator for the package squashfs-tools"
        )
    if os.path.lexists(output) and not force:
        raise RlessError(f"{escape(output)} exists", "name another file, or use --force")
    ids = idmap_policy.Subordinate()
    full = idmap_policy.build(0, 0, ids)
    if keep_owners and full.single:
        raise RlessError(
            f"--keep-owners needs subordinate ids: {ids.why_none}",
            "without it, all files are root's",
        )
    store = Store(paths.storage_root())
    single = idmap_policy.build_single(0, 0)

    def choose(image: Image) -> IdMap:
        """Take what is unpacked already, where the owners are none of ours to keep."""
        # A SIF file is made on clusters, where a user has to be able to remove what a cache holds.
        lost = not keep_owners and full.key not in image.keys and (sif or single.key in image.keys)
        return single if lost else full

    image = pull(
        name,
        store,
        platform=platform,
        quiet=quiet,
        idmap_for=choose,
        signature_policy=signature_policy,
    )
    mapping = choose(image)
    made_of = (image.id, *image.chain, name, compression, *map(str, identity_of(os.stat(program))))
    written = Written(store.root, made_of) if sif and shared else None
    try:
        if written is not None and written.reuse(output):
            return
    except OSError as error:
        raise _failed(output, error) from error
    layers = ensure_layers(image, mapping, store)
    config = b"" if described else _document(image, store)
    name = "" if described else name
    head, added = _of_sif(image, config, name, deffile) if sif else (None, {})
    if described:
        own = [path for path in added if path not in apptainer.ABOUT]
    else:
        own = [*apptainer.OWN]
    arguments = [
        "-comp",
        compression or (_COMPRESSION_OF_SIF if sif else COMPRESSIONS[0]),
        "-b",
        "64K",
        "-noappend",
        "-no-progress",
        "-quiet",
        "-no-xattrs",
    ]
    if head is not None:
        arguments += ["-offset", str(head.size)]
    if not keep_owners:
        arguments.append("-all-root")
    mode = default_mode() if head is None else executable_mode()
    turn = contextlib.nullcontext(False) if written is None else written.turn(output)
    try:
        with turn as done:
            if done:
                return
            with Staging(store.root) as staging, Output(output, mode=mode, durable=True) as file:
                workspace = f"{staging.path}/flatten"
                os.mkdir(workspace, 0o700)
                hidden = image.whiteouts(mapping.key)
                job = _Job(
                    *(program, arguments, output, file.fd, layers, hidden, config, added, own)
                )
                idmap.call_in_userns(mapping, job.run, workspace, mapping)
                before = 0 if head is None else head.size
                os.pwrite(file.fd, bytes(4), before + _TIME_AT)
                if head is not None:
                    size = os.fstat(file.fd).st_size - before
                    os.pwrite(file.fd, head.fill(size, image.id), 0)
            if written is not None:
                written.note(output)
    except OSError as error:
        raise _failed(output, error) from error


def _of_sif(
    image: Image, config: bytes, name: str, deffile: str
) -> tuple[Head, dict[str, tuple[bytes, int]]]:
    """Return what stands before the root file system in a SIF file, and what is added to that."""
    deffile = deffile or apptainer.definition(name)
    architecture = image.platform["architecture"]
    labels = apptainer.labels(image.config, architecture, name)
    head = Head(architecture, labels=labels, deffile=deffile, config=config)
    return head, apptainer.files(image.config, labels, deffile)


def _document(image: Image, store: Store) -> bytes:
    found = records.get_blob(image.root, image.id) or records.get_blob(store.root, image.id)
    if found is None:
        raise RlessError(f"the config of {escape(image.name)} is gone", "pull the image again")
    return found


def _failed(path: str, error: OSError) -> RlessError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return RlessError(
        f"cannot write {escape(path)}: {error.strerror}",
        "free some space there, or name a file elsewhere" if full else "name a file elsewhere",
    )


class _Job:
    """The part that runs in the user namespace."""

    __slots__ = (
        *("added", "arguments", "config", "fd", "layers", "output", "own", "program", "whiteouts"),
    )

    def __init__(
        self,
        program: str,
        arguments: list[str],
        output: str,
        fd: int,
        layers: list[str],
        whiteouts: str,
        config: bytes,
        added: dict[str, tuple[bytes, int]],
        own: list[str],
    ) -> None:
        self.program = program
        self.arguments = arguments
        self.output = output
        self.fd = fd
        self.layers = layers
        self.whiteouts = whiteouts
        self.config = config
        self.added = added
        self.own = own

    def run(self, workspace: str, mapping: IdMap) -> None:
        """Mount the layers, add what is to be added, and write the file."""
        mounted = mount_layers(self.layers, workspace, mapping, whiteouts=self.whiteouts)
        root_fd = os.open(mounted.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _add(root_fd, self.config)
            if self.added:
                _add_for_apptainer(root_fd, self.added, self.own)
        except OSError as error:
            what = f"cannot add {escape(str(error.filename))} to the image's files"
            raise RlessError(f"{what}: {error.strerror}", limits.hint(error.errno)) from error
        finally:
            os.close(root_fd)
        # A root directory that no layer names was made when the image was unpacked.
        os.utime(mounted.path, (0, 0))
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            exec_helper(lambda: self._pack(mounted.path), writer, writer, [self.fd])
        os.close(writer)
        code, said = process.outcome(pid, reader)
        if code != 0:
            lines = said.decode("utf-8", "replace").strip().splitlines()
            why = next((line for line in lines if "rror" in line or "ailed" in line), "")
            if "No space left" in said.decode("utf-8", "replace"):
                raise _failed(self.output, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            raise RlessError(f"{PROGRAM} failed: {escape(why or f'it ended with {code}')[:300]}")

    def _pack(self, root: str) -> NoReturn:
        """Become mksquashfs, in a child of its own."""
        ns.unshare(ns.CLONE_NEWNET | ns.CLONE_NEWIPC)
        fuse.keep_only(caps.mask(_RIGHTS))
        argv = [PROGRAM, root, f"/proc/self/fd/{self.fd}", *self.arguments]
        os.execve(self.program, argv, process.HELPER_ENVIRONMENT)


def _add(root_fd: int, config: bytes) -> None:
    """Add the config, and what others mount on, without following a link of the image."""
    for name in _DIRECTORIES:
        _make_directory(root_fd, name, 0o1777 if name == "tmp" else 0o755)
    etc_fd = _open_directory(root_fd, "etc")
    if etc_fd >= 0:
        before = os.fstat(etc_fd)
        made = [_make_file(etc_fd, path[4:], b"") for path in _FILES]
        if any(made):
            os.utime(etc_fd, ns=(before.st_mtime_ns, before.st_mtime_ns))
        os.close(etc_fd)
    directory, _, name = CONFIG_PATH[1:].partition("/")
    _remove(root_fd, directory)  # of an image that was made of a flattened one
    if not config:
        return
    _make_directory(root_fd, directory, 0o755)
    own_fd = _open_directory(root_fd, directory)
    try:
        _make_file(own_fd, name, config)
        os.utime(own_fd, (0, 0))
    finally:
        os.close(own_fd)


def _add_for_apptainer(root_fd: int, files: dict[str, tuple[bytes, int]], own: list[str]) -> None:
    """Add what Apptainer reads; those of `own` that the image has stay."""
    top_fd = _enter(root_fd, apptainer.DIRECTORY)
    directories = {"": top_fd}
    try:
        for name in ("env", "libs"):
            directories[name] = _enter(top_fd, name)
        for path, (content, mode) in files.items():
            directory, _, name = path.rpartition("/")
            if path not in own:
                _remove(directories[directory], name)
            _make_file(directories[directory], name, content, mode)
        for fd in directories.values():
            os.utime(fd, (0, 0))
    finally:
        for fd in directories.values():
            os.close(fd)


def _enter(dir_fd: int, name: str) -> int:
    """Open a directory that is made if it is missing, also in the place of something else."""
    fd = _open_directory(dir_fd, name)
    if fd < 0:
        _remove(dir_fd, name)
        _make_directory(dir_fd, name, 0o755)
        fd = _open_directory(dir_fd, name)
    return fd


def _remove(dir_fd: int, name: str) -> None:
    from rootless.linux.tree import remove_tree

    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    remove_tree(dir_fd, name)


def _open_directory(root_fd: int, name: str) -> int:
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=root_fd)
    except OSError:
        return -1  # a link: the image has it its own way


def _make_directory(root_fd: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, mode, dir_fd=root_fd)
    except FileExistsError:
        return
    os.chmod(name, mode, dir_fd=root_fd)
    os.utime(name, (0, 0), dir_fd=root_fd)


def _make_file(dir_fd: int, name: str, content: bytes, mode: int = 0o644) -> bool:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, mode, dir_fd=dir_fd)
    except FileExistsError:
        return False
    try:
        os.fchmod(fd, mode)
        while content:
            content = content[os.write(fd, content) :]
        os.utime(fd, (0, 0))
    finally:
        os.close(fd)
    return True
