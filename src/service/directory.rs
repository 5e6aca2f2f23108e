//! The directory: which rooms and clients are registered, with their profiles.

use std::sync::Arc;

use super::{Answer, Committed, RequestContext, Service, registration::expect_room};
use crate::{
    auth::Action,
    error::{Error, Reason},
    model::{ClientProfile, Event, EventKind, Key, RoomId, RoomProfile, UserId, Value},
    store::Batch,
    view::{ClientRef, Page, Room, Versioned},
};

/// The number of ids that a call without a room id may try. Half of the thousand ids of one
/// millisecond taken, one call in 60,000 finds none.
const ROOM_ID_CANDIDATES: usize = 16;
/// Maximum number of notification mutes of a client. A client is returned with all of them, and
/// each change of one scans all of them.
pub(super) const MAX_MUTED_ROOMS: usize = 1_000;
/// Maximum number of admins of a room.
const MAX_ADMINS: usize = 100;
/// Maximum size of a client's custom fields as JSON.
const MAX_CUSTOM_JSON_BYTES: usize = 16 << 10;

/// The fields of a client to change: those that are present, and the keys of `custom_json`.
pub type ClientPatch = ClientProfile;

/// The fields of a room to change. An absent field does not change.
#[derive(Default)]
#[allow(missing_docs)]
pub struct RoomPatch {
    pub name: Option<String>,
    pub description: Option<String>,
    /// An empty id removes the owner.
    pub owner: Option<String>,
    /// Replaces all admins.
    pub admins: Option<Vec<String>>,
    /// Users who become admins of a registered room.
    pub add_admins: Vec<String>,
    /// Users who are admins of a registered room no longer.
    pub remove_admins: Vec<String>,
}

/// A room that a patch has changed.
pub struct PatchedRoom {
    /// Its id.
    pub id: RoomId,
    /// Its profile after the change.
    pub profile: RoomProfile,
    /// For each user of `remove_admins`: whether it was an admin.
    pub was_admin: Vec<bool>,
}

/// A client with its muted rooms.
pub struct ClientInfo {
    /// User id.
    pub user: String,
    /// Empty if the client is not registered, in an app whose directory is open.
    pub profile: ClientProfile,
    /// Ids of the rooms whose notifications it has muted, in the order of muting.
    pub muted_rooms: Vec<String>,
}

impl Service {
    /// Registers or updates a client, and returns it. Errors: PERMISSION_DENIED, INVALID_ARGUMENT
    /// on `client.custom_json`.
    pub async fn upsert_client<A: Answer>(
        &self,
        call: &RequestContext,
        user: &UserId,
        patch: &ClientPatch,
        answer: impl Fn(ClientInfo) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::WriteDirectory)?;
        self.change(call, answer, |now_ms| {
            let (info, revision) = self.view.client(call.key(), user.as_str(), |client| {
                (
                    ClientInfo::new(user.as_str(), client, now_ms),
                    client.and_then(|client| Some(client.profile.as_ref()?.revision)),
                )
            });
            let new = merge_client(info.profile.clone(), patch)?;
            if revision.is_some() && info.profile == new {
                return Ok((None, info));
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
            batch.put(key, Value::Client(profile.clone()));
            Ok((Some(batch), ClientInfo { profile, ..info }))
        })
        .await
    }

    /// One client. Errors: PERMISSION_DENIED, CLIENT_NOT_FOUND.
    pub fn get_client(&self, call: &RequestContext, user: &UserId) -> Result<ClientInfo, Error> {
        call.permit(Action::SeeClient { user: user.as_str() })?;
        self.require_clients(call, std::iter::once(user.as_str()))?;
        Ok(self.client_info(call, user.as_str()))
    }

    /// A page of the registered clients, ordered by id, and the number of all of them. Each client
    /// is read when it is taken, because a page may end before all of them. Errors:
    /// PERMISSION_DENIED.
    pub fn list_clients(
        &self,
        call: &RequestContext,
        page: Page<'_>,
    ) -> Result<(impl Iterator<Item = ClientInfo>, usize), Error> {
        call.permit(Action::ListDirectory)?;
        let (ids, total) = self.view.client_ids(call.key(), page);
        Ok((ids.into_iter().map(|id| self.client_info(call, &id)), total))
    }

