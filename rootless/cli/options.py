"""The options of `rless run`, declared once: read by the parser, by click and by docs/cli.md.

Every flag of `docker run` (27/28) is here: in GROUPS if it does what it says, in REFUSED if
it is refused by name. The form of a row is described in `parse`. All of it is constants, so
the compiled module is read in one piece. `python -m rootless.cli.reference` prints docs/cli.md.
"""

from __future__ import annotations

from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.cli.parse import Group, Refused

_PROCESS: Group = (
    "Process",
    (
        ("--detach -d", "", "flag", "detach", "boolean", "Run in the background and print the id"),
        ("--interactive -i", "", "flag", "interactive", "boolean", "Keep standard input open"),
        ("--tty -t", "", "flag", "tty", "boolean", "Give the container a terminal of its own"),
        ("--rm", "", "flag", "rm", "boolean", "Remove the container when it ends"),
        ("--init", "", "flag", "init", "boolean",
         "Run a small init that forwards signals and reaps processes"),
        ("--entrypoint", "COMMAND", "value", "entrypoint", "text",
         "Replace the entrypoint of the image; empty: none"),
        ("--env -e", "KEY[=VALUE]", "list", "env", "env",
         ("Set a variable; without a value, copy it (or all that match a pattern such "
          "as 'SLURM_*') from your environment")),
        ("--env-file", "FILE", "list", "env_file", "required", "Read variables from a file"),
        ("--unset-env", "GLOB", "list", "env_unset", "required",
         "Leave out variables of the image and of --env-host"),
        ("--user -u", "USER[:GROUP]", "value", "user", "optional",
         "Run as this user; names and numbers are those of the container"),
        ("--group-add", "GROUP", "list", "group_add", "required",
         "Join another group; keep-groups: as --keep-groups"),
        ("--keep-groups", "", "flag", "keep_groups", "boolean",
         "Keep your supplementary groups, for files that only these may access"),
        ("--workdir -w", "DIR", "value", "workdir", "workdir",
         "Start in this directory of the container; create it if missing"),
        ("--ulimit", "NAME=SOFT[:HARD]", "list", "ulimits", "ulimit",
         "Set a resource limit; -1 is unlimited"),
        ("--oom-score-adj", "N", "value", "oom_score_adj", "oom_score",
         "Adjust the kernel's choice of what to kill when memory runs out (-1000 to 1000)"),
        ("--stop-signal", "SIGNAL", "value", "stop_signal", "signal",
         "Signal that `rless stop` sends first"),
        ("--stop-timeout", "SECONDS", "value", "stop_timeout", "seconds",
         "How long `rless stop` waits before it kills the container; -1: for ever"),
        ("--sig-proxy", "", "flag", "sig_proxy", "boolean",
         "Forward signals to the process (true unless turned off)"),
        ("--attach -a", "STREAM", "list", "attach", "compat.attach",
         "Attach stdin, stdout or stderr only (default: all)"),
        ("--detach-keys", "KEYS", "value", "detach_keys", "logging.detach_keys",
         "Keys that detach from a container with a terminal (ctrl-p,ctrl-q)"),
        ("--log-driver", "DRIVER", "value", "log_driver", "logging.driver",
         "Where to keep the output: local (default), json-file, journald, none"),
        ("--log-opt", "KEY=VALUE", "map", "log_options", "logging.option",
         "max-size (20m) and max-file (5) of local and json-file, tag of journald"),
        ("--restart", "POLICY", "value", "restart", "logging.restart",
         "When to restart the container: no, on-failure[:MAX], always, unless-stopped"),
    ),
)  # fmt: skip

