"""What was typed after `rless build`, as plain data.

The command line makes it (`cli.verbs.image.build`), and nothing is looked up for it but variables
of the environment. Paths are absolute, so it means the same in every process of the build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.frozen import NOTHING, Frozen
from rootless.errors import RlessError, escape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.engine.request import RunRequest

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_LATEST = 1 << 36  # seconds since 1970: more than a header of a tar holds without an extension


class Secret(Frozen):
    """A secret of --secret: the content of a file, or of a variable of the caller's environment.

    Attributes:
        path: absolute; "": it is the variable `env`.
    """

    id: str
    path: str = ""
    env: str = ""


class Agent(Frozen):
    """An agent of --ssh: a socket, or keys. No paths: the socket of $SSH_AUTH_SOCK."""

    id: str
    paths: tuple[str, ...] = ()


class BuildRequest(Frozen, kw_only=True):
    """All options of `rless build`; the defaults are those of a bare `rless build CONTEXT`.

    Attributes:
        context: a directory, a URL, or "-" for standard input.
        file: of -f, absolute; "-": standard input; a URL; "": the usual names in the context.
        tags: names for the image, as typed.
        build_args: name -> value; a name without a value has that of the environment, if it is set
            there. SOURCE_DATE_EPOCH of the environment is among them.
        labels: name -> value, set last of all.
        target: name of the stage to build, "" for the last.
        platforms: of --platform, os/arch[/variant] each; none: the host's.
        signature_policy: that base images have to satisfy; None: the user's, or the system's.
        pull: ask the registry for every base.
        no_cache: look nothing up. no_cache_filter: the same for stages, by their names.
        cache_from, cache_to: as typed (`carried.places`).
        build_contexts: name -> what it is, as typed.
        outputs: of -o, as typed; push, load: the shorthands (`outputs.parse`).
        annotations: of --annotation, as typed.
        squash: one layer over the base image.
        iidfile, metadata_file: absolute, "" for none.
        progress: auto, tty, plain, quiet or rawjson.
        allow: entitlements that the Dockerfile may use: network.host, security.insecure,
            device or device=NAME.
        call: what is asked about the Dockerfile, in place of a build: check, outline, targets.
        call_format: of the answer: "json", or "" for text.
        jobs: how many steps are done at a time; 0: as many as there are processors.
        timeout: seconds after which a RUN is ended; 0: never.
        userns: the id map of the build, as --userns of `run`.
        sent: a client of Docker's API has sent the context: what its ignore file says of the
            Dockerfile and of itself is still to be done.
        run_options: fields of a RunRequest that hold for each RUN.
    """

    context: str
    file: str = ""
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str] = NOTHING
    labels: Mapping[str, str] = NOTHING
    target: str = ""
    platforms: tuple[str, ...] = ()
    signature_policy: str | None = None
    pull: bool = False
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    build_contexts: Mapping[str, str] = NOTHING
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[Agent, ...] = ()
    outputs: tuple[str, ...] = ()
    push: bool = False
    load: bool = False
    squash: bool = False
    annotations: tuple[str, ...] = ()
    iidfile: str = ""
    metadata_file: str = ""
    progress: str = "auto"
    allow: tuple[str, ...] = ()
    call: str = ""
    call_format: str = ""
    jobs: int = 0
    timeout: float = 0
    userns: str = "auto"
    sent: bool = False
    run_options: Mapping[str, Any] = NOTHING

    def run_settings(self) -> RunRequest:
        """Return the options of `run` that hold for each RUN."""
        from rootless.engine.request import RunRequest

        return RunRequest(**self.run_options)

    def epoch(self) -> int | None:
        """Return SOURCE_DATE_EPOCH in seconds since 1970; None: it is not set.

        "context" is not known yet: `build.with_epoch` sets it to the time of the git commit.

        Raises:
            RlessError: it is no number.

        Source: reproducible-builds.org/specs/source-date-epoch.
        """
        text = self.build_args.get("SOURCE_DATE_EPOCH")
        if not text or text == "context":
            return None
        if not (text.isascii() and text.isdecimal()) or int(text[:20]) >= _LATEST:
            raise RlessError(
                f"SOURCE_DATE_EPOCH={escape(text)[:100]} is no time",
                "give seconds since 1970, or `context` for those of a git context",
                1,
            )
        return int(text)

    def keeps_git_dir(self) -> bool:
        """Tell whether a git context has .git in it (BUILDKIT_CONTEXT_KEEP_GIT_DIR)."""
        return self._is_on("BUILDKIT_CONTEXT_KEEP_GIT_DIR")

    @property
    def makes_index(self) -> bool:
        """Tell whether the image goes out with an index (BUILDKIT_MULTI_PLATFORM)."""
        return len(self.platforms) > 1 or self._is_on("BUILDKIT_MULTI_PLATFORM")

    @property
    def main(self) -> int:
        """Return the index of the platform whose image has the names where none is asked for."""
        from rootless.image.model.platforms import parse_platform

        explicit = [parse_platform(platform).explicit for platform in self.platforms]
        return explicit.index(False) if False in explicit else 0

    def _is_on(self, name: str) -> bool:
        return self.build_args.get(name, "").lower() not in ("", "0", "f", "false")

    def proxies(self) -> tuple[str, ...]:
        """Return NAME=VALUE of the proxies that --build-arg sets, in both spellings.

        They are in the environment of each RUN, but in no key of the cache and in no history.
        """
        found: dict[str, str] = {}
        for name in _PROXIES:
            for given, other in ((name, name.upper()), (name.upper(), name)):
                value = self.build_args.get(given)
                if value is not None:
                    found[given] = value
                    found.setdefault(other, value)
        return tuple(f"{name}={value}" for name, value in found.items())
