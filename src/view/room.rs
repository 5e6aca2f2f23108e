//! One room, and the pure function that the service exists for: may this user speak?

use super::{index::Entity, tombstone::RoomRemains, user_map::UserMap, versioned::Versioned};
use crate::{
    model::{Expire, Key, Restriction, RoomProfile, Value},
    store::Revision,
};

/// Everything known of one room.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Nothing where the directory does not have it.
    pub profile: Option<Box<Versioned<RoomProfile>>>,
    /// May have ended.
    pub ban: Option<Versioned<Restriction>>,
    /// By user; some may have ended.
    pub muted: UserMap<Versioned<Restriction>>,
    /// By user.
    pub allowed: UserMap<Versioned<Restriction>>,
    /// Who wants no push from this room, until when; some may have ended.
    pub push_muted: UserMap<Versioned<Expire>>,
    /// Its tombstone, with what it had when it was deleted and is still stored.
    pub(super) remains: Option<Box<RoomRemains>>,
    /// No record of it is newer.
    pub(super) newest: Revision,
    /// When the sweeper is to look at it, in Unix milliseconds.
    pub(super) scheduled_ms: Option<u64>,
}

impl Entity for Room {
    fn is_registered(&self) -> bool {
        self.is_registered()
    }

    fn is_empty(&self) -> bool {
        !self.has_records() && self.remains.is_none()
    }
}

