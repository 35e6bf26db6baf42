"""The program behind scripts/faults."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.lib.build_faults import BuildStorm
from tests.lib.faults import Storm
from tests.lib.product import Product, become_subreaper, probe_image
from tests.lib.service_faults import ServiceStorm


def main() -> int:
    """Run storms until enough was killed; say what was found."""
    parser = argparse.ArgumentParser(prog="scripts/faults")
    parser.add_argument(
        "--kills",
        type=int,
        default=500,
        help="how many SIGKILLs of containers, half of them through the service, and a quarter of "
        "builds (500)",
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--minutes", type=float, default=60, help="the most that it may take (60)")
    wanted = parser.parse_args()
    become_subreaper()
    began = time.monotonic()
    product = Product(Path(tempfile.mkdtemp(prefix="rless-faults-")))
    try:
        product.image = product.add_image("root", probe_image())
        product("pull", "-q", product.image).expect()
        print(f"seed {wanted.seed}", flush=True)
        storm = Storm(product, wanted.seed)
        storm.run(wanted.kills // 2, 20 * wanted.minutes)
        served = ServiceStorm(product, wanted.seed)
        served.run(wanted.kills // 2, 20 * wanted.minutes)
        builds = BuildStorm(product, wanted.seed)
        builds.run(wanted.kills // 4, 20 * wanted.minutes)
    except AssertionError as error:
        print(f"seed {wanted.seed}: {error}", file=sys.stderr)
        return 1
    finally:
        product.remove()
    seconds = time.monotonic() - began
    storms = (storm, served, builds)
    kills, rounds = sum(one.kills for one in storms), sum(one.rounds for one in storms)
    print(f"{kills} kills in {rounds} rounds, {seconds:.0f} s: no lie, no leak")
    return 0


if __name__ == "__main__":
    sys.exit(main())
