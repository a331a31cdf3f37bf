"""Integrations with other libraries, one module each; natsdisc itself imports none of them."""
