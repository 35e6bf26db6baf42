"""Unpack the layers of an image in parallel, while they are still being downloaded.

Theory of operation. One child of the command, the foreman, is root of a user namespace with the
image's map. It forks a worker for each missing layer, from the bottom of the image to its top,
some more than there are cores. A worker reads its blob as it arrives, hashes and decompresses it in
a second thread, and unpacks it into a directory of its own in the scratch directory. Layers rarely
depend on each other, because they are separate directories. A layer that needs to know what is
below it (it writes into a directory that it does not mention, or links to a file that it does not
have) waits until all layers below are in place.

Only the foreman puts layers into their places, each by one rename, after its worker has verified
every byte: the blob's digest and the diff_id. If one fails, all end; what is in place by then is
whole.

    command --- Call --- foreman --+-- worker of layer 0
       |  progress (a pipe) <------+-- worker of layer 1 ...
       +-- threads that download -> files, and a byte in a pipe (`Arrival`) for each piece

No process outlives its parent: each child is killed with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError, SyscallError
from rootless.image.layer.decompress import BlobStream
from rootless.image.layer.layers import (
    Caller,
    is_complete,
    move_into_place,
    place_split,
    user_files,
)
from rootless.image.layer.lookup import LayerLookup
from rootless.image.layer.tar_reader import TarReader
from rootless.image.layer.tarsplit import SplitWriter
from rootless.image.layer.unpack import Unpacker, supports_overlay_whiteouts
from rootless.image.model import limits
from rootless.image.store.records import write_meta
from rootless.image.store.store import layer_dir, split_path
from rootless.linux import prctl
from rootless.linux.idmap import Call, answer, take_answer
from rootless.paths import private_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rootless.image.layer.layers import LayerBlob
    from rootless.image.registry.progress import Progress
    from rootless.linux.idmap import IdMap

_MOST_WORKERS = 8
_EXTRACTING = "Extracting"
_REPORT_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A layer in its place may be a link into an additional store.
_PLACED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def unpack(
    root: str, idmap: IdMap, layers: Sequence[LayerBlob], scratch: str, progress: Progress
) -> None:
    """Make the layers of one image that are not there yet for this map.

    Args:
        layers: all of the image, bottom first; those that are missing must have been fetched,
            or be arriving.
        scratch: a directory of the store's file system.

    Raises:
        RlessError: a layer is broken or hostile, or there is no room. Layers that were complete
            before stay; the caller deletes those that no image has.

    Where it runs: the work in children; the caller must have no second thread.
    """
    with Unpacking(root, idmap, layers, scratch, progress) as work:
        work.watch()
        work.result()


class Unpacking:
    """Runs `unpack` while the caller goes on (and may make threads).

    A `with` block: the children do not outlive it.
    """

    def __init__(
        self,
        root: str,
        idmap: IdMap,
        layers: Sequence[LayerBlob],
        scratch: str,
        progress: Progress,
    ) -> None:
        private_dir(f"{root}/layers/{idmap.key}")
        self._progress = progress
        self._layers = layers
        self._text = b""
        self._reader, writer = os.pipe()
        report = _Report(writer, wanted=progress.wanted)
        try:
            self._call = Call(
                idmap, _lead, root, idmap, layers, scratch, report, Caller(idmap), self._reader
            )
        except BaseException:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)

    def __enter__(self) -> Unpacking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call.close()
        # Its workers die with the foreman, but not at once: each holds the other end, and the
        # store's lock.
        while os.read(self._reader, 1 << 16):
            pass
        os.close(self._reader)

    def watch(self, other: int = -1) -> None:
        """Show how it goes on until there is a result, or until `other` can be read."""
        poller = select.poll()
        for fd in (self._call.fd, self._reader, other):
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if self._reader in ready:
                data = os.read(self._reader, 1 << 16)
                self._show(data)
                if not data:
                    poller.unregister(self._reader)
            elif self._call.fd in ready or other in ready:
                return

    def _show(self, data: bytes) -> None:
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            number, done, state = line.decode().split(" ", 2)
            layer = self._layers[int(number)]
            if state != _EXTRACTING:
                self._progress.state(layer.short, state)
            elif layer.arrival is None or layer.arrival.done >= layer.size:
                # Before that its line tells of the download.
                self._progress.advance(layer.short, int(done), state, layer.size)

    def result(self) -> None:
        """Wait for the end.

        Raises:
            RlessError: as `unpack`.
        """
        self._call.result()


class _Report:
    """Reports progress to the command: lines in a pipe, each written at once."""

    def __init__(self, fd: int, *, wanted: bool) -> None:
        self._fd = fd
        self._wanted = wanted
        self._told = 0

    def state(self, number: int, state: str, done: int = 0) -> None:
        if self._wanted:
            os.write(self._fd, f"{number} {done} {state}\n".encode())

    def advance(self, number: int, done: int) -> None:
        if done - self._told >= _REPORT_BYTES:
            self._told = done
            self.state(number, _EXTRACTING, done)


# -- the foreman -------------------------------------------------------------------------------


def _lead(
    root: str,
    idmap: IdMap,
    layers: Sequence[LayerBlob],
    scratch: str,
    report: _Report,
    caller: Caller,
    reader: int,
) -> None:
    os.close(reader)
    caller.bind_child()
    for layer in layers:
        if layer.arrival is not None:
            layer.arrival.only_read()
    _Foreman(root, idmap, layers, scratch, report, caller).run()


class _Foreman:
    """Starts workers, and puts the layers that they have made into their places."""

    def __init__(
        self,
        root: str,
        idmap: IdMap,
        layers: Sequence[LayerBlob],
        scratch: str,
        report: _Report,
        caller: Caller,
    ) -> None:
        self._root = root
        self._idmap = idmap
        self._layers = layers
        self._scratch = scratch
        self._scratch_fd = os.open(scratch, _DIRECTORY)
        self._report = report
        self._caller = caller
        self._overlay = supports_overlay_whiteouts(self._scratch_fd)
        # Of each layer that is not in place: a pipe that ends when it is.
        self._places: dict[int, tuple[int, int]] = {}
        self._running: dict[int, tuple[int, int]] = {}  # result's descriptor -> layer, pid
        self._made: dict[int, dict[str, Any]] = {}

    def run(self) -> None:
        layers = self._layers
        missing = [
            number
            for number, layer in enumerate(layers)
            if not is_complete(self._root, self._idmap.key, layer.chain)
        ]
        for number in missing:
            if layers[number].fd < 0:
                raise RlessError(
                    f"layer {layers[number].short} was removed in the meantime",
                    "run the pull again",
                )
            self._places[number] = os.pipe()
        crew = min(_MOST_WORKERS, len(os.sched_getaffinity(0)) + 1)
        poller = select.poll()
        try:
            while missing or self._running:
                while missing and len(self._running) < crew:
                    poller.register(self._start(missing.pop(0)), select.POLLIN)
                for fd, _ in poller.poll():
                    poller.unregister(fd)
                    self._finish(fd)
                self._place_all()
        finally:
            for _, pid in self._running.values():
                os.kill(pid, signal.SIGKILL)  # not waited for yet: the number is still its own
                os.waitpid(pid, 0)

    def _start(self, number: int) -> int:
        reader, writer = os.pipe()
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                prctl.set_parent_death_signal(signal.SIGKILL)
                if os.getppid() != me:
                    os._exit(70)
                os.close(reader)
                for _, end in self._places.values():
                    os.close(end)
                answer(writer, self._work, number)
            finally:
                os._exit(70)
        os.close(writer)
        self._running[reader] = number, pid
        return reader

    def _finish(self, fd: int) -> None:
        """Take the result of a worker.

        Raises:
            RlessError: it has failed.
        """
        number, pid = self._running.pop(fd)
        with open(fd, encoding="utf-8") as stream:
            text = stream.read()
        _, status = os.waitpid(pid, 0)
        self._made[number] = take_answer(text, status)

    def _place_all(self) -> None:
        for number in sorted(self._made):
            below = number - 1
            if not self._made[number]["has_root"] and below in self._places:
                continue  # its root is to be as that of the layer below
            self._place(number, self._made.pop(number))

    def _place(self, number: int, made: dict[str, Any]) -> None:
        layer = self._layers[number]
        name = f"layer-{number}"
        if not made["has_root"]:
            self._copy_root(number)
        place_split(
            self._scratch_fd, f"{name}.split", split_path(self._root, layer.chain), self._caller.ids
        )
        final = layer_dir(self._root, self._idmap.key, layer.chain)
        move_into_place(self._scratch_fd, name, final)
        for end in self._places.pop(number):
            os.close(end)
        self._report.state(number, "Pull complete")

    def _copy_root(self, number: int) -> None:
        """Give a layer's root, of which the layer says nothing, the attributes it has below."""
        fd = os.open(f"layer-{number}", _DIRECTORY, dir_fd=self._scratch_fd)
        try:
            if number == 0:
                os.fchmod(fd, 0o755)
                return
            below = self._layers[number - 1].chain
            status = os.stat(layer_dir(self._root, self._idmap.key, below))
            if not self._idmap.single:
                os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, status.st_mode & (0o1777 if self._idmap.single else 0o7777))
            os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(fd)

    # -- a worker --------------------------------------------------------------------------------

    def _work(self, number: int) -> dict[str, Any]:
        """Unpack one layer into the scratch directory, and write its meta record."""
        layer = self._layers[number]
        what = f"layer {layer.short}"
        name = f"layer-{number}"
        try:
            os.mkdir(name, 0o700, dir_fd=self._scratch_fd)
            root_fd = os.open(name, _DIRECTORY, dir_fd=self._scratch_fd)
            split = SplitWriter(self._scratch_fd, f"{name}.split")
            stream = BlobStream(layer.fd, layer.offset, layer.size, what, layer.arrival)
            self._report.state(number, _EXTRACTING)
            meta, has_root = self._unpack(number, root_fd, split, stream)
            split.finish()
        except OSError as error:
            raise RlessError(
                f"cannot unpack {what}: {error.strerror}", limits.hint(error.errno)
            ) from error
        write_meta(self._root, self._idmap.key, meta, self._scratch, self._caller.ids)
        return {"has_root": has_root}

    def _unpack(
        self, number: int, root_fd: int, split: SplitWriter, stream: BlobStream
    ) -> tuple[dict[str, Any], bool]:
        layer = self._layers[number]
        what = f"layer {layer.short}"
        view = LayerLookup(root_fd, lambda: self._lowers(number))
        unpacker = Unpacker(root_fd, view, self._idmap, split, overlay_whiteouts=self._overlay)
        reader = TarReader(stream.ahead(), what, split=split)
        report = self._report
        try:
            unpacker.apply(reader, lambda: report.advance(number, stream.taken))
        except SyscallError:
            raise
        except RlessError as error:
            if what in error.message:
                raise
            raise error.within(what) from error
        if layer.digest is not None and stream.digest != layer.digest:
            raise RlessError(f"{what} does not have its digest", "the source is damaged or lies")
        if stream.diff_id != layer.diff_id:
            raise RlessError(
                f"{what} unpacks to {stream.diff_id}, but the image says {layer.diff_id}",
                "the source is damaged or lies",
            )
        meta = {
            "chain": layer.chain,
            "diff_id": layer.diff_id,
            "blob": layer.digest,
            "size": unpacker.bytes,
            "whiteouts": "overlay" if self._overlay else "aufs",
            "skipped_devices": unpacker.skipped_devices,
            "lost_xattrs": unpacker.lost_xattrs,
            "users": user_files(root_fd),
            "uids": self._idmap.uids,
            "gids": self._idmap.gids,
        }
        return meta, unpacker.has_root

    def _lowers(self, number: int) -> list[int]:
        """Wait until all layers below are in place; return their descriptors, bottom first."""
        for below, (end, _) in self._places.items():
            if below < number:
                os.read(end, 1)
        return [
            os.open(layer_dir(self._root, self._idmap.key, layer.chain), _PLACED)
            for layer in self._layers[:number]
        ]


