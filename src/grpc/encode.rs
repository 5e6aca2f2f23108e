//! Encodes the model as messages.

use prost_types::Timestamp;

use crate::{
    model::{Address, ClientProfile, Expire, Restriction, RoomProfile},
    proto::{Rule, v1 as pb},
    service::ClientInfo,
    view::Decision,
};

/// `None` for 0: the time is not known.
pub(super) fn timestamp(ms: u64) -> Option<Timestamp> {
    let seconds = i64::try_from(ms / 1_000).ok()?;
    let nanos = i32::try_from(ms % 1_000 * 1_000_000).ok()?;
    (ms != 0).then_some(Timestamp { seconds, nanos })
}

pub(super) fn expire_time(expire: Expire) -> Option<Timestamp> {
    expire.ms().and_then(timestamp)
}

pub(super) fn revision(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

pub(super) fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn muted_member(user: String, restriction: &Restriction) -> pb::MutedMember {
    pb::MutedMember {
        user,
        expire_time: expire_time(restriction.expire),
        mute_time: timestamp(restriction.set_ms),
        actor: restriction.provenance.actor.to_string(),
        reason: restriction.provenance.reason.to_string(),
    }
}

pub(super) fn muted_user(user: String, restriction: &Restriction) -> pb::MutedUser {
    pb::MutedUser {
        user,
        expire_time: expire_time(restriction.expire),
        mute_time: timestamp(restriction.set_ms),
        actor: restriction.provenance.actor.to_string(),
        reason: restriction.provenance.reason.to_string(),
    }
}

pub(super) fn ban(restriction: &Restriction) -> pb::RoomBan {
    pb::RoomBan {
        expire_time: expire_time(restriction.expire),
        ban_time: timestamp(restriction.set_ms),
        actor: restriction.provenance.actor.to_string(),
        reason: restriction.provenance.reason.to_string(),
    }
}

pub(super) fn room(id: String, profile: RoomProfile) -> pb::Room {
    pb::Room {
        room: id,
        name: profile.name,
        description: profile.description,
        owner: profile.owner,
        admins: profile.admins,
        create_time: timestamp(profile.created_ms),
        update_time: timestamp(profile.updated_ms),
    }
}

pub(super) fn client(client: ClientInfo) -> pb::Client {
    let ClientInfo { user, profile, muted_rooms } = client;
    let ClientProfile {
        nickname,
        avatar_url,
        description,
        email,
        is_robot,
        user_agent,
        custom_json,
        ..
    } = profile;
    let address = |Address { address, family, port }| pb::ClientAddress {
        address,
        family,
        port: port.into(),
    };
    pb::Client {
        user,
        nickname,
        avatar_url,
        description,
        email,
        is_robot,
        address: profile.address.map(address),
        user_agent,
        last_login_time: profile.last_login_ms.and_then(timestamp),
        custom_json,
        create_time: timestamp(profile.created_ms),
        update_time: timestamp(profile.updated_ms),
        muted_rooms,
    }
}

pub(super) fn decision(decision: Decision<'_>) -> pb::CheckSendResponse {
    let mut message = pb::CheckSendResponse {
        allowed: decision.allowed,
        rule: decision.rule.into(),
        expire_time: decision.until.and_then(expire_time),
        ..Default::default()
    };
    if let Some(restriction) = decision.restriction {
        message.reason = restriction.provenance.reason.to_string();
        message.actor = restriction.provenance.actor.to_string();
    }
    message
}

pub(super) fn not_registered() -> pb::CheckSendResponse {
    pb::CheckSendResponse { allowed: false, rule: Rule::NotRegistered.into(), ..Default::default() }
}
