"""Run several transfers at once, and end them all at once.

A thread that waits for a stalled server cannot be stopped, and it may take a minute to give the
server up. So after a failure or Ctrl-C the threads get a moment to notice it, and those that wait
for a server are abandoned: the actions check `stop` before they touch anything.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from rootless.image.model import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable
    from typing import Any


def at_once(
    action: Callable[..., None], rows: Iterable[tuple[Any, ...]], most: int, stop: threading.Event
) -> None:
    """Call `action(*row)` for each row in threads, `most` at a time.

    Args:
        stop: set once one has failed, or the caller was interrupted.

    Raises:
        Exception: of the first action that failed.
    """
    pool = ThreadPoolExecutor(most)
    futures = [pool.submit(action, *row) for row in rows]
    try:
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future in done:
                future.result()
    except BaseException:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait(futures, limits.ABANDON_SECONDS)
        raise
    pool.shutdown()