impl Room {
    /// Whether the directory has it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.profile.is_some()
    }

    /// Whether anything is known of it but what was deleted.
    #[must_use]
    pub fn has_records(&self) -> bool {
        let push_muted = self.push_muted.is_empty();
        self.profile.is_some()
            || self.ban.is_some()
            || !self.muted.is_empty()
            || !self.allowed.is_empty()
            || !push_muted
    }

    /// The mute of this user, where one is in force.
    #[must_use]
    pub fn mute_in_force(&self, user: &str, now_ms: u64) -> Option<&Versioned<Restriction>> {
        self.muted.get(user).filter(|mute| mute.value.expire.in_force(now_ms))
    }

    /// The ban, where one is in force.
    #[must_use]
    pub fn ban_in_force(&self, now_ms: u64) -> Option<&Versioned<Restriction>> {
        self.ban.as_ref().filter(|ban| ban.value.expire.in_force(now_ms))
    }

    /// The mutes in force of users after this one, in order.
    pub fn mutes_after<'a>(
        &'a self,
        after: Option<&'a str>,
        now_ms: u64,
    ) -> impl Iterator<Item = (&'a str, &'a Restriction)> {
        self.muted
            .after(after)
            .map(|(user, mute)| (user, &mute.value))
            .filter(move |(_, mute)| mute.expire.in_force(now_ms))
    }

    /// The allow list after this user, in order.
    pub fn allowed_after<'a>(
        &'a self,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Restriction)> {
        self.allowed.after(after).map(|(user, restriction)| (user, &restriction.value))
    }

    /// Whether this user wants no push from here at this moment.
    #[must_use]
    pub fn is_push_muted(&self, user: &str, now_ms: u64) -> bool {
        self.push_muted.get(user).is_some_and(|until| until.value.in_force(now_ms))
    }

    /// The revision of what is stored under the key of this user's mute: also of one that has
    /// ended, or was deleted with the room.
    #[must_use]
    pub fn stored_mute(&self, user: &str) -> Option<Revision> {
        let remains = || self.remains.as_ref()?.muted.get(user);
        self.muted.get(user).or_else(remains).map(|held| held.revision)
    }

    /// The revision of what is stored under the key of this user's place on the allow list.
    #[must_use]
    pub fn stored_allowed(&self, user: &str) -> Option<Revision> {
        let remains = || self.remains.as_ref()?.allowed.get(user);
        self.allowed.get(user).or_else(remains).map(|held| held.revision)
    }

    /// The revision of its tombstone, as long as that is stored.
    #[must_use]
    pub fn tombstone(&self) -> Option<Revision> {
        self.remains.as_ref().map(|remains| remains.revision)
    }

    /// The revision of what is stored under the key of the ban.
    #[must_use]
    pub fn stored_ban(&self) -> Option<Revision> {
        let remains = || self.remains.as_ref()?.ban.as_ref();
        self.ban.as_ref().or_else(remains).map(|held| held.revision)
    }

    /// Applies one change of the feed; nothing as value is a removal. A notification mute is noted
    /// by [`Room::set_push_mute`]. A record that is no newer than the room's tombstone, as a copy
    /// of all records may bring it, belongs to the remains.
    pub(super) fn apply(&mut self, key: Key<'_>, value: Option<Value>, revision: Revision) {
        if let Some(remains) = &mut self.remains {
            if revision <= remains.revision
                && value.is_some()
                && remains.apply(key, value.as_ref(), revision)
            {
                return;
            }
            remains.remove(key);
        }
        if value.is_some() {
            self.newest = self.newest.max(revision);
        }
        match (key, value) {
            (Key::Room { .. }, Some(Value::Room(value))) => {
                self.profile = Some(Box::new(Versioned { value, revision }));
            }
            (Key::Room { .. }, _) => self.profile = None,
            (Key::Ban { .. }, Some(Value::Restriction(value))) => {
                self.ban = Some(Versioned { value, revision })
            }
            (Key::Ban { .. }, _) => self.ban = None,
            (Key::MemberMute { user, .. }, Some(Value::Restriction(value))) => {
                self.muted.insert(user, Versioned { value, revision })
            }
            (Key::MemberMute { user, .. }, _) => drop(self.muted.remove(user)),
            (Key::Allowed { user, .. }, Some(Value::Restriction(value))) => {
                self.allowed.insert(user, Versioned { value, revision })
            }
            (Key::Allowed { user, .. }, _) => drop(self.allowed.remove(user)),
            (Key::DeletedRoom { .. }, Some(_)) => self.delete(revision),
            (Key::DeletedRoom { .. }, None) => self.remains = None,
            (
                Key::Client { .. }
                | Key::NotificationMute { .. }
                | Key::UserMute { .. }
                | Key::Request { .. }
                | Key::DeletedClient { .. },
                _,
            ) => {}
        }
    }

    /// Notes who wants no push from here.
    pub(super) fn set_push_mute(&mut self, user: &str, until: Option<Versioned<Expire>>) {
        if let Some(remains) = &mut self.remains {
            remains.push_muted.remove(user);
            if let Some(until) = until.as_ref().filter(|until| until.revision <= remains.revision) {
                remains.push_muted.insert(user, until.clone());
                self.push_muted.remove(user);
                return;
            }
        }
        match until {
            Some(until) => {
                self.newest = self.newest.max(until.revision);
                self.push_muted.insert(user, until);
            }
            None => drop(self.push_muted.remove(user)),
        }
    }

    /// Forgets all records up to this commit, but for where they are stored.
    fn delete(&mut self, revision: Revision) {
        let mut remains = self.remains.take().unwrap_or_default();
        remains.revision = revision;
        let is_old = |held: Revision| held <= revision;
        if self.profile.as_ref().is_some_and(|profile| is_old(profile.revision)) {
            self.profile = None;
        }
        remains.ban = self.ban.take_if(|ban| is_old(ban.revision)).or(remains.ban);
        if is_old(self.newest) {
            remains.muted.absorb(std::mem::take(&mut self.muted));
            remains.allowed.absorb(std::mem::take(&mut self.allowed));
            remains.push_muted.absorb(std::mem::take(&mut self.push_muted));
        } else {
            remains.muted.absorb(self.muted.take_if(|mute| is_old(mute.revision)));
            remains
                .allowed
                .absorb(self.allowed.take_if(|restriction| is_old(restriction.revision)));
            remains.push_muted.absorb(self.push_muted.take_if(|until| is_old(until.revision)));
        }
        self.remains = Some(remains);
    }
}

/// What decided whether a user may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rule {
    /// Nothing forbids it.
    None,
    UserMute,
    MemberMute,
    RoomBan,
    /// A ban is in force, and the user is the owner or an admin.
    RoomStaff,
    AllowList,
}

/// May the user speak, and what decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Decision<'a> {
    pub allowed: bool,
    pub rule: Rule,
    /// The mute or the ban that decided.
    pub restriction: Option<&'a Restriction>,
}

