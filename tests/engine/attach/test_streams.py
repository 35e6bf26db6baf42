"""Standard input, output and error: every byte arrives, in order."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

SIZE = 100 << 20


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Make 100 MB of bytes that no two blocks share."""
    path = tmp_path_factory.mktemp("big") / "data"
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        block = os.urandom(1 << 20)
        for number in range(SIZE >> 20):
            piece = number.to_bytes(8, "little") + block[8:]
            digest.update(piece)
            stream.write(piece)
    return path, digest.hexdigest()


def test_hundred_megabytes_of_input_arrive(rless: Product, big: tuple[Path, str]) -> None:
    path, digest = big
    with path.open("rb") as stream:
        done = rless.run("-i", "sha256sum", stdin=stream.fileno()).expect()
    assert done.out.split()[0] == digest


def test_hundred_megabytes_of_output_arrive(rless: Product, big: tuple[Path, str]) -> None:
    path, digest = big
    process = rless.start("run", "--rm", "--network=none", "-v", f"{path}:/big:ro", rless.image,
                          "cat", "/big")  # fmt: skip
    assert process.stdout is not None
    found = hashlib.sha256()
    while piece := process.stdout.read(1 << 20):
        found.update(piece)
    assert found.hexdigest() == digest
    assert process.wait(10) == 0


def test_hundred_megabytes_pass_both_ways_through_pipes(
    rless: Product, big: tuple[Path, str]
) -> None:
    path, digest = big
    process = rless.start("run", "-i", "--rm", "--network=none", rless.image, "cat")
    assert process.stdin is not None
    assert process.stdout is not None
    sink = process.stdin

    def feed() -> None:
        with path.open("rb") as stream:
            while piece := stream.read(77_777):
                sink.write(piece)
        sink.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    found = hashlib.sha256()
    while piece := process.stdout.read(1 << 20):
        found.update(piece)
    feeder.join()
    assert found.hexdigest() == digest
    assert process.wait(10) == 0


