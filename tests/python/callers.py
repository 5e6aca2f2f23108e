"""Callers that go on while the service is restarted beside them, and that know to the last write what it should hold.

    python tests/python/callers.py stopped|killed 127.0.0.1:50051[,127.0.0.2:50051...] [callers]

The addresses are those of the replicas, which have an app "Open" whose directory is open and a service with the token "dev-service-token"; they are
stopped in order, or killed. It prints a line when everybody calls, goes on until its standard input ends, compares, prints what it has counted as JSON,
and leaves with 1 where something was wrong.

- The platform's callers have the service config that is shipped, deploy/grpc-service-config.json, and grpcio as it comes. Where the service is stopped
  in order none of their calls may fail; where it is killed those may whose answer had begun, which no client repeats: they are made again. These callers
  mute and unmute with a `request_id`, and hold each answer of CheckSend, BatchCheckSend and ListMutedMembers, of whichever replica, to what they have
  written.
- A follower has the same, watches, and goes on after the last revision when its watch ends: each change that was acknowledged comes once, in order,
  and no other does.
- Bare callers have neither service config nor retries. Their calls may fail, with UNAVAILABLE alone. A write that has failed was not taken where the
  service was stopped in order; where it was killed nobody knows. Sent again with its `request_id` it is there once, and is answered the same each time.
"""

import asyncio
import collections
import json
import sys
import time
import uuid

import grpc

from stubs import ROOT, pb, rpc

APP = "Open"
TOKEN = [("authorization", "Bearer dev-service-token")]
# What the platform gives a call: more than a start takes on the slowest machine, and what a client then waits before it tries again.
DEADLINE_S = 30
BARE = 2
# Between the rounds of one caller.
PAUSE_S = 0.005
# For what is told to come to the follower.
PATIENCE_S = 20

wrong = []
# Writes that were answered, as the follower is to be told of them, and with which revision.
acknowledged = {}


class Client:
    """A stub that counts its calls, with connections of its own, as a process has them."""

    def __init__(self, addrs, options):
        # The authority would be the whole list, which is none.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "mute-service"), *options]
        self.stub = rpc.MuteServiceStub(grpc.aio.insecure_channel("ipv4:" + ",".join(addrs), options=options))
        self.calls, self.failed, self.longest_s = collections.Counter(), collections.Counter(), 0.0

    async def call(self, method, message):
        """The answer, or an error."""
        began = time.monotonic()
        self.calls[method] += 1
        try:
            return await getattr(self.stub, method)(message, metadata=TOKEN, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            self.failed[error.code().name] += 1
            return error
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - began)


class Caller:
    """Writes one room, and is alone in it."""

    def __init__(self, client, room, is_killed):
        self.client, self.room, self.is_killed, self.rounds = client, room, is_killed, 0
        # Who is muted and why, as of this revision.
        self.muted, self.revision = {}, 0

    async def run(self, stop):
        while not stop.is_set():
            self.rounds += 1
            await self.round()
            await asyncio.sleep(PAUSE_S)

    def complain(self, what):
        wrong.append(f"{self.room}, round {self.rounds}: {what}")

    def muting(self):
        users = [f"u{self.rounds}a", f"u{self.rounds}b"]
        return pb.MuteMembersRequest(app=APP, room=self.room, users=users, reason=f"round {self.rounds}", request_id=str(uuid.uuid4()))

    def are_muted(self, message, answer):
        self.acknowledge(pb.CHANGE_KIND_MUTED, message, answer)
        self.muted.update((user, message.reason) for user in message.users)

    def acknowledge(self, kind, message, answer):
        acknowledged[kind, message.room, tuple(message.users), message.request_id] = answer.revision
        self.revision = max(self.revision, answer.revision)

    async def compare(self, ask):
        """Holds all pages of the list to what is known."""
        listed, token = {}, ""
        while True:
            message = pb.ListMutedMembersRequest(
                app=APP, room=self.room, page_size=500, page_token=token, min_revision=self.revision
            )
            page = await ask("ListMutedMembers", message)
            listed.update((member.user, member.reason) for member in page.members)
            token = page.next_page_token
            if not token:
                break
        different = {user for user in listed.keys() | self.muted.keys() if listed.get(user) != self.muted.get(user)}
        if different:
            self.complain(f"{len(different)} of {len(self.muted)} mutes are not as they should be: {sorted(different)[:5]}")