# -- a blob that arrives -----------------------------------------------------------------------


class Arrivals:
    """Blobs that are downloaded into files while workers read these. A `with` block.

    Args:
        layers: those whose blobs are to come; they have files.
    """

    def __init__(self, layers: Sequence[LayerBlob]) -> None:
        self._layers = layers
        for layer in layers:
            layer.arrival = Arrival()

    @property
    def has_restarted(self) -> bool:
        """Tell whether a blob began anew, with other bytes perhaps than were read before."""
        return any(layer.arrival is not None and layer.arrival.restarted for layer in self._layers)

    def give_up(self) -> None:
        """Make the downloads end at their next piece."""
        for layer in self._layers:
            if layer.arrival is not None:
                layer.arrival.given_up = True

    def all_are_there(self) -> None:
        """Make the layers such that are read without waiting."""
        for layer in self._layers:
            if layer.arrival is not None:
                layer.arrival.close()
            layer.arrival = None

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.all_are_there()


class Arrival:
    """Tell the reader of one blob that there is more of it in its file."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self.done = 0
        self.restarted = False
        self.given_up = False

    def note(self, done: int) -> None:
        """Say how many bytes are there; called by the thread that downloads.

        Raises:
            RlessError: nobody wants the blob any more.
        """
        if self.given_up:
            raise RlessError("given up")
        if done < self.done:
            self.restarted = True
        self.done = done
        with contextlib.suppress(BlockingIOError):  # it has not even read what it was told before
            os.write(self._writer, b".")

    def only_read(self) -> None:
        """Leave writing to the parent, so that its end is seen."""
        os.close(self._writer)
        self._writer = -1

    def wait(self) -> bool:
        """Wait until there may be more; False: nothing comes any more."""
        return bool(os.read(self._reader, 1 << 16))

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._reader)
        if self._writer >= 0:
            os.close(self._writer)
