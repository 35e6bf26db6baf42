"""The command line of Apptainer, declared once: read by the parser, the help and docs/apptainer.md.

The rows have the form of `cli.parse`. A flag that is not named by a variable of its own (VARIABLES)
is set by APPTAINER_ and SINGULARITY_ with its long name in capitals. All of it is constants.
"""

from __future__ import annotations

from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.cli.parse import Group, Refused, Row

GLOBAL: Group = (
    "Global options",
    (
        ("--debug -d", "", "flag", "debug", "boolean", "Say what is done, with times"),
        ("--verbose -v", "", "flag", "verbose", "boolean", "Accepted: nothing more is said"),
        ("--quiet -q", "", "flag", "quiet", "boolean", "Leave out lines that only inform"),
        ("--silent -s", "", "flag", "silent", "boolean", "Print errors only"),
        ("--nocolor", "", "flag", "nocolor", "boolean", "Accepted: nothing is coloured"),
        ("--help -h", "", "flag", "help", "boolean", "Print usage"),
    ),
)  # fmt: skip
GLOBAL_REFUSED: tuple[Refused, ...] = (
    ("--config -c", "FILE", "apptainer.conf is not read", "see `rless config show`"),
    ("--build-config", "", "there is no build of Apptainer here", ""),
)

_FILES: Group = (
    "Files",
    (
        ("--bind -B", "SOURCE[:TARGET[:ro|rw]][,...]", "list", "bind", "text",
         "Mount files and directories of the host; a missing source is an error"),
        ("--mount", "type=bind,source=SOURCE,target=TARGET[,ro]", "list", "mount", "text",
         "The same, with fields of CSV"),
        ("--home -H", "SOURCE[:TARGET]", "value", "home", "required",
         "Use another directory as your home"),
        ("--no-home", "", "flag", "no_home", "boolean",
         "Do not mount your home, unless it is the working directory"),
        ("--no-mount", "home|tmp|cwd|hostfs|bind-paths|PATH[,...]", "list", "no_mount", "text",
         "Leave out mounts that would be made by themselves"),
        ("--pwd --cwd", "DIR", "value", "pwd", "required", "Start in this directory"),
        ("--contain -c", "", "flag", "contain", "boolean",
         "Have empty /tmp, /var/tmp and home directories of its own"),
        ("--containall -C", "", "flag", "containall", "boolean",
         "--contain, --pid, --ipc and --cleanenv"),
        ("--compat", "", "flag", "compat", "boolean",
         "--containall, --no-init, --no-umask, --no-eval and --writable-tmpfs"),
        ("--workdir -W", "DIR", "value", "workdir", "absolute",
         "With --contain, have DIR/tmp, DIR/var_tmp and DIR/home in their places"),
        ("--scratch -S --scratchdir", "DIR[,...]", "list", "scratch", "text",
         "Have an empty directory there, or one of --workdir"),
        ("--writable-tmpfs", "", "flag", "writable_tmpfs", "boolean",
         "Let files of the image be changed, and drop the changes at the end"),
        ("--writable -w", "", "flag", "writable", "boolean",
         "Change the files of an image that is a directory"),
        ("--overlay -o", "DIR|FILE[:ro][,...]", "list", "overlay", "required",
         "Keep what is changed in a directory of yours; with :ro, or of a squashfs image, see"
         " what is in there. The last one is on top"),
        ("--containlibs", "FILE[,...]", "list", "containlibs", "text",
         "Show libraries of the host in /.singularity.d/libs"),
        ("--nv", "", "flag", "nv", "boolean", "Add NVIDIA's GPUs, as a CDI file describes them"),
        ("--rocm", "", "flag", "rocm", "boolean", "Add AMD's GPUs, as a CDI file describes them"),
        ("--device", "NAME", "list", "device", "mounts.device", "Add a device by its CDI name"),
        ("--underlay", "", "flag", "underlay", "boolean",
         "Accepted: mount points are made without touching the image"),
        ("--unsquash", "", "flag", "unsquash", "boolean",
         "Accepted: an image is unpacked where it cannot be mounted"),
    ),
)  # fmt: skip
REGISTRY: tuple[Row, ...] = (
    ("--no-https --nohttps", "", "flag", "no_https", "boolean",
     "Speak to the image's registry without TLS, or without a valid certificate"),
    ("--authfile", "FILE", "value", "authfile", "absolute",
     "A file of log-ins, in place of yours"),
)  # fmt: skip
_PROCESS: Group = (
    "Process",
    (
        ("--cleanenv -e", "", "flag", "cleanenv", "boolean",
         "Pass on TERM and the proxies only"),
        ("--env", "NAME=VALUE[,...]", "list", "env", "text", "Set variables"),
        ("--env-file", "FILE", "list", "env_file", "required",
         "Set the variables that a shell sets when it reads FILE"),
        ("--no-env", "NAME[,...]", "list", "no_env", "text",
         "Do not pass on these variables of yours"),
        ("--no-eval", "", "flag", "no_eval", "boolean",
         "Accepted: variables and arguments are never evaluated"),
        ("--no-umask", "", "flag", "no_umask", "boolean", "Use the umask 0022 in place of yours"),
        ("--fakeroot -f", "", "flag", "fakeroot", "boolean",
         "Be root; changes of owners seem to succeed"),
        ("--app", "NAME", "value", "app", "required", "Use an application of the image (SCIF)"),
        ("--shell -s", "PATH", "value", "shell", "required", "The shell of `shell`"),
        ("--add-caps", "CAP[,...]", "list", "add_caps", "text",
         "Have capabilities, which hold for what is yours"),
        ("--drop-caps", "CAP[,...]", "list", "drop_caps", "text", "Drop capabilities"),
        ("--security", "seccomp:FILE", "list", "security", "text", "Use a seccomp profile"),
        ("--disable-cache", "", "flag", "disable_cache", "boolean",
         "Ask the registry again for the image"),
        *REGISTRY,
        ("--runscript-timeout", "TIME", "value", "runscript_timeout", "text",
         "Accepted: a runscript is not evaluated by rless"),
    ),
)  # fmt: skip
_NAMESPACES: Group = (
    "Namespaces",
    (
        ("--pid -p", "", "flag", "pid", "boolean",
         "Have process numbers of its own, and an init"),
        ("--no-init", "", "flag", "no_init", "boolean", "Have no init with --pid"),
        ("--no-pid", "", "flag", "no_pid", "boolean", "Take --pid of --containall back"),
        ("--ipc -i", "", "flag", "ipc", "boolean", "Have an ipc namespace of its own"),
        ("--uts", "", "flag", "uts", "boolean", "Have a host name of its own"),
        ("--hostname", "NAME", "value", "hostname", "host_name", "Set the host name"),
        ("--userns -u", "", "flag", "userns", "boolean",
         "Accepted: a user namespace is always used"),
        ("--net -n", "", "flag", "net", "boolean", "Have a network of its own"),
        ("--network", "none|host|bridge|ptp|fakeroot", "value", "network", "required",
         "Which network; all but none and host go through pasta"),
        ("--network-args", "portmap=HOST:CONTAINER/tcp", "list", "network_args", "text",
         "Publish ports of such a network"),
        ("--dns", "ADDRESS[,...]", "list", "dns", "text", "Name servers"),
        ("--sharens", "", "flag", "sharens", "boolean",
         "Share one container among the processes that a launcher starts"),
    ),
)  # fmt: skip
_LIMITS: Group = (
    "Limits",
    (
        ("--memory", "SIZE", "value", "memory", "limits.memory", "Limit the memory"),
        ("--memory-swap", "SIZE", "value", "memory_swap", "limits.memory_swap",
         "Limit memory and swap together"),
        ("--memory-reservation", "SIZE", "value", "memory_reservation", "limits.memory",
         "Memory that the kernel reclaims last"),
        ("--cpus", "N", "value", "cpus", "limits.cpus", "Limit the CPU time, in CPUs"),
        ("--cpu-shares", "N", "value", "cpu_shares", "limits.count", "Weight for CPU time"),
        ("--cpuset-cpus", "LIST", "value", "cpuset_cpus", "limits.cpuset",
         "Run on these CPUs only"),
        ("--cpuset-mems", "LIST", "value", "cpuset_mems", "limits.cpuset",
         "Use these memory nodes only"),
        ("--pids-limit", "N", "value", "pids_limit", "limits.pids",
         "Limit the number of processes"),
        ("--blkio-weight", "N", "value", "blkio_weight", "limits.weight",
         "Weight for block I/O"),
        ("--oom-kill-disable", "", "flag", "oom_kill_disable", "boolean",
         "Accepted if false: the kernel has no such switch any more"),
    ),
)  # fmt: skip
_IN_ARGUMENT = "a password in a command line can be read"
_LOG_IN = "use `apptainer registry login`"
LOG_IN: tuple[Refused, ...] = (
    ("--docker-username", "NAME", _IN_ARGUMENT, _LOG_IN),
    ("--docker-password", "TEXT", _IN_ARGUMENT, _LOG_IN),
    ("--docker-login", "", "a password is not asked for here", _LOG_IN),
)
ACTION_REFUSED: tuple[Refused, ...] = (
    ("--apply-cgroups", "FILE", "files of limits are not read", "use --memory and --cpus"),
    ("--nvccli", "", "it needs a set-uid program", "use --nv"),
    ("--keep-privs", "", "there are no privileges to keep", "use --fakeroot"),
    ("--no-privs", "", "a container never has privileges on the host", "leave it out"),
    ("--allow-setuid", "", "nothing of rless is set-uid", "use --fakeroot"),
    ("--fusemount", "TEXT", "FUSE programs are not started for a container", "use --bind"),
    ("--boot", "", "an init system is not booted", "use `rless run --systemd=always`"),
    ("--dmtcp-launch", "NAME", "checkpoints are not supported", ""),
    ("--dmtcp-restart", "NAME", "checkpoints are not supported", ""),
    ("--netns-path", "PATH", "it needs root", "use `rless run --network ns:PATH`"),
    ("--passphrase", "", "encrypted images need a set-uid program", "use an image without it"),
    ("--pem-path", "FILE", "encrypted images need a set-uid program", "use an image without it"),
    *LOG_IN,
    ("--vm", "", "there are no virtual machines", "leave it out"),
    ("--vm-cpu", "N", "there are no virtual machines", "leave it out"),
    ("--vm-ram", "N", "there are no virtual machines", "leave it out"),
    ("--vm-err", "", "there are no virtual machines", "leave it out"),
    ("--vm-ip", "ADDRESS", "there are no virtual machines", "leave it out"),
)  # fmt: skip

