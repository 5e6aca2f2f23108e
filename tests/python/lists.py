"""Makes calls at the defaults of grpcio, and pages through each list: the twin of tests/node/lists.mjs.

    python lists.py ADDRESS DESCRIPTORS TASK
"""

import functools
import json
import sys

import grpc

from client import client

address, descriptors, task = sys.argv[1:]
with open(task) as file:
    task = json.load(file)
compression = grpc.Compression.Gzip if task.get("gzip") else None
call = client(address, descriptors, compression=compression)


def count(service, method, message, field):
    elements, token = 0, ""
    while True:
        page = {"page_token": token} if token else {}
        answer = call(service, method, {"app": task["app"], **message, **page})
        value = functools.reduce(lambda part, name: part.get(name, {}), field.split("."), answer)
        elements, token = elements + len(value), answer.get("next_page_token", "")
        if not token:
            return elements


print(json.dumps([count(*each) for each in task["calls"]]))
