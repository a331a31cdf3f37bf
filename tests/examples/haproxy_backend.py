"""Write a backend of HAProxy, and reload HAProxy: for `natsdisc watch --exec`.

Usage: haproxy_backend.py BACKEND FILE PIDFILE
HAProxy runs as `haproxy -W -f haproxy.cfg -f FILE -p PIDFILE`: its master reloads on SIGUSR2.
"""

import json
import os
import signal
import sys

backend, path, pid_file = sys.argv[1:]
instances = json.load(sys.stdin)
servers = "".join(
    f"  server {instance['instance_id']:x} {instance['transport']['tcp']} check inter 1s\n"
    for instance in instances
    if "tcp" in instance["transport"] and instance.get("status", "serving") == "serving"
)
with open(f"{path}.new", "w", encoding="utf-8") as file:
    file.write(f"backend {backend}\n  option redispatch\n  retries 3\n{servers}")
os.replace(f"{path}.new", path)
if os.path.exists(pid_file):
    with open(pid_file, encoding="ascii") as file:
        os.kill(int(file.readline()), signal.SIGUSR2)