ACTIONS = (_FILES, _PROCESS, _NAMESPACES, _LIMITS)

# The name of the variable, without APPTAINER_, where it is not the flag's.
VARIABLES = {
    "--bind": ("BIND", "BINDPATH"),
    "--scratch": ("SCRATCH", "SCRATCHDIR"),
    "--pwd": ("PWD", "CWD"),
    "--fakeroot": ("FAKEROOT",),
    "--no-mount": ("NO_MOUNT",),
    "--security": ("SECURITY",),
    "--no-https": ("NOHTTPS", "NO_HTTPS"),
    "--env": (),
    "--env-file": ("ENV_FILE",),
}


class FrontVerb(Verb):
    """A verb of Apptainer: see_help names the front, and `about` says what the verb does."""

    __slots__ = ("about",)

    def __init__(self, name: str, usage: str, about: str, *groups: Group, **more: object) -> None:
        super().__init__(name, usage, groups, **more)  # type: ignore[arg-type]
        self.about = about

    def see_help(self) -> str:
        """Return the hint that ends most messages."""
        return f"see '{' '.join(('apptainer', *self.name.split()))} --help'"


def _action(name: str, usage: str, about: str, least: int = 1) -> FrontVerb:
    return FrontVerb(
        name, usage, about, *ACTIONS, refused=ACTION_REFUSED, least=least, interspersed=False
    )


