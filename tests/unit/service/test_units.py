"""The units of the service; tests/vm runs them."""

from __future__ import annotations

from rootless.service import units


def test_units_have_no_limit_of_starts() -> None:
    """A service that is killed five times within ten seconds would take the socket with it."""
    for text in (units.socket_unit(), units.service_unit("/usr/bin/rless")):
        section = text.partition("[Unit]\n")[2].partition("\n[")[0]
        assert "StartLimitIntervalSec=0" in section.splitlines()
