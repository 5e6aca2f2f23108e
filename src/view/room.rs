//! One room, and the pure function at the heart of the service: may this user speak?

use super::{index::Entity, tombstone::RoomTombstone, user_map::UserMap, versioned::Versioned};
use crate::{
    model::{Expire, Key, Restriction, RoomProfile, Value},
    proto::Rule,
    store::Revision,
};

/// All records of one room.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// None: the directory does not contain the room.
    pub profile: Option<Box<Versioned<RoomProfile>>>,
    /// May have expired.
    pub ban: Option<Versioned<Restriction>>,
    /// Member mutes by user. Some may have expired.
    pub muted: UserMap<Versioned<Restriction>>,
    /// The allow list, by user.
    pub allowed: UserMap<Versioned<Restriction>>,
    /// Notification mutes of this room by user. Some may have expired.
    pub push_muted: UserMap<Versioned<Expire>>,
    /// Its tombstone, with the deleted records that are still stored.
    pub(super) tombstone: Option<Box<RoomTombstone>>,
    /// An upper bound of the revisions of its records that are not deleted.
    pub(super) latest_revision: Revision,
    /// When the sweeper visits it next, in Unix milliseconds.
    pub(super) scheduled_ms: Option<u64>,
}

impl Entity for Room {
    fn is_registered(&self) -> bool {
        self.is_registered()
    }

    fn is_empty(&self) -> bool {
        !self.has_records() && self.tombstone.is_none()
    }
}

