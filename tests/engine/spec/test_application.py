"""The application: its command, user, environment and exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.images import Dir, File, Link, busybox_layer, layer
from tests.lib.product import Product, probe_image, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


# -- argv ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "flags", "command", "expected"),
    [
        (None, ["echo", "cmd"], [], [], "cmd"),
        (None, ["echo", "cmd"], [], ["echo", "mine"], "mine"),
        (["echo", "entry"], ["cmd"], [], [], "entry cmd"),
        (["echo", "entry"], ["cmd"], [], ["mine", "more"], "entry mine more"),
        (["echo", "entry"], ["cmd"], ["--entrypoint", "echo"], [], ""),
        (["echo", "entry"], ["cmd"], ["--entrypoint", "echo"], ["x"], "x"),
        (["echo", "entry"], ["cmd"], ["--entrypoint", ""], ["echo", "y"], "y"),
        (["echo"], None, [], ["--rm", "-it"], "--rm -it"),
    ],
)
def test_entrypoint_and_cmd_are_combined(
    rless: Product,
    entrypoint: list[str] | None,
    cmd: list[str] | None,
    flags: list[str],
    command: list[str],
    expected: str,
) -> None:
    image = rless.add_image("argv", probe_image(Entrypoint=entrypoint, Cmd=cmd))
    assert rless.run(flags, *command, image=image).expect().out == f"{expected}\n"


def test_missing_command_is_an_error(rless: Product) -> None:
    image = rless.add_image("nothing", probe_image(Cmd=None))
    assert "no command" in rless.run("", image=image).expect(125).one_line_error()


def test_argv_is_passed_byte_for_byte(rless: Product) -> None:
    words = [
        "",
        " a ",
        "-x",
        "--",
        "é",
        "*",
        "$HOME",
        "a\tb",
        b"\xff\xfe".decode("utf-8", "surrogateescape"),
    ]
    done = rless.run("", "sh", "-c", 'for w; do printf "[%s]" "$w"; done', "x", *words).expect()
    assert done.raw == b"".join(b"[" + os.fsencode(word) + b"]" for word in words)


# -- environment ---------------------------------------------------------------------------------


def env(done: list[str]) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in done if "=" in line)


def test_environment_is_built_from_nothing(rless: Product) -> None:
    """Class 34: no token, agent or proxy of the caller arrives; nor does Docker's CONTAINER."""
    secrets = {"SSH_AUTH_SOCK": "/x", "AWS_SECRET": "s", "http_proxy": "http://u:p@h", "LANG": "C"}
    found = env(rless.run("", "env", env=secrets).expect().lines())
    assert set(found) == {"PATH", "HOSTNAME", "HOME"}
    assert found["HOME"] == "/root"
    script = "cat /proc/1/environ /proc/self/environ"
    assert "AWS_SECRET" not in rless.sh(script, env=secrets).out
    assert "AWS_SECRET" not in rless.sh(script, "-i", env=secrets, stdin=b"").out


def test_environment_of_image_and_flags_is_merged(rless: Product, tmp_path: Path) -> None:
    image = rless.add_image("env", probe_image(Env=["PATH=/bin", "A=image", "B=image", "C=image"]))
    file = tmp_path / "env"
    file.write_text('# comment\nB=file\n\nFROM_HERE\nD=with spaces # and this\nQ="quoted"\n')
    flags = ["--env-file", str(file), "-e", "A=flag", "-e", "GIVEN", "-e", "C", "-e", "E=a=b"]
    done = rless.run(flags, "env", image=image, env={"FROM_HERE": "here", "GIVEN": "given"})
    found = env(done.expect().lines())
    assert found["A"] == "flag"
    assert found["B"] == "file"
    assert "C" not in found  # a bare -e of what is not set here takes it away
    assert found["D"] == "with spaces # and this"
    assert found["Q"] == '"quoted"'
    assert found["E"] == "a=b"
    assert (found["FROM_HERE"], found["GIVEN"]) == ("here", "given")
    assert "TERM" not in found


# -- user ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def users() -> images.Image:
    passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:33:44:app:/home/app:/bin/sh\n"
    group = "root:x:0:\napp:x:44:\nextra:x:50:app,other\nmore:x:60:\n"
    return images.Image(
        [busybox_layer(), layer({"etc/passwd": passwd, "etc/group": group})],
        {"Env": ["PATH=/bin"]},
    )


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", "0", "0", "0", "/root"),
        ("root", "0", "0", "0", "/root"),
        ("app", "33", "44", "44 50", "/home/app"),
        ("33", "33", "44", "44 50", "/home/app"),
        ("app:more", "33", "60", "60", "/home/app"),
        ("app:60", "33", "60", "60", "/home/app"),
        ("33:app", "33", "44", "44", "/home/app"),
        ("1234", "1234", "0", "0", "/"),
        ("1234:5678", "1234", "5678", "5678", "/"),
        ("0:60", "0", "60", "60", "/root"),
        (":app", "0", "44", "44", "/root"),
    ],
)
def test_user_is_given_in_every_spelling(
    rless: Product, users: images.Image, user: str, uid: str, gid: str, groups: str, home: str
) -> None:
    image = rless.add_image("users", users)
    flags = ["--user", user] if user else []
    done = rless.sh("id -u; id -g; id -G; echo $HOME", *flags, image=image).lines()
    assert done[:2] == [uid, gid]
    assert set(groups.split()) <= set(done[2].split())
    assert done[3] == home


