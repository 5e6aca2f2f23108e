"""Calls without a pause over grpcio, set up as deploy/README.md says: the twin of tests/node/restarts.mjs.

    python restarts.py ADDRESS DESCRIPTORS
"""

import json
import os
import pathlib
import re
import sys
import threading

import grpc

from client import client

address, descriptors = sys.argv[1:]
example = re.search(r"^```python\n(.*?)^```", pathlib.Path("README.md").read_text(), re.DOTALL | re.MULTILINE)[1]
given = {"grpc": grpc, "address": address}
exec(example, given)
check = client(address, descriptors, channel=given["channel"], timeout=30)
asked = threading.Event()


def listen():
    for _ in sys.stdin:
        asked.set()
    os._exit(0)


threading.Thread(target=listen, daemon=True).start()
failed = []
print("calling", flush=True)
while True:
    tells = asked.is_set()
    try:
        check("MuteService", "CheckSend", {"app": "Open", "room": "room", "user": "user"})
    except grpc.RpcError as error:
        failed.append(str(error))
    if tells:
        asked.clear()
        print(json.dumps(failed), flush=True)
        failed = []
