"""Read registries.d: where the signatures of a registry's images are, and where new ones go.

The directory is ~/.config/containers/registries.d, or else /etc/containers/registries.d; of it all
files that end in .yaml are read. Without an entry for a name, its signatures are in a directory of
this user's own, as for Podman and skopeo.

Source: containers-registries.d(5).
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, escape
from rootless.image.model import limits
from rootless.image.trust.identity import docker_scopes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.image.trust.identity import Named

SYSTEM = "/etc/containers/registries.d"
_TEXTS = ("lookaside", "lookaside-staging", "sigstore", "sigstore-staging")
_ATTACHMENTS = "use-sigstore-attachments"


class _Entry:
    """One namespace; "" and None: it does not say.

    Attributes:
        read, write: URLs. attachments: whether sigstore attachments are used.
    """

    __slots__ = ("attachments", "read", "write")

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise RlessError(f"{what} is not a mapping")
        texts = {name: value.get(name) or "" for name in _TEXTS}
        attachments = value.get(_ATTACHMENTS)
        if not all(isinstance(text, str) for text in texts.values()):
            raise RlessError(f"{what} has something other than a URL")
        if attachments is not None and not isinstance(attachments, bool):
            raise RlessError(f"{what}: {_ATTACHMENTS} is neither true nor false")
        # The second ones are the names of the first before 2022.
        self.read: str = texts["lookaside"] or texts["sigstore"]
        self.write: str = texts["lookaside-staging"] or texts["sigstore-staging"] or self.read
        self.attachments: bool | None = attachments


class Registries:
    """The merged content of all the files."""

    def __init__(self) -> None:
        self._default: _Entry | None = None
        self._namespaces: dict[str, _Entry] = {}

    def add(self, document: object, path: str) -> None:
        """Add what one file says.

        Raises:
            RlessError: it is malformed, or says again what another one says.
        """
        path = escape(path)
        if document is None:
            return  # an empty file
        if not isinstance(document, dict):
            raise RlessError(f"{path} is not a mapping")
        if document.get("default-docker") is not None:
            if self._default is not None:
                raise RlessError(f"{path}: default-docker is in another file too")
            self._default = _Entry(document["default-docker"], f"{path}: default-docker")
        namespaces = document.get("docker") or {}
        if not isinstance(namespaces, dict):
            raise RlessError(f"{path}: docker is not a mapping")
        for key, value in namespaces.items():
            name = str(key)
            if name in self._namespaces:
                raise RlessError(f"{path}: docker: {escape(name)} is in another file too")
            self._namespaces[name] = _Entry(value, f"{path}: docker: {escape(name)}")

    def lookaside(self, named: Named, *, write: bool = False) -> str:
        """Return the URL below which signatures of a name are; there is always one."""
        for entry in self._entries(named):
            url = entry.write if write else entry.read
            if url:
                return url
        return f"file://{default_directory()}"

    def uses_attachments(self, named: Named) -> bool:
        """Tell whether sigstore signatures beside the image in its registry are used."""
        for entry in self._entries(named):
            if entry.attachments is not None:
                return entry.attachments
        return False

    def stores(self) -> Mapping[str, str]:
        """Return the URL for each namespace that has one; that of "" is the default."""
        found = {name: entry.read for name, entry in self._namespaces.items() if entry.read}
        if self._default is not None and self._default.read:
            found[""] = self._default.read
        return found

    def _entries(self, named: Named) -> list[_Entry]:
        """Return the entries for a name, the narrowest first."""
        found = [self._namespaces[key] for key in docker_scopes(named) if key in self._namespaces]
        return found if self._default is None else [*found, self._default]


def default_directory() -> str:
    """Return where signatures are if no file says anything of a name."""
    if os.geteuid() == 0:
        return "/var/lib/containers/sigstore"
    return os.path.expanduser("~/.local/share/containers/sigstore")


def load(directory: str | None = None) -> Registries:
    """Read the files that apply to this user.

    Raises:
        RlessError: one of them cannot be read or is malformed.
    """
    if directory is None:
        own = os.path.expanduser("~/.config/containers/registries.d")
        directory = own if os.path.exists(own) else SYSTEM
    found = Registries()
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".yaml"))
    except FileNotFoundError:
        return found
    except OSError as error:
        raise RlessError(f"cannot read {escape(directory)}: {error.strerror}") from error
    for name in names:
        path = f"{directory}/{name}"
        found.add(read_yaml(path), path)
    return found


def read_yaml(path: str) -> object:
    """Return the document in a file.

    Raises:
        RlessError: it cannot be read, or is no YAML.
    """
    import yaml  # 20 ms

    try:
        with open(path, "rb") as file:
            data = file.read(limits.AUTH_BYTES + 1)
        if len(data) > limits.AUTH_BYTES:
            raise RlessError(f"{escape(path)} is too large")
        document: object = yaml.safe_load(data)
    except OSError as error:
        raise RlessError(f"cannot read {escape(path)}: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = escape(str(error).replace("\n", " "))[:200]
        raise RlessError(f"{escape(path)} is no YAML: {why}") from None
    return document
