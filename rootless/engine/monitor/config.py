"""The monitor config: the one table of its keys, for Python and for C.

The monitor program (helpers/monitor) gets its config in a memfd, as KEY NUL VALUE NUL ..., so that
its arguments show nothing of it. The config has each key of its class once, or any number of times
for a list. The program exits with 70 if a key is missing, unknown or malformed. The types are:

    int          a number; a descriptor if the name ends in _fd, with -1 for none
    str          text
    bool         0 or 1
    list[...]    a pair for each element; descriptors if the name ends in _fds

`scripts/monitor-config > helpers/monitor/config.h` generates the C form of the table. A start does
not load this module, which is for type checkers only: `execute.encode` goes by names and values.
"""

# `execute.decode` reads the types, so no `from __future__ import annotations`.
from typing import TypedDict


class LogConfig(TypedDict):
    log: str  # local, json-file, journald, none
    log_size: int  # bytes
    log_files: int
    journal: str  # its socket
    journal_fields: str  # lines NAME=VALUE


class HealthConfig(TypedDict):
    health_first: int  # ms until the first check; 0: there is none
    health_start_interval: int  # ms between checks while the application starts
    health_interval: int  # ms


class SandboxConfig(LogConfig, HealthConfig):
    """The keys that are known before init exists."""

    id: str  # of the container
    name: str
    directory: str  # of the container
    attributes: str  # of its events: JSON without the braces and the name
    run_record: str  # its path
    names: str  # the directory of names
    events: str  # the file that events are appended to
    started: str  # seconds since 1970; "": not yet
    remove: bool  # the container, when it has ended
    remove_volumes: bool  # its anonymous volumes, too
    cgroup: str  # its directory; "": none
    mounts: list[str]  # where its root and its overlays are mounted
    lock_fds: list[int]  # held while the root is mounted
    helper_pids: list[int]  # children that serve the mounts
    pasta: int  # its pid; 0: none
    wait_pasta: bool  # until it has ended: it holds published ports
    member_fd: int  # the connection that is its place in networks
    orphans: bool  # of the application come to the monitor
    listener_fd: int  # where clients connect
    stdin_fd: int  # the monitor's ends of the application's pipes
    stdout_fd: int
    stderr_fd: int
    stdin_once: bool  # it ends with the first client's
    client_fd: int  # the first client, which has started the container, and its pipes
    client_stdin_fd: int
    client_stdout_fd: int
    client_stderr_fd: int
    stop_on_disconnect: int  # that client's end is the container's: 1 always, 2 until it has begun
    connection_fds: list[int]  # clients that have waited for a restart
    restart: str  # no, on-failure, always, unless-stopped
    restart_max: int  # restarts after a failure; 0: no limit
    restarts: int  # so far
    restart_delay: int  # ms before the last one
    stop_signal: int
    stop_timeout: int  # seconds; -1: for ever
    join_timeout: int  # ms until the first process has joined (--join); 0: none may
    python: list[str]  # the words that start the interpreter
    python_fd: int  # to execute it by; -1: by its path
    environment: list[str]  # of the interpreter
    code: int  # the exit code, where init is 0: it could not be started again
    error: str  # the reason: a JSON string; "": none


class InitConfig(TypedDict):
    """The keys that are known once init has been cloned."""

    init: int  # its pid
    init_fd: int  # its pidfd
    pty_fd: int  # the application's terminal
    status_fd: int  # the pipe by which init tells how it fares; execve closes it
    release_fd: int  # a byte written here lets init go on; -1: that was done
    begun: bool  # the application runs already (--explain)


class MonitorConfig(SandboxConfig, InitConfig):
    """The config of a container's monitor."""


class KeeperConfig(TypedDict):
    """The config of the keeper of an `exec` process, or of its terminal alone."""

    child: int  # the pid of that process; 0: it is another's child
    init_fd: int  # its pidfd
    pty_fd: int  # its terminal
    client_fd: int  # the end of this pipe is that of who reads the terminal; -1: nobody does
    result_fd: int  # the end of this pipe is that of the process; -1: nobody waits for it
    directory: str  # where its exit code is recorded; "": nowhere
    id: str  # of the container
    name: str
    attributes: str  # of events
    exec: str  # the id of this exec
    events: str  # the file that events are appended to
