"""Write the servers of an nginx upstream, and reload nginx: for `natsdisc watch --exec`.

Usage: nginx_upstream.py UPSTREAM FILE -- RELOAD COMMAND...
"""

import json
import os
import subprocess
import sys

upstream, path, _, *reload = sys.argv[1:]
instances = json.load(sys.stdin)
addresses = [
    instance["transport"]["tcp"]
    for instance in instances
    if "tcp" in instance["transport"] and instance.get("status", "serving") == "serving"
]
# An upstream must not be empty: with no instance, nginx answers 502 from a port that nothing listens on.
servers = "".join(f"  server {address};\n" for address in addresses) or "  server 127.0.0.1:1 down;\n"
with open(f"{path}.new", "w", encoding="utf-8") as file:
    file.write(f"upstream {upstream} {{\n{servers}}}\n")
os.replace(f"{path}.new", path)
sys.exit(subprocess.call(reload))
