"""`generate systemd`: units that systemd takes, and the readiness that rless tells it.

Security classes 43 and 45.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.engine.manage import systemd_units
from tests.lib.life import monitor_of, obedient
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture(autouse=True)
def program(tmp_path: Path, rless: Product, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program `rless` where generate finds it: the tests start the tree itself."""
    directory = tmp_path / "bin"
    directory.mkdir()
    path = directory / "rless"
    words = " ".join(f"'{word}'" for word in rless.argv())
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setitem(rless.env, "PATH", f"{directory}:/usr/bin:/bin")
    beside = Path(sys.executable).with_name("rless")  # the installed one comes first
    return beside if beside.exists() else path


def verify(path: Path) -> None:
    """Let systemd read a unit; anything it says of it is a failure."""
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=no", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(path.parent)},
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if path.name in line]
    assert not said, said


def entries(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_unit_starts_the_container(rless: Product, program: Path, tmp_path: Path) -> None:
    made = rless.detach("web", "--stop-timeout 7", "sleep", "600")
    text = rless("generate", "systemd", "web").expect().out
    assert entries(text, "Type") == ["notify"]
    assert entries(text, "NotifyAccess") == ["all"]
    assert entries(text, "Restart") == ["on-failure"]
    assert entries(text, "TimeoutStopSec") == ["67"]
    assert entries(text, "ExecStart") == [f"{program} start {made}"]
    assert entries(text, "ExecStop") == [f"{program} stop -t 7 {made}"]
    assert entries(text, "Environment") == [f"RLESS_STORAGE={rless.storage}"]
    words = ("-n", "--restart-policy=always", "-t", "3", "--wants", "a.service", "--after",
             "b.service", "--requires=c.service", "--files")  # fmt: skip
    done = rless("generate", "systemd", *words, "web", cwd=tmp_path).expect()
    assert done.out == f"{tmp_path}/container-web.service\n"
    text = (tmp_path / "container-web.service").read_text()
    assert entries(text, "Wants")[-1:] == ["a.service"]
    assert entries(text, "After")[-1:] == ["b.service"]
    assert entries(text, "Requires") == ["c.service"]
    assert entries(text, "Restart") == ["always"]
    assert entries(text, "ExecStop") == [f"{program} stop -t 3 web"]
    verify(tmp_path / "container-web.service")
    rless("rm", "-f", "web").expect()


def test_wrong_requests_are_refused(rless: Product) -> None:
    assert "no such container" in rless("generate", "systemd", "none").expect(1).one_line_error()
    rless("generate", "systemd").expect(125).one_line_error()
    rless.detach("self", "--restart always", "sleep", "600")
    error = rless("generate", "systemd", "self").expect(1).one_line_error()
    assert "restart policy always" in error
    for words in (("--restart-policy", "sometimes"), ("--after", "a b"), ("--wants", "x\ny")):
        rless("generate", "systemd", *words, "self").expect(125).one_line_error()
    rless("rm", "-f", "self").expect()


def test_unit_with_new_runs_the_original_command(rless: Product, tmp_path: Path) -> None:
    """What the unit runs makes a container as the first one was: quoting and all."""
    strange = "a b\"c'd\\e$f%g"
    rless("run", "-d", "--name", "fresh", "--network=none", "-e", f"X={strange}", "-l", "k=v",
          "--restart", "always", "-v", f"{tmp_path}:/host dir", rless.image, "sh", "-c",
          'printf %s "$X" >"/host dir/out"; sleep 600').expect()  # fmt: skip
    text = rless("generate", "systemd", "--new", "-n", "fresh").expect().out
    (start,) = entries(text, "ExecStart")
    rless("rm", "-f", "fresh").expect()
    (tmp_path / "out").unlink()
    words = unquoted(start)
    assert words[1:5] == ["run", "--detach", "--rm", "--name=fresh"]
    assert not [word for word in words if word.startswith("--restart")]
    rless(*words[1:], cwd=entries(text, "WorkingDirectory")[0]).expect()
    # The shell makes the file before it writes into it.
    wait_for(lambda: (tmp_path / "out").exists() and (tmp_path / "out").read_text(), "the output")
    assert (tmp_path / "out").read_text() == strange
    assert entries(text, "ExecStopPost")[0].endswith("rm -f -v fresh")
    path = tmp_path / "container-fresh.service"
    path.write_text(text)
    verify(path)
    rless("rm", "-f", "fresh").expect()


def unquoted(line: str) -> list[str]:
    """Split a command line of a unit file as systemd does (systemd.service(5))."""
    words, word, rest = [], "", line
    inside = False
    while rest:
        char, rest = rest[0], rest[1:]
        if char == '"':
            inside = not inside
        elif char == "\\" and inside:
            word += {"n": "\n", "t": "\t", "r": "\r"}.get(rest[0], rest[0])
            rest = rest[1:]
        elif char in "%$":
            assert rest[0] == char
            word, rest = word + char, rest[1:]
        elif char == " " and not inside:
            words.append(word)
            word = ""
        else:
            word += char
    return [*words, word]


@pytest.mark.parametrize("name", ["a\nExecStartPre=/bin/evil", "a\r", "a\\", "a ", "\x7f"])
def test_directory_with_newlines_is_refused(rless: Product, tmp_path: Path, name: str) -> None:
    """Where `run` was called may be a directory of somebody else's archive."""
    here = tmp_path / name
    here.mkdir(parents=True)
    rless("create", "--name", "fresh", rless.image, "true", cwd=here).expect()
    error = rless("generate", "systemd", "--new", "fresh").expect(1).one_line_error()
    assert "directory" in error
    rless("rm", "fresh").expect()


def test_unit_file_is_private(rless: Product, tmp_path: Path) -> None:
    """It may hold what -e said, and its name is known beforehand: a link is not followed."""
    rless("create", "--name", "fresh", "-e", "TOKEN=hunter2", rless.image, "true").expect()
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    unit = tmp_path / "container-fresh.service"
    unit.symlink_to(victim)
    rless("generate", "systemd", "--new", "-n", "-f", "fresh", cwd=tmp_path).expect()
    assert victim.read_text() == "untouched"
    assert "hunter2" in unit.read_text()
    assert not unit.is_symlink()
    assert unit.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["bin", "container-fresh.service", "victim"]
    rless("rm", "fresh").expect()


def test_bytes_outside_utf8_are_escaped(rless: Product, tmp_path: Path) -> None:
    words = ["create", "--name", "fresh", "-e", "A=\udcff", rless.image, "true"]
    rless(*words, cwd=tmp_path).expect()
    text = rless("generate", "systemd", "--new", "-n", "fresh").expect().out
    (start,) = entries(text, "ExecStart")
    assert '"--env=A=\\xff"' in start
    rless("generate", "systemd", "--new", "-n", "-f", "fresh", cwd=tmp_path).expect()
    verify(tmp_path / "container-fresh.service")
    rless("rm", "fresh").expect()


def test_dollars_are_doubled_only_in_commands(rless: Product) -> None:
    """systemd puts no variables into Environment=: a doubled dollar would stay doubled there."""
    assert systemd_units.quote("/a$b c%", command=False) == '"/a$b c%%"'
    assert systemd_units.quote("/a$b") == '"/a$$b"'


@pytest.mark.parametrize("word", ["", "a b", "%h", "$HOME", '"', "\\", "tab\tand\nline", "ä", "'"])
def test_arguments_are_quoted(word: str) -> None:
    assert unquoted(f"x {systemd_units.quote(word)}") == ["x", word]


def test_boot_unit_starts_containers_with_a_policy(
    rless: Product, program: Path, tmp_path: Path
) -> None:
    done = rless("generate", "systemd", "--restart", "--files", cwd=tmp_path).expect()
    path = Path(done.out.strip())
    assert path.name == "rless-restart.service"
    text = path.read_text()
    assert entries(text, "ExecStart") == [f"{program} system start"]
    assert entries(text, "ExecStop") == [f"{program} system stop"]
    verify(path)
    rless("generate", "systemd", "--restart", "x").expect(1).one_line_error()


@pytest.mark.parametrize("verb", ["run", "start"])
def test_readiness_is_notified(rless: Product, tmp_path: Path, verb: str) -> None:
    """Type=notify: the monitor is the main process, and the unit is up with the container."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(10)
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    if verb == "run":
        made = rless("run", "-d", "--name", "told", "--network=none", rless.image, "sleep", "600",
                     env=env).expect().out.strip()  # fmt: skip
    else:
        made = obedient(rless, "told")
        rless("stop", "told").expect()
        rless("start", "told", env=env).expect()
    said = listener.recv(4096).decode().splitlines()
    listener.close()
    assert "READY=1" in said
    assert f"MAINPID={monitor_of(rless, made)}" in said
    rless("rm", "-f", "told").expect()


def test_notification_of_the_container_is_passed_on(rless: Product, tmp_path: Path) -> None:
    """--sdnotify container: rless names the main process, the application says READY=1."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(10)
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    made = rless("run", "-d", "--sdnotify", "container", "--name", "told", "--network=none",
                 rless.image, "sh", "-c", 'ls -l "$NOTIFY_SOCKET"; sleep 600',
                 env=env).expect().out.strip()  # fmt: skip
    assert listener.recv(4096).decode() == f"MAINPID={monitor_of(rless, made)}"
    wait_for(lambda: rless("logs", "told").out, "the look at the socket")
    assert rless("logs", "told").out.startswith("s")
    listener.close()
    rless("rm", "-f", "told").expect()
    quiet = rless("run", "-d", "--sdnotify", "ignore", "--name", "told", "--network=none",
                  rless.image, "sleep", "600", env=env).expect()  # fmt: skip
    assert quiet.err == ""
    rless("rm", "-f", "told").expect()


def test_main_process_exits_as_the_application(rless: Product) -> None:
    """Else systemd's Restart=on-failure would never see a failure."""
    made = rless.detach("failing", "", "sh", "-c", "sleep 0.5; exit 7")
    monitor = monitor_of(rless, made)
    rless("wait", "failing").expect()
    _, status = os.waitpid(monitor, 0)  # the tests are the subreaper, as the user's systemd is
    assert os.waitstatus_to_exitcode(status) == 7
    rless("rm", "failing").expect()


@pytest.mark.parametrize("flag", ["--cgroup-manager=systemd", "--cgroup-parent=own.slice"])
def test_container_with_its_own_scope_gets_no_unit(rless: Product, flag: str) -> None:
    rless("create", "--name", "web", flag, rless.image, "true").expect()
    done = rless("generate", "systemd", "web").expect(1)
    assert done.one_line_error().startswith("container web is to have a scope of its own")
    rless("rm", "web").expect()
