"""Calls the service with the client that openapi-python-client has made of its OpenAPI document.

    PYTHONPATH=<directory of the package> python tests/python/generated.py <REST URL> <token>

Prints what the answers are: the type, the action, and the users.
"""

import json
import sys

from generated_client.api.agora_member_mutes import list_muted_members, mute_members
from generated_client.api.agora_rooms_users_tokens import get_room
from generated_client.api.im_kit_notification_mutes import mute_room
from generated_client.client import AuthenticatedClient
from generated_client.models import MuteMembers

url, token = sys.argv[1:]
app = {"org_name": "easemob-demo", "app_name": "testapp"}
room = {**app, "room": "1265710621211"}


def named(answer, *parts):
    return [type(answer).__name__, *parts]


with AuthenticatedClient(base_url=url, token=token) as agora:
    body = MuteMembers(usernames=["user1", "user2"], mute_duration=60_000)
    mute = mute_members.sync(**room, client=agora, body=body)
    muted = list_muted_members.sync(**room, client=agora)
    shown = get_room.sync(**room, client=agora)
    no_room = get_room.sync(**app, room="1", client=agora)
with AuthenticatedClient(base_url=url, token="dev-api-key", prefix="", auth_header_name="IM-API-KEY") as imkit:
    client = mute_room.sync(uid="aaa", room="demo", client=imkit)
print(json.dumps({
    "mute": named(mute, mute.action, [element.user for element in mute.data]),
    "list": named(muted, muted.action, [element.user for element in muted.data]),
    "room": named(shown, shown.action, [element.mute for element in shown.data]),
    "no_room": named(no_room, no_room.error),
    "imkit": named(client, client.rc, client.result.mute),
}))