class Platform(Caller):
    async def ask(self, method, message):
        """The answer. A call that has failed is made again, so that what comes after it is seen too."""
        while True:
            answer = await self.client.call(method, message)
            if not isinstance(answer, grpc.RpcError):
                return answer
            if not self.is_killed or answer.code() != grpc.StatusCode.UNAVAILABLE:
                self.complain(f"{method} has failed: {answer.code().name}: {answer.details()}")
            await asyncio.sleep(0.1)

    async def round(self):
        message = self.muting()
        self.are_muted(message, await self.ask("MuteMembers", message))
        user = message.users[0]
        check = pb.CheckSendRequest(app=APP, room=self.room, user=user, min_revision=self.revision)
        answer = await self.ask("CheckSend", check)
        if answer.allowed or answer.reason != message.reason:
            self.complain(f"{user} is muted, and is told {answer}")
        if self.rounds % 2 == 0:
            await self.unmute(list(self.muted)[:2])
        await self.check_many()
        if self.rounds % 10 == 0:
            await self.compare(self.ask)

    async def unmute(self, users):
        message = pb.UnmuteMembersRequest(app=APP, room=self.room, users=users, request_id=str(uuid.uuid4()))
        answer = await self.ask("UnmuteMembers", message)
        self.acknowledge(pb.CHANGE_KIND_UNMUTED, message, answer)
        if not all(member.was_muted for member in answer.members):
            self.complain(f"{users} were muted, and {answer} is told")
        for user in users:
            del self.muted[user]

    async def check_many(self):
        users = [f"u{number}{half}" for number in range(max(1, self.rounds - 20), self.rounds + 1) for half in "ab"]
        pairs = [pb.RoomUser(room=self.room, user=user) for user in users]
        message = pb.BatchCheckSendRequest(app=APP, pairs=pairs, min_revision=self.revision)
        answer = await self.ask("BatchCheckSend", message)
        may_not = {user for user, result in zip(users, answer.results, strict=True) if not result.allowed}
        if may_not != self.muted.keys() & users:
            self.complain(f"of {users} {may_not} may not speak")


class Bare(Caller):
    def __init__(self, client, room, is_killed):
        super().__init__(client, room, is_killed)
        self.failed = []

    async def ask(self, method, message):
        """The answer, or nothing."""
        answer = await self.client.call(method, message)
        if not isinstance(answer, grpc.RpcError):
            return answer
        if answer.code() != grpc.StatusCode.UNAVAILABLE:
            self.complain(f"{method} has failed with {answer.code().name}: {answer.details()}")
        await asyncio.sleep(0.01)
        return None

    async def round(self):
        message = self.muting()
        answer = await self.ask("MuteMembers", message)
        if answer is None:
            self.failed.append(message)
        else:
            self.are_muted(message, answer)
        check = pb.CheckSendRequest(app=APP, room=self.room, user=message.users[0], min_revision=self.revision)
        check = await self.ask("CheckSend", check)
        if check is not None and check.allowed != (answer is None) and not self.is_killed:
            self.complain(f"a mute is answered with {answer or 'an error'}, and then {check}")

    async def repeat(self, ask, told):
        """Sends again what has failed, twice."""
        done = {request_id for _, (*_, request_id) in told}
        for message in self.failed:
            if message.request_id in done and not self.is_killed:
                self.complain(f"has failed and has taken effect: {message}")
            first, second = await ask("MuteMembers", message), await ask("MuteMembers", message)
            if first != second:
                self.complain(f"{message} is answered with {first}, and then with {second}")
            self.are_muted(message, first)