@pytest.mark.parametrize(
    "user", ["nobody-here", "app:nobody-here", "4294967296", "4294967295", "2147483648", "-1",
             "0x0", "1:-1", "99999999999999999999"],
)  # fmt: skip
def test_invalid_user_is_refused(rless: Product, users: images.Image, user: str) -> None:
    """Class 16: a number that overflows is refused, and is never taken for a name."""
    image = rless.add_image("users", users)
    rless.run(["--user", user], "id", image=image).expect(125).one_line_error()


@pytest.mark.parametrize("user", ["4294967296", "4294967295", "18446744073709551616"])
def test_overflowing_user_of_the_image_is_refused(rless: Product, user: str) -> None:
    """Class 16: digits are never looked up as the name that the image has made of them."""
    hostile = layer({"etc/passwd": f"{user}:x:0:0::/:/bin/sh\nroot:x:0:0::/root:/bin/sh\n"})
    image = images.Image([busybox_layer(), hostile], {"Env": ["PATH=/bin"], "User": user})
    done = rless.run("", "id", "-u", image=rless.add_image("overflow", image))
    done.expect(125).one_line_error()


def test_user_outside_the_map_is_refused(rless: Product) -> None:
    done = rless.run("--user 70000 --userns=host-root", "id", "-u").expect(125)
    assert "70000" in done.one_line_error()


def test_group_add_adds_groups(rless: Product, users: images.Image) -> None:
    image = rless.add_image("users", users)
    flags = ["--group-add", "more", "--group-add", "77", "--user", "app"]
    assert set(rless.sh("id -G", *flags, image=image).out.split()) == {"44", "50", "60", "77"}


def test_groups_of_the_host_are_dropped(rless: Product) -> None:
    """Class 33: as the kernel sees it, there is no group but those of the container."""
    for flags in ((), ("--user", "1000")):
        status = rless.sh("grep Groups /proc/self/status", *flags).out.split()[1:]
        assert set(status) <= {"0", "1000", "10"}, flags


def test_passwd_link_does_not_lead_out(rless: Product) -> None:
    """Class 17: a link to the host's passwd is looked up inside the image."""
    hostile = layer({"etc": Dir(), "etc/passwd": Link("/home/../../../../../../etc/shadow-x"),
                     "etc/group": Link("/dev/zero")})  # fmt: skip
    image = images.Image([busybox_layer(), hostile], {"Env": ["PATH=/bin"]})
    reference = rless.add_image("links", image)
    assert rless.sh("id -u", image=reference).out == "0\n"
    rless.run("--user dev", "id", image=reference).expect(125).one_line_error()


# -- names ---------------------------------------------------------------------------------------


def test_etc_files_are_generated(rless: Product) -> None:
    flags = ["--hostname", "box", "--add-host", "db:10.0.0.5", "--add-host", "six:[fe80::1]"]
    done = rless.sh("cat /etc/hosts; cat /etc/hostname", *flags)
    lines = [line.split() for line in done.lines()]
    assert ["10.0.0.5", "db"] in lines
    assert ["fe80::1", "six"] in lines
    assert any(line[0].startswith("127.") and "localhost" in line for line in lines if line)
    assert any("box" in line[1:] for line in lines)
    assert lines[-1] == ["box"]
    flags = ["--dns", "9.9.9.9", "--dns-search", "example.org", "--dns-option", "ndots:2"]
    done = rless.sh("cat /etc/resolv.conf", *flags)
    assert "nameserver 9.9.9.9" in done.out
    assert "search example.org" in done.out
    assert "options ndots:2" in done.out


def test_generated_files_belong_to_one_container(rless: Product) -> None:
    done = rless.sh("echo x >>/etc/hosts; echo y >>/etc/resolv.conf; tail -1 /etc/hosts")
    assert done.out == "x\n"
    assert "\nx\n" not in rless.sh("cat /etc/hosts").out


