//! The expected answers, computed with a few maps. The model stores nothing, and is never swept or
//! restarted.

use std::collections::{BTreeMap, BTreeSet};

use super::{ROOMS, Step, USERS, pb, strings};

/// When a restriction ends, in Unix milliseconds; `None` if it is permanent.
type End = Option<u64>;

/// How often each restriction has expired, by kind, room and user; a ban has no user.
pub type Expiries = BTreeMap<(pb::ChangeKind, String, String), usize>;

/// Everything that reads return. In a strict app, rooms and clients that are not registered are
/// `None`.
#[derive(Debug, PartialEq)]
pub struct Facts {
    pub rooms: [Option<RoomFacts>; 2],
    pub push_muted: Vec<Option<Vec<(String, End)>>>,
    pub muted_users: Vec<(String, End)>,
}

#[derive(Debug, PartialEq)]
pub struct RoomFacts {
    /// By user: the rule, and when the user may speak again (or when the ban ends that spares the
    /// user).
    pub checks: Vec<Option<(pb::Rule, End)>>,
    pub muted: Vec<(String, End)>,
    pub banned: Option<End>,
    pub allowed: Vec<String>,
    pub recipients: Vec<String>,
}

/// The state of a room.
#[derive(Default)]
struct Room {
    is_registered: bool,
    /// The moderator is one of its admins.
    has_staff: bool,
    muted: BTreeMap<&'static str, End>,
    ban: Option<End>,
    allowed: BTreeSet<&'static str>,
}

pub struct Model {
    is_strict: bool,
    now_ms: u64,
    rooms: [Room; 2],
    clients: BTreeSet<&'static str>,
    muted_users: BTreeMap<&'static str, End>,
    /// By user, in the order of muting.
    push_muted: BTreeMap<&'static str, Vec<(&'static str, End)>>,
    /// How often each restriction has expired.
    expiries: Expiries,
}

impl Model {
    /// In a strict app everything is registered.
    pub fn new(is_strict: bool, now_ms: u64) -> Self {
        let room = || Room { is_registered: is_strict, ..Room::default() };
        Self {
            is_strict,
            now_ms,
            rooms: [room(), room()],
            clients: USERS.into_iter().filter(|_| is_strict).collect(),
            muted_users: BTreeMap::new(),
            push_muted: BTreeMap::new(),
            expiries: Expiries::new(),
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub fn expiries(&self) -> Expiries {
        self.expiries.clone()
    }

    /// Errors: the reason of the refusal.
    pub fn apply(&mut self, step: &Step) -> Result<(), &'static str> {
        match step {
            Step::Mute { .. }
            | Step::Unmute { .. }
            | Step::Ban { .. }
            | Step::Unban { .. }
            | Step::Allow { .. }
            | Step::Disallow { .. } => return self.moderate(step),
            Step::MuteNotifications { room, user, duration_ms } => {
                self.require_client(*user)?;
                self.require_room(*room)?;
                self.mute_notifications(ROOMS[*room], USERS[*user], self.end(*duration_ms));
            }
            Step::UnmuteNotifications { room, user } => {
                self.require_client(*user)?;
                self.require_room(*room)?;
                self.push_muted
                    .entry(USERS[*user])
                    .or_default()
                    .retain(|(other, _)| *other != ROOMS[*room]);
            }
            Step::MuteUser { user, duration_ms } => {
                self.require_client(*user)?;
                self.muted_users.insert(USERS[*user], self.end(*duration_ms));
            }
            Step::UnmuteUser { user } => drop(self.muted_users.remove(USERS[*user])),
            Step::CreateRoom { room } => self.rooms[*room].is_registered = true,
            Step::SetStaff { room, is_staff } => {
                self.rooms[*room].is_registered = true;
                self.rooms[*room].has_staff = *is_staff;
            }
            Step::DeleteRoom { room } => {
                self.rooms[*room] = Room::default();
                self.push_muted
                    .values_mut()
                    .for_each(|list| list.retain(|(other, _)| *other != ROOMS[*room]));
            }
            Step::CreateClient { user } => drop(self.clients.insert(USERS[*user])),
            Step::DeleteClient { user } => {
                self.clients.remove(USERS[*user]);
                self.push_muted.remove(USERS[*user]);
            }
            Step::Advance { ms } => self.advance(*ms),
            Step::Jump { .. } | Step::Sweep | Step::SweepDeleted | Step::Restart => {}
        }
        Ok(())
    }

    fn moderate(&mut self, step: &Step) -> Result<(), &'static str> {
        let (Step::Mute { room, by_user, .. }
        | Step::Unmute { room, by_user, .. }
        | Step::Ban { room, by_user, .. }
        | Step::Unban { room, by_user }
        | Step::Allow { room, by_user, .. }
        | Step::Disallow { room, by_user, .. }) = step
        else {
            return Ok(());
        };
        if *by_user && !self.rooms[*room].has_staff {
            return Err("PERMISSION_DENIED");
        }
        self.require_room(*room)?;
        match step {
            Step::Mute { users, .. } => {
                users.iter().try_for_each(|user| self.require_client(*user))?
            }
            Step::Allow { user, .. } => self.require_client(*user)?,
            _ => {}
        }
        let now_ms = self.now_ms;
        let end = |duration_ms: &Option<u64>| duration_ms.map(|ms| now_ms + ms);
        let room = &mut self.rooms[*room];
        match step {
            Step::Mute { users, duration_ms, .. } => {
                room.muted.extend(users.iter().map(|user| (USERS[*user], end(duration_ms))));
            }
            Step::Unmute { users, .. } => users.iter().for_each(|user| {
                room.muted.remove(USERS[*user]);
            }),
            Step::Ban { duration_ms, .. } => room.ban = Some(end(duration_ms)),
            Step::Unban { .. } => room.ban = None,
            Step::Allow { user, .. } => drop(room.allowed.insert(USERS[*user])),
            Step::Disallow { user, .. } => drop(room.allowed.remove(USERS[*user])),
            _ => {}
        }
        Ok(())
    }

