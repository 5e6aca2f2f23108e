//! User mutes: the users who may not speak in any room of the app.

use super::{Answer, Committed, RequestContext, Service};
use crate::{
    auth::Action,
    error::Error,
    model::{Event, EventKind, Expire, Key, Restriction, UserId, Value},
    store::Batch,
    view::Page,
};

impl Service {
    /// Mutes the user in the whole app, and returns the mute. No duration: it does not expire.
    /// Errors: PERMISSION_DENIED, CLIENT_NOT_FOUND, INVALID_ARGUMENT on `duration`.
    pub async fn mute_user<A: Answer>(
        &self,
        call: &RequestContext,
        user: &UserId,
        duration_ms: Option<u64>,
        reason: &str,
        answer: impl Fn(Restriction) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::MuteUser)?;
        self.change(call, answer, |now_ms| {
            let expire = Expire::after(self.clock.now_ms(), duration_ms)?;
            self.require_clients(call, std::iter::once(user.as_str()))?;
            let event = call.user_event(EventKind::UserMuted, now_ms, user, reason);
            let mut batch = Batch::of(&Event { expire, ..event });
            let restriction = call.restriction(now_ms, expire, reason);
            let key = Key::UserMute { app: call.key(), user: user.as_str() };
            batch.expect(
                key,
                self.view.client(call.key(), user.as_str(), |client| {
                    Some(client?.user_mute.as_ref()?.revision)
                }),
            );
            batch.put(key, Value::Restriction(restriction.clone()));
            Ok((Some(batch), restriction))
        })
        .await
    }

    /// Removes the user mute, and returns whether it was in force. Errors: PERMISSION_DENIED.
    pub async fn unmute_user<A: Answer>(
        &self,
        call: &RequestContext,
        user: &UserId,
        reason: &str,
        answer: impl Fn(bool) -> A + Send,
    ) -> Result<Committed<A>, Error> {
        call.permit(Action::MuteUser)?;
        self.change(call, answer, |now_ms| {
            let mute =
                self.view.client(call.key(), user.as_str(), |client| client?.user_mute.clone());
            let Some(mute) = mute else { return Ok((None, false)) };
            let mut batch =
                Batch::of(&call.user_event(EventKind::UserUnmuted, now_ms, user, reason));
            let key = Key::UserMute { app: call.key(), user: user.as_str() };
            batch.expect(key, Some(mute.revision));
            batch.delete(key);
            Ok((Some(batch), mute.value.expire.in_force(now_ms)))
        })
        .await
    }

    /// A page of the user mutes in force, ordered by user. Errors: PERMISSION_DENIED.
    pub fn list_muted_users(
        &self,
        call: &RequestContext,
        page: Page<'_>,
    ) -> Result<Vec<(String, Restriction)>, Error> {
        call.permit(Action::ListMutedUsers)?;
        Ok(self.view.muted_users(call.key(), page, self.clock.now_ms()))
    }

    /// The user mutes in force of these users. Errors: PERMISSION_DENIED.
    pub fn find_muted_users(
        &self,
        call: &RequestContext,
        users: &[UserId],
    ) -> Result<Vec<(String, Restriction)>, Error> {
        call.permit(Action::ListMutedUsers)?;
        let now_ms = self.clock.now_ms();
        let mute = |user: &UserId| {
            let mute = self.view.client(call.key(), user.as_str(), |client| {
                client?.user_mute_in_force(now_ms).cloned()
            });
            Some((user.to_string(), mute?.value.clone()))
        };
        Ok(users.iter().filter_map(mute).collect())
    }
}

impl RequestContext {
    fn user_event(&self, kind: EventKind, now_ms: u64, user: &UserId, reason: &str) -> Event {
        Event {
            users: vec![user.to_string()],
            reason: reason.to_owned(),
            ..self.event(kind, now_ms)
        }
    }
}
