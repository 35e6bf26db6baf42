"""`rless run`, from top to bottom.

    foreground    the launcher, which has forked this process and waits for the container
    sandbox       the namespaces and the network, in parallel with steps 1 to 4 if nothing has to
                  be fetched
    create
      1 image     the name -> layers on disk, and the user that the application runs as
      2 map       which of the image's users the invoking user is
      3 container its directory, name and files
    start
      4 spec      request + image + inputs -> config.json
      5 monitor   what this process becomes: root file system, runtime, clean-up
      6 network   pasta, in parallel with the mounts
      7 attach    the foreground process: streams, signals, exit code

The order differs from Docker's: without root, the user namespace has to exist before the overlay
can be mounted. Each step loads its heavy modules itself.
"""

from __future__ import annotations

from rootless import paths
from rootless.engine.attach.foreground import Attachment, Foreground, fork_foreground
from rootless.engine.start.image_argument import resolve
from rootless.engine.start.sandbox import Sandbox, begin_cgroup, joins
from rootless.linux.process import close_on_exec_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.engine.request import RunRequest
    from rootless.engine.start.image_argument import ImageArgument


def run(
    request: RunRequest,
    make_room: Callable[[], None] | None = None,
    argument: ImageArgument | None = None,
    *,
    says_id: bool = True,
) -> int:
    """Run a container; return its exit code, or 0 for one that was detached.

    Args:
        make_room: called once the image is here, before a name or a port is taken.
        argument: what the image is, where that is known; a file of it is open.
        says_id: the id of one that is detached is printed.

    Raises:
        RlessError: the start failed, and nothing is left of the container.
    """
    return fork_foreground(
        lambda foreground: _make(request, foreground, make_room, argument, says_id)
    )


def _make(
    request: RunRequest,
    foreground: Foreground,
    make_room: Callable[[], None] | None,
    argument: ImageArgument | None,
    says_id: bool,
) -> int:
    close_on_exec_from(3)  # what the caller left open is not for newuidmap, pasta or us
    streams = [] if request.detach else attached(request)
    pending = begin_cgroup(request)
    # A port may be free only after there is room.
    if argument is None and make_room is None:
        argument = _look(request)
    sandbox = None
    if argument is not None and argument.is_ready:
        sandbox = Sandbox(request, streams, pending=pending, file=argument.file)
    if sandbox is None and pending is not None:
        pending.close()  # it may be long until it is wanted
    try:
        from rootless.engine.start.create import create
        from rootless.engine.start.start import run_to_exit

        context = create(request, True, argument, sandbox, make_room)
    except BaseException:
        if sandbox is not None:
            sandbox.close()
        raise
    attachment = Attachment(
        streams,
        request.detach_keys,
        proxy=request.sig_proxy,
        group=request.pid == "host",  # as a program that the caller has started itself
        stop_on_disconnect=bool(streams),
        says=context.container.id if request.detach and says_id else "",
    )
    return run_to_exit(context, attachment, foreground, keep=False)


def _look(request: RunRequest) -> ImageArgument | None:
    """Resolve the image, and open an image file; None: the sandbox cannot begin yet.

    It cannot begin for an image that may have to be fetched, nor before the joined namespaces and
    the image's ports are known.
    """
    if joins(request) or request.pull == "always" or request.publish_all:
        return None
    storage = paths.storage_root()
    argument = resolve(request, storage)
    if argument.kind == "file":
        argument.read(storage, keep_open=True)
    return argument


def attached(request: RunRequest) -> list[str]:
    """Return the streams to pass on: those asked for, else all that there are."""
    if request.attach:
        return list(request.attach)
    return [*(["stdin"] if request.interactive else []), "stdout", "stderr"]
