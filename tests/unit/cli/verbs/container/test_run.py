"""From the parsed command line to the request."""

from __future__ import annotations

import json
import os

import pytest

from rootless.cli.options import RUN
from rootless.cli.parse import parse
from rootless.cli.verbs.container.run import build
from rootless.engine.request import RunRequest
from rootless.errors import RlessError


def request(*argv: str) -> RunRequest:
    return build(*parse(RUN, argv))


def test_bare_run_has_the_defaults() -> None:
    assert request("busybox") == RunRequest(image="busybox")


def test_command_is_the_rest() -> None:
    found = request("--rm", "busybox", "sh", "-c", "echo")
    assert (found.image, found.command, found.rm) == ("busybox", ("sh", "-c", "echo"), True)


def test_rootfs_leaves_all_arguments_to_the_command() -> None:
    found = request("--rootfs", "/tree", "sh", "-l")
    assert (found.image, found.rootfs, found.command) == (None, "/tree", ("sh", "-l"))


def test_missing_image_is_refused() -> None:
    for argv in ([], ["--rm"], [""]):
        with pytest.raises(RlessError, match="'rless run' needs an image"):
            request(*argv)


def test_environment_is_merged(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(f"{tmp_path}/e", "w") as file:
        file.write("A=file\nSET\nUNSET\n")
    monkeypatch.setenv("SET", "here")
    monkeypatch.delenv("UNSET", raising=False)
    found = request("-e", "A=flag", "-e", "SET", "--env-file", f"{tmp_path}/e", "-e", "UNSET", "i")
    assert found.env == ("A=file", "SET=here", "A=flag", "SET=here")
    assert found.env_remove == ("UNSET",)


def test_labels_of_flags_win_over_files(tmp_path: object) -> None:
    with open(f"{tmp_path}/l", "w") as file:
        file.write("a=file\nb=file\nbare\n")
    found = request("-l", "a=flag", "--label-file", f"{tmp_path}/l", "i")
    assert found.labels == {"a": "flag", "b": "file"}


def test_last_ulimit_of_a_name_wins() -> None:
    found = request("--ulimit", "nofile=1", "--ulimit", "core=0", "--ulimit", "nofile=2", "i")
    assert found.ulimits == (("nofile", 2, 2), ("core", 0, 0))


def test_empty_entrypoint_resets_it() -> None:
    assert request("--entrypoint", "", "i").entrypoint == ""
    assert request("i").entrypoint is None


def test_attach_selects_streams() -> None:
    assert request("i").attach == ()
    assert request("-a", "STDERR", "-a", "stdout", "i").attach == ("stdout", "stderr")
    assert request("-i", "-a", "stdin", "i").attach == ("stdin",)
    with pytest.raises(RlessError, match="--attach stdin needs --interactive"):
        request("-a", "stdin", "i")
    with pytest.raises(RlessError, match="--attach and --detach"):
        request("-d", "-a", "stdout", "-a", "stderr", "i")


def test_log_options_are_parsed() -> None:
    found = request("--log-opt", "max-size=10m", "--log-opt", "max-file=3", "i")
    assert found.log_options == {"max-size": 10 << 20, "max-file": 3}
    found = request("--log-driver", "journald", "--log-opt", "tag=x", "i")
    assert (found.log_driver, found.log_options) == ("journald", {"tag": "x"})
    for driver, option in (
        ("local", "tag=x"),
        ("json-file", "compress=true"),
        ("none", "max-size=1m"),
        ("journald", "max-size=1m"),
        ("local", "max-size=0"),
        ("local", "max-size=x"),
        ("local", "max-file=0"),
    ):
        with pytest.raises(RlessError, match=f"--log-opt {option.partition('=')[0]}: "):
            request("--log-driver", driver, "--log-opt", option, "i")


def test_restart_policy_contradicts_rm() -> None:
    assert request("--restart", "always", "i").restart == {"name": "always", "max": 0}
    with pytest.raises(RlessError, match="--restart and --rm"):
        request("--restart", "on-failure", "--rm", "i")
    request("--restart", "no", "--rm", "i")


def test_request_survives_serialization() -> None:
    argv = ("-d", "-v", "/a:/b:ro", "--mount", "type=tmpfs,dst=/t", "-p", "80:81/udp", "--device",
            "/dev/null:/n", "--ulimit", "nofile=3:4", "--add-host", "h:1.2.3.4", "-e", "A=b",
            "--log-opt", "max-file=2", "--restart", "always", "--dns", "1.1.1.1", "i")  # fmt: skip
    made = request(*argv)
    data = json.loads(json.dumps(made.to_data()))
    assert "privileged" not in data  # only what was asked for
    assert RunRequest.from_data(data) == made
    assert RunRequest.from_data({**data, "of_a_later_version": 1}) == made
    assert RunRequest.from_data({}) == RunRequest()


@pytest.mark.parametrize(
    "argv",
    (
        ["--uts", "host", "--hostname", "x"],
        ["--network", "container:a", "-p", "80:80"],
        ["--network", "container:a", "--hostname", "x"],
        ["--network", "container:a", "--dns", "1.1.1.1"],
        ["--network", "container:a", "--add-host", "a:1.1.1.1"],
        ["--network", "container:a", "--mac-address", "02:00:00:00:00:01"],
        ["--network", "container:a", "-P"],
        ["--network", "host", "--ip", "10.0.0.2"],
        ["--network", "none", "--ip6", "fd00::2"],
        ["--network", "ns:/n", "--mac-address", "02:00:00:00:00:01"],
        ["--network", "host", "--network", "none"],
        ["--no-hosts", "--add-host", "a:1.1.1.1"],
        ["--ipc", "none", "--shm-size", "1m"],
        ["-v", "/a:/x", "--tmpfs", "/x/"],
    ),
)
def test_contradicting_flags_are_refused(argv: list[str]) -> None:
    with pytest.raises(RlessError):
        request(*argv, "i")


def test_published_ports_without_a_network_warn(capfd: pytest.CaptureFixture[str]) -> None:
    request("--network", "host", "-p", "80:80", "i")
    assert "published ports have no meaning with --network host" in capfd.readouterr().err


def test_request_is_plain_data() -> None:
    import json

    found = request("-v", "/a:/b", "-p", "1:2", "--device", "/dev/null", "i")
    data = json.loads(json.dumps(found.as_dict()))
    assert data["mounts"][0]["source"] == "/a"
    assert data["publish"] == [
        {"container_port": 2, "host_end": None, "host_ip": None, "host_port": 1, "protocol": "tcp"}
    ]
    assert set(data) == set(RunRequest.fields)


def test_accepted_flags_change_nothing() -> None:
    found = request(
        "--restart=", "--isolation=default", "--disable-content-trust",
        "--volume-driver=local", "--log-driver=", "i",
    )  # fmt: skip
    assert found == request("i")


def test_relative_paths_are_made_absolute() -> None:
    assert request("--cidfile", "c", "i").cidfile == f"{os.getcwd()}/c"
    assert request("--rootfs", "r").rootfs == f"{os.getcwd()}/r"


def test_start_does_not_change_the_request() -> None:
    """A free port is another one at the next start, which asks as the first one did."""
    made = request("-p", "80", "-p", "8000-8010:81", "i")
    before = made.to_data()
    for port in made.published([]):
        port.host_port, port.host_end = 9, None
    assert made.to_data() == before
