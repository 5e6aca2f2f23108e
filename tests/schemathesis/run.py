#!/usr/bin/env python3
"""Checks a running server against its OpenAPI document, with thousands of valid and invalid requests.

    cargo run --release -- serve --dev --rate-limit 0 --token-rate-limit 0 --data-dir "$(mktemp -d)"
    python tests/schemathesis/run.py [--url http://127.0.0.1:8080] [--max-examples 100] [--seed 1] [more options of schemathesis]

Schemathesis (`pip install schemathesis`) generates them from /openapi.json, and runs all of its checks. Its settings are in schemathesis.toml. hooks.py filters
findings that are no faults, and keeps the rooms and users of dev mode, so that most calls get past "no such room".
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent


def post(url, body, headers=None):
    request = urllib.request.Request(url, json.dumps(body).encode(), headers or {})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="REST address of a server in dev mode")
    parser.add_argument("--max-examples", type=int, default=100, help="maximum number of requests of an operation in each phase")
    parser.add_argument("--seed", type=int, default=1)
    arguments, more = parser.parse_known_args()
    if importlib.util.find_spec("schemathesis") is None:
        sys.exit("schemathesis is missing: pip install schemathesis")

    url = arguments.url.rstrip("/")
    users = [{"username": name} for name in ("user1", "user2", "owner1", "aaa", "1485248560558")]
    for app in ("easemob-demo/testapp", "app-id/SampleApp"):
        post(f"{url}/{app}/users", users, {"Authorization": "Bearer dev-service-token"})
    client = {"_id": "1485248560558", "issueAccessToken": True}
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONPATH": str(HERE),
        "MUTE_REST_URL": url,
        "MUTE_USER_TOKEN": post(f"{url}/admin/clients", client, {"IM-API-KEY": "dev-api-key"})["result"]["token"],
    }
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run", f"{url}/openapi.json"]
    command += ["--max-examples", str(arguments.max_examples), "--seed", str(arguments.seed), *more]
    sys.exit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