_HEALTH: Group = (
    "Health",
    (
        ("--health-cmd", "COMMAND", "value", "health_cmd", "text",
         "Shell command that checks the health; exit code 0: healthy"),
        ("--health-interval", "TIME", "value", "health_interval", "health.duration",
         "Time between two checks (30s)"),
        ("--health-timeout", "TIME", "value", "health_timeout", "health.duration",
         "How long a check may take (30s)"),
        ("--health-retries", "N", "value", "health_retries", "health.retries",
         "Failures in a row that make the container unhealthy (3)"),
        ("--health-start-period", "TIME", "value", "health_start_period", "health.duration",
         "Time after the start during which failures do not count (0s)"),
        ("--health-start-interval", "TIME", "value", "health_start_interval", "health.duration",
         "Time between two checks in the start period (5s)"),
        ("--no-healthcheck", "", "flag", "no_healthcheck", "boolean",
         "Turn off the image's health check"),
    ),
)  # fmt: skip

_IDENTITY: Group = (
    "Image and identity",
    (
        ("--name", "NAME", "value", "name", "container_name", "Name the container"),
        ("--replace", "", "flag", "replaces", "boolean",
         "Remove the container that has the name of --name, even if it runs"),
        ("--hostname -h", "NAME", "value", "hostname", "host_name", "Host name in the container"),
        ("--domainname", "NAME", "value", "domainname", "host_name",
         "NIS domain name in the container"),
        ("--label -l", "KEY[=VALUE]", "map", "labels", "label", "Set a label"),
        ("--label-file", "FILE", "list", "label_file", "required", "Read labels from a file"),
        ("--annotation", "KEY[=VALUE]", "map", "annotations", "label",
         "Set an annotation of the OCI config"),
        ("--cidfile", "FILE", "value", "cidfile", "absolute", "Write the id to a new file"),
        ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
         "Which image of a multi-platform index to use"),
        ("--pull", "POLICY", "value", "pull", "pull_policy",
         "When to pull: always, missing (default) or never"),
        ("--signature-policy", "FILE", "value", "signature_policy", "absolute",
         "The policy.json that a pulled image has to satisfy"),
        ("--quiet -q", "", "flag", "quiet", "boolean", "Show nothing while pulling"),
        ("--disable-content-trust", "", "flag", "accepted", "compat.content_trust",
         "Accepted without effect: Docker Content Trust was discontinued"),
    ),
)  # fmt: skip

_FILES: Group = (
    "Files",
    (
        ("--volume -v", "[SOURCE:]TARGET[:OPTIONS]", "list", "mounts", "mounts.volume",
         "Mount a host path (created if missing) or a named volume"),
        ("--mount", "type=TYPE,src=SOURCE,dst=TARGET[,...]", "list", "mounts", "mounts.mount",
         "Mount a bind, volume or tmpfs; a missing source is an error"),
        ("--volumes-from", "CONTAINER[:ro|rw]", "list", "volumes_from", "mounts.volumes_from",
         "Mount the volumes and host paths of another container"),
        ("--tmpfs", "TARGET[:OPTIONS]", "list", "mounts", "mounts.tmpfs", "Mount an empty tmpfs"),
        ("--read-only", "", "flag", "read_only", "boolean", "Make the root filesystem read-only"),
        ("--shm-size", "SIZE", "value", "shm_size", "shm_size", "Size of /dev/shm (64m)"),
        ("--device", "HOST[:CONTAINER][:rwm]", "list", "devices", "mounts.device",
         "Add a device of the host, or one with a CDI name, vendor.com/class=name"),
        ("--gpus", "all|N|device=NAME", "list", "gpus", "mounts.gpus",
         "Add GPUs that a CDI file describes"),
        ("--volume-driver", "DRIVER", "value", "accepted", "compat.volume_driver",
         "Only `local`: volumes are directories of the storage"),
    ),
)  # fmt: skip

_NAMESPACES: Group = (
    "Namespaces",
    (
        ("--userns", "MODE", "value", "userns", "privileges.userns",
         ("Id map: auto (0 is you; with files of the host the application's user), host-root (0 is "
          "you; also `host`), keep-id[:uid=N,gid=N], nomap, single, container:NAME")),
        ("--pid", "MODE", "value", "pid", "privileges.pid", "private, host, container:NAME"),
        ("--ipc", "MODE", "value", "ipc", "privileges.ipc",
         "private, shareable, host, none, container:NAME"),
        ("--uts", "MODE", "value", "uts", "privileges.uts", "private, host, container:NAME"),
        ("--cgroupns", "MODE", "value", "cgroupns", "privileges.cgroupns",
         ("private, host, container:NAME; `host` with --privileged lets the container end or "
          "freeze all your other containers")),
        ("--isolation", "MODE", "value", "accepted", "compat.isolation",
         "Only `default`, as on Linux"),
    ),
)  # fmt: skip