def test_no_hosts_keeps_the_file_of_the_image(rless: Product) -> None:
    image = images.Image([busybox_layer(), layer({"etc/hosts": "of the image\n"})],
                         {"Env": ["PATH=/bin"]})  # fmt: skip
    reference = rless.add_image("hosts", image)
    assert rless.sh("cat /etc/hosts", "--no-hosts", image=reference).out == "of the image\n"
    assert "localhost" in rless.sh("cat /etc/hosts", image=reference).out


# -- the end -------------------------------------------------------------------------------------


def test_exit_codes_are_passed_on(rless: Product) -> None:
    for code in (0, 1, 2, 42, 124, 125, 126, 127, 128, 137, 255):
        assert rless.run("", "sh", "-c", f"exit {code}").code == code


def test_death_by_signal_exits_128_plus_its_number(rless: Product) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT):
        script = f"sh -c 'kill -{int(number)} $$'; exit $?"
        assert rless.run("", "sh", "-c", script).code == 128 + number
    # As process 1 itself, which ignores all but those from outside:
    process = rless.start("run", "--rm", "--network", "none", rless.image, "sh", "-c",
                          "echo ready; sleep 60")  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    name = rless.containers()[0]
    rless("kill", name).expect()
    assert process.wait(10) == 137


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("no-such-command", 127, "not found in $PATH"),
        ("/no/such/command", 127, "no such file"),
        ("./relative", 127, "no such file"),
        ("/bin", 126, "directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc/passwd/x", 127, "no such file"),
        ("/noloader", 127, "interpreter or loader"),
        ("/garbage", 126, "format"),
        ("/loop", 126, "Too many"),
    ],
)
def test_command_that_cannot_be_executed_is_reported(
    rless: Product, command: str, code: int, says: str
) -> None:
    more = layer(
        {
            "noloader": File("#!/no/such/shell\n", mode=0o755),
            "garbage": File(b"\x7fELFgarbage", mode=0o755),
            "loop": Link("/loop"),
        }
    )
    image = rless.add_image("broken", images.Image([busybox_layer(), more], {"Env": ["PATH=/bin"]}))
    done = rless.run("", command, image=image).expect(code)
    assert says.lower() in done.one_line_error().lower()
    assert command in done.err


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "WINCH+CONT"])
def test_signals_are_forwarded(rless: Product, name: str) -> None:
    number = getattr(signal, f"SIG{name.partition('+')[2] or name}")
    process = rless.start(
        "run", "--rm", "--network", "none", rless.image, "probe", "wait-signal", str(int(number))
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"signal {int(number)}\n".encode()
    assert process.wait(10) == 0


def test_default_signal_action_needs_init(rless: Product) -> None:
    """The kernel drops what process 1 does not handle; as with Docker, --init is the answer."""
    process = rless.start(
        "run", "--rm", "--network", "none", rless.image, "probe", "trap-term", "9"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait(10) == 9


def test_signals_are_not_forwarded_without_sig_proxy(rless: Product) -> None:
    process = rless.start(
        "run",
        "--rm",
        "--network",
        "none",
        "--sig-proxy=false",
        rless.image,
        "sh",
        "-c",
        "trap 'echo got' TERM; echo ready; sleep 60 & wait",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait(10) in (143, -signal.SIGTERM)
    assert process.stdout.read() == b""


def test_early_signal_ends_the_start(rless: Product) -> None:
    for delay in (0.0, 0.02, 0.04, 0.06):
        process = rless.start(
            "run", "--rm", "--network", "none", rless.image, "probe", "trap-term", "0"
        )
        time.sleep(delay)
        process.terminate()
        # Before Python runs, while the container is made, or by the application's handler. Only
        # between execve and its handler a signal can get lost, as with any process 1.
        try:
            assert process.wait(1) in (0, 143, -15), delay
        except subprocess.TimeoutExpired:
            process.terminate()
            assert process.wait(10) == 0
    rless("ps").expect()  # what a start that was killed had made is removed by the next command


# -- init ----------------------------------------------------------------------------------------


def test_init_flag_runs_an_init(rless: Product) -> None:
    assert rless.probe("spawn-zombies 5", "--init").facts() == {"zombies": "0"}
    assert rless.sh("cat /proc/1/comm", "--init").out == "rless-init\n"
    assert rless.run("--init", "sh", "-c", "exit 7").code == 7
    assert rless.run("--init", "no-such-command").code == 127
    process = rless.start("run", "--rm", "--network=none", "--init", rless.image, "sleep", "60")
    wait_for(lambda: "running" in rless("ps", "--format", "{{.State}}").out, "the start")
    process.terminate()
    assert process.wait(10) == 143


def test_surviving_child_ends_with_the_application(rless: Product) -> None:
    began = time.monotonic()
    assert rless.sh("sleep 60 & echo started").out == "started\n"
    assert time.monotonic() - began < 5
