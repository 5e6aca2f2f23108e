"""A client in another language keeps its own copy of who is muted: it lists, watches after the list's revision, and resumes.

    python tests/python/follow.py target/release/mute-service [seconds] [seed]

It makes the stubs from proto/ (package grpcio-tools), starts the program on a directory of its own, mutes, renews and unmutes at random, kills the
program with -9 twice and starts it again. At the end its copy has to equal ListMutedMembers, and every expiry must have been emitted exactly
once: not before its time, not after a renewal, and at most a second late while the program was running.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from google.protobuf.duration_pb2 import Duration

from stubs import pb, rpc

PLACE = pathlib.Path(tempfile.mkdtemp(prefix="follow-"))
APP, ROOMS, USERS = "App", [f"room{n}" for n in range(5)], [f"user{n}" for n in range(40)]
TOKEN = [("authorization", "Bearer token-of-the-follower")]
MAX_LAG_S = 1.0


class Program:
    """The service, as a process that can be killed and started again at the same addresses."""

    def __init__(self, path):
        self.path, self.addr, self.downs = path, None, []
        digest = subprocess.check_output([path, "hash-key", "token-of-the-follower"], stderr=subprocess.DEVNULL, text=True).strip()
        (PLACE / "config.toml").write_text(
            f'rate_limit = 0\n[[apps]]\nkey = "{APP}"\ndirectory = "open"\n'
            f'[[services]]\nname = "follow"\ntoken_hash = "{digest}"\nscopes = ["check", "write", "admin"]\napps = ["*"]\n'
        )

    def start(self):
        addresses = PLACE / "addresses.json"
        addresses.unlink(missing_ok=True)
        any_port = "127.0.0.1:0"
        arguments = ["serve", "--config", PLACE / "config.toml", "--data-dir", PLACE / "data", "--addr-file", addresses]
        arguments += ["--grpc-addr", self.addr or any_port, "--rest-addr", any_port, "--admin-addr", any_port]
        self.process = subprocess.Popen([self.path, *map(str, arguments)])
        while not addresses.exists():
            assert self.process.poll() is None, "the program has not started"
            time.sleep(0.01)
        self.addr = json.loads(addresses.read_text())["grpc"]

    def kill_and_restart(self, down_s):
        began = time.time()
        self.process.kill()
        self.process.wait()
        time.sleep(down_s)
        self.start()
        self.downs.append((began, time.time()))

    def was_down(self, since, until):
        return any(began <= until and ended + MAX_LAG_S >= since for began, ended in self.downs)


class Copy:
    """The muted users with the ends of their mutes, from the list and then the watch."""

    def __init__(self, addr):
        self.addr, self.muted, self.ends, self.errors = addr, {}, [], []
        self.revision, self.resumed, self.changes, self.stopped = None, 0, 0, False
        self.listed_at, self.listed_until = None, None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.stopped:
            try:
                with grpc.insecure_channel(self.addr) as channel:
                    self.follow(rpc.MuteServiceStub(channel))
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN), error
                self.resumed += 1
                time.sleep(0.05)

    def follow(self, stub):
        if self.revision is None:
            self.snapshot(stub)
        watch = stub.Watch(pb.WatchRequest(app=APP, after_revision=self.revision), metadata=TOKEN)
        for event in watch:
            if event.HasField("change"):
                change = event.change
                if change.revision <= self.revision:
                    self.errors.append(f"revision {change.revision} after {self.revision}")
                self.apply(change)
                self.changes += 1
                self.revision = change.revision
            else:
                self.revision = max(self.revision, event.heartbeat.revision)

    def snapshot(self, stub):
        """Lists all rooms. Watching after the lowest revision of the pages repeats some changes, which is harmless."""
        revision, self.listed_at = None, time.time()
        for room in ROOMS:
            for member, at in muted_members(stub, room):
                revision = at if revision is None else min(revision, at)
                if member is not None:
                    self.muted[room, member.user] = end_of(member)
        self.revision, self.listed_until = revision, time.time()

    def apply(self, change):
        at = seconds(change.change_time)
        for user in change.users:
            key = change.room, user
            if change.kind == pb.CHANGE_KIND_MUTED:
                old = self.muted.get(key)
                if old is not None and old <= at:
                    self.errors.append(f"{key} was renewed at {at} and its end at {old} was never emitted")
                self.muted[key] = end_of(change)
            elif change.kind == pb.CHANGE_KIND_UNMUTED:
                # A change during the listing may be in the list already, and arrives again.
                if self.muted.pop(key, "nothing") == "nothing" and at > self.listed_until:
                    self.errors.append(f"{key} was unmuted and was not muted")
            elif change.kind == pb.CHANGE_KIND_EXPIRED:
                end = self.muted.pop(key, None)
                if end is None and at <= self.listed_at + MAX_LAG_S:
                    pass  # It had ended before the listing, which therefore omits it; its expiry was emitted after.
                elif end is None:
                    self.errors.append(f"{key} has expired twice, or was permanent")
                else:
                    self.ends.append((key, end, at))


def seconds(timestamp):
    return timestamp.seconds + timestamp.nanos / 1e9


def end_of(mute):
    return seconds(mute.expire_time) if mute.HasField("expire_time") else None


def muted_members(stub, room):
    """Each member with the revision of its page, and None with the revision of each page."""
    token = ""
    while True:
        request = pb.ListMutedMembersRequest(app=APP, room=room, page_size=7, page_token=token)
        page = stub.ListMutedMembers(request, metadata=TOKEN)
        yield None, page.revision
        yield from ((member, page.revision) for member in page.members)
        token = page.next_page_token
        if not token:
            return


def write(stub, chance):
    room, users = chance.choice(ROOMS), chance.sample(USERS, chance.randint(1, 4))
    if chance.random() < 0.2:
        stub.UnmuteMembers(pb.UnmuteMembersRequest(app=APP, room=room, users=users), metadata=TOKEN)
        return
    duration = None if chance.random() < 0.1 else Duration(nanos=chance.randint(1, 999) * 1_000_000, seconds=chance.randint(0, 2))
    stub.MuteMembers(pb.MuteMembersRequest(app=APP, room=room, users=users, duration=duration, reason="test"), metadata=TOKEN)


def main():
    path, length_s = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 20
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 32)
    chance = random.Random(seed)
    program = Program(path)
    program.start()
    channel = grpc.insecure_channel(program.addr, options=[("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)])
    stub = rpc.MuteServiceStub(channel)
    for _ in range(50):
        write(stub, chance)
    copy = Copy(program.addr)
    copy.thread.start()
    began, writes, kills = time.time(), 0, [length_s / 3, length_s * 2 / 3]
    while time.time() < began + length_s:
        if kills and time.time() > began + kills[0]:
            kills.pop(0)
            program.kill_and_restart(chance.uniform(0.1, 1.5))
        try:
            write(stub, chance)
            writes += 1
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        time.sleep(chance.uniform(0, 0.02))
    # By then every temporary mute has ended, and its expiry was emitted.
    time.sleep(3 + MAX_LAG_S + 0.5)
    copy.stopped = True
    now = {(room, member.user): end_of(member) for room in ROOMS for member, _ in muted_members(stub, room) if member is not None}
    early = [end for end in copy.ends if end[2] < end[1]]
    late = [end for end in copy.ends if end[2] > end[1] + MAX_LAG_S and not program.was_down(end[1], end[2])]
    lag = max(at - end for (_, end, at) in copy.ends if not program.was_down(end, at))
    program.process.terminate()
    assert program.process.wait(20) == 0, "the program has not exited with 0"
    print(
        f"seed {seed}: {writes} writes, {copy.changes} changes received, {len(copy.ends)} expiries, at most {lag:.3f} s late, "
        f"{copy.resumed} times resumed, {len(now)} mutes at the end"
    )
    assert not copy.errors, copy.errors[:5]
    assert copy.muted == now, {key: (copy.muted.get(key), now.get(key)) for key in copy.muted.keys() ^ now.keys()}
    assert not early, early[:5]
    assert not late, late[:5]
    assert copy.resumed >= 2 and len(copy.ends) > 20
    print("the copy equals the lists of the service, and every expiry was emitted exactly once")


main()
