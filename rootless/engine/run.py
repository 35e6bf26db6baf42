"""`rless run`, told once from top to bottom.

    create
      1 image     the name -> layers on disk, and who the application runs as
      2 map       which of the image's users is the invoking user
      3 container its directory, name and files
    start
      4 spec      wishes + image + facts -> config.json
      5 monitor   forked into the user namespace: root file system, runtime, clean-up
      6 network   pasta, beside the mounts
      7 attach    streams, signals, exit code

The rootless order differs from how Docker tells it: the user namespace exists before the
overlay can be mounted. Everything heavy is loaded where it is needed, not here.
"""

from __future__ import annotations

from rootless.engine.attach import Signals
from rootless.engine.create import create
from rootless.engine.start import Attachment, follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.request import RunRequest


def run(request: RunRequest) -> int:
    """Run a container; return its exit code, or 0 for one that was detached.

    Raises:
        RlessError: nothing is left of the container then.
    """
    state = create(request, run=True)
    signals = Signals(request.sig_proxy)
    try:
        streams = () if request.detach else attached(request)
        attachment = Attachment(streams, request.detach_keys, bool(streams), signals)
        code = follow(state, attachment, keep=False)
    finally:
        signals.restore()
    if request.detach:
        print(state.container.id)
    return code


def attached(request: RunRequest) -> list[str]:
    """Return the streams that the command passes on: those asked for, else all that there are."""
    if request.attach:
        return request.attach
    return [*(["stdin"] if request.interactive else []), "stdout", "stderr"]
