//! Requests with an id: the response of the first call is kept. A repeat returns that response and
//! changes nothing.
//!
//! The response is an idempotency record in the commit of the change itself. The commit has the
//! precondition that no record in force exists for the id. So of many concurrent calls, on several
//! replicas too, one commits, and the others find its record. An expired record has no effect, even
//! before the sweeper removes it.

use prost::Message;

use super::{Committed, IdempotencyKey, RequestContext, Service};
use crate::{
    auth::Principal,
    error::{Error, Reason},
    model::{EventKind, Expire, IdempotencyRecord, Key, RequestId, Value},
    store::{Batch, Revision},
    view::Versioned,
};

/// Lifetime of an idempotency record.
const LIFETIME_MS: u64 = 24 * 3_600_000;

/// A response as an idempotency record keeps it: a message without secrets, and without its
/// revision, which is that of the commit.
pub trait Answer: Message + Default {}

impl<T: Message + Default> Answer for T {}

impl RequestContext {
    /// Adds the id of the request. The `fingerprint` differs from that of every other request, also
    /// of one by another caller.
    #[must_use]
    pub fn with_request_id(self, id: RequestId, fingerprint: [u8; 16]) -> Self {
        let key = match &self.principal {
            // No request id contains a no-break space.
            Principal::User { user, .. } => format!("{id}\u{a0}{user}"),
            Principal::Service(_) | Principal::AppAdmin { .. } => id.to_string(),
        };
        Self { idempotency_key: Some(IdempotencyKey { id, key, fingerprint }), ..self }
    }

    /// The id of the request. Empty if it has none.
    pub(super) fn request_id(&self) -> &str {
        self.idempotency_key.as_ref().map_or("", |key| key.id.as_str())
    }

    /// The response of the first call, if this call is a repeat. Errors: REQUEST_ID_REUSED.
    pub(super) fn first_answer<A: Answer>(
        &self,
        record: Option<&Versioned<IdempotencyRecord>>,
        now_ms: u64,
    ) -> Result<Option<Committed<A>>, Error> {
        let in_force = record.filter(|record| record.value.expire.in_force(now_ms));
        let (Some(key), Some(Versioned { value, revision })) = (&self.idempotency_key, in_force)
        else {
            return Ok(None);
        };
        if key.fingerprint != value.fingerprint {
            let message = "request_id (Idempotency-Key) was already used for a different request";
            return Err(Error {
                field: Some("request_id"),
                ..Error::new(Reason::RequestIdReused, message)
            });
        }
        let answer = A::decode(&*value.answer).map_err(Error::internal)?;
        Ok(Some(Committed { answer, revision: *revision }))
    }

    /// Adds the response to the batch, on the precondition that the idempotency record still has
    /// the revision `record`, or is still absent. If there is nothing to change, the batch has the
    /// record alone, so a repeat returns the same response even after other changes.
    pub(super) fn record_answer<'a, A: Answer>(
        &'a self,
        batch: Option<Batch<'a>>,
        answer: &A,
        record: Option<Revision>,
        now_ms: u64,
    ) -> Option<Batch<'a>> {
        let Some(IdempotencyKey { key: id, fingerprint, .. }) = &self.idempotency_key else {
            return batch;
        };
        let mut batch = batch.unwrap_or_else(|| Batch::of(&self.event(EventKind::Request, now_ms)));
        let key = Key::Request { app: self.key(), id };
        let fingerprint = *fingerprint;
        let expire = Expire::at_ms(now_ms.saturating_add(LIFETIME_MS));
        batch.expect(key, record);
        batch.put_first(
            key,
            Value::Request(IdempotencyRecord {
                fingerprint,
                answer: answer.encode_to_vec().into(),
                expire,
            }),
        );
        Some(batch)
    }
}

impl Service {
    /// The idempotency record of the request's id, in force or not.
    pub(super) fn idempotency_record(
        &self,
        call: &RequestContext,
    ) -> Option<Versioned<IdempotencyRecord>> {
        let IdempotencyKey { id, key, fingerprint } = call.idempotency_key.as_ref()?;
        let shared_record = || {
            // Earlier versions kept the records of users under the plain id.
            let record = self
                .view
                .idempotency_record(call.key(), id.as_str())
                .filter(|_| key != id.as_str())?;
            let is_same_request = record.value.fingerprint == *fingerprint
                && record.value.expire.in_force(self.clock.now_ms());
            is_same_request.then_some(record)
        };
        self.view.idempotency_record(call.key(), key).or_else(shared_record)
    }
}