_LIMITS: Group = (
    "Limits",
    (
        ("--memory -m", "SIZE", "value", "memory", "limits.memory",
         "Limit the memory; a process that needs more is killed"),
        ("--memory-swap", "SIZE", "value", "memory_swap", "limits.memory_swap",
         "Limit memory and swap together (twice --memory); -1: unlimited swap"),
        ("--memory-reservation", "SIZE", "value", "memory_reservation", "limits.memory",
         "Memory that the kernel reclaims from the container last"),
        ("--cpus", "N", "value", "cpus", "limits.cpus", "Limit the CPU time, in CPUs, such as 1.5"),
        ("--cpu-shares -c", "N", "value", "cpu_shares", "limits.count",
         "Weight for sharing CPU time with others (1024)"),
        ("--cpu-period", "MICROSECONDS", "value", "cpu_period", "limits.count",
         "Length of a period for --cpu-quota (100000)"),
        ("--cpu-quota", "MICROSECONDS", "value", "cpu_quota", "limits.quota",
         "Limit the CPU time in a period"),
        ("--cpuset-cpus", "LIST", "value", "cpuset_cpus", "limits.cpuset",
         "Run on these CPUs only, such as 0-2,7"),
        ("--cpuset-mems", "LIST", "value", "cpuset_mems", "limits.cpuset",
         "Use these memory nodes only"),
        ("--pids-limit", "N", "value", "pids_limit", "limits.pids",
         ("Limit the number of processes and threads (2048, where it can be set); -1 or "
          "0: unlimited")),
        ("--blkio-weight", "N", "value", "blkio_weight", "limits.weight",
         "Weight for sharing block I/O with others, 10 to 1000"),
        ("--blkio-weight-device", "DEVICE:N", "list", "blkio_weight_device",
         "limits.weight_device", "The same for one device"),
        ("--device-read-bps", "DEVICE:RATE", "list", "device_read_bps", "limits.rate",
         "Limit the bytes read from a device in a second"),
        ("--device-write-bps", "DEVICE:RATE", "list", "device_write_bps", "limits.rate",
         "Limit the bytes written to a device in a second"),
        ("--device-read-iops", "DEVICE:RATE", "list", "device_read_iops", "limits.operations",
         "Limit the reads from a device in a second"),
        ("--device-write-iops", "DEVICE:RATE", "list", "device_write_iops", "limits.operations",
         "Limit the writes to a device in a second"),
        ("--cgroup-conf", "FILE=VALUE", "map", "cgroup_conf", "limits.conf",
         "Write a file of the control group (v2), such as memory.high=1073741824"),
        ("--cgroup-parent", "CGROUP", "value", "cgroup_parent", "limits.parent",
         "Where to create the control group: a slice of systemd, or a path"),
        ("--cgroup-manager", "MANAGER", "value", "cgroup_manager", "limits.manager",
         "systemd, cgroupfs or none; default: the first that works"),
        ("--cgroups", "MODE", "value", "cgroups", "limits.groups",
         "enabled; disabled: no control group; split: below the group of rless"),
        ("--limits", "enforce|try", "value", "limits", "limits.effort",
         "try: replace a limit that cannot be set by the closest one, with a warning"),
    ),
)  # fmt: skip

