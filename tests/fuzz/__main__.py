"""Fuzz what reads other people's bytes, for as long as you like: `python -m tests.fuzz --seconds 600`."""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import time

import hypothesis


def main() -> int:
    """Run every property in turn with new examples until the time is over; return 1 if one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long to go on (default: %(default)g)"
    )
    parser.add_argument("--examples", type=int, default=300, help="examples a round (default: %(default)d)")
    options = parser.parse_args()
    logging.getLogger("natsdisc").setLevel(logging.CRITICAL)
    hypothesis.settings.register_profile(
        "fuzz",
        max_examples=options.examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("fuzz")
    # Properties take their settings from the profile that is loaded when they are made.
    from .properties import PROPERTIES

    end, rounds = time.monotonic() + options.seconds, 0
    while True:
        for check in PROPERTIES:
            seed = secrets.randbits(64)
            try:
                hypothesis.seed(seed)(check)()
            except Exception:
                print(f"{check.__name__} failed in round {rounds + 1}, seed {seed}", file=sys.stderr)
                raise
            if time.monotonic() > end:
                print(f"nothing found in {rounds} whole rounds of {options.examples} examples a property")
                return 0
        rounds += 1


if __name__ == "__main__":
    sys.exit(main())
