"""`python -m natsdisc.cli` is `natsdisc`."""

from natsdisc.cli import main

main()