class Follower:
    """Watches all of the app, over the ends of its watches."""

    def __init__(self, client):
        self.client, self.told, self.at, self.resumed = client, [], None, 0

    async def run(self):
        while True:
            watch = self.client.stub.Watch(pb.WatchRequest(app=APP, after_revision=self.at), metadata=TOKEN)
            try:
                async for told in watch:
                    self.take(told)
                wrong.append("a watch has ended without an error")
            except grpc.RpcError as error:
                if not ends_in_order(error):
                    wrong.append(f"a watch after {self.at} has ended with {error.code().name}: {error.details()}")
                    return
            self.resumed += 1

    def take(self, told):
        if told.HasField("heartbeat"):
            self.at = max(self.at or 0, told.heartbeat.revision)
            return
        change = told.change
        if change.revision <= self.at:
            wrong.append(f"revision {change.revision} is told after {self.at}")
        self.at = change.revision
        self.told.append((change.revision, (change.kind, change.room, tuple(change.users), change.request_id)))

    async def catch_up(self):
        await until(lambda: len(self.told) >= len(acknowledged))

    def compare(self):
        told = [write for _, write in self.told]
        missed, strange = [acknowledged.keys() - told, set(told) - acknowledged.keys()]
        if missed or strange or len(told) != len(acknowledged):
            wrong.append(f"{len(told)} changes are told of {len(acknowledged)}; missed: {missed}; strange: {strange}")
        # Over a cluster the answer to a write that is named may be the revision of one that was kept together with it.
        early = [write for revision, write in self.told if revision < acknowledged.get(write, 0)]
        if early:
            wrong.append(f"{len(early)} changes are told at a revision before that of their answer: {early[:5]}")


def ends_in_order(error):
    """Whether a watch is to go on where it was: the service is gone, or its reader was too slow."""
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return True
    return any(name == "grpc-status-details-bin" and b"WATCHER_TOO_SLOW" in value for name, value in error.trailing_metadata())


async def until(holds):
    began = time.monotonic()
    while not holds() and time.monotonic() < began + PATIENCE_S:
        await asyncio.sleep(0.02)


async def main(how, addrs, callers="8"):
    addrs = addrs.split(",")
    platform = Client(addrs, [("grpc.service_config", (ROOT / "deploy/grpc-service-config.json").read_text())])
    # They come back soon, to meet the service while it starts.
    soon = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)]
    bare = Client(addrs, [("grpc.enable_retries", 0), *soon])
    is_killed = how == "killed"
    callers = [Platform(platform, f"room{number}", is_killed) for number in range(int(callers))]
    bares = [Bare(bare, f"bare{number}", is_killed) for number in range(BARE)]
    follower = Follower(platform)
    following = asyncio.create_task(follower.run())
    await until(lambda: follower.at is not None)
    stop = asyncio.Event()
    calling = [asyncio.create_task(caller.run(stop)) for caller in callers + bares]
    await until(lambda: all(caller.rounds > 1 for caller in callers + bares))
    print("calling", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    stop.set()
    await asyncio.gather(*calling)

    await follower.catch_up()
    for caller in bares:
        await caller.repeat(callers[0].ask, list(follower.told))
    await follower.catch_up()
    following.cancel()
    follower.compare()
    for addr in addrs:
        replica = Client([addr], [])
        for caller in callers + bares:
            await caller.compare(lambda method, message: getattr(replica.stub, method)(message, metadata=TOKEN, timeout=DEADLINE_S))
    counted = {
        "calls": platform.calls.total(),
        "failed": platform.failed,
        "longest_s": round(platform.longest_s, 3),
        "writes": len(acknowledged),
        "changes": len(follower.told),
        "resumed": follower.resumed,
        "bare_calls": bare.calls.total(),
        "bare_failed": bare.failed,
        "bare_writes_failed": sum(len(caller.failed) for caller in bares),
        "wrong": len(wrong),
        "first": wrong[:10],
    }
    print(json.dumps(counted))
    return 1 if wrong else 0


sys.exit(asyncio.run(main(*sys.argv[1:])))