/// May this user speak in this room at this moment? The first that matches decides: a user mute in
/// force says no; a member mute in force says no; during a ban in force staff and allow list may,
/// everybody else may not; otherwise yes. `user_mute` is that of the user, in force or not.
#[must_use]
pub fn may_speak<'a>(
    room: Option<&'a Room>,
    user_mute: Option<&'a Restriction>,
    user: &str,
    now_ms: u64,
) -> Decision<'a> {
    if let Some(mute) = user_mute.filter(|mute| mute.expire.in_force(now_ms)) {
        return Decision { allowed: false, rule: Rule::UserMute, restriction: Some(mute) };
    }
    let Some(room) = room else {
        return Decision { allowed: true, rule: Rule::None, restriction: None };
    };
    if let Some(mute) = room.mute_in_force(user, now_ms) {
        return Decision { allowed: false, rule: Rule::MemberMute, restriction: Some(&mute.value) };
    }
    let Some(ban) = room.ban_in_force(now_ms) else {
        return Decision { allowed: true, rule: Rule::None, restriction: None };
    };
    let is_staff = room.profile.as_ref().is_some_and(|profile| profile.value.is_staff(user));
    let (allowed, rule) = match (is_staff, room.allowed.get(user).is_some()) {
        (true, _) => (true, Rule::RoomStaff),
        (false, true) => (true, Rule::AllowList),
        (false, false) => (false, Rule::RoomBan),
    };
    Decision { allowed, rule, restriction: Some(&ban.value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000;

    fn restriction(expire: Expire) -> Versioned<Restriction> {
        Versioned {
            value: Restriction { expire, set_ms: 0, provenance: Default::default() },
            revision: 1,
        }
    }

    fn room(muted: &[&str], banned: bool, allowed: &[&str]) -> Room {
        let restrictions =
            |users: &[&str]| users.iter().map(|user| (*user, restriction(Expire::NEVER))).collect();
        let profile = RoomProfile {
            owner: "owner".to_owned(),
            admins: vec!["admin".to_owned()],
            ..RoomProfile::default()
        };
        Room {
            profile: Some(Box::new(Versioned { value: profile, revision: 1 })),
            ban: banned.then(|| restriction(Expire::NEVER)),
            muted: restrictions(muted),
            allowed: restrictions(allowed),
            ..Room::default()
        }
    }

    fn rule(room: &Room, user: &str) -> (bool, Rule) {
        let decision = may_speak(Some(room), None, user, NOW);
        (decision.allowed, decision.rule)
    }

    #[test]
    fn without_mute_and_ban_everybody_may_speak() {
        assert_eq!(rule(&room(&[], false, &[]), "u"), (true, Rule::None));
        assert!(may_speak(None, None, "u", NOW).allowed);
    }

    #[test]
    fn a_ban_spares_owner_admins_and_allow_list_only() {
        let banned = room(&[], true, &["guest"]);
        assert_eq!(rule(&banned, "u"), (false, Rule::RoomBan));
        assert_eq!(rule(&banned, "owner"), (true, Rule::RoomStaff));
        assert_eq!(rule(&banned, "admin"), (true, Rule::RoomStaff));
        assert_eq!(rule(&banned, "guest"), (true, Rule::AllowList));
    }

    #[test]
    fn a_mute_is_stronger_than_the_allow_list_and_the_staff() {
        let room = room(&["guest", "admin"], true, &["guest"]);
        assert_eq!(rule(&room, "guest"), (false, Rule::MemberMute));
        assert_eq!(rule(&room, "admin"), (false, Rule::MemberMute));
    }

    #[test]
    fn a_user_mute_is_stronger_than_all_else_in_every_room_until_its_very_millisecond() {
        let room = room(&["u"], true, &["guest"]);
        for user in ["u", "guest", "owner", "admin"] {
            let mute = restriction(Expire::at_ms(NOW + 1)).value;
            for room in [Some(&room), None] {
                let decision = may_speak(room, Some(&mute), user, NOW);
                assert_eq!(
                    (decision.allowed, decision.rule, decision.restriction),
                    (false, Rule::UserMute, Some(&mute)),
                    "{user}"
                );
            }
            let ended = restriction(Expire::at_ms(NOW)).value;
            assert_eq!(
                may_speak(Some(&room), Some(&ended), user, NOW),
                may_speak(Some(&room), None, user, NOW)
            );
        }
    }

    #[test]
    fn what_has_ended_forbids_nothing_from_that_very_millisecond() {
        let mut room = room(&[], false, &[]);
        room.muted.insert("u", restriction(Expire::at_ms(NOW)));
        room.ban = Some(restriction(Expire::at_ms(NOW)));
        assert_eq!(rule(&room, "u"), (true, Rule::None));
        room.ban = Some(restriction(Expire::at_ms(NOW + 1)));
        assert_eq!(rule(&room, "u"), (false, Rule::RoomBan));
        room.muted.insert("u", restriction(Expire::at_ms(NOW + 1)));
        assert_eq!(rule(&room, "u"), (false, Rule::MemberMute));
    }
}
