"""Networks of a single container: addresses, the host by name, ns:PATH."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rootless.linux import caps
from tests.lib import fakehost, images
from tests.lib.compiled import static_program
from tests.lib.fakehost import Host
from tests.lib.product import Product, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "tun", "pasta")


@pytest.fixture
def host_service() -> Iterator[tuple[int, int]]:
    """Serve on all addresses of the host and on its loopback; give the two ports."""
    servers = [socket.create_server(("0.0.0.0", 0)), socket.create_server(("127.0.0.1", 0))]

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"of the host\n")

    threads = [threading.Thread(target=serve, args=[server], daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    yield servers[0].getsockname()[1], servers[1].getsockname()[1]
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_requested_addresses_are_assigned(rless: Product) -> None:
    flags = ["--network=pasta", "--ip=10.9.8.7", "--mac-address=02:42:AC:11:00:02"]
    shown = rless.sh("ip addr show eth0; ip route; tail -n1 /etc/hosts; hostname", *flags).out
    assert "inet 10.9.8.7/24" in shown
    assert "link/ether 02:42:ac:11:00:02" in shown
    assert "default via 10.9.8.2 dev eth0" in shown
    assert f"10.9.8.7\t{shown.splitlines()[-1]}" in shown


def test_hardware_address_is_shown(rless: Product) -> None:
    """`inspect` tells the one that it has; none but the container of a live pasta has one."""
    template = "{{.NetworkSettings.MacAddress}}"
    found = set()
    for name in ("one", "two"):
        rless("run", "-d", "--name", name, "--network=pasta", rless.image, "sleep", "99").expect()
        found.add(rless("inspect", "-f", template, name).expect().out.strip())
        seen = rless("exec", name, "cat", "/sys/class/net/eth0/address").expect().out.strip()
        assert seen in found
        assert seen.startswith("02:")
    assert len(found) == 2
    rless("stop", "-t0", "one").expect()
    assert rless("inspect", "-f", template, "one").expect().out == "\n"
    rless("rm", "-f", "one", "two").expect()


@pytest.mark.needs("default route")
def test_host_is_reachable_by_name(rless: Product, host_service: tuple[int, int]) -> None:
    """By both names and whatever is published; but not the host's loopback (class 38)."""
    everywhere, loopback = host_service
    script = (
        # An end of input would be sent first, and pasta of 2023 tells no other end after that.
        "mkfifo /tmp/open; exec 3<>/tmp/open; "
        f"for name in host.containers.internal host.docker.internal; do "
        f"timeout 20 nc $name {everywhere} <&3 | head -n 1; "
        f"timeout 1 nc $name {loopback} </dev/null; done; "
        f"for at in '10.0.2.2 {everywhere}' '10.0.2.2 {loopback}'; do "
        f"timeout 1 nc $at </dev/null; done; true"
    )
    for flags in ([], ["-p", "127.0.0.1::80"]):
        assert rless.sh(script, "--network=pasta", *flags).out == "of the host\n" * 2


@pytest.mark.needs("default route")
def test_requested_name_of_the_host_takes_precedence(rless: Product) -> None:
    flags = ["--network=pasta", "--add-host=host.docker.internal:192.0.2.9"]
    hosts = [line.split() for line in rless.sh("cat /etc/hosts", *flags).lines()]
    assert [line for line in hosts if "host.docker.internal" in line] == [
        ["192.0.2.9", "host.docker.internal"]
    ]
    assert any("host.containers.internal" in line for line in hosts)


def test_host_has_no_name_where_it_cannot_be_reached(rless: Product) -> None:
    """Nor where its address may be the container's own."""
    for network in ("none", "pasta:-4"):
        assert "internal" not in rless.sh("cat /etc/hosts", f"--network={network}").out


def test_host_name_resolves_on_other_networks(rless: Product) -> None:
    flag = "--add-host=me:host-gateway"
    assert "127.0.0.1\tme\n" in rless.sh("cat /etc/hosts", "--network=host", flag).out
    error = rless.run(["--network=none", flag], "true").expect(125).one_line_error()
    assert "with --network=none there is no way to the host" in error