impl Room {
    /// Whether the directory contains it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.profile.is_some()
    }

    /// Whether it has records that are not deleted.
    #[must_use]
    pub fn has_records(&self) -> bool {
        self.profile.is_some()
            || self.ban.is_some()
            || !self.muted.is_empty()
            || !self.allowed.is_empty()
            || !self.push_muted.is_empty()
    }

    /// The member mute of this user, if it is in force.
    #[must_use]
    pub fn mute_in_force(&self, user: &str, now_ms: u64) -> Option<&Versioned<Restriction>> {
        self.muted.get(user).filter(|mute| mute.value.expire.in_force(now_ms))
    }

    /// The ban, if it is in force.
    #[must_use]
    pub fn ban_in_force(&self, now_ms: u64) -> Option<&Versioned<Restriction>> {
        self.ban.as_ref().filter(|ban| ban.value.expire.in_force(now_ms))
    }

    /// The rule for this user while the room is banned.
    fn rule_of_ban(&self, user: &str) -> Rule {
        if self.profile.as_ref().is_some_and(|profile| profile.value.is_staff(user)) {
            Rule::RoomStaff
        } else if self.allowed.get(user).is_some() {
            Rule::AllowList
        } else {
            Rule::RoomBan
        }
    }

    /// The member mutes in force, sorted by user, from after `after` on.
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

    /// The allow list, sorted by user, from after `after` on.
    pub fn allowed_after<'a>(
        &'a self,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Restriction)> {
        self.allowed.after(after).map(|(user, restriction)| (user, &restriction.value))
    }

    /// Whether a notification mute of this user is in force.
    #[must_use]
    pub fn is_push_muted(&self, user: &str, now_ms: u64) -> bool {
        self.push_muted.get(user).is_some_and(|until| until.value.in_force(now_ms))
    }

    /// The revision of this user's stored member mute, even if it has expired or was deleted with
    /// the room.
    #[must_use]
    pub fn stored_mute(&self, user: &str) -> Option<Revision> {
        let tombstoned = || self.tombstone.as_ref()?.muted.get(user);
        self.muted.get(user).or_else(tombstoned).map(|record| record.revision)
    }

    /// The revision of this user's stored entry of the allow list, even if it was deleted with the
    /// room.
    #[must_use]
    pub fn stored_allowed(&self, user: &str) -> Option<Revision> {
        let tombstoned = || self.tombstone.as_ref()?.allowed.get(user);
        self.allowed.get(user).or_else(tombstoned).map(|record| record.revision)
    }

    /// The revision of its tombstone, as long as it is stored.
    #[must_use]
    pub fn tombstone(&self) -> Option<Revision> {
        self.tombstone.as_ref().map(|tombstone| tombstone.revision)
    }

    /// The revision of the stored ban, even if it has expired or was deleted with the room.
    #[must_use]
    pub fn stored_ban(&self) -> Option<Revision> {
        let tombstoned = || self.tombstone.as_ref()?.ban.as_ref();
        self.ban.as_ref().or_else(tombstoned).map(|record| record.revision)
    }

    /// Applies one change of the feed. `None` removes the record. A record up to the revision of
    /// the tombstone, as a full copy of all records may bring it, goes under the tombstone.
    /// Notification mutes come through [`Room::set_push_mute`].
    pub(super) fn apply(&mut self, key: Key<'_>, value: Option<Value>, revision: Revision) {
        if let Some(tombstone) = &mut self.tombstone {
            if revision <= tombstone.revision
                && value.is_some()
                && tombstone.apply(key, value.as_ref(), revision)
            {
                return;
            }
            tombstone.remove(key);
        }
        if value.is_some() {
            self.latest_revision = self.latest_revision.max(revision);
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
            (Key::DeletedRoom { .. }, None) => self.tombstone = None,
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

    /// Sets or removes the notification mute of a user.
    pub(super) fn set_push_mute(&mut self, user: &str, until: Option<Versioned<Expire>>) {
        if let Some(tombstone) = &mut self.tombstone {
            tombstone.push_muted.remove(user);
            if let Some(until) = until.as_ref().filter(|until| until.revision <= tombstone.revision)
            {
                tombstone.push_muted.insert(user, until.clone());
                self.push_muted.remove(user);
                return;
            }
        }
        match until {
            Some(until) => {
                self.latest_revision = self.latest_revision.max(until.revision);
                self.push_muted.insert(user, until);
            }
            None => drop(self.push_muted.remove(user)),
        }
    }

    /// Drops the profile, and moves all other records up to this revision under the tombstone.
    fn delete(&mut self, revision: Revision) {
        let mut tombstone = self.tombstone.take().unwrap_or_default();
        tombstone.revision = revision;
        let is_covered = |record_revision: Revision| record_revision <= revision;
        if self.profile.as_ref().is_some_and(|profile| is_covered(profile.revision)) {
            self.profile = None;
        }
        tombstone.ban = self.ban.take_if(|ban| is_covered(ban.revision)).or(tombstone.ban);
        if is_covered(self.latest_revision) {
            tombstone.muted.merge(std::mem::take(&mut self.muted));
            tombstone.allowed.merge(std::mem::take(&mut self.allowed));
            tombstone.push_muted.merge(std::mem::take(&mut self.push_muted));
        } else {
            tombstone.muted.merge(self.muted.extract_if(|mute| is_covered(mute.revision)));
            tombstone
                .allowed
                .merge(self.allowed.extract_if(|restriction| is_covered(restriction.revision)));
            tombstone
                .push_muted
                .merge(self.push_muted.extract_if(|until| is_covered(until.revision)));
        }
        self.tombstone = Some(tombstone);
    }
}

/// Whether the user may speak, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether the user may speak.
    pub allowed: bool,
    /// The rule that decided.
    pub rule: Rule,
    /// The mute or the ban that the rule refers to.
    pub restriction: Option<&'a Restriction>,
    /// The latest end of the mutes and the ban that apply to the user now: when the user may speak
    /// again. For a user who may speak during a ban, the end of the ban. `None` without any.
    pub until: Option<Expire>,
}

