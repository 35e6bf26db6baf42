"""`rless service` as units of a user's systemd: it starts and ends, and nothing ends with it."""

from __future__ import annotations

import pytest

from tests.lib.guest import script
from tests.lib.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.needs("virtual machine")]

CLIENT = r"""
import http.client, json, os, socket, time

class Client(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["XDG_RUNTIME_DIR"] + "/rless/docker.sock")

def ask(method, path, body=None):
    client = Client("docker")
    head = {"Content-Type": "application/json"} if body else {}
    client.request(method, path, json.dumps(body) if body else None, head)
    answer = client.getresponse()
    said = answer.read()
    assert answer.status < 300, (path, answer.status, said)
    return json.loads(said) if said[:1] == b"{" else {}

def execute(**wanted):
    found = ask("POST", "/containers/stays/exec", wanted)["Id"]
    ask("POST", f"/exec/{found}/start", {"Detach": True})
    return found

wanted = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "pasta"}}
ask("POST", "/containers/create?name=stays", wanted)
ask("POST", "/containers/stays/start")
terminal = execute(Cmd=["sleep", "601"], Tty=True)
ends = execute(Cmd=["sh", "-c", "until [ -e /go ]; do sleep 0.2; done; exit 7"])
follower = Client("docker")  # at work: the service does not end by itself
follower.request("GET", "/events")
follower.getresponse()
with open("$SLICE/rless.service/cgroup.procs") as file:
    (service,) = file  # nobody else is in its group
os.kill(int(service), 9)
print("running", ask("GET", f"/exec/{ends}/json")["Running"])
execute(Cmd=["touch", "/go"])
while (state := ask("GET", f"/exec/{ends}/json"))["Running"]:
    time.sleep(0.2)
print("code", state["ExitCode"], ask("GET", f"/exec/{terminal}/json")["Running"])
"""


def test_nothing_ends_with_the_service_of_systemd(machine: Machine) -> None:
    """It starts by its socket, is killed, starts again, and ends when nobody is there."""
    text = r"""
        look() { systemctl --user show rless.service --value -p ActiveState; }
        units=~/.config/systemd/user; mkdir -p $units/rless.service.d
        printf '[Service]\nExecStart=\nExecStart=/opt/rless/bin/rless service --time 1\n' \
            >$units/rless.service.d/short.conf
        rless tag $IMAGE docker.io/library/busybox
        rless service install; stat -c %a $XDG_RUNTIME_DIR/rless/docker.sock; look
        python3 -c '$CLIENT'
        await '[ $(look) = inactive ]'
        rless ps --format '{{.Names}} {{.State}}'
        journalctl --user -u rless.service | grep -c -i 'left-over\|remains'
        rless rm -f stays; rless service uninstall
        rm -r $units/rless.service.d; ls $units; rm -f $XDG_RUNTIME_DIR/rless/docker.sock*"""
    slice_ = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice"
    done = machine.run(script(text, CLIENT=CLIENT, SLICE=slice_))
    assert done.lines() == [
        "unix:///run/user/1000/rless/docker.sock",
        *("600", "inactive", "running True", "code 7 True", "stays running", "0", "stays"),
    ], done