    fn mute_notifications(&mut self, room: &'static str, user: &'static str, end: End) {
        // In an open app, a client is registered by muting something.
        self.clients.insert(user);
        let now_ms = self.now_ms;
        let list = self.push_muted.entry(user).or_default();
        list.retain(|(_, end)| end.is_none_or(|end| now_ms < end));
        match list.iter_mut().find(|(other, _)| *other == room) {
            Some(entry) => entry.1 = end,
            None => list.push((room, end)),
        }
    }

    fn require_room(&self, room: usize) -> Result<(), &'static str> {
        if self.is_strict && !self.rooms[room].is_registered {
            Err("ROOM_NOT_FOUND")
        } else {
            Ok(())
        }
    }

    fn require_client(&self, user: usize) -> Result<(), &'static str> {
        if self.is_strict && !self.clients.contains(USERS[user]) {
            Err("CLIENT_NOT_FOUND")
        } else {
            Ok(())
        }
    }

    fn end(&self, duration_ms: Option<u64>) -> End {
        duration_ms.map(|ms| self.now_ms + ms)
    }

    fn is_in_force(&self, end: End) -> bool {
        end.is_none_or(|end| self.now_ms < end)
    }

    fn advance(&mut self, ms: u64) {
        let passed = self.now_ms + 1..=self.now_ms + ms;
        self.now_ms += ms;
        let has_ended = |end: &End| end.is_some_and(|end| passed.contains(&end));
        let mut ended = Vec::new();
        for (room, id) in self.rooms.iter().zip(ROOMS) {
            let muted = room.muted.iter().filter(|(_, end)| has_ended(end));
            ended.extend(muted.map(|(user, _)| (pb::ChangeKind::Expired, id, *user)));
            ended.extend(
                room.ban.filter(|end| has_ended(end)).map(|_| (pb::ChangeKind::BanExpired, id, "")),
            );
        }
        for (user, list) in &self.push_muted {
            let list = list.iter().filter(|(_, end)| has_ended(end));
            ended
                .extend(list.map(|(room, _)| (pb::ChangeKind::NotificationsExpired, *room, *user)));
        }
        let muted_users = self.muted_users.iter().filter(|(_, end)| has_ended(end));
        ended.extend(muted_users.map(|(user, _)| (pb::ChangeKind::UserMuteExpired, "", *user)));
        for (kind, room, user) in ended {
            *self.expiries.entry((kind, room.to_owned(), user.to_owned())).or_default() += 1;
        }
    }

    fn check(&self, room: &Room, user: &str) -> (pb::Rule, End) {
        let in_force = |end: &End| Some(*end).filter(|end| self.is_in_force(*end));
        let user_mute = self.muted_users.get(user).and_then(in_force);
        let mute = room.muted.get(user).and_then(in_force);
        let ban = room.ban.as_ref().and_then(in_force);
        let is_allowed = room.allowed.contains(user);
        let rule = match (user_mute, mute, ban) {
            (Some(_), _, _) => pb::Rule::UserMute,
            (None, Some(_), _) => pb::Rule::MemberMute,
            (None, None, Some(_)) if is_allowed => pb::Rule::AllowList,
            (None, None, Some(_)) => pb::Rule::RoomBan,
            (None, None, None) => pb::Rule::None,
        };
        let counts_ban = !is_allowed || rule == pb::Rule::AllowList;
        let ends = [user_mute, mute, ban.filter(|_| counts_ban)];
        let last = ends.into_iter().flatten().max_by_key(|end| end.unwrap_or(u64::MAX));
        (rule, last.flatten())
    }

    fn those_in_force(&self, mutes: &BTreeMap<&'static str, End>) -> Vec<(String, End)> {
        mutes
            .iter()
            .filter(|(_, end)| self.is_in_force(**end))
            .map(|(user, end)| ((*user).to_owned(), *end))
            .collect()
    }

    /// The users who may receive pushes from the room.
    fn recipients(&self, room: usize) -> Vec<String> {
        let is_push_muted = |user: &str| {
            let mut list = self.push_muted.get(user).into_iter().flatten();
            list.any(|(muted, end)| *muted == ROOMS[room] && self.is_in_force(*end))
        };
        strings(&USERS).into_iter().filter(|user| !is_push_muted(user)).collect()
    }

    fn room_facts(&self, number: usize) -> Option<RoomFacts> {
        self.require_room(number).ok()?;
        let room = &self.rooms[number];
        let check =
            |user: usize| self.require_client(user).ok().map(|()| self.check(room, USERS[user]));
        Some(RoomFacts {
            checks: (0..USERS.len()).map(check).collect(),
            muted: self.those_in_force(&room.muted),
            recipients: self.recipients(number),
            banned: room.ban.filter(|end| self.is_in_force(*end)),
            allowed: room.allowed.iter().map(|user| (*user).to_owned()).collect(),
        })
    }

    pub fn facts(&self) -> Facts {
        let push_muted = |user: usize| {
            self.require_client(user).ok()?;
            let list = self.push_muted.get(USERS[user]).into_iter().flatten();
            Some(
                list.filter(|(_, end)| self.is_in_force(*end))
                    .map(|(room, end)| ((*room).to_owned(), *end))
                    .collect(),
            )
        };
        Facts {
            rooms: [self.room_facts(0), self.room_facts(1)],
            push_muted: (0..USERS.len()).map(push_muted).collect(),
            muted_users: self.those_in_force(&self.muted_users),
        }
    }
}
