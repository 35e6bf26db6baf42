"""What does not depend on how fast the machine is: modules that are read, and system calls.

As root of a user namespace with one id: newuidmap cannot be traced by a user.
"""

from __future__ import annotations

from benchmarks.peers import Peers

NAME = "counted"


def count(peers: Peers) -> None:
    """Print the counts."""
    if "strace" in peers.missing:
        return
    trace = f"{peers.work}/trace"
    mapped = ["unshare", "-Ur"]
    run = ["run", "--rm", "--network", "none", peers.image, "true"]
    rows = []
    for program, own in peers.installations():
        command = [program, "--storage", f"{own['RLESS_STORAGE']}-single", *run]
        peers.check([*mapped, *command], own)
        when = ", before" * (program == peers.before)
        rows += [(f"rless run{when}", command), (f"rless --version{when}", [program, "--version"])]
    print(f"\n{'counted by strace -f':<26}modules read  calls with a path  all calls")
    for label, argv in (*rows, ("python3 -I -c pass", ["/usr/bin/python3", "-I", "-c", "pass"])):
        done = peers.run([*mapped, "strace", "-f", "-qq", "-o", trace, *argv])
        if done.returncode:
            print(f"bench: {label} cannot be traced here: {done.stdout.strip()}")
            continue
        with open(trace, encoding="utf-8", errors="replace") as file:
            calls = [line.split(maxsplit=1)[1] for line in file if "(" in line]
        paths = [call for call in calls if '"/' in call or '"."' in call]
        modules = [call for call in paths if ".pyc" in call and " = -1 " not in call]
        print(f"  {label:<24}{len(modules):12}{len(paths):18}{len(calls):11}")
