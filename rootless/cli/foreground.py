"""The launcher's continuation in Python, where it cannot go on in C (helpers/foreground).

It is the foreground process of a container that is being started, or was started: see
`engine.attach.foreground`.
"""

from __future__ import annotations

import os
import sys

from rootless import jsontext, launch, log
from rootless.cli import streams


def main() -> int:
    """Follow the container; return the exit code."""
    words = sys.argv[1:]
    link, stdin, stdout, stderr, pid = (int(word) for word in words[:5])
    state, detail, text = words[5:8]
    try:
        if launch.front:
            from rootless.cli.fronts.voice import take_voice

            take_voice(launch.front)
        streams.guard()
        facts = jsontext.loads(text)
        log.enabled = facts["debug"]
        if facts["storage"]:
            os.environ["RLESS_STORAGE"] = facts["storage"]
        from rootless.engine.attach.session import AttachedContainer

        followed = AttachedContainer(link, (stdin, stdout, stderr), pid, facts)
        if state == "attend":
            code = followed.follow()
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        if state == "failed":
            return followed.failed(jsontext.loads(detail))
        if state == "interrupted":
            return followed.interrupted(int(detail))
        followed.begun = state == "killed"
        return followed.lost()
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)


def _report(error: BaseException) -> int:
    code = None
    if launch.front:
        from rootless.cli.fronts.voice import HPC, failure

        if launch.front in HPC:
            error, code = failure(error)
    reported = streams.report(error, debug=os.environ.get("RLESS_DEBUG") == "1")
    return reported if code is None else code
