//! The directory: which rooms and clients exist, and what is known of them.

use std::sync::Arc;

use super::{Answer, Committed, RequestContext, Service, registration::expect_room};
use crate::{
    auth::Action,
    error::Error,
    model::{ClientProfile, Event, EventKind, Key, RoomId, RoomProfile, UserId, Value},
    store::Batch,
    view::{ClientRef, Page, Room, Versioned},
};

/// A JSON object of custom fields is at most this long.
const CUSTOM_JSON_BYTES: usize = 16 << 10;

/// The fields of a client that are to change: those that are there, and keys of `custom_json`.
pub type ClientPatch = ClientProfile;

/// The fields of a room that are to change.
#[derive(Default)]
#[allow(missing_docs)]
pub struct RoomPatch {
    pub name: Option<String>,
    pub description: Option<String>,
    /// An empty id takes the owner away.
    pub owner: Option<String>,
    pub admins: Option<Vec<String>>,
}

/// A page of the registered rooms.
pub struct RoomPage {
    /// By id.
    pub rooms: Vec<(Arc<str>, RoomProfile)>,
    /// How many there are in all.
    pub total: usize,
}

/// A client, and the rooms whose notifications it has muted, in the order of muting.
pub struct ClientInfo {
    /// Its id.
    pub user: String,
    /// Empty where the directory, an open one, does not have it.
    pub profile: ClientProfile,
    /// Room ids.
    pub muted_rooms: Vec<String>,
}

