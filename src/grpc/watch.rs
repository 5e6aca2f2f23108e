//! `Watch` and `ListEvents`: the change feed and the history.

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Either, pending, select},
    stream::{self, BoxStream},
};
use rand::RngExt as _;
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use super::{Api, Reply, encode, parse, unpack};
use crate::{
    auth::credentials::Proof,
    error::Error,
    limits::connection::Connection,
    model::{EventKind, RoomId},
    proto::v1 as pb,
    service::EventFilter,
    watch::{Change, WatchEvent},
};

const MAX_ACTOR_BYTES: usize = 512;
/// The watches of a connection that closes end within this time, one by one, so that those of a
/// proxy do not all return at once. The server closes the connection later than that.
const END_WITHIN_MS: u64 = 20_000;

pub(super) type Stream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

pub(super) async fn watch(api: &Api, request: Request<pb::WatchRequest>) -> Reply<Stream> {
    let proof = Proof::of(request.metadata().as_ref(), request.extensions());
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let (caller, message) = unpack(request);
    let call = api.service.authorize(caller, message.app, "Watch")?;
    let room = non_empty(message.room).map(RoomId::parse).transpose()?;
    let after = message.after_revision.map(u64::try_from).transpose();
    let after = after
        .map_err(|_| Error::invalid("after_revision", "after_revision must not be negative"))?;
    let stream = api.service.watch(&call, room.as_ref(), after).await?;
    let stream = stream.until(end_of(connection).boxed());
    let service = api.service.clone();
    let revoked = async move { service.watch_revoked(&call, &proof).await };
    let responses = stream.into_stream().map(|event| Ok(response(event?))).boxed();
    Ok(Response::new(end_with(responses, revoked.boxed()).boxed()))
}

/// Completes some time after the connection has begun to close.
async fn end_of(connection: Option<Arc<Connection>>) {
    match connection {
        Some(connection) => connection.closing().await,
        None => pending().await,
    }
    let delay_ms = rand::rng().random_range(0..END_WITHIN_MS);
    sleep(Duration::from_millis(delay_ms)).await;
}

/// The stream, which ends with the error as soon as `error` resolves.
fn end_with(
    stream: Stream,
    error: BoxFuture<'static, Error>,
) -> impl futures_util::Stream<Item = Result<pb::WatchResponse, Status>> {
    stream::unfold(Some((stream, error)), |state| async {
        let (mut stream, mut error) = state?;
        match select(stream.next(), &mut error).await {
            Either::Left((response, _)) => Some((response?, Some((stream, error)))),
            Either::Right((error, _)) => Some((Err(error.into()), None)),
        }
    })
}

pub(super) async fn list_events(
    api: &Api,
    request: Request<pb::ListEventsRequest>,
) -> Reply<pb::ListEventsResponse> {
    let (call, message) = api.begin_read(request, "ListEvents").await?;
    if message.actor.len() > MAX_ACTOR_BYTES {
        return Err(Error::invalid("actor", "actor must be at most 512 bytes").into());
    }
    let filter = EventFilter {
        room: non_empty(message.room).map(RoomId::parse).transpose()?,
        user: non_empty(message.user).map(|user| call.app.user(user)).transpose()?,
        actor: non_empty(message.actor),
        kinds: message.kinds.iter().map(|kind| parse_kind(*kind)).collect::<Result<_, _>>()?,
        start_ms: parse::time_ms("start_time", message.start_time)?,
        end_ms: parse::time_ms("end_time", message.end_time)?,
    };
    let before = parse::page_token(&message.page_token)?.map(|token| token.parse()).transpose();
    let before = before
        .map_err(|_| Error::invalid("page_token", "page_token was not issued by this method"))?;
    let revision = api.revision();
    let page = api
        .service
        .list_events(&call, &filter, before, parse::page_size(message.page_size)?)
        .await?;
    let next_page_token =
        page.before.map(|before| parse::encode_page_token(&before.to_string())).unwrap_or_default();
    let events = page.changes.iter().map(change).collect();
    Ok(Response::new(pb::ListEventsResponse { events, next_page_token, revision }))
}

