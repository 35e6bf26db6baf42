"""Bring layers that the store lacks for the map of the build, when a step looks into them.

Steps are in the namespaces of the build, and have no network, no credentials and no second map
there. So the build process does it on the host, in a child for each request, so that it goes on
with the messages of the other steps.

    step process                             build process            its child
      | -- chain ids, a pipe --------------> | -- fork -------------> |  converts, fetches, unpacks
      | <-- "+", or the error ---------------------------------------- |
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from rootless import jsontext
from rootless.errors import RlessError
from rootless.linux import prctl, unix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from rootless.engine.build.carried.imports import Imports
    from rootless.image.store.store import Store
    from rootless.linux.idmap import IdMap

_MESSAGE = 160 << 10  # bytes: two digests for each of limits.LAYERS
_DONE = b"+"


class Client:
    """The end of the steps; it is inherited over the forks."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def bring(self, chain: Sequence[tuple[str, str]]) -> None:
        """Have the layers of a tree brought, as far as they are missing.

        Args:
            chain: (chain id, diff_id), the lowest first; "": the diff_id of an entry of the cache.

        Raises:
            RlessError: one cannot be had.
        """
        reader, writer = os.pipe()
        try:
            unix.send(self.fd, jsontext.dumps([list(row) for row in chain]).encode(), [writer])
        except OSError as error:
            os.close(reader)
            raise RlessError(f"layers cannot be asked for: {error.strerror}") from error
        finally:
            os.close(writer)
        with open(reader, "rb") as stream:
            said = stream.read()
        if said != _DONE:
            raise RlessError(*(jsontext.loads(said) if said else ["a layer cannot be had", None]))


class Bringer:
    """The end of the build process.

    Attributes:
        fd: readable when a step asks; then call `answer`.
        client: for the builder, which is forked after this was made.
    """

    def __init__(self, store: Store, idmap: IdMap, imports: Imports, scratch: str) -> None:
        self._store = store
        self._idmap = idmap
        self._imports = imports
        self._scratch = scratch
        self._children: list[int] = []
        self.fd, client = unix.pair(unix.SOCK_SEQPACKET)
        self.client = Client(client)

    def answer(self) -> None:
        """Answer one request."""
        try:
            message, fds = unix.receive(self.fd, _MESSAGE, 1)
        except ConnectionResetError:
            return  # who has asked has ended
        if not fds:
            return
        scratch = f"{self._scratch}/{len(self._children)}"
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._serve(jsontext.loads(message), fds[0], scratch, parent)
        os.close(fds[0])
        self._children.append(pid)

    def _serve(self, chain: Any, writer: int, scratch: str, parent: int) -> NoReturn:
        code = 1
        try:
            prctl.set_parent_death_signal(signal.SIGKILL)
            if os.getppid() == parent:
                # A key of the terminal is for the build process, which ends us.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                os.makedirs(scratch, 0o700)
                bring(self._store, self._idmap, self._imports, chain, scratch)
                os.write(writer, _DONE)
                code = 0
        except RlessError as error:
            _say(writer, error.message, error.hint)
        except OSError as error:
            _say(writer, str(error), None)
        except BaseException as error:
            _say(writer, f"internal error: {type(error).__name__}: {error}", None)
        finally:
            os._exit(code)

    def forget_client(self) -> None:
        """Close the end of the steps in the build process, after the fork."""
        os.close(self.client.fd)

    def close(self) -> bool:
        """End it, once; return whether a layer could not be had."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        ends = [os.waitpid(pid, 0)[1] for pid in self._children]
        self._children = []
        return any(ends)


def bring(
    store: Store, idmap: IdMap, imports: Imports, chain: Sequence[tuple[str, str]], scratch: str
) -> None:
    """Bring the layers of a tree, in this process.

    Args:
        chain: as `Client.bring` has it. scratch: an empty directory of the store's file system.

    Raises:
        RlessError: one cannot be had.

    Where it runs: on the host, under a `store_lock`; the caller must have no second thread.
    """
    from rootless.image.layer import remap_owners
    from rootless.image.model.source import Found
    from rootless.image.registry.progress import Progress
    from rootless.image.store import records
    from rootless.image.transfer.install import convert_layers, make_layers

    root = store.root
    layers = imports.layers(chain)
    missing = [layer for layer in layers if not records.has_layer(root, idmap.key, layer.chain)]
    others = [layer.chain for layer in missing if layer.digest is None]
    if others:
        source = remap_owners.find_source(root, others, idmap)
        if source is None:
            raise RlessError(f"layer {others[0][7:19]} is no longer in the store")
        convert_layers(root, idmap, source, others, scratch)
    if len(others) < len(missing):
        found = Found(
            manifest=b"", digests=[], config_data=b"", config={"config": {}}, image_id="",
            layers=layers,
        )  # fmt: skip
        make_layers(store, found, imports, scratch, lambda _: idmap, Progress(quiet=True))


def _say(writer: int, message: str, hint: str | None) -> None:
    os.write(writer, jsontext.dumps([message, hint]).encode("utf-8", "backslashreplace"))