impl Service {
    /// Registers a client or changes it. Answers it.
    pub async fn upsert_client<A: Answer>(
        &self,
        call: &RequestContext,
        user: &UserId,
        patch: &ClientPatch,
        answer: impl Fn(ClientInfo) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::WriteDirectory)?;
        self.change(call, answer, |now_ms| {
            let (seen, revision) = self.view.client(call.key(), user.as_str(), |client| {
                (
                    ClientInfo::of(user.as_str(), client, now_ms),
                    client.and_then(|client| Some(client.profile.as_ref()?.revision)),
                )
            });
            let new = merge_client(seen.profile.clone(), patch)?;
            if revision.is_some() && seen.profile == new {
                return Ok((None, seen));
            }
            let created_ms = if revision.is_some() { new.created_ms } else { now_ms };
            let profile = ClientProfile { created_ms, updated_ms: now_ms, ..new };
            let event = Event {
                users: vec![user.to_string()],
                ..call.event(EventKind::ClientUpserted, now_ms)
            };
            let mut batch = Batch::of(&event);
            let key = Key::Client { app: call.key(), user: user.as_str() };
            batch.expect(key, revision);
            batch.put(key, &Value::Client(profile.clone()));
            Ok((Some(batch), ClientInfo { profile, ..seen }))
        })
        .await
    }

    /// One client. Errors: CLIENT_NOT_FOUND.
    pub fn get_client(&self, call: &RequestContext, user: &UserId) -> Result<ClientInfo, Error> {
        call.permit(Action::SeeClient { user: user.as_str() })?;
        self.require_clients(call, std::iter::once(user.as_str()))?;
        Ok(self.client_info(call, user))
    }

    /// A page of the registered clients by id, and how many there are in all.
    pub fn list_clients(
        &self,
        call: &RequestContext,
        page: Page<'_>,
    ) -> Result<(Vec<ClientInfo>, usize), Error> {
        call.permit(Action::ListDirectory)?;
        let (ids, total) = self.view.client_ids(call.key(), page);
        Ok((ids.iter().map(|id| self.client_named(call, id)).collect(), total))
    }

    /// Removes a client and, from that very commit, its notification mutes. Answers it as it was,
    /// where it was registered.
    pub async fn delete_client<A: Answer>(
        &self,
        call: &RequestContext,
        user: &UserId,
        answer: impl Fn(Option<ClientInfo>) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::WriteDirectory)?;
        self.change(call, answer, |now_ms| {
            let revision = self.view.client(call.key(), user.as_str(), |client| {
                Some(client?.profile.as_ref()?.revision)
            });
            if revision.is_none() {
                return Ok((None, None));
            }
            let was = self.client_info(call, user);
            let event = Event {
                users: vec![user.to_string()],
                ..call.event(EventKind::ClientDeleted, now_ms)
            };
            let mut batch = Batch::of(&event);
            batch.expect(Key::Client { app: call.key(), user: user.as_str() }, revision);
            batch.delete_client(call.key(), user.as_str());
            Ok((Some(batch), Some(was)))
        })
        .await
    }

    /// Registers a room or changes it; without an id, a new one with a numeric id. Answers it with
    /// its id. Errors: CLIENT_NOT_FOUND for owner and admins.
    pub async fn upsert_room<A: Answer>(
        &self,
        call: &RequestContext,
        room: Option<&RoomId>,
        patch: &RoomPatch,
        answer: impl Fn((RoomId, RoomProfile)) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::WriteDirectory)?;
        self.change(call, answer, |now_ms| {
            let id =
                room.map_or_else(|| self.new_room_id(call, now_ms), |room| Ok(room.clone()))?;
            let staff = patch
                .owner
                .iter()
                .filter(|owner| !owner.is_empty())
                .chain(patch.admins.iter().flatten());
            self.require_clients(call, staff.map(String::as_str))?;
            let old = self.view.room(call.key(), id.as_str(), |room| room?.profile.clone());
            let revision = old.as_ref().map(|old| old.revision);
            let old = old.map(|old: Box<Versioned<RoomProfile>>| old.value);
            let new = merge_room(old.clone().unwrap_or_default(), patch);
            if old.as_ref() == Some(&new) {
                return Ok((None, (id, new)));
            }
            let created_ms = old.map_or(now_ms, |old| old.created_ms);
            let new = RoomProfile { created_ms, updated_ms: now_ms, ..new };
            let mut batch =
                Batch::of(&call.room_event(EventKind::RoomUpserted, now_ms, &id, &[], ""));
            let key = Key::Room { app: call.key(), room: id.as_str() };
            batch.expect(key, revision);
            batch.put(key, &Value::Room(new.clone()));
            Ok((Some(batch), (id, new)))
        })
        .await
    }

    /// Removes a room with its ban, member mutes and allow list and, from that very commit, the
    /// notification mutes of it. It costs the same whatever the room has, because all of that is
    /// removed from the store later, a little at a time. Answers whether it was registered.
    pub async fn delete_room<A: Answer>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        answer: impl Fn(bool) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::WriteDirectory)?;
        self.change(call, answer, |now_ms| {
            let registration = self.registration(call, room);
            let has_records = self
                .view
                .room(call.key(), room.as_str(), |room| room.is_some_and(Room::has_records));
            let is_registered = registration.profile.is_some();
            // An open directory may hold mutes of a room that nobody has registered.
            if !is_registered && (call.app.strict || !has_records) {
                return Ok((None, false));
            }
            let mut batch =
                Batch::of(&call.room_event(EventKind::RoomDeleted, now_ms, room, &[], ""));
            expect_room(&mut batch, call.key(), room, registration);
            batch.delete_room(call.key(), room.as_str());
            Ok((Some(batch), is_registered))
        })
        .await
    }

    /// A page of the registered rooms.
    pub fn list_rooms(&self, call: &RequestContext, page: Page<'_>) -> Result<RoomPage, Error> {
        call.permit(Action::ListDirectory)?;
        let (ids, total) = self.view.room_ids(call.key(), page);
        let profile = |id: Arc<str>| {
            let profile = self.view.room(call.key(), &id, |room| {
                room.and_then(|room| Some(room.profile.as_ref()?.value.clone()))
            });
            (id, profile.unwrap_or_default())
        };
        Ok(RoomPage { rooms: ids.into_iter().map(profile).collect(), total })
    }

    /// Sixteen digits, time and chance, that are no room yet. Where two calls choose the same, the
    /// commit of one fails and it chooses again.
    fn new_room_id(&self, call: &RequestContext, now_ms: u64) -> Result<RoomId, Error> {
        for _ in 0..100 {
            let id = (now_ms * 1_000 + rand::random_range(0..1_000)).to_string();
            if self.view.room(call.key(), &id, |room| room.is_none()) {
                return RoomId::parse(id);
            }
        }
        Err(Error::unavailable("no room id was free"))
    }

    pub(super) fn client_info(&self, call: &RequestContext, user: &UserId) -> ClientInfo {
        self.client_named(call, user.as_str())
    }

    fn client_named(&self, call: &RequestContext, user: &str) -> ClientInfo {
        let now_ms = self.clock.now_ms();
        self.view.client(call.key(), user, |client| ClientInfo::of(user, client, now_ms))
    }
}

