"""Read registries.conf: short names, mirrors, other places, blocked and insecure hosts.

The file is $CONTAINERS_REGISTRIES_CONF, or else ~/.config/containers/registries.conf, or else
/etc/containers/registries.conf. The *.conf files of the directories of the same name with ".d"
added follow, in alphabetical order. Without any of them names mean what they mean to Docker.

A short name (no registry typed) is looked up in [aliases], then in each of
unqualified-search-registries. The first registry that has the image is used, and a line says which.
There is no prompt, whatever short-name-mode says.

Not on the path of a cached run: `store.Store.lookup` comes here only for a short name that the
store does not have as docker.io's.

Source: containers-registries.conf(5), containers-registries.conf.d(5).
"""

from __future__ import annotations

import os

from rootless import config
from rootless.errors import RlessError, escape
from rootless.image.model import limits
from rootless.image.model.reference import (
    DEFAULT_REGISTRY,
    Reference,
    is_registry,
    is_repository,
    parse,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_SYSTEM = "/etc/containers/registries.conf"
_MODES = ("enforcing", "permissive", "disabled")
_FROM = ("all", "digest-only", "tag-only")


class Location:
    """A place to request a repository from.

    Attributes:
        host: "HOST[:PORT]" as in a reference. repository: its name there.
        insecure: TLS is not verified, and may be left out.
        by_tag, by_digest: which kinds of reference may be requested there.
    """

    __slots__ = ("by_digest", "by_tag", "host", "insecure", "repository")

    def __init__(
        self,
        host: str,
        repository: str,
        *,
        insecure: bool = False,
        by_tag: bool = True,
        by_digest: bool = True,
    ) -> None:
        self.host = host
        self.repository = repository
        self.insecure = insecure
        self.by_tag = by_tag
        self.by_digest = by_digest

    def __repr__(self) -> str:
        return f"Location({self.host}/{self.repository})"


class _Place:
    """One `location`, of a registry or of a mirror."""

    __slots__ = ("insecure", "location", "pull_from")

    def __init__(self, location: str, insecure: bool, pull_from: str = "all") -> None:
        self.location = location
        self.insecure = insecure
        self.pull_from = pull_from

    def of(self, rest: str) -> Location:
        """Return where the repository is whose name goes on with `rest` after the prefix."""
        host, _, repository = f"{self.location}{rest}".partition("/")
        if not is_registry(host) or not is_repository(repository):
            raise RlessError(
                f"registries.conf: location {escape(self.location)[:200]!r} makes "
                f"{escape(host + '/' + repository)[:200]!r}, which is no name of a repository"
            )
        return Location(
            host,
            repository,
            insecure=self.insecure,
            by_tag=self.pull_from != "digest-only",
            by_digest=self.pull_from != "tag-only",
        )


class _Entry:
    """One [[registry]]."""

    __slots__ = ("blocked", "mirrors", "place", "prefix")

    def __init__(self, prefix: str, place: _Place, mirrors: list[_Place], blocked: bool) -> None:
        self.prefix = prefix
        self.place = place
        self.mirrors = mirrors
        self.blocked = blocked

    def match(self, name: str) -> int:
        """Return how much of "registry/repository" the prefix covers; 0: it is another."""
        if self.prefix.startswith("*."):
            host = name.partition("/")[0]
            return len(host) if host.endswith(self.prefix[1:]) else 0
        if name == self.prefix or name.startswith(self.prefix + "/"):
            return len(self.prefix)
        return 0


class Registries:
    """The merged content of all the files.

    Attributes:
        search: registries that short names are looked for in.
    """

    def __init__(self) -> None:
        self.search: list[str] = [DEFAULT_REGISTRY]
        self._aliases: dict[str, str] = {}
        self._entries: dict[str, _Entry] = {}

    def candidates(self, reference: Reference) -> list[Reference]:
        """Return what a name may mean, in order; a name with a registry means itself."""
        short = reference.short
        if not short:
            return [reference]
        if short in self._aliases:
            names = [self._aliases[short]]
        else:
            names = [f"{registry}/{short}" for registry in self.search]
        return [parse(name + reference.suffix()) for name in names]

    def locations(self, reference: Reference) -> list[Location]:
        """Return where to ask for a reference: the mirrors that may have it, then its own place.

        Raises:
            RlessError: the registry is blocked.
        """
        name = f"{reference.registry}/{reference.repository}"
        entry = max(
            (entry for entry in self._entries.values() if entry.match(name)),
            key=lambda entry: len(entry.prefix),
            default=None,
        )
        if entry is None:
            return [Location(reference.registry, reference.repository)]
        if entry.blocked:
            raise RlessError(
                f"registry {escape(entry.prefix)} is blocked by registries.conf: "
                f"{escape(reference.familiar)} is not asked for"
            )
        rest = name[entry.match(name) :]
        by_digest = reference.digest is not None
        mirrors = [place.of(rest) for place in entry.mirrors]
        wanted = [
            mirror for mirror in mirrors if (mirror.by_digest if by_digest else mirror.by_tag)
        ]
        if entry.place.location:
            return [*wanted, entry.place.of(rest)]
        own = Location(reference.registry, reference.repository, insecure=entry.place.insecure)
        return [*wanted, own]

    def own(self, reference: Reference) -> Location:
        """Return the one place that images are pushed to: no mirror."""
        return self.locations(reference)[-1]

    def server(self, host: str) -> Location:
        """Return where a registry as a whole is; its `repository` is "".

        Raises:
            RlessError: it is blocked.
        """
        entry = self._entries.get(host)
        if entry is None:
            return Location(host, "")
        if entry.blocked:
            raise RlessError(f"registry {host} is blocked by registries.conf")
        moved = entry.place.location or host
        return Location(moved.partition("/")[0], "", insecure=entry.place.insecure)

    # -- reading -----------------------------------------------------------------------------

    def read(self, path: str, *, required: bool = False) -> None:
        """Add what one file says; it overrides what was read before.

        Raises:
            RlessError: the file is malformed.
        """
        document = _parse(path, required)
        if "registries" in document:
            raise RlessError(
                f"{path}: is in the format of version 1, which is obsolete",
                "write unqualified-search-registries and [[registry]]: "
                "see containers-registries.conf(5)",
            )
        search = _strings(document, "unqualified-search-registries", path)
        if search is not None:
            for registry in search:
                if not is_registry(registry):
                    raise RlessError(
                        f"{path}: unqualified-search-registries: {registry!r} is not a registry"
                    )
            self.search = search or [DEFAULT_REGISTRY]
        mode = _text(document, "short-name-mode", path)
        if mode and mode not in _MODES:
            raise RlessError(f"{path}: short-name-mode is none of {', '.join(_MODES)}")
        aliases = document.get("aliases", {})
        if not isinstance(aliases, dict):
            raise RlessError(f"{path}: [aliases] is not a table")
        for name in aliases:
            self._add_alias(name, _text(aliases, name, f"{path}: [aliases]"), path)
        for number, value in enumerate(_tables(document, "registry", path), 1):
            entry = _entry(value, f"{path}: [[registry]] {number}")
            self._entries[entry.prefix] = entry

    def _add_alias(self, name: str, target: str, path: str) -> None:
        if not target:
            self._aliases.pop(name, None)  # an empty one takes an earlier one away
            return
        host, _, repository = target.partition("/")
        if not is_registry(host) or not is_repository(repository):
            raise RlessError(
                f"{path}: [aliases]: {escape(name)!r} stands for {escape(target)!r}",
                "an alias is a full name without a tag, as docker.io/library/busybox",
            )
        self._aliases[name] = target


def load() -> Registries:
    """Read the files that apply to this user.

    Raises:
        RlessError: one of them is malformed.
    """
    found = Registries()
    explicit = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    for path in _files():
        found.read(path, required=path == explicit)
    return found


def _files() -> list[str]:
    """Return the files that apply to this user, in order; the first may not be there."""
    explicit = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    own = f"{home}/containers/registries.conf"
    if explicit:
        found, directories = [explicit], [f"{explicit}.d"]
    elif os.path.exists(own):
        found, directories = [own], [f"{own}.d"]
    else:
        found, directories = [_SYSTEM], [f"{_SYSTEM}.d", f"{own}.d"]
    for directory in directories:
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(".conf"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise RlessError(f"cannot read {directory}: {error.strerror}") from error
        found += [f"{directory}/{name}" for name in names]
    return found


def _read(path: str, required: bool) -> bytes:
    """Return what is in a file; nothing if it is not there and need not be."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            data = file.read(limits.AUTH_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise RlessError(
                f"{escape(path)}: there is no such file", "$CONTAINERS_REGISTRIES_CONF names it"
            ) from None
        return b""
    except OSError as error:
        raise RlessError(f"cannot read {escape(path)}: {error.strerror}") from error
    if len(data) > limits.AUTH_BYTES:
        raise RlessError(f"{escape(path)} is too large")
    return data


def _parse(path: str, required: bool) -> dict[str, Any]:
    data = _read(path, required)
    if not data:
        return {}
    return config.parse_toml(data, escape(path))


def _entry(value: dict[str, Any], what: str) -> _Entry:
    prefix = _text(value, "prefix", what)
    location = _text(value, "location", what)
    if not prefix and not location:
        raise RlessError(f"{what}: has neither prefix nor location")
    prefix = prefix or location
    _check_name(prefix.removeprefix("*."), f"{what}: prefix")
    if location:
        _check_name(location, f"{what}: location")
    if prefix.startswith("*.") and "/" in prefix:
        raise RlessError(f"{what}: prefix: '*.' goes with a host only")
    digests_only = _flag(value, "mirror-by-digest-only", what)
    mirrors = []
    for number, mirror in enumerate(_tables(value, "mirror", what), 1):
        whose = f"{what}: mirror {number}"
        where = _text(mirror, "location", whose)
        _check_name(where, f"{whose}: location")
        pull_from = _text(mirror, "pull-from-mirror", whose)
        if pull_from and pull_from not in _FROM:
            raise RlessError(f"{whose}: pull-from-mirror is none of {', '.join(_FROM)}")
        if pull_from and digests_only:
            raise RlessError(f"{whose}: pull-from-mirror and mirror-by-digest-only exclude another")
        how = pull_from or ("digest-only" if digests_only else "all")
        mirrors.append(_Place(where, _flag(mirror, "insecure", whose), how))
    place = _Place(location, _flag(value, "insecure", what))
    return _Entry(prefix, place, mirrors, _flag(value, "blocked", what))


def _check_name(name: str, what: str) -> None:
    """Refuse what is not HOST[:PORT][/PATH]."""
    host, slash, path = name.partition("/")
    if not is_registry(host) or (slash and not is_repository(path)):
        hint = "it is HOST[:PORT] or HOST[:PORT]/PATH, without https://"
        raise RlessError(f"{what}: {escape(name)[:200]!r} is no place of a registry", hint)


def _text(table: dict[str, Any], key: str, what: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise RlessError(f"{what}: {escape(key)} is not a string")
    return value


def _flag(table: dict[str, Any], key: str, what: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise RlessError(f"{what}: {key} is neither true nor false")
    return value


def _strings(table: dict[str, Any], key: str, what: str) -> list[str] | None:
    value = table.get(key)
    if value is not None and not (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    ):
        raise RlessError(f"{what}: {key} is not a list of strings")
    return value


def _tables(table: dict[str, Any], key: str, what: str) -> Sequence[dict[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RlessError(f"{what}: write [[{'registry.' if key == 'mirror' else ''}{key}]]")
    return value