def test_lost_network_is_reported_and_restored_by_restart(rless: Product) -> None:
    """Pasta was killed: ps, inspect and port say so, and a restart heals."""
    port = images.free_port()
    rless.detach("web", f"--network pasta -p {port}:80", "sleep", "60")
    entry = json.loads((rless.live / rless.containers()[0]).read_text())
    os.kill(entry["pasta"][0], signal.SIGKILL)
    template = "{{.State.Running}} {{.State.Error}}"

    def lost() -> bool:
        return "network is lost" in rless("inspect", "-f", template, "web").expect().out

    wait_for(lost, "the loss")
    shown = rless("inspect", "-f", template, "web").out
    assert shown == "true the network is lost: pasta has ended; rless restart web\n"
    status = rless("ps", "--format", "{{.Status}}|{{.Ports}}").expect().out
    assert status.endswith(" (network lost)|\n")
    assert rless("port", "web").expect().out == ""
    rless("restart", "-t", "0", "web").expect()
    assert "lost" not in rless("ps").expect().out
    socket.create_connection(("127.0.0.1", port), 5).close()
    rless("rm", "-f", "web").expect()


def test_network_namespace_is_joined_by_path(rless: Product) -> None:
    """One that belongs to a user namespace where the caller has the rights; not another."""
    holder = subprocess.Popen(
        ["unshare", "-Urn", "sh", "-c", "ip link set lo mtu 1234 && echo up && exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"up\n"
    path = f"/proc/{holder.pid}/ns/net"
    refused = rless.run([f"--network=ns:{path}"], "true").expect(125).one_line_error()
    assert "it belongs to a user namespace where you have no rights; " in refused
    other = rless.run(["--network=ns:/proc/self/ns/mnt"], "true").expect(125).one_line_error()
    assert other.endswith("it is not a network namespace")
    missing = rless.run(["--network=ns:/nonono"], "true").expect(125).one_line_error()
    assert missing == "--network ns:/nonono: No such file or directory"
    try:
        # There the caller has one id only, and so has the container: another storage.
        words = rless.argv("run", "--rm", "-q", f"--network=ns:{path}", "host:", "ip", "link")
        done = subprocess.run(
            ["nsenter", "-t", str(holder.pid), "-U", "--preserve-credentials", *words],
            env=rless.environment({"RLESS_STORAGE": str(rless.base / "inner")}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "mtu 1234" in done.stdout, done.stderr
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_ports_are_published_on_single_stack_hosts(
    own_rless: Product, tmp_path: Path, family: str
) -> None:
    """A published port answers, on all addresses and on one, and nothing else listens."""
    loopback = "127.0.0.1" if family == "ipv4" else "::1"
    address = fakehost.ADDRESS if family == "ipv4" else fakehost.ADDRESS6
    serve = "import socket; s = socket.create_server(('%s', 80), family=socket.AF_INET%s)\n" % (
        ("0.0.0.0", "") if family == "ipv4" else ("::", "6")
    )
    serve += "while True: c, _ = s.accept(); c.recv(1); c.sendall(b'hello\\n'); c.close()"

    def story() -> list[str]:
        words = ["run", "--rm", "-q", "-p", "8080:80", "-p", f"[{loopback}]:8081:80"]
        held = own_rless.start(*words, "host:", "python3", "-c", serve)
        answers = []
        for host, port in ((loopback, 8080), (address, 8080), (loopback, 8081)):
            answers.append(fetch(host, port))
        try:
            socket.create_connection((address, 8081), 5).close()
            answers.append("open")
        except ConnectionRefusedError:
            answers.append("closed")
        held.kill()  # its connection closes, and the container ends
        held.wait()
        return answers

    host = Host(ipv4=family == "ipv4", ipv6=family == "ipv6")
    assert fakehost.run(host, story, tmp_path) == ["hello"] * 3 + ["closed"]


def fetch(host: str, port: int) -> str:
    """Return the line that a server sends, as soon as there is one."""
    found = []

    def ask() -> bool:
        try:
            with socket.create_connection((host, port), 5) as client:
                client.sendall(b"?")  # the pasta of 2023 lets the client speak first
                found.append(client.makefile().readline().strip())
        except OSError:
            return False
        return bool(found[-1])

    wait_for(ask, f"an answer of {host}")
    return found[-1]


@pytest.mark.parametrize("user", ["0:0", "1000:1000", "33:70000"])
@pytest.mark.parametrize("network", ["pasta", "bridge", "none"])
def test_ping_needs_no_capability(rless: Product, network: str, user: str) -> None:
    flags = ["--network", network, "-u", user]
    found = rless.probe("ping 127.0.0.1 , ping ::1", *flags).lines()
    assert found == ["ping ok", "ping ok"]


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
def test_program_with_net_raw_as_file_capability_runs(rless: Product, user: str) -> None:
    """Debian's `ping` has cap_net_raw=ep."""
    capability = struct.pack("<IIIII", 0x02000001, 1 << caps.NUMBERS["CAP_NET_RAW"], 0, 0, 0)
    program = Path(static_program("tests/lib/probe.c")).read_bytes()
    ping = images.File(program, mode=0o755, xattrs={"security.capability": capability})
    made = images.busybox_image([images.layer({"bin/ping": ping})], compression="none")
    image = rless.add_image("ping", made)
    run = ("run", "--rm", "--network", "none", "-u", user)
    for flags in ((), ("--cap-add", "NET_RAW")):
        assert (
            rless(*run, *flags, image, "/bin/ping", "ping", "127.0.0.1").expect().out == "ping ok\n"
        )


def test_other_users_can_ping_in_a_container_of_root(rless: Product) -> None:
    rless.detach("one", "--network pasta", "sleep", "60")
    done = rless("exec", "-u", "1000:1000", "one", "probe", "ping", "127.0.0.1")
    assert done.expect().out == "ping ok\n"
    rless("rm", "-f", "one").expect()


@pytest.mark.needs("default route")
def test_security_class_38_raw_packets_stay_in_a_container_with_net_raw(rless: Product) -> None:
    """Class 38: the header has the loopback, the kernel is told another address (IP_HDRINCL)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.9", 9))
        outward = probe.getsockname()[0]
    udp = (socket.AF_INET, socket.SOCK_DGRAM)
    with socket.socket(*udp) as attacked, socket.socket(*udp) as last:
        for server in (attacked, last):
            server.bind(("", 0))
            server.settimeout(20)
        port, last_port = (server.getsockname()[1] for server in (attacked, last))
        hosts = ("127.0.0.1", "127.9.9.9", "0.0.0.0")
        words = [f"send-raw {host} {port} 192.0.2.9" for host in hosts]
        words += [f"send-raw {outward} {last_port} 192.0.2.9", "sleep 60"]
        rless.detach(
            "raw",
            "--network pasta --cap-add NET_RAW --add-host me:host-gateway",
            *("probe", *" , ".join(words).split()),
        )
        last.recv(100)  # pasta sends in order: what would have come has come
        attacked.setblocking(False)
        with pytest.raises(BlockingIOError):
            attacked.recv(100)
    rless("rm", "-f", "raw").expect()


def test_security_class_38_network_without_guard_is_not_joined_with_net_raw(
    rless: Product,
) -> None:
    rless.detach("plain", "--network pasta", "sleep", "60")
    rless.detach("raw", "--network pasta --cap-add NET_RAW", "sleep", "60")
    error = rless.run("--network container:plain --cap-add NET_RAW", "true").expect(125)
    assert "that container was started without NET_RAW" in error.one_line_error()
    rless.run("--network container:plain", "true").expect()
    facts = rless.probe("try-raw", "--network", "container:raw", "--cap-add", "NET_RAW").facts()
    assert facts == {"try-raw": "ok"}
    rless("rm", "-f", "plain", "raw").expect()