impl ClientInfo {
    pub(super) fn of(user: &str, client: Option<ClientRef<'_>>, now_ms: u64) -> Self {
        Self {
            user: user.to_owned(),
            profile: client
                .and_then(|client| Some(client.profile.as_ref()?.value.clone()))
                .unwrap_or_default(),
            muted_rooms: client.map_or_else(Vec::new, |client| {
                client.muted_in_force(now_ms).map(|muted| muted.room.to_string()).collect()
            }),
        }
    }
}

fn merge_room(old: RoomProfile, patch: &RoomPatch) -> RoomProfile {
    RoomProfile {
        name: patch.name.clone().unwrap_or(old.name),
        description: patch.description.clone().unwrap_or(old.description),
        owner: patch.owner.clone().unwrap_or(old.owner),
        admins: patch.admins.clone().unwrap_or(old.admins),
        ..old
    }
}

fn merge_client(old: ClientProfile, patch: &ClientPatch) -> Result<ClientProfile, Error> {
    Ok(ClientProfile {
        nickname: patch.nickname.clone().or(old.nickname),
        avatar_url: patch.avatar_url.clone().or(old.avatar_url),
        description: patch.description.clone().or(old.description),
        email: patch.email.clone().or(old.email),
        is_robot: patch.is_robot.or(old.is_robot),
        address: patch.address.clone().or(old.address),
        user_agent: patch.user_agent.clone().or(old.user_agent),
        last_login_ms: patch.last_login_ms.or(old.last_login_ms),
        custom_json: merge_custom(&old.custom_json, &patch.custom_json)?,
        created_ms: old.created_ms,
        updated_ms: old.updated_ms,
    })
}

fn merge_custom(old: &str, patch: &str) -> Result<String, Error> {
    if patch.is_empty() {
        return Ok(old.to_owned());
    }
    let wrong = || {
        Error::invalid("client.custom_json", "custom fields are a JSON object of at most 16 KiB")
    };
    let patch: serde_json::Map<_, _> = serde_json::from_str(patch).map_err(|_| wrong())?;
    let mut merged: serde_json::Map<_, _> = if old.is_empty() {
        serde_json::Map::new()
    } else {
        serde_json::from_str(old).map_err(Error::internal)?
    };
    merged.extend(patch);
    merged.retain(|_, value| !value.is_null());
    let text = if merged.is_empty() {
        String::new()
    } else {
        serde_json::Value::Object(merged).to_string()
    };
    if text.len() <= CUSTOM_JSON_BYTES { Ok(text) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_fields_are_merged_by_key_and_null_takes_one_away() -> Result<(), Error> {
        assert_eq!(merge_custom(r#"{"a":1,"b":2}"#, r#"{"b":null,"c":3}"#)?, r#"{"a":1,"c":3}"#);
        assert_eq!(merge_custom(r#"{"a":1}"#, "")?, r#"{"a":1}"#);
        assert_eq!(merge_custom(r#"{"a":1}"#, r#"{"a":null}"#)?, "");
        assert!(merge_custom("", "[1]").is_err());
        assert!(
            merge_custom("", &format!(r#"{{"a":"{}"}}"#, "x".repeat(CUSTOM_JSON_BYTES))).is_err()
        );
        Ok(())
    }

    #[test]
    fn fields_that_are_not_given_stay() -> Result<(), Error> {
        let old = ClientProfile {
            nickname: Some("old".to_owned()),
            email: Some("e".to_owned()),
            ..ClientProfile::default()
        };
        let patch = ClientPatch { nickname: Some("new".to_owned()), ..ClientPatch::default() };
        let new = merge_client(old, &patch)?;
        assert_eq!((new.nickname.as_deref(), new.email.as_deref()), (Some("new"), Some("e")));
        Ok(())
    }
}
