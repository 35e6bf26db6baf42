"""Step 5, capabilities: drop what the container's root may not have, for good.

The kernel forces the order. The bounding set is dropped while CAP_SETPCAP is still there. The
change of user keeps the permitted set (PR_SET_KEEPCAPS), because a seccomp filter without
no_new_privs needs CAP_SYS_ADMIN to be loaded. Only then come the final sets.
"""

from __future__ import annotations

import errno

from rootless.errors import RlessError, SyscallError
from rootless.linux import caps, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Capabilities


class CapabilitySets:
    """The five sets of a config as bit masks (capabilities(7))."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(self, sets: Capabilities) -> None:
        """Translate the names; what the running kernel does not know cannot be given.

        Nor can what contradicts itself: an effective capability that is not permitted, an ambient
        one that is not permitted and inheritable. Buildah asks for such sets.

        Raises:
            RlessError: a name that no kernel knows.
        """
        known = (1 << caps.last_capability() + 1) - 1
        try:
            self.bounding = caps.mask(sets.get("bounding", [])) & known
            self.effective = caps.mask(sets.get("effective", [])) & known
            self.inheritable = caps.mask(sets.get("inheritable", [])) & known
            self.permitted = caps.mask(sets.get("permitted", [])) & known
            self.ambient = caps.mask(sets.get("ambient", [])) & known
        except KeyError as error:
            raise RlessError(f"process.capabilities: unknown capability {error.args[0]}") from None
        self.effective &= self.permitted
        self.ambient &= self.permitted & self.inheritable

    def drop_bounding(self) -> None:
        """Drop from the bounding set all that is not in ours."""
        for number in range(caps.last_capability() + 1):
            if not self.bounding & 1 << number:
                prctl.drop_bounding(number)

    def regain(self) -> None:
        """Make all that is still permitted effective again, after the change of user."""
        everything = (1 << caps.last_capability() + 1) - 1
        try:
            caps.set_capabilities(everything, everything, 0)
        except SyscallError as error:
            if error.errno != errno.EPERM:
                raise
            # In the user namespace of another container, where we never had all. What needs
            # one of them says so itself.

    def apply(self) -> None:
        """Set the final sets."""
        prctl.clear_ambient()
        caps.set_capabilities(self.effective, self.permitted, self.inheritable)
        for number in range(caps.last_capability() + 1):
            if self.ambient & 1 << number:
                prctl.raise_ambient(number)
