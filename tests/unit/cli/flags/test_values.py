"""The syntax of flag values: Docker's, with one clear reason for each wrong value."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rootless.cli.flags import compat, logging, network, privileges, values
from rootless.cli.flags.kvfile import read
from rootless.engine.request import Port
from rootless.errors import RlessError

PAIR = [Port(None, 80, 80, "tcp"), Port(None, 81, 81, "tcp")]
GOOD: list[tuple[Callable[[str], object], str, object]] = [
    (values.size, "4096", 4096),
    (values.size, "64m", 64 << 20),
    (values.size, "64MB", 64 << 20),
    (values.size, "64MiB", 64 << 20),
    (values.size, "1.5g", 3 << 29),
    (values.size, "10b", 10),
    (values.size, "1 k", 1024),
    (values.size, "32.", 32),
    (values.shm_size, "0", None),
    (values.seconds, "-1", -1),
    (values.oom_score, "-1000", -1000),
    (values.signal, "term", "SIGTERM"),
    (values.signal, "SIGKILL", "SIGKILL"),
    (values.signal, "15", "15"),
    (values.signal, "RTMIN", "SIGRTMIN"),
    (values.signal, "SIGRTMIN+3", "37"),
    (values.signal, "RTMAX-1", "63"),
    (values.platform, "linux/ARM64/v8", "linux/arm64/v8"),
    (values.platform, "", None),
    (values.container_name, "/web-1", "web-1"),
    (values.host_name, "box.example", "box.example"),
    (values.env, "A", "A"),
    (values.env, "A=b=c", "A=b=c"),
    (values.env, "A=", "A="),
    (values.label, "k", ("k", "")),
    (values.label, "k=v=w x", ("k", "v=w x")),
    (values.ulimit, "nofile=1024", ("nofile", 1024, 1024)),
    (values.ulimit, "nofile=1024:2048", ("nofile", 1024, 2048)),
    (values.ulimit, "core=0:-1", ("core", 0, -1)),
    (values.workdir, "/srv", "/srv"),
    (privileges.pid, "", "private"),
    (privileges.pid, "container:a", "container:a"),
    (privileges.ipc, "shareable", "private"),
    (privileges.ipc, "none", "none"),
    (privileges.userns, "", "auto"),
    (privileges.userns, "host", "host-root"),
    (privileges.userns, "keep-id", "keep-id"),
    (privileges.userns, "keep-id:uid=1000,gid=1001", "keep-id:uid=1000,gid=1001"),
    (privileges.userns, "nomap", "nomap"),
    (privileges.capability, "net_admin", "CAP_NET_ADMIN"),
    (privileges.capability, "CAP_CHOWN", "CAP_CHOWN"),
    (privileges.capability, "all", "ALL"),
    (privileges.sysctl, "net.core.somaxconn=1024", ("net.core.somaxconn", "1024")),
    (privileges.security_opt, "no-new-privileges", "no-new-privileges=true"),
    (privileges.security_opt, "no-new-privileges:false", "no-new-privileges=false"),
    (privileges.security_opt, "seccomp=unconfined", "seccomp=unconfined"),
    (privileges.security_opt, "seccomp:/p.json", "seccomp=/p.json"),
    (
        privileges.security_opt,
        "unmask=/proc/kcore:/sys/firmware",
        "unmask=/proc/kcore:/sys/firmware",
    ),
    (privileges.security_opt, "nested-userns", "nested-userns=true"),
    (privileges.cgroupns, "container:x", "container:x"),
    (network.network, "", None),
    (network.network, "name=host", "host"),
    (network.network, "container:x", "container:x"),
    (network.network, "bridge", {"name": "bridge"}),
    (network.network, "net-1", {"name": "net-1"}),
    (
        network.network,
        "n:ip=10.0.0.5,ip6=fd00::5,mac=02:42:0A:00:00:05,alias=a,alias=b,interface_name=lan",
        {
            "name": "n",
            "ip": "10.0.0.5",
            "ip6": "fd00::5",
            "mac": "02:42:0a:00:00:05",
            "aliases": ["a", "b"],
            "interface": "lan",
        },
    ),
    (
        network.network,
        "name=n,alias=a,driver-opt=com.docker.network.endpoint.ifname=lan",
        {"name": "n", "aliases": ["a"], "interface": "lan"},
    ),
    (network.link, "db", ("db", "db")),
    (network.link, "db:data", ("db", "data")),
    (network.link, "/db:/web/data", ("db", "data")),
    (network.network, "test 01", {"name": "test 01"}),
    (network.dns, "::1", "::1"),
    (network.dns_search, ".", "."),
    (network.add_host, "h:1.2.3.4", ("h", "1.2.3.4")),
    (network.add_host, "h=1.2.3.4", ("h", "1.2.3.4")),
    (network.add_host, "h:::1", ("h", "::1")),
    (network.add_host, "h:[::1]", ("h", "::1")),
    (network.add_host, "h:host-gateway", ("h", "host-gateway")),
    (network.network, "ns:/run/x/../netns", "ns:/run/netns"),
    (network.ip4, "10.0.0.2", "10.0.0.2"),
    (network.ip4, "", None),
    (network.ip6, "fd00::2", "fd00::2"),
    (network.mac, "02-42-AC-11-00-02", "02:42:ac:11:00:02"),
    (network.mac, "", None),
    (network.publish, "80:8080", [Port(None, 80, 8080, "tcp")]),
    (network.publish, "80:53/udp", [Port(None, 80, 53, "udp")]),
    (network.publish, "127.0.0.1:80:80", [Port("127.0.0.1", 80, 80, "tcp")]),
    (network.publish, "[::1]:80:80/tcp", [Port("::1", 80, 80, "tcp")]),
    (network.publish, "published=80,target=90,protocol=udp", [Port(None, 80, 90, "udp")]),
    (network.publish, "published=80-81,target=80-81,mode=host", PAIR),
    (network.publish, "::1:80:80", [Port("::1", 80, 80, "tcp")]),
    (network.publish, "80", [Port(None, None, 80, "tcp")]),
    (network.publish, "0:80", [Port(None, None, 80, "tcp")]),
    (network.publish, "127.0.0.1::80/udp", [Port("127.0.0.1", None, 80, "udp")]),
    (network.publish, "[::1]::80", [Port("::1", None, 80, "tcp")]),
    (network.publish, "80-81:80-81", PAIR),
    (network.publish, "80-80:80-80/TCP", [Port(None, 80, 80, "tcp")]),
    (network.publish, "30-31", [Port(None, None, 30, "tcp"), Port(None, None, 31, "tcp")]),
    (network.publish, "8000-8010:80", [Port(None, 8000, 80, "tcp", 8010)]),
    (network.publish, "10.0.0.1:8000-8010:80/udp", [Port("10.0.0.1", 8000, 80, "udp", 8010)]),
    (network.expose, "80", "80/tcp"),
    (network.expose, "80-90/udp", "80-90/udp"),
    (logging.restart, "no", {"name": "no", "max": 0}),
    (logging.restart, "", None),
    (logging.restart, "on-failure:3", {"name": "on-failure", "max": 3}),
    (logging.restart, "unless-stopped", {"name": "unless-stopped", "max": 0}),
    (logging.driver, "none", "none"),
    (logging.driver, "", None),
    (logging.option, "max-size=10m", ("max-size", "10m")),
    (logging.detach_keys, "ctrl-a,b", "ctrl-a,b"),
    (logging.sdnotify, "conmon", "conmon"),
    (compat.isolation, "default", None),
    (compat.content_trust, "true", None),
]
BAD: list[tuple[Callable[[str], object], str]] = [
    (values.size, ""), (values.size, "m"), (values.size, "-1"), (values.size, "1x"),
    (values.size, "1mm"), (values.size, "1_0"), (values.size, "٣"), (values.size, "1.2.3"),
    (values.size, "9" * 19 + "p"), (values.size, "inf"),
    (values.seconds, "1s"), (values.seconds, "-2"), (values.oom_score, "1001"),
    (values.signal, ""), (values.signal, "SIG"), (values.signal, "0"), (values.signal, "65"),
    (values.signal, "_DFL"), (values.signal, "RTMIN+31"),
    (values.platform, "a/b/c/d"), (values.platform, "linux/"), (values.platform, "../x"),
    (values.container_name, "a"), (values.container_name, "-ab"), (values.container_name, "a b"),
    (values.container_name, "../../x"), (values.container_name, "a\nb"),
    (values.host_name, "-a"), (values.host_name, "a\nb"), (values.host_name, "a" * 65),
    (values.env, ""), (values.env, "=x"), (values.env, "A=\0"),
    (values.label, "=x"), (values.label, "a b=c"),
    (values.ulimit, "nofile"), (values.ulimit, "as=1"), (values.ulimit, "nofile=2:1"),
    (values.ulimit, "nofile=-1:5"), (values.ulimit, "nofile=1:2:3"), (values.ulimit, "nofile="),
    (values.ulimit, "nofile=-2"), (values.ulimit, "nofile=1e3"),
    (values.workdir, "srv"), (values.optional, "a\nb"),
    (privileges.pid, "none"), (privileges.pid, "container:"), (privileges.cgroupns, "none"),
    (privileges.userns, "keep-id:"), (privileges.userns, "keep-id:uid=-1"),
    (privileges.userns, "keep-id:uid=1,uid=2"), (privileges.userns, "keep-id:size=1"),
    (privileges.userns, "root"),
    (privileges.capability, ""), (privileges.capability, "a b"),
    (privileges.sysctl, "kernel.domainname=x"), (privileges.sysctl, "net.x"),
    (privileges.sysctl, "net../../kernel/x=1"), (privileges.sysctl, "net..x=1"),
    (privileges.sysctl, "vm.swappiness=1"), (privileges.sysctl, "net.a=1\n2"),
    (privileges.security_opt, "seccomp"), (privileges.security_opt, "unmask=x"),
    (privileges.security_opt, "nested-userns=false"), (privileges.security_opt, "x=y"),
    (privileges.security_opt, "no-new-privileges=maybe"),
    (privileges.security_opt, "systempaths=none"),
    (network.dns, "localhost"), (network.dns, "1.2.3"), (network.dns, "fe80::1%eth0"),
    (network.dns_search, "a b"), (network.dns_search, ""), (network.dns_option, "a b"),
    (network.add_host, "h"), (network.add_host, "h:x"), (network.add_host, ":1.2.3.4"),
    (network.ip4, "::1"), (network.ip4, "10.0.0"), (network.ip6, "10.0.0.1"),
    (network.network, "ns:"),
    (network.network, "n:ip=10.0.0.300"),
    (network.network, "n:ip=fd00::1"),
    (network.network, "n:mac=01:00:00:00:00:01"),
    (network.network, "n:interface_name=a/b"),
    (network.network, "name=n,name=m"),
    (network.network, " "), (network.network, "a\nb"), (network.network, "a,b"),
    (network.alias, ""), (network.alias, "a b"), (network.alias, "a>b"), (network.alias, "a\0b"),
    (network.alias, "a\nb"), (network.alias, "#a"), (network.alias, "é" * 127),
    (network.link, ":x"), (network.link, "a>b"), (network.link, "a b"), (network.link, "a\0:b"),
    (network.link, "a,b:c"), (network.link, "a:b>c"), (network.link, "a:b c"),
    (network.mac, "02:42:ac:11:00"), (network.mac, "02:42:ac:11:00:0x"), (network.mac, "x" * 17),
    (network.mac, "03:42:ac:11:00:02"), (network.mac, "00:00:00:00:00:00"),
    (network.mac, "02:42:ac:11:0:002"), (network.add_host, "a b:1.2.3.4"),
    (network.add_host, "a\nb:1.2.3.4"),
    (network.publish, "x:80"), (network.publish, "80:x"), (network.publish, "80:0"),
    (network.publish, "80:65536"), (network.publish, ""), (network.publish, "80:80/icmp"),
    (network.publish, "80-82:80-81"), (network.publish, "80:80-81"), (network.publish, "9-8:80"),
    (network.publish, "0-5:80"), (network.publish, "80:"), (network.publish, "::"),
    (network.publish, "1:2:80:80"), (network.publish, "[::1:80:80"), (network.publish, "80/"),
    (network.publish, "::1%lo:80:80"), (network.publish, "published=1,target=2,mode=x"),
    (network.publish, "h:80:80"), (network.publish, "published=80"),
    (network.expose, "x"), (network.expose, "9-8"), (network.expose, "0"),
    (compat.attach, "x"), (logging.restart, "sometimes"), (logging.restart, "always:1"),
    (logging.restart, "on-failure:x"), (logging.restart, "on-failure:-1"), (logging.option, "x"),
    (logging.sdnotify, "x"),
]  # fmt: skip
REFUSED: list[tuple[Callable[[str], object], str]] = [
    (privileges.security_opt, "apparmor=mine"),
    (network.network, "slirp4netns"),
    (network.network, "mynet:colour=red"),
    (network.publish, "80:80/sctp"),
    (logging.driver, "syslog"),
    (compat.isolation, "hyperv"),
    (compat.volume_driver, "nfs"),
    (compat.content_trust, "false"),
]


def ident(case: tuple[object, ...]) -> str:
    return f"{getattr(case[0], '__name__', '')}-{case[1]!r}"


@pytest.mark.parametrize("case", GOOD, ids=ident)
def test_valid_values_are_parsed(case: tuple[Callable[[str], object], str, object]) -> None:
    read_value, text, expected = case
    assert read_value(text) == expected


@pytest.mark.parametrize("case", BAD, ids=ident)
def test_wrong_values_are_refused(case: tuple[Callable[[str], object], str]) -> None:
    read_value, text = case
    with pytest.raises(ValueError, match=r"^(is|has|holds|names|gives) "):
        read_value(text)


@pytest.mark.parametrize("case", REFUSED, ids=ident)
def test_unsupported_values_are_refused(case: tuple[Callable[[str], object], str]) -> None:
    read_value, text = case
    with pytest.raises(RlessError, match="is not supported: "):
        read_value(text)


def env_file(tmp_path: object, content: bytes, **known: str) -> list[str]:
    path = f"{tmp_path}/env"
    with open(path, "wb") as file:
        file.write(content)
    return read("--env-file", path, known)


def test_env_file_is_read(tmp_path: object) -> None:
    content = b"\xef\xbb\xbf# c\nA=1\n\n  B=x y # no comment\nC='q'\nHERE\nGONE\nD=\r\nE= s \n#F=1"
    assert env_file(tmp_path, content, HERE="h=1") == [
        "A=1",
        "B=x y # no comment",
        "C='q'",
        "HERE=h=1",
        "D=",
        "E= s ",
    ]


@pytest.mark.parametrize("content", (b"=x", b"A B=1", b"A\xff=1", b"A=" + b"x" * 70000, b"A=\0"))
def test_env_file_errors_name_the_line(tmp_path: object, content: bytes) -> None:
    with pytest.raises(RlessError, match=r"^--env-file .*: line 2 "):
        env_file(tmp_path, b"OK=1\n" + content)


def test_missing_env_file_and_directory_are_errors(tmp_path: object) -> None:
    with pytest.raises(RlessError, match="--env-file /nowhere/x: No such file"):
        read("--env-file", "/nowhere/x", {})
    with pytest.raises(RlessError, match="Is a directory"):
        read("--env-file", str(tmp_path), {})


def test_endless_env_file_is_refused() -> None:
    with pytest.raises(RlessError, match="--env-file /dev/zero has more than 16777216 bytes"):
        read("--env-file", "/dev/zero", {})
