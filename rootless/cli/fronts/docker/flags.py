"""The flags that docker and podman have before the verb, as tables (cli/parse.py)."""

from __future__ import annotations

from rootless.cli.parse import Verb

_DAEMON = "there is no daemon"
_HOST = "for that of another host use the docker command itself"
_VERSION = ("--version -v", "", "flag", "version", "boolean", "Print the version")
_LEVEL = (
    "--log-level -l", "LEVEL", "value", "log_level", "text",
    "debug, info, warn, error or fatal: which messages to print",
)  # fmt: skip

DOCKER = Verb(
    "",
    "[OPTIONS] VERB ...",
    (
        (
            "Options",
            (
                ("--config", "DIR", "value", "config", "absolute",
                 "The directory of config.json, which has the log-ins (DOCKER_CONFIG)"),
                ("--debug -D", "", "flag", "debug", "boolean",
                 "Print the time line, and tracebacks of internal errors"),
                _LEVEL,
                _VERSION,
            ),
        ),
    ),
    (
        ("--context -c", "NAME", _DAEMON, _HOST),
        ("--host -H", "SOCKET", _DAEMON, _HOST),
        ("--tls", "", _DAEMON, _HOST),
        ("--tlscacert", "FILE", _DAEMON, _HOST),
        ("--tlscert", "FILE", _DAEMON, _HOST),
        ("--tlskey", "FILE", _DAEMON, _HOST),
        ("--tlsverify", "", _DAEMON, _HOST),
    ),
    interspersed=False,
)  # fmt: skip
PODMAN = Verb(
    "",
    "[OPTIONS] VERB ...",
    (
        (
            "Options",
            (
                ("--cgroup-manager", "MANAGER", "value", "cgroup_manager", "required",
                 "systemd, cgroupfs or none"),
                (*("--log-level", *_LEVEL[1:]),),
                ("--root", "DIR", "value", "storage", "absolute",
                 "Keep images and containers there: the storage of rless, not of Podman"),
                _VERSION,
            ),
        ),
    ),
    (
        ("--connection -c", "NAME", _DAEMON, "leave it out"),
        ("--identity", "FILE", _DAEMON, "leave it out"),
        ("--remote -r", "", _DAEMON, "leave it out"),
        ("--url", "SOCKET", _DAEMON, "leave it out"),
        ("--runroot", "DIR", "what runs is on record in the storage", "--root alone moves both"),
        ("--runtime", "PATH", "the runtime is a part of rless", "leave it out"),
        ("--storage-driver", "NAME", "each container has its own", "`run --storage-driver`"),
        ("--storage-opt", "OPTION", "the storage is not Podman's", "leave it out"),
    ),
    interspersed=False,
)  # fmt: skip