_NETWORK: Group = (
    "Network",
    (
        ("--network --net", "MODE", "list", "network", "network.network",
         "pasta[:OPTION,...] (default), none, host, container:NAME, ns:PATH,"
         " NETWORK[:KEY=VALUE,...]"),
        ("--network-alias --net-alias", "NAME", "list", "aliases", "network.alias",
         "Another name in the networks"),
        ("--link", "CONTAINER[:ALIAS]", "list", "links", "network.link",
         ("Add a container of the same network to /etc/hosts and the environment, as "
          "Docker once did")),
        ("--publish -p", "[[IP:][HOST_PORT]:]PORT[/PROTOCOL]", "list", "publish", "network.publish",
         "Publish a port, or a range of ports, to the host"),
        ("--publish-all -P", "", "flag", "publish_all", "boolean",
         "Publish each exposed port on a free port of the host"),
        ("--expose", "PORT[-PORT][/PROTOCOL]", "list", "expose", "network.expose",
         ("Record that the container listens on this port; it is published only by -P, "
          "as in Docker")),
        ("--ip", "ADDRESS", "value", "ip", "network.ip4", "IPv4 address of the container"),
        ("--ip6", "ADDRESS", "value", "ip6", "network.ip6", "IPv6 address of the container"),
        ("--mac-address", "ADDRESS", "value", "mac_address", "network.mac",
         "MAC address of the container's interface"),
        ("--add-host", "NAME:ADDRESS", "list", "add_host", "network.add_host",
         "Add a line to /etc/hosts; the address `host-gateway` is the host's"),
        ("--dns", "ADDRESS", "list", "dns", "network.dns", "Use this name server"),
        ("--dns-search", "DOMAIN", "list", "dns_search", "network.dns_search",
         "Search this domain; `.`: none"),
        ("--dns-option --dns-opt", "OPTION", "list", "dns_option", "network.dns_option",
         "Set an option of resolv.conf"),
        ("--no-hosts", "", "flag", "no_hosts", "boolean", "Keep the /etc/hosts of the image"),
    ),
)  # fmt: skip

_SECURITY: Group = (
    "Security",
    (
        ("--cap-add", "CAPABILITY", "list", "cap_add", "privileges.capability",
         "Add a capability, or ALL"),
        ("--cap-drop", "CAPABILITY", "list", "cap_drop", "privileges.capability",
         "Drop a capability, or ALL"),
        ("--privileged", "", "flag", "privileged", "boolean",
         "All capabilities, no seccomp filter, no masked paths; no rights beyond yours"),
        ("--security-opt", "KEY[=VALUE]", "list", "security_opt", "privileges.security_opt",
         ("no-new-privileges, seccomp=FILE|unconfined|builtin, systempaths=unconfined, "
          "apparmor=unconfined, label=disable; of rless: unmask=PATH[:PATH]|ALL, nested-userns")),
        ("--sysctl", "KEY=VALUE", "map", "sysctls", "privileges.sysctl",
         "Set a namespaced kernel parameter"),
    ),
)  # fmt: skip

_HPC: Group = (
    "Clusters",
    (
        ("--hpc", "", "flag", "hpc", "boolean",
         ("All of the following but --module and --fakeroot; your own id; host network, ipc, pid, "
          "uts; for `run` without -d also --rm -i --log-driver none")),
        ("--home", "", "flag", "share_home", "boolean", "Mount your home directory"),
        ("--cwd", "", "flag", "share_cwd", "boolean",
         "Mount the working directory, and start in it"),
        ("--host-tmp", "", "flag", "share_tmp", "boolean", "Mount /tmp and /var/tmp of the host"),
        ("--env-host", "", "flag", "env_host", "boolean",
         "Pass on your environment; variables of the image take precedence"),
        ("--fabric", "", "flag", "fabric", "boolean",
         "Add the devices of the interconnect: InfiniBand, Slingshot, Omni-Path, xpmem, knem"),
        ("--module", "NAME[,NAME...]", "list", "modules", "required",
         ("Add the modules of the site's configuration with these names: mounts, "
          "variables, devices")),
        ("--fakeroot", "", "flag", "fakeroot", "boolean",
         ("Let chown, mknod and changes of user report success without effect (true for root "
          "without subordinate ids)")),
    ),
)  # fmt: skip

