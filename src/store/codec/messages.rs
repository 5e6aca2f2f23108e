//! Conversions between the model and the stored messages of `mute.store.v1`.

use std::sync::Arc;

use crate::{
    model::{
        Address, ClientProfile, Event, EventKind, Expire, IdempotencyRecord, Provenance,
        Restriction, RoomProfile,
    },
    proto::store_v1 as pb,
};

pub(super) fn expire_model(ms: u64) -> Expire {
    if ms == 0 { Expire::NEVER } else { Expire::at_ms(ms) }
}

pub(super) fn restriction_message(restriction: &Restriction, place: u64) -> pb::Restriction {
    pb::Restriction {
        expire_ms: restriction.expire.ms().unwrap_or(0),
        set_ms: restriction.set_ms,
        actor: restriction.provenance.actor.to_string(),
        reason: restriction.provenance.reason.to_string(),
        place,
    }
}

pub(super) fn restriction_model(message: pb::Restriction) -> (Restriction, u64) {
    let provenance = Provenance { actor: message.actor.into(), reason: message.reason.into() };
    (
        Restriction {
            expire: expire_model(message.expire_ms),
            set_ms: message.set_ms,
            provenance: Arc::new(provenance),
        },
        message.place,
    )
}

pub(super) fn room_message(room: &RoomProfile) -> pb::Room {
    pb::Room {
        name: room.name.clone(),
        description: room.description.clone(),
        owner: room.owner.clone(),
        admins: room.admins.clone(),
        created_ms: room.created_ms,
        updated_ms: room.updated_ms,
    }
}

pub(super) fn room_model(message: pb::Room) -> RoomProfile {
    RoomProfile {
        name: message.name,
        description: message.description,
        owner: message.owner,
        admins: message.admins,
        created_ms: message.created_ms,
        updated_ms: message.updated_ms,
    }
}

pub(super) fn client_message(client: &ClientProfile) -> pb::Client {
    pb::Client {
        nickname: client.nickname.clone(),
        avatar_url: client.avatar_url.clone(),
        description: client.description.clone(),
        email: client.email.clone(),
        is_robot: client.is_robot,
        address: client.address.clone().map(address_message),
        user_agent: client.user_agent.clone(),
        last_login_ms: client.last_login_ms.unwrap_or(0),
        custom_json: client.custom_json.clone(),
        created_ms: client.created_ms,
        updated_ms: client.updated_ms,
    }
}

pub(super) fn client_model(message: pb::Client) -> ClientProfile {
    ClientProfile {
        nickname: message.nickname,
        avatar_url: message.avatar_url,
        description: message.description,
        email: message.email,
        is_robot: message.is_robot,
        address: message.address.map(address_model),
        user_agent: message.user_agent,
        last_login_ms: (message.last_login_ms != 0).then_some(message.last_login_ms),
        custom_json: message.custom_json,
        created_ms: message.created_ms,
        updated_ms: message.updated_ms,
    }
}

fn address_message(address: Address) -> pb::Address {
    let Address { address, family, port } = address;
    pb::Address { address, family, port: port.into() }
}

fn address_model(message: pb::Address) -> Address {
    let pb::Address { address, family, port } = message;
    Address { address, family, port: u16::try_from(port).unwrap_or(0) }
}

pub(super) fn idempotency_message(record: &IdempotencyRecord) -> pb::IdempotencyRecord {
    pb::IdempotencyRecord {
        fingerprint: record.fingerprint.to_vec(),
        answer: record.answer.to_vec(),
        expire_ms: record.expire.ms().unwrap_or(0),
    }
}

pub(super) fn idempotency_model(message: pb::IdempotencyRecord) -> Option<IdempotencyRecord> {
    let fingerprint = message.fingerprint.try_into().ok()?;
    Some(IdempotencyRecord {
        fingerprint,
        answer: message.answer.into(),
        expire: expire_model(message.expire_ms),
    })
}

pub(super) fn event_message(event: &Event) -> pb::Event {
    pb::Event {
        kind: kind_message(event.kind).into(),
        app: event.app.clone(),
        room: event.room.clone(),
        users: event.users.clone(),
        actor: event.actor.clone(),
        reason: event.reason.clone(),
        at_ms: event.at_ms,
        expire_ms: event.expire.ms().unwrap_or(0),
        request_id: event.request_id.clone(),
    }
}

fn kind_message(kind: EventKind) -> pb::EventKind {
    match kind {
        EventKind::Muted => pb::EventKind::Muted,
        EventKind::Unmuted => pb::EventKind::Unmuted,
        EventKind::Expired => pb::EventKind::Expired,
        EventKind::Banned => pb::EventKind::Banned,
        EventKind::Unbanned => pb::EventKind::Unbanned,
        EventKind::Allowed => pb::EventKind::Allowed,
        EventKind::Disallowed => pb::EventKind::Disallowed,
        EventKind::NotificationsMuted => pb::EventKind::NotificationsMuted,
        EventKind::NotificationsUnmuted => pb::EventKind::NotificationsUnmuted,
        EventKind::ClientUpserted => pb::EventKind::ClientUpserted,
        EventKind::ClientDeleted => pb::EventKind::ClientDeleted,
        EventKind::RoomUpserted => pb::EventKind::RoomUpserted,
        EventKind::RoomDeleted => pb::EventKind::RoomDeleted,
        EventKind::Swept => pb::EventKind::Swept,
        EventKind::UserMuted => pb::EventKind::UserMuted,
        EventKind::UserUnmuted => pb::EventKind::UserUnmuted,
        EventKind::UserMuteExpired => pb::EventKind::UserMuteExpired,
        EventKind::BanExpired => pb::EventKind::BanExpired,
        EventKind::NotificationsExpired => pb::EventKind::NotificationsExpired,
        EventKind::Request => pb::EventKind::Request,
        EventKind::Imported => pb::EventKind::Imported,
    }
}

pub(super) fn kind_model(kind: pb::EventKind) -> Option<EventKind> {
    match kind {
        pb::EventKind::Unspecified => None,
        pb::EventKind::Muted => Some(EventKind::Muted),
        pb::EventKind::Unmuted => Some(EventKind::Unmuted),
        pb::EventKind::Expired => Some(EventKind::Expired),
        pb::EventKind::Banned => Some(EventKind::Banned),
        pb::EventKind::Unbanned => Some(EventKind::Unbanned),
        pb::EventKind::Allowed => Some(EventKind::Allowed),
        pb::EventKind::Disallowed => Some(EventKind::Disallowed),
        pb::EventKind::NotificationsMuted => Some(EventKind::NotificationsMuted),
        pb::EventKind::NotificationsUnmuted => Some(EventKind::NotificationsUnmuted),
        pb::EventKind::ClientUpserted => Some(EventKind::ClientUpserted),
        pb::EventKind::ClientDeleted => Some(EventKind::ClientDeleted),
        pb::EventKind::RoomUpserted => Some(EventKind::RoomUpserted),
        pb::EventKind::RoomDeleted => Some(EventKind::RoomDeleted),
        pb::EventKind::Swept => Some(EventKind::Swept),
        pb::EventKind::UserMuted => Some(EventKind::UserMuted),
        pb::EventKind::UserUnmuted => Some(EventKind::UserUnmuted),
        pb::EventKind::UserMuteExpired => Some(EventKind::UserMuteExpired),
        pb::EventKind::BanExpired => Some(EventKind::BanExpired),
        pb::EventKind::NotificationsExpired => Some(EventKind::NotificationsExpired),
        pb::EventKind::Request => Some(EventKind::Request),
        pb::EventKind::Imported => Some(EventKind::Imported),
    }
}