# verb -> its module here; those of two words are found by the first one.
MODULES = {
    **dict.fromkeys(("exec", "run", "shell", "test"), "actions"),
    "pull": "pull",
    "push": "push",
    "registry": "registry",
    "build": "build",
    "inspect": "inspect",
    "run-help": "inspect",
    "instance": "instance",
    "cache": "cache",
    "sif": "sif",
    "verify": "sif",
}
# Verbs that are known and refused: why, and what to use.
REFUSED_VERBS = {
    "sign": ("images are signed in a registry", "use `rless push --sign-by`"),
    "key": ("keys are gpg's and cosign's own", "see `rless image trust --help`"),
    "capability": ("a user's capabilities need no list", "use --add-caps"),
    "plugin": ("there are no plugins", "see `rless config show` for modules of a site"),
    "checkpoint": ("checkpoints are not supported", ""),
    "config": ("apptainer.conf is not read", "see `rless config show`"),
    "remote": (
        "there is no library or remote endpoint",
        "use `apptainer registry login` for a registry",
    ),
    "oci": ("an OCI bundle is run by its runtime", "use `rless-oci`"),
    "overlay": ("an overlay is a directory, which is made when it is used", "use --overlay DIR"),
    "search": ("there is no library", "use `rless search` for a registry"),
    "delete": ("there is no library", "delete a tag in its registry"),
    "keyserver": ("keys are gpg's and cosign's own", "see `rless image trust --help`"),
}
# Schemes of images that are known and refused: why, and what to use.
REFUSED_SCHEMES = {
    "library": ("there is no library", "use docker://"),
    "shub": ("Singularity Hub was closed", "use docker://"),
    "ipfs": ("IPFS is not spoken", "fetch the file, and name it"),
    "docker-daemon": ("there is no daemon", "use docker-archive: with `docker save`"),
}
SCHEMES = ("docker", "docker-archive", "oci", "oci-archive")
FILE_SCHEMES = ("oras", "http", "https")  # of image files

ACTION_VERBS = {
    "exec": _action(
        "exec", "[OPTIONS] IMAGE COMMAND [ARG...]", "Run a command in a container", least=2
    ),
    "run": _action("run", "[OPTIONS] IMAGE [ARG...]", "Run what the image is for"),
    "shell": _action("shell", "[OPTIONS] IMAGE", "Run a shell in a container"),
    "test": _action("test", "[OPTIONS] IMAGE [ARG...]", "Run the tests of the image"),
}