/// `None` for an empty text.
fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn response(event: WatchEvent) -> pb::WatchResponse {
    let event = match event {
        WatchEvent::Change(event) => pb::watch_response::Event::Change(change(&event)),
        WatchEvent::Heartbeat(revision) => pb::watch_response::Event::Heartbeat(pb::Heartbeat {
            revision: encode::revision(revision),
        }),
    };
    pb::WatchResponse { event: Some(event) }
}

fn change(Change { revision, event }: &Change) -> pb::Change {
    pb::Change {
        revision: encode::revision(*revision),
        change_time: encode::timestamp(event.at_ms),
        kind: kind(event.kind).into(),
        room: event.room.clone(),
        users: event.users.clone(),
        actor: event.actor.clone(),
        reason: event.reason.clone(),
        expire_time: encode::expire_time(event.expire),
        request_id: event.request_id.clone(),
    }
}

const fn kind(kind: EventKind) -> pb::ChangeKind {
    match kind {
        EventKind::Muted => pb::ChangeKind::Muted,
        EventKind::Unmuted => pb::ChangeKind::Unmuted,
        EventKind::Expired => pb::ChangeKind::Expired,
        EventKind::Banned => pb::ChangeKind::Banned,
        EventKind::Unbanned => pb::ChangeKind::Unbanned,
        EventKind::BanExpired => pb::ChangeKind::BanExpired,
        EventKind::Allowed => pb::ChangeKind::Allowed,
        EventKind::Disallowed => pb::ChangeKind::Disallowed,
        EventKind::NotificationsMuted => pb::ChangeKind::NotificationsMuted,
        EventKind::NotificationsUnmuted => pb::ChangeKind::NotificationsUnmuted,
        EventKind::NotificationsExpired => pb::ChangeKind::NotificationsExpired,
        EventKind::UserMuted => pb::ChangeKind::UserMuted,
        EventKind::UserUnmuted => pb::ChangeKind::UserUnmuted,
        EventKind::UserMuteExpired => pb::ChangeKind::UserMuteExpired,
        EventKind::ClientUpserted => pb::ChangeKind::ClientUpserted,
        EventKind::ClientDeleted => pb::ChangeKind::ClientDeleted,
        EventKind::RoomUpserted => pb::ChangeKind::RoomUpserted,
        EventKind::RoomDeleted => pb::ChangeKind::RoomDeleted,
        EventKind::Imported => pb::ChangeKind::Imported,
        // Internal: no caller sees them.
        EventKind::Swept | EventKind::Request => pb::ChangeKind::Unspecified,
    }
}

fn parse_kind(raw: i32) -> Result<EventKind, Error> {
    let kind = match pb::ChangeKind::try_from(raw).unwrap_or_default() {
        pb::ChangeKind::Muted => Some(EventKind::Muted),
        pb::ChangeKind::Unmuted => Some(EventKind::Unmuted),
        pb::ChangeKind::Expired => Some(EventKind::Expired),
        pb::ChangeKind::Banned => Some(EventKind::Banned),
        pb::ChangeKind::Unbanned => Some(EventKind::Unbanned),
        pb::ChangeKind::BanExpired => Some(EventKind::BanExpired),
        pb::ChangeKind::Allowed => Some(EventKind::Allowed),
        pb::ChangeKind::Disallowed => Some(EventKind::Disallowed),
        pb::ChangeKind::NotificationsMuted => Some(EventKind::NotificationsMuted),
        pb::ChangeKind::NotificationsUnmuted => Some(EventKind::NotificationsUnmuted),
        pb::ChangeKind::NotificationsExpired => Some(EventKind::NotificationsExpired),
        pb::ChangeKind::UserMuted => Some(EventKind::UserMuted),
        pb::ChangeKind::UserUnmuted => Some(EventKind::UserUnmuted),
        pb::ChangeKind::UserMuteExpired => Some(EventKind::UserMuteExpired),
        pb::ChangeKind::ClientUpserted => Some(EventKind::ClientUpserted),
        pb::ChangeKind::ClientDeleted => Some(EventKind::ClientDeleted),
        pb::ChangeKind::RoomUpserted => Some(EventKind::RoomUpserted),
        pb::ChangeKind::RoomDeleted => Some(EventKind::RoomDeleted),
        pb::ChangeKind::Imported => Some(EventKind::Imported),
        pb::ChangeKind::Unspecified => None,
    };
    kind.ok_or_else(|| Error::invalid("kinds", "unknown change kind"))
}
