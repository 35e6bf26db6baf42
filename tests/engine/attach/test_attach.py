"""`attach` and detaching: the streams of a running container."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time

import pytest

from tests.engine.attach.test_terminal import Session
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_attach_passes_on_output_and_exit_code(rless: Product) -> None:
    script = "read x; echo out; echo err >&2; exit 6"
    rless.detach("one", "-i", "sh", "-c", script)
    done = rless("attach", "one", stdin=b"go\n").expect(6)
    assert (done.out, done.err) == ("out\n", "err\n")
    rless("rm", "one").expect()


def test_stalled_client_does_not_block_the_other(rless: Product) -> None:
    size = 100 << 20
    expected = hashlib.sha256()
    process = rless.start("run", "--rm", "--network=none", rless.image, "probe", "emit", str(size))
    assert process.stdout is not None
    while piece := process.stdout.read(1 << 20):
        expected.update(piece)
    assert process.wait(10) == 0
    rless.detach("big", "-i --log-driver none", "sh", "-c", f"read x; probe emit {size}")
    quick, stopped = rless.start("attach", "--no-stdin", "big"), rless.start("attach", "big")
    time.sleep(0.7)  # both are there
    found = hashlib.sha256()

    def read() -> None:
        assert quick.stdout is not None
        while piece := quick.stdout.read(1 << 20):
            found.update(piece)

    reader = threading.Thread(target=read)
    reader.start()
    assert stopped.stdin is not None
    stopped.stdin.write(b"go\n")
    stopped.stdin.flush()
    reader.join(60)
    assert quick.wait(10) == 0
    assert found.hexdigest() == expected.hexdigest()
    assert rless("wait", "big").expect().out == "0\n"
    late = hashlib.sha256()
    assert stopped.stdout is not None
    while piece := stopped.stdout.read(1 << 20):
        late.update(piece)
    assert stopped.wait(10) == 0
    assert late.hexdigest() == expected.hexdigest()
    rless("rm", "big").expect()


def test_attach_refuses_ended_and_missing_containers(rless: Product) -> None:
    rless.detach("ended", "", "true")
    rless("wait", "ended").expect()
    assert "stopped" in rless("attach", "ended").expect(1).one_line_error()
    assert "no such container" in rless("attach", "none").expect(1).one_line_error()
    rless("rm", "ended").expect()


def test_signals_reach_the_application(rless: Product) -> None:
    script = "trap 'exit 5' USR1; while :; do echo x; sleep 0.05; done"
    rless.detach("sig", "", "sh", "-c", script)
    for words, code in ((("--sig-proxy=false",), -signal.SIGUSR1), ((), 5)):
        process = rless.start("attach", *words, "sig")
        assert process.stdout is not None
        assert process.stdout.readline() == b"x\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(10) == code
    rless("rm", "sig").expect()


def test_third_interrupt_ends_the_client_only(rless: Product) -> None:
    script = "trap 'echo got' INT; while :; do echo x; sleep 0.05; done"
    rless.detach("sig", "", "sh", "-c", script)
    process = rless.start("attach", "sig")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"x\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        while (line := process.stdout.readline()) != b"got\n":
            assert line == b"x\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 1
    assert process.stderr.read() == b"rless: the third SIGINT or SIGTERM ends the command\n"
    assert "sig" in rless("ps").out
    rless("rm", "-f", "sig").expect()


def test_killed_client_does_not_disturb_the_container(rless: Product) -> None:
    rless.detach("on", "-i", "sh", "-c", "while :; do echo x; sleep 0.02; done")
    process = rless.start("attach", "on")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    assert "on" in rless("ps").out
    rless("rm", "-f", "on").expect()


def test_selected_streams_are_attached(rless: Product) -> None:
    script = "echo out; echo err >&2"
    done = rless.run(["-a", "stdout"], "sh", "-c", script).expect()
    assert (done.out, done.err) == ("out\n", "")
    done = rless.run(["-a", "stderr"], "sh", "-c", script).expect()
    assert (done.out, done.err) == ("", "err\n")
    done = rless.run("-i -a stdin -a stdout", "cat", stdin=b"x").expect()
    assert done.out == "x"
    assert "interactive" in rless.run("-a stdin", "true").expect(125).one_line_error()


# -- terminals -------------------------------------------------------------------------------------


def end(*sessions: Session) -> None:
    for one in sessions:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        os.close(one.master)
        os.close(one.slave)


@pytest.mark.parametrize(
    ("flags", "keys"), [((), b"\x10\x11"), (("--detach-keys=ctrl-a,d",), b"\x01d")]
)
def test_detach_keys_leave_the_container_running(
    rless: Product, flags: tuple[str, ...], keys: bytes
) -> None:
    shell = Session(
        rless, "run", "-it", *flags, "--name", "sh", "--network=none", rless.image, "sh"
    )
    shell.expect(b"# ")
    shell.type(b"echo one$((1))\r")
    shell.expect(b"one1")
    shell.type(keys)
    assert shell.wait() == 0
    assert shell.attributes() == shell.before
    assert b"read escape sequence" in shell.seen
    assert "sh" in rless("ps").out
    again = Session(rless, "attach", "sh")
    wait_for(again.is_raw, "raw mode")
    again.type(b"\recho two$((2))\r")
    again.expect(b"two2")
    again.resize(17, 71)
    again.process.send_signal(signal.SIGWINCH)
    time.sleep(0.1)
    again.type(b"stty size; exit 3\r")
    again.expect(b"17 71")
    assert again.wait() == 3
    assert again.attributes() == again.before
    rless("rm", "sh").expect()
    end(shell, again)


def test_detached_container_with_rm_is_removed_at_exit(rless: Product) -> None:
    shell = Session(rless, "run", "-it", "--rm", "--network=none", rless.image, "sh")
    shell.expect(b"# ")
    shell.type(b"\x10\x11")
    assert shell.wait() == 0
    assert len(rless.containers()) == 1
    rless("kill", rless.containers()[0]).expect()
    wait_for(lambda: not rless.containers(), "the removal")
    end(shell)


def test_incomplete_detach_keys_are_passed_on(rless: Product) -> None:
    shell = Session(rless, "run", "-it", "--rm", "--network=none", rless.image, "cat", "-v")
    wait_for(shell.is_raw, "raw mode")
    shell.type(b"a\x10b\r")
    shell.expect(b"a^Pb\r\na^Pb")
    shell.type(b"\x04")
    assert shell.wait() == 0
    end(shell)


def test_start_attaches_a_terminal(rless: Product) -> None:
    rless("create", "-it", "--name", "tty", "--network=none", rless.image, "sh").expect()
    shell = Session(rless, "start", "-ai", "tty")
    wait_for(shell.is_raw, "raw mode")
    shell.type(b"echo st$((1))rt; stty size\r")
    shell.expect(b"st1rt")
    shell.expect(b"30 90")
    shell.type(b"\x10\x11")
    assert shell.wait() == 0
    assert shell.attributes() == shell.before
    rless("rm", "-f", "tty").expect()
    end(shell)


def test_wrong_detach_keys_are_refused(rless: Product) -> None:
    error = rless.run(["--detach-keys", "ctrl-é"], "true").expect(125).one_line_error()
    assert "--detach-keys" in error