/// Decides whether a user may speak in a room now. The first match decides: a user mute in force
/// denies; a member mute in force denies; a ban in force allows only staff and the allow list;
/// otherwise the user may speak. `user_mute` is the mute of this user, in force or not.
#[must_use]
pub fn may_speak<'a>(
    room: Option<&'a Room>,
    user_mute: Option<&'a Restriction>,
    user: &str,
    now_ms: u64,
) -> Decision<'a> {
    let user_mute = user_mute.filter(|mute| mute.expire.in_force(now_ms));
    let member_mute = room.and_then(|room| room.mute_in_force(user, now_ms));
    let ban = room.and_then(|room| Some((room, room.ban_in_force(now_ms)?)));
    let ban = ban.map(|(room, ban)| (room.rule_of_ban(user), &ban.value));
    let mutes = [
        user_mute.map(|mute| (Rule::UserMute, mute)),
        member_mute.map(|mute| (Rule::MemberMute, &mute.value)),
    ];
    let denials = mutes.into_iter().chain([ban.filter(|(rule, _)| *rule == Rule::RoomBan)]);
    let until = denials.clone().flatten().map(|(_, restriction)| restriction.expire).max();
    if let Some((rule, restriction)) = denials.flatten().next() {
        return Decision { allowed: false, rule, restriction: Some(restriction), until };
    }
    let (rule, restriction) = ban.unzip();
    Decision {
        allowed: true,
        rule: rule.unwrap_or(Rule::None),
        restriction,
        until: restriction.map(|restriction| restriction.expire),
    }
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
    fn without_mute_and_ban_every_user_may_speak() {
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
    fn a_member_mute_overrides_allow_list_and_staff() {
        let room = room(&["guest", "admin"], true, &["guest"]);
        assert_eq!(rule(&room, "guest"), (false, Rule::MemberMute));
        assert_eq!(rule(&room, "admin"), (false, Rule::MemberMute));
    }

    #[test]
    fn a_user_mute_overrides_all_rules_until_it_expires() {
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
            let expired = restriction(Expire::at_ms(NOW)).value;
            assert_eq!(
                may_speak(Some(&room), Some(&expired), user, NOW),
                may_speak(Some(&room), None, user, NOW)
            );
        }
    }

    #[test]
    fn the_end_is_the_latest_of_all_that_forbids() {
        let at = |ms| restriction(Expire::at_ms(NOW + ms));
        let banned = Room {
            ban: Some(at(3)),
            muted: ["u", "guest", "admin"].into_iter().map(|user| (user, at(2))).collect(),
            ..room(&[], true, &["guest", "other guest"])
        };
        let user_mute = at(1).value;
        let long_mute = at(9).value;
        for (user, user_mute, rule, until_ms) in [
            ("u", Some(&user_mute), Rule::UserMute, NOW + 3),
            ("u", None, Rule::MemberMute, NOW + 3),
            ("u", Some(&long_mute), Rule::UserMute, NOW + 9),
            ("other", Some(&user_mute), Rule::UserMute, NOW + 3),
            ("guest", Some(&user_mute), Rule::UserMute, NOW + 2),
            ("admin", None, Rule::MemberMute, NOW + 2),
            ("owner", Some(&user_mute), Rule::UserMute, NOW + 1),
            ("owner", None, Rule::RoomStaff, NOW + 3),
            ("other guest", None, Rule::AllowList, NOW + 3),
        ] {
            let decision = may_speak(Some(&banned), user_mute, user, NOW);
            let until_ms = Some(Expire::at_ms(until_ms));
            assert_eq!((decision.rule, decision.until), (rule, until_ms), "{user}");
        }
        let for_good =
            Room { ban: Some(restriction(Expire::NEVER)), ..room(&["admin"], true, &[]) };
        for user in ["u", "admin"] {
            let decision = may_speak(Some(&for_good), Some(&user_mute), user, NOW);
            assert_eq!(decision.until, Some(Expire::NEVER), "{user}");
        }
    }

    #[test]
    fn expired_mutes_and_bans_forbid_nothing() {
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
