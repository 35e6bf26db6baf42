"""What a start will want of an image that a program serves, in words for rless-serve.

Each question waits for that program, and each page of a file for a block to be unpacked.
rless-serve (helpers/fuse_server) asks and reads beside the start's own work, so that the answers
are there when init and the application want them.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Spec

_MOST = 16384  # bytes that rless-serve has room for
_OTHERS = ("/proc/", "/dev/", "/sys/")  # in there is nothing of the image


def words(spec: Spec) -> bytes:
    """Return where the program may be, then what will be mounted on; b"": too much.

    Each word ends with a NUL, and both lists with an empty word.
    """
    targets = (mount["destination"] for mount in spec["mounts"])
    wanted = (target for target in targets if not target.startswith(_OTHERS))
    text = "".join(f"{word}\0" for word in (*_candidates(spec), "", *wanted, ""))
    packed = text.encode("utf-8", "surrogateescape")
    return packed if len(packed) <= _MOST else b""


def _candidates(spec: Spec) -> list[str]:
    """Return the paths that execvp(3) tries."""
    process = spec["process"]
    program = process["args"][0]
    if "/" in program:
        return [os.path.join(process["cwd"], program)]
    path = next((entry[5:] for entry in process["env"] if entry.startswith("PATH=")), "")
    return [f"{place}/{program}" for place in path.split(":") if place.startswith("/")]