    /// Removes a client, and in the same commit its notification mutes. Returns the client as it
    /// was, or `None` if it was not registered. Errors: PERMISSION_DENIED.
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
            let deleted = self.client_info(call, user.as_str());
            let event = Event {
                users: vec![user.to_string()],
                ..call.event(EventKind::ClientDeleted, now_ms)
            };
            let mut batch = Batch::of(&event);
            batch.expect(Key::Client { app: call.key(), user: user.as_str() }, revision);
            batch.delete_client(call.key(), user.as_str());
            Ok((Some(batch), Some(deleted)))
        })
        .await
    }

    /// Registers or updates a room. Without an id, registers a new room with a numeric id. Errors:
    /// PERMISSION_DENIED, CLIENT_NOT_FOUND for the owner and the admins, TOO_MANY_USERS; where the
    /// patch adds or removes admins, ROOM_NOT_FOUND.
    pub async fn upsert_room<A: Answer>(
        &self,
        call: &RequestContext,
        room: Option<&RoomId>,
        patch: &RoomPatch,
        answer: impl Fn(PatchedRoom) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::WriteDirectory)?;
        let candidates = if room.is_none() { self.room_id_candidates()? } else { Vec::new() };
        self.change(call, answer, |now_ms| {
            let is_free =
                |id: &&RoomId| self.view.room(call.key(), id.as_str(), |room| room.is_none());
            let id = room
                .or_else(|| candidates.iter().find(is_free))
                .ok_or_else(|| Error::unavailable("found no free room id"))?;
            self.require_clients(call, patch.staff())?;
            let old = self.view.room(call.key(), id.as_str(), |room| room?.profile.clone());
            let revision = old.as_ref().map(|old| old.revision);
            let old = old.map(|old: Box<Versioned<RoomProfile>>| old.value);
            if old.is_none() && patch.needs_room() {
                return Err(Error::room_not_found(id.as_str()));
            }
            let new = merge_room(old.clone().unwrap_or_default(), patch)?;
            let patched = |profile, old: Option<&RoomProfile>| PatchedRoom {
                id: id.clone(),
                profile,
                was_admin: patch.were_admins(old),
            };
            if old.as_ref() == Some(&new) {
                return Ok((None, patched(new, old.as_ref())));
            }
            let created_ms = old.as_ref().map_or(now_ms, |old| old.created_ms);
            let new = RoomProfile { created_ms, updated_ms: now_ms, ..new };
            let mut batch =
                Batch::of(&call.room_event(EventKind::RoomUpserted, now_ms, id, &[], ""));
            let key = Key::Room { app: call.key(), room: id.as_str() };
            batch.expect(key, revision);
            batch.put(key, Value::Room(new.clone()));
            Ok((Some(batch), patched(new, old.as_ref())))
        })
        .await
    }

    /// Removes a room, and in the same commit its ban, member mutes, allow list and notification
    /// mutes. The cost does not depend on the size of the room: the sweeper removes the records
    /// from the store later, in small batches. Returns whether the room was registered. Errors:
    /// PERMISSION_DENIED.
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
            // With an open directory, a room that is not registered can have records.
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

    /// A page of the registered rooms. Errors: PERMISSION_DENIED.
    pub fn list_rooms(
        &self,
        call: &RequestContext,
        page: Page<'_>,
    ) -> Result<(impl Iterator<Item = (Arc<str>, RoomProfile)>, usize), Error> {
        call.permit(Action::ListDirectory)?;
        let (ids, total) = self.view.room_ids(call.key(), page);
        let profile = move |id: Arc<str>| {
            let profile = self.view.room(call.key(), &id, |room| {
                room.and_then(|room| Some(room.profile.as_ref()?.value.clone()))
            });
            (id, profile.unwrap_or_default())
        };
        Ok((ids.into_iter().map(profile), total))
    }

    /// Ids for a new room, of sixteen digits each, made of the time and a random number. If two
    /// calls choose the same id, one of the commits fails, and that call takes its next candidate.
    fn room_id_candidates(&self) -> Result<Vec<RoomId>, Error> {
        let now_ms = self.clock.now_ms();
        let new_id = |_| (now_ms * 1_000 + rand::random_range(0..1_000)).to_string();
        (0..ROOM_ID_CANDIDATES).map(new_id).map(RoomId::parse).collect()
    }

    fn client_info(&self, call: &RequestContext, user: &str) -> ClientInfo {
        let now_ms = self.clock.now_ms();
        self.view.client(call.key(), user, |client| ClientInfo::new(user, client, now_ms))
    }
}

