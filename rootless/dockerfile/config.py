"""How instructions change an image's config.

    config = ImageConfig(base_config, signal_number)
    config.apply(instruction.expanded(variables))      -> False: it is none that changes the config
    config.value, config.author

Source: docs.docker.com/reference/dockerfile; BuildKit
frontend/dockerfile/dockerfile2llb/convert.go, convert_expose.go.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rootless.dockerfile import instructions as form
from rootless.dockerfile.errors import DockerfileError
from rootless.errors import RlessError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEFAULT_SHELL = ("/bin/sh", "-c")
ENV_LIMIT = 2 << 20  # characters of all variables
CONFIG_LIMIT = 4 << 20  # characters of the config as JSON

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def exposed(word: str) -> list[str]:
    """Return the ports that a word of EXPOSE means, as `80/tcp`.

    Of `ip:host:port` only the container's port counts.

    Raises:
        DockerfileError: it is no port.
    """
    match = _PORT.fullmatch(word.rpartition(":")[2])
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    if match is None or not 1 <= first <= last <= 65535:
        raise DockerfileError(f"EXPOSE: {word!r} is not a port", "write it as 80, 80/udp or 80-90")
    protocol = (match[3] or "tcp").lower()
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


class ImageConfig:
    """The `config` object of an image while a stage changes it.

    Args:
        config: that of the base; it is not changed.
        signal_number: refuses what is no signal, as `rootless.linux.process.signal_number`.

    Attributes:
        value: the config now.
        author: what MAINTAINER says, None without one; it stands beside the config in an image.
    """

    def __init__(self, config: Mapping[str, Any], signal_number: Callable[[str], int]) -> None:
        self.value: dict[str, Any] = json.loads(json.dumps(config))
        self.author: str | None = None
        self._signal_number = signal_number
        self._has_cmd = False
        self._added = 0

    @property
    def shell(self) -> Sequence[str]:
        """The shell of RUN, CMD and ENTRYPOINT in the shell form."""
        return self.value.get("Shell") or DEFAULT_SHELL

    @property
    def variables(self) -> dict[str, str]:
        """The environment as names with values."""
        entries = (entry.partition("=") for entry in self.value.get("Env") or [])
        return {key: value for key, _, value in entries}

    def apply(self, instruction: form.Instruction) -> bool:
        """Change the config by an expanded instruction; False if it is of another kind.

        Raises:
            DockerfileError: a value that cannot stand in a config, with the lines.
        """
        change = _CHANGES.get(type(instruction))
        if change is None:
            return False
        node = instruction.node
        try:
            change(self, instruction)
            self._check_size(len(node.original) + len(str(instruction)))
        except DockerfileError as error:
            raise error.at(node.line, node.last) from error
        return True

    def _check_size(self, added: int) -> None:
        self._added += added
        if self._added > ENV_LIMIT:
            if sum(map(len, self.value.get("Env") or ())) > ENV_LIMIT:
                raise DockerfileError(f"the variables have more than {ENV_LIMIT} characters")
            if len(json.dumps(self.value)) > CONFIG_LIMIT:
                raise DockerfileError(f"the config has more than {CONFIG_LIMIT} characters")

    # -- instructions ----------------------------------------------------------------------------

    def _cmd(self, cmd: form.Cmd) -> None:
        self.value["Cmd"] = cmd.command.words(self.shell)
        self._has_cmd = True

    def _entrypoint(self, entrypoint: form.Entrypoint) -> None:
        self.value["Entrypoint"] = entrypoint.command.words(self.shell) or None
        if not self._has_cmd:
            # The command of the old entry point is none for the new one.
            self.value.pop("Cmd", None)

    def _shell(self, shell: form.Shell) -> None:
        self.value["Shell"] = list(shell.argv)

    def _env(self, env: form.Env) -> None:
        variables = {**self.variables, **dict(env.pairs)}
        self.value["Env"] = [f"{key}={value}" for key, value in variables.items()]

    def _label(self, label: form.Label) -> None:
        self.value["Labels"] = {**(self.value.get("Labels") or {}), **dict(label.pairs)}

    def _expose(self, expose: form.Expose) -> None:
        ports = dict(self.value.get("ExposedPorts") or {})
        for word in expose.ports:
            ports.update({port: {} for port in exposed(word)})
        self.value["ExposedPorts"] = ports

    def _volume(self, volume: form.Volume) -> None:
        volumes = dict(self.value.get("Volumes") or {})
        self.value["Volumes"] = {**volumes, **{path: {} for path in volume.paths}}

    def _user(self, user: form.User) -> None:
        self.value["User"] = user.user

    def _workdir(self, workdir: form.Workdir) -> None:
        self.value["WorkingDir"] = workdir.below(self.value.get("WorkingDir") or "/")

    def _healthcheck(self, check: form.Healthcheck) -> None:
        if check.command is None:
            self.value["Healthcheck"] = {"Test": ["NONE"]}
            return
        argv = check.command.argv
        test = ["CMD-SHELL", check.command.text] if argv is None else ["CMD", *argv]
        numbers = {
            "Interval": check.interval,
            "Timeout": check.timeout,
            "StartPeriod": check.start_period,
            "StartInterval": check.start_interval,
            "Retries": check.retries,
        }
        given = {key: number for key, number in numbers.items() if number}
        self.value["Healthcheck"] = {"Test": test, **given}

    def _stopsignal(self, stopsignal: form.Stopsignal) -> None:
        try:
            self._signal_number(stopsignal.signal)
        except RlessError as error:
            raise DockerfileError(f"STOPSIGNAL: {error.message}") from error
        self.value["StopSignal"] = stopsignal.signal

    def _onbuild(self, onbuild: form.Onbuild) -> None:
        self.value["OnBuild"] = [*(self.value.get("OnBuild") or []), onbuild.trigger]

    def _maintainer(self, maintainer: form.Maintainer) -> None:
        self.author = maintainer.author


_CHANGES: dict[type[form.Instruction], Callable[[ImageConfig, Any], None]] = {
    form.Cmd: ImageConfig._cmd,
    form.Entrypoint: ImageConfig._entrypoint,
    form.Env: ImageConfig._env,
    form.Expose: ImageConfig._expose,
    form.Healthcheck: ImageConfig._healthcheck,
    form.Label: ImageConfig._label,
    form.Maintainer: ImageConfig._maintainer,
    form.Onbuild: ImageConfig._onbuild,
    form.Shell: ImageConfig._shell,
    form.Stopsignal: ImageConfig._stopsignal,
    form.User: ImageConfig._user,
    form.Volume: ImageConfig._volume,
    form.Workdir: ImageConfig._workdir,
}
