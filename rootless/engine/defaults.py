"""Docker's defaults of a container, as data (moby: oci/defaults.go, oci/caps/defaults.go).

CAP_NET_RAW is not among the capabilities: raw sockets lead to the host's loopback
(`rootless.network.loopback_guard`).
"""

from __future__ import annotations

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE = 64 << 20  # bytes
STOP_SIGNAL = "SIGTERM"
PIDS_LIMIT = 2048  # as Podman; where it can be set
STOP_TIMEOUT = 10  # seconds
LOG_DRIVER = "local"
LOG_SIZE = 20 << 20  # bytes
LOG_FILES = 5
TTY_GROUP = 5
INIT_PATH = "/run/rless-init"