impl ClientInfo {
    pub(super) fn new(user: &str, client: Option<ClientRef<'_>>, now_ms: u64) -> Self {
        Self {
            user: user.to_owned(),
            profile: client
                .and_then(|client| Some(client.profile.as_ref()?.value.clone()))
                .unwrap_or_default(),
            muted_rooms: client.map_or_else(Vec::new, |client| {
                let muted = client.muted_in_force(now_ms).take(MAX_MUTED_ROOMS);
                muted.map(|muted| muted.room.to_string()).collect()
            }),
        }
    }
}

impl RoomPatch {
    /// Whether it changes admins that the room must have already.
    fn needs_room(&self) -> bool {
        !self.add_admins.is_empty() || !self.remove_admins.is_empty()
    }

    /// The users who must be registered.
    fn staff(&self) -> impl Iterator<Item = &str> {
        let owner = self.owner.iter().filter(|owner| !owner.is_empty());
        let admins = self.admins.iter().flatten().chain(&self.add_admins);
        owner.chain(admins).map(String::as_str)
    }

    fn were_admins(&self, old: Option<&RoomProfile>) -> Vec<bool> {
        let is_admin = |user| old.is_some_and(|old| old.admins.contains(user));
        self.remove_admins.iter().map(is_admin).collect()
    }

    /// The admins after the change, each once.
    fn admins(&self, old: Vec<String>) -> Result<Vec<String>, Error> {
        let mut kept = self.admins.clone().unwrap_or(old);
        kept.retain(|admin| !self.remove_admins.contains(admin));
        let mut admins: Vec<String> = Vec::new();
        for admin in kept.into_iter().chain(self.add_admins.iter().cloned()) {
            if !admins.contains(&admin) {
                admins.push(admin);
            }
        }
        if admins.len() <= MAX_ADMINS || self.add_admins.is_empty() {
            return Ok(admins);
        }
        let message = "a room must have at most 100 admins";
        let error = Error::new(Reason::TooManyUsers, message);
        Err(Error { field: Some("add_admins"), ..error })
    }
}

fn merge_room(old: RoomProfile, patch: &RoomPatch) -> Result<RoomProfile, Error> {
    Ok(RoomProfile {
        admins: patch.admins(old.admins)?,
        name: patch.name.clone().unwrap_or(old.name),
        description: patch.description.clone().unwrap_or(old.description),
        owner: patch.owner.clone().unwrap_or(old.owner),
        created_ms: old.created_ms,
        updated_ms: old.updated_ms,
    })
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
    let patch: serde_json::Map<_, _> =
        serde_json::from_str(patch).map_err(|_| invalid_custom_json())?;
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
    if text.len() <= MAX_CUSTOM_JSON_BYTES { Ok(text) } else { Err(invalid_custom_json()) }
}

fn invalid_custom_json() -> Error {
    Error::invalid("client.custom_json", "custom_json must be a JSON object of at most 16 KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_fields_merge_by_key_and_null_removes_one() -> Result<(), Error> {
        assert_eq!(merge_custom(r#"{"a":1,"b":2}"#, r#"{"b":null,"c":3}"#)?, r#"{"a":1,"c":3}"#);
        assert_eq!(merge_custom(r#"{"a":1}"#, "")?, r#"{"a":1}"#);
        assert_eq!(merge_custom(r#"{"a":1}"#, r#"{"a":null}"#)?, "");
        assert!(merge_custom("", "[1]").is_err());
        assert!(
            merge_custom("", &format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_CUSTOM_JSON_BYTES)))
                .is_err()
        );
        Ok(())
    }

    #[test]
    fn absent_fields_do_not_change() -> Result<(), Error> {
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
