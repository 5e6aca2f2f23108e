"""Callers that keep calling while the service is restarted, and that know after every write what the service should have.

    python tests/python/callers.py stopped|killed 127.0.0.1:50051[,127.0.0.2:50051...] [callers]

The addresses are those of the replicas, which have an app "Open" whose directory is open and a service with the token "dev-service-token"; they are
stopped in order, or killed. It prints a line once all callers have begun, runs until its standard input ends, compares, prints its counts as JSON,
and exits with 1 if something was wrong.

- The platform's callers use the shipped service config, deploy/grpc-service-config.json, and grpcio without further options. If the service is stopped
  in order, none of their calls may fail. If it is killed, calls whose answer had begun may fail, because no client retries them: the callers repeat
  them. These callers mute and unmute with a `request_id`, and compare each answer of CheckSend, BatchCheckSend and ListMutedMembers, from any replica,
  with what they have written.
- A follower with the same config watches, and resumes after the last revision when its watch ends: each acknowledged change arrives once, in order,
  and no other change does.
- Bare callers have neither service config nor retries. Their calls may fail, but only with UNAVAILABLE. If the service was stopped in order, a failed
  write had no effect; if it was killed, that is unknown. Repeated with its `request_id`, the write takes effect once, and each repeat gets the same answer.
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
# The deadline of a call: more than a start on the slowest machine and the backoff of a client after it.
DEADLINE_S = 30
BARE = 2
# Pause between the rounds of one caller.
PAUSE_S = 0.005
# How long to wait for changes to reach the follower.
WAIT_TIMEOUT_S = 20

wrong = []
# Acknowledged writes, in the form in which the follower receives them, with their revisions.
acknowledged = {}


class Client:
    """A stub that counts its calls, with its own connections, like those of a separate process."""

    def __init__(self, addrs, options):
        # By default the authority would be the whole list, which is invalid.
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
    """The only writer of one room."""

    def __init__(self, client, room, is_killed):
        self.client, self.room, self.is_killed, self.rounds = client, room, is_killed, 0
        # The muted users with their reasons, at this revision.
        self.muted, self.revision = {}, 0

    async def run(self, stop):
        while not stop.is_set():
            self.rounds += 1
            await self.round()
            await asyncio.sleep(PAUSE_S)

    def report_error(self, what):
        wrong.append(f"{self.room}, round {self.rounds}: {what}")

    def mute_request(self):
        users = [f"u{self.rounds}a", f"u{self.rounds}b"]
        return pb.MuteMembersRequest(app=APP, room=self.room, users=users, reason=f"round {self.rounds}", request_id=str(uuid.uuid4()))

    def record_mute(self, message, answer):
        self.record_write(pb.CHANGE_KIND_MUTED, message, answer)
        self.muted.update((user, message.reason) for user in message.users)

    def record_write(self, kind, message, answer):
        acknowledged[kind, message.room, tuple(message.users), message.request_id] = answer.revision
        self.revision = max(self.revision, answer.revision)

    async def compare(self, ask):
        """Compares all pages of the list with the expected mutes."""
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
            self.report_error(f"{len(different)} of {len(self.muted)} mutes differ from what is expected: {sorted(different)[:5]}")


class Platform(Caller):
    async def ask(self, method, message):
        """The answer. A failed call is repeated, so that later errors are found as well."""
        while True:
            answer = await self.client.call(method, message)
            if not isinstance(answer, grpc.RpcError):
                return answer
            if not self.is_killed or answer.code() != grpc.StatusCode.UNAVAILABLE:
                self.report_error(f"{method} has failed: {answer.code().name}: {answer.details()}")
            await asyncio.sleep(0.1)

    async def round(self):
        message = self.mute_request()
        self.record_mute(message, await self.ask("MuteMembers", message))
        user = message.users[0]
        check = pb.CheckSendRequest(app=APP, room=self.room, user=user, min_revision=self.revision)
        answer = await self.ask("CheckSend", check)
        if answer.allowed or answer.reason != message.reason:
            self.report_error(f"{user} is muted, but the answer is {answer}")
        if self.rounds % 2 == 0:
            await self.unmute(list(self.muted)[:2])
        await self.check_many()
        if self.rounds % 10 == 0:
            await self.compare(self.ask)

    async def unmute(self, users):
        message = pb.UnmuteMembersRequest(app=APP, room=self.room, users=users, request_id=str(uuid.uuid4()))
        answer = await self.ask("UnmuteMembers", message)
        self.record_write(pb.CHANGE_KIND_UNMUTED, message, answer)
        if not all(member.was_muted for member in answer.members):
            self.report_error(f"{users} were muted, but the answer is {answer}")
        for user in users:
            del self.muted[user]

    async def check_many(self):
        users = [f"u{number}{half}" for number in range(max(1, self.rounds - 20), self.rounds + 1) for half in "ab"]
        pairs = [pb.RoomUser(room=self.room, user=user) for user in users]
        message = pb.BatchCheckSendRequest(app=APP, pairs=pairs, min_revision=self.revision)
        answer = await self.ask("BatchCheckSend", message)
        denied = {user for user, result in zip(users, answer.results, strict=True) if not result.allowed}
        if denied != self.muted.keys() & users:
            self.report_error(f"of {users} the service denies {denied}")


class Bare(Caller):
    def __init__(self, client, room, is_killed):
        super().__init__(client, room, is_killed)
        self.failed = []

    async def ask(self, method, message):
        """The answer, or None after a failure."""
        answer = await self.client.call(method, message)
        if not isinstance(answer, grpc.RpcError):
            return answer
        if answer.code() != grpc.StatusCode.UNAVAILABLE:
            self.report_error(f"{method} has failed with {answer.code().name}: {answer.details()}")
        await asyncio.sleep(0.01)
        return None

    async def round(self):
        message = self.mute_request()
        answer = await self.ask("MuteMembers", message)
        if answer is None:
            self.failed.append(message)
        else:
            self.record_mute(message, answer)
        check = pb.CheckSendRequest(app=APP, room=self.room, user=message.users[0], min_revision=self.revision)
        check = await self.ask("CheckSend", check)
        if check is not None and check.allowed != (answer is None) and not self.is_killed:
            self.report_error(f"a mute is answered with {answer or 'an error'}, and the check after it with {check}")

    async def repeat(self, ask, received):
        """Repeats failed writes, twice."""
        done = {request_id for _, (*_, request_id) in received}
        for message in self.failed:
            if message.request_id in done and not self.is_killed:
                self.report_error(f"failed but has taken effect: {message}")
            first, second = await ask("MuteMembers", message), await ask("MuteMembers", message)
            if first != second:
                self.report_error(f"{message} is answered with {first}, and then with {second}")
            self.record_mute(message, first)


class Follower:
    """Watches the whole app, and resumes when a watch ends."""

    def __init__(self, client):
        self.client, self.received, self.at, self.resumed = client, [], None, 0

    async def run(self):
        while True:
            watch = self.client.stub.Watch(pb.WatchRequest(app=APP, after_revision=self.at), metadata=TOKEN)
            try:
                async for event in watch:
                    self.receive(event)
                wrong.append("a watch ended without an error")
            except grpc.RpcError as error:
                if not is_resumable(error):
                    wrong.append(f"a watch after {self.at} has ended with {error.code().name}: {error.details()}")
                    return
            self.resumed += 1

    def receive(self, event):
        if event.HasField("heartbeat"):
            self.at = max(self.at or 0, event.heartbeat.revision)
            return
        change = event.change
        if change.revision <= self.at:
            wrong.append(f"revision {change.revision} arrives after {self.at}")
        self.at = change.revision
        self.received.append((change.revision, (change.kind, change.room, tuple(change.users), change.request_id)))

    async def catch_up(self):
        await until(lambda: len(self.received) >= len(acknowledged))

    def compare(self):
        received = [write for _, write in self.received]
        missed, unexpected = [acknowledged.keys() - received, set(received) - acknowledged.keys()]
        if missed or unexpected or len(received) != len(acknowledged):
            wrong.append(f"{len(received)} changes received of {len(acknowledged)}; missed: {missed}; unexpected: {unexpected}")
        # Over a cluster, the repeat of a write may return the revision of another write of the same group.
        early = [write for revision, write in self.received if revision < acknowledged.get(write, 0)]
        if early:
            wrong.append(f"{len(early)} changes arrived with a revision below that of their answer: {early[:5]}")


def is_resumable(error):
    """Whether a watch can be resumed: the service stopped, or the reader was too slow."""
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return True
    return any(name == "grpc-status-details-bin" and b"WATCHER_TOO_SLOW" in value for name, value in error.trailing_metadata())


async def until(holds):
    began = time.monotonic()
    while not holds() and time.monotonic() < began + WAIT_TIMEOUT_S:
        await asyncio.sleep(0.02)


async def main(how, addrs, callers="8"):
    addrs = addrs.split(",")
    platform = Client(addrs, [("grpc.service_config", (ROOT / "deploy/grpc-service-config.json").read_text())])
    # They reconnect quickly, so that they reach the service while it starts.
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
        await caller.repeat(callers[0].ask, list(follower.received))
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
        "changes": len(follower.received),
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
