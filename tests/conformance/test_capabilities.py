"""The five capability sets, for root and for other users (config.md, Linux process)."""

from __future__ import annotations

import pytest

from rootless.linux.caps import NUMBERS
from tests.lib.bundle import Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids")

KILL, CHOWN, NET = "CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE"


def bits(*names: str) -> str:
    return f"{sum(1 << NUMBERS[name] for name in names):016x}"


def sets(bundle: Bundle, uid: int, **wanted: list[str]) -> dict[str, str]:
    bundle.process["user"]["uid"] = uid
    bundle.process["capabilities"] = wanted
    return bundle.facts("caps")


def test_root_has_the_bounding_set(bundle: Bundle) -> None:
    both = [KILL, CHOWN]
    facts = sets(bundle, 0, bounding=both, effective=both, permitted=both)
    for name in ("bounding", "effective", "permitted"):
        assert facts[name] == bits(*both)
    assert facts["inheritable"] == facts["ambient"] == bits()


def test_root_can_have_no_capabilities(bundle: Bundle) -> None:
    facts = sets(bundle, 0, bounding=[], effective=[], permitted=[])
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        assert facts[name] == bits()


def test_other_user_has_no_capabilities_after_execve(bundle: Bundle) -> None:
    both = [KILL, CHOWN]
    facts = sets(bundle, 1000, bounding=both, effective=both, permitted=both)
    assert facts["bounding"] == bits(*both)
    for name in ("effective", "permitted", "inheritable", "ambient"):
        assert facts[name] == bits()


def test_ambient_capabilities_are_kept_by_other_users(bundle: Bundle) -> None:
    wanted = [NET]
    facts = sets(
        bundle, 1000, bounding=[NET, KILL], effective=wanted, permitted=wanted,
        inheritable=wanted, ambient=wanted,
    )  # fmt: skip
    assert facts["bounding"] == bits(NET, KILL)
    for name in ("effective", "permitted", "inheritable", "ambient"):
        assert facts[name] == bits(NET)


def test_inheritable_set_alone_gives_nothing(bundle: Bundle) -> None:
    facts = sets(bundle, 1000, bounding=[NET], permitted=[NET], inheritable=[NET])
    assert facts["inheritable"] == bits(NET)
    assert facts["effective"] == facts["permitted"] == facts["ambient"] == bits()


def test_dropped_capabilities_are_refused_by_the_kernel(bundle: Bundle) -> None:
    sets(bundle, 0, bounding=[KILL], effective=[KILL], permitted=[KILL])
    assert bundle.facts("chown", "/probe", "1", "1") == {"chown": "EPERM"}
    sets(bundle, 0, bounding=[CHOWN], effective=[CHOWN], permitted=[CHOWN])
    assert bundle.facts("chown", "/probe", "1", "1") == {"chown": "ok"}