_OWN: Group = (
    "Only in rless",
    (
        ("--join", "KEY", "optional", "join", "join_key",
         ("Share one container with every `run --join` of the same KEY (the Slurm step, else the "
          "parent process); this process becomes the program")),
        ("--rootfs", "DIR", "value", "rootfs", "absolute",
         "Use this directory as the root filesystem, instead of IMAGE"),
        ("--explain", "text|json", "optional", "explain", "explain",
         "Show what really happened, step by step, on standard error"),
        ("--storage-driver", "DRIVER", "value", "driver", "storage_driver",
         "overlay, fuse-overlayfs or copy; default: the first that works"),
        ("--sdnotify", "MODE", "value", "sdnotify", "logging.sdnotify",
         ("Which process notifies the systemd of $NOTIFY_SOCKET: conmon (rless, when the container "
          "has started), container, ignore")),
        ("--systemd", "MODE", "value", "systemd", "logging.systemd",
         ("Prepare the container for systemd: auto (default: if the command is systemd or "
          "/sbin/init), true (the same, but refused where systemd cannot run), always, false")),
        ("--debug", "", "flag", "debug", "boolean", "Print the timeline of the start"),
    ),
)  # fmt: skip

GROUPS: tuple[Group, ...] = (
    _PROCESS, _HEALTH, _IDENTITY, _FILES, _LIMITS, _NAMESPACES, _NETWORK, _SECURITY, _HPC, _OWN,
)  # fmt: skip

_WINDOWS = "it exists on Windows only"

REFUSED: tuple[Refused, ...] = (
    ("--memory-swappiness", "N", "control groups v2 have no swappiness", ""),
    ("--kernel-memory", "SIZE", "neither the kernel nor Docker has this limit any more", ""),
    ("--oom-kill-disable", "", "control groups v2 cannot turn it off", "use --oom-score-adj"),
    ("--cpu-rt-period", "MICROSECONDS", "real-time scheduling of groups needs root", ""),
    ("--cpu-rt-runtime", "MICROSECONDS", "real-time scheduling of groups needs root", ""),
    ("--device-cgroup-rule", "RULE", "device rules of control groups need root",
     "use --device: the host's file permissions decide"),
    ("--cpu-count", "N", _WINDOWS, ""),
    ("--cpu-percent", "N", _WINDOWS, ""),
    ("--io-maxbandwidth", "SIZE", _WINDOWS, ""),
    ("--io-maxiops", "N", _WINDOWS, ""),
    ("--link-local-ip", "ADDRESS", "the network assigns these addresses itself", ""),
    ("--storage-opt", "KEY=VALUE", "a size limit of the root filesystem needs root", ""),
    ("--runtime", "NAME", "not built yet: rless is its own OCI runtime", ""),
    ("--use-api-socket", "", "there is no Docker daemon behind rless", ""),
)  # fmt: skip

RUN = Verb(
    "run",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    GROUPS,
    REFUSED,
    interspersed=False,
    examples=(
        ("A shell in an image, which is gone at its end", "rless run --rm -it alpine"),
        ("The programs of this host, without an image", "rless run --rm -it host: bash"),
        ("A service, with a port and a directory of yours",
         "rless run -d --name web -p 8080:80 -v ./site:/usr/share/nginx/html nginx"),
        ("A variable, a volume with a name, a limit, and a start after each reboot",
         ("rless run -d -e POSTGRES_PASSWORD=x -v db:/var/lib/postgresql/data -m 1g "
          "--restart always postgres")),
        ("A service in a network, for containers beside it",
         "rless run -d --network bridge --name cache redis"),
        ("One of those containers, which finds it by its name",
         "rless run --rm --network bridge redis redis-cli -h cache ping"),
        ("What a start does, step by step", "rless run --rm --explain host: true"),
    ),
)  # fmt: skip

# `create` has all of it but what is about the process that `run` stays.
_RUN_ONLY = ("--join", "--detach -d", "--sig-proxy", "--detach-keys", "--explain", "--debug")
CREATE = Verb(
    "create",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    tuple((title, tuple(row for row in rows if row[0] not in _RUN_ONLY)) for title, rows in GROUPS),
    REFUSED,
    interspersed=False,
)