def test_output_goes_to_a_file_and_fails_on_a_full_device(rless: Product, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as stream:
        rless.run("", "probe", "emit", "3000000", stdout=stream.fileno()).expect()
    assert (tmp_path / "out").stat().st_size == 3_000_000
    with open("/dev/full", "wb") as stream:
        done = rless.run("", "sh", "-c", "echo x; echo x; exit 3", stdout=stream.fileno())
    assert done.code in (3, 141)
    assert "output of the container is lost: No space left on device" in done.err


def test_stdout_and_stderr_stay_apart(rless: Product) -> None:
    done = rless.sh("echo out; echo err >&2; echo out2")
    assert (done.out, done.err) == ("out\nout2\n", "err\n")
    done = rless.run("", "sh", "-c", "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero")
    assert len(done.raw) == len(done.err) == 300_000


def test_standard_input_is_empty_without_interactive(rless: Product) -> None:
    assert rless.run("", "cat", stdin=b"secret").expect().out == ""
    assert rless.sh("readlink /proc/self/fd/0").out == "/dev/null\n"


def test_binary_data_is_unchanged(rless: Product) -> None:
    data = bytes(range(256)) * 300 + b"\r\n\0\xff"
    assert rless.run("-i", "cat", stdin=data).expect().raw == data


def test_end_of_input_reaches_the_application(rless: Product) -> None:
    assert rless.run("-i", "wc", "-c", stdin=b"").expect().out == "0\n"
    process = rless.start("run", "-i", "--rm", "--network=none", rless.image, "cat")
    assert process.stdin is not None
    assert process.stdout is not None
    for word in (b"one\n", b"two\n"):
        process.stdin.write(word)
        process.stdin.flush()
        assert process.stdout.readline() == word
    process.stdin.close()
    assert process.wait(10) == 0


def test_unread_input_does_not_delay_the_exit(rless: Product) -> None:
    """It ends although the caller still has megabytes to give."""
    began = time.monotonic()
    assert rless.run("-i", "true", stdin=bytes(8 << 20)).code == 0
    script = "exec <&-; sleep 0.3; echo done"
    assert rless.sh(script, "-i", stdin=bytes(8 << 20)).out == "done\n"
    assert time.monotonic() - began < 10


def test_application_may_close_its_output(rless: Product) -> None:
    done = rless.run("", "sh", "-c", "echo x; exec >&- 2>&-; sleep 0.2; exit 4")
    assert (done.code, done.out) == (4, "x\n")


def test_closed_reader_ends_the_application_by_sigpipe(rless: Product) -> None:
    """As `| head -c 10` in a shell: SIGPIPE reaches the application, nothing hangs."""
    # Process 1 of a pid namespace gets EPIPE where others are killed; its children are others.
    script = "cat /dev/zero; exit $?"
    process = rless.start("run", "--rm", "--network=none", rless.image, "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.read(10) == bytes(10)
    process.stdout.close()
    assert process.wait(10) == 141


def test_slow_reader_gets_all_output(rless: Product) -> None:
    process = rless.start("run", "--rm", "--network=none", rless.image, "probe", "emit", "400000")
    assert process.stdout is not None
    found = b""
    while piece := os.read(process.stdout.fileno(), 20_000):
        found += piece
        time.sleep(0.01)
    assert len(found) == 400_000
    assert process.wait(10) == 0
    assert found == rless.run("", "probe", "emit", "400000").expect().raw


def test_stalled_reader_does_not_block_the_other_stream(rless: Product) -> None:
    script = "(cat /dev/zero &) ; sleep 0.3; echo here >&2; sleep 60"
    process = rless.start("run", "--rm", "--network=none", rless.image, "sh", "-c", script)
    assert process.stderr is not None
    assert process.stderr.readline() == b"here\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    wait_for(lambda: not rless.processes(), "the end of the container")
    rless("ps").expect()


def test_exit_does_not_wait_for_output_of_surviving_children(rless: Product) -> None:
    began = time.monotonic()
    done = rless.sh("(sleep 50 &); echo last", "--pid=host")
    assert done.out == "last\n"
    assert time.monotonic() - began < 5
    rless.assert_clean()  # but it ends with the container


def test_last_output_before_exit_is_not_lost(rless: Product) -> None:
    for _ in range(5):
        done = rless.run("", "sh", "-c", "head -c 60000 /dev/zero; echo end").expect()
        assert len(done.raw) == 60_004
        assert done.out.endswith("end\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_caller_may_have_closed_streams(rless: Product, closed: str) -> None:
    argv = " ".join(f"'{word}'" for word in rless.argv("run", "--rm", "--network=none"))
    script = f"{argv} {rless.image} sh -c 'echo out; echo err >&2; exit 3' {closed}"
    done = subprocess.run(["bash", "-c", script], env=rless.environment(), capture_output=True,
                          timeout=30, text=True)  # fmt: skip
    assert done.returncode == 3, done
    assert done.stdout == ("" if ">&- " in f"{closed} " and closed != "2>&-" else "out\n")
    assert done.stderr == ("" if "2>&-" in closed else "err\n")


def test_dev_stdout_can_be_opened(rless: Product) -> None:
    """By a user of the container that is not the invoking user, too."""
    for flags in ((), ("--user", "1000"), ("--user", "1000", "--userns=host-root")):
        done = rless.sh("echo o >/dev/stdout; echo e >/dev/stderr; cat /dev/stdin", "-i", *flags,
                        stdin=b"i")  # fmt: skip
        assert (done.out, done.err) == ("o\ni", "e\n"), flags


def test_descriptors_of_the_caller_are_not_inherited(rless: Product, tmp_path: Path) -> None:
    """Class 25: no descriptor but 0 to 2 arrives, and those are pipes of ours."""
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        # A fourth one is ls itself, looking.
        done = rless.sh("ls -l /proc/self/fd", "-i", stdin=b"", pass_fds=(secret,))
    finally:
        os.close(secret)
    links = [line.split()[8:] for line in done.lines()[1:]]
    assert [link[0] for link in links] == ["0", "1", "2", "3"], done.out
    assert [link[2].partition(":")[0] for link in links[:3]] == ["pipe"] * 3
