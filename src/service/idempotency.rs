//! Requests with an id: the answer to the first is kept, and a repeat is answered the same and
//! changes nothing.
//!
//! The answer is a record in the commit of the change that it tells of, which expects that there is
//! none for this id yet, or one that has ended: so that of many calls at the same moment, at
//! several replicas too, one gets through, and the others find its answer. An answer that has ended
//! counts for nothing, whether or not the sweeper has removed it.

use prost::Message;

use super::{Committed, IdempotencyKey, RequestContext, Service};
use crate::{
    auth::Principal,
    error::{Error, Reason},
    model::{EventKind, Expire, IdempotencyRecord, Key, RequestId, Value},
    store::{Batch, Revision},
    view::Versioned,
};

/// For how long an id stands for its request.
const KEEP_MS: u64 = 24 * 3_600_000;

/// An answer to a write as it is kept: a message without its revision, which is that of the commit,
/// and without secrets.
pub trait Answer: Message + Default {}

impl<T: Message + Default> Answer for T {}

impl RequestContext {
    /// The same call, with the id of its request; `fingerprint` tells the request from every other,
    /// one of another caller too.
    #[must_use]
    pub fn named(self, id: RequestId, fingerprint: [u8; 16]) -> Self {
        let key = match &self.principal {
            // In no id there is such a space.
            Principal::User { user, .. } => format!("{id}\u{a0}{user}"),
            Principal::Service(_) | Principal::AppAdmin { .. } => id.to_string(),
        };
        Self { request: Some(IdempotencyKey { id, key, fingerprint }), ..self }
    }

    /// What the caller has named its request by; empty where it has not.
    pub(super) fn request_id(&self) -> &str {
        self.request.as_ref().map_or("", |named| named.id.as_str())
    }

    /// What a repeat is answered; nothing where this is none. Errors: REQUEST_ID_REUSED.
    pub(super) fn first_answer<A: Answer>(
        &self,
        record: Option<&Versioned<IdempotencyRecord>>,
        now_ms: u64,
    ) -> Result<Option<Committed<A>>, Error> {
        let in_force = record.filter(|record| record.value.expire.in_force(now_ms));
        let (Some(named), Some(Versioned { value, revision })) = (&self.request, in_force) else {
            return Ok(None);
        };
        if named.fingerprint != value.fingerprint {
            let message = "the request id (Idempotency-Key) is that of another request";
            return Err(Error {
                field: Some("request_id"),
                ..Error::new(Reason::RequestIdReused, message)
            });
        }
        let answer = A::decode(&*value.answer).map_err(Error::internal)?;
        Ok(Some(Committed { answer, revision: *revision }))
    }

    /// Adds the answer to the batch, on the condition that the one that is kept is still that of
    /// this revision, or still none. Without a change there is a batch for the answer alone: so
    /// that a repeat is answered the same when others have changed something meanwhile.
    pub(super) fn record_answer<A: Answer>(
        &self,
        batch: Option<Batch>,
        answer: &A,
        record: Option<Revision>,
        now_ms: u64,
    ) -> Option<Batch> {
        let Some(IdempotencyKey { key: id, fingerprint, .. }) = &self.request else { return batch };
        let mut batch = batch.unwrap_or_else(|| Batch::of(&self.event(EventKind::Request, now_ms)));
        let key = Key::Request { app: self.key(), id };
        let (fingerprint, expire) = (*fingerprint, Expire::at_ms(now_ms.saturating_add(KEEP_MS)));
        batch.expect(key, record);
        batch.put_first(
            key,
            &Value::Request(IdempotencyRecord {
                fingerprint,
                answer: answer.encode_to_vec().into(),
                expire,
            }),
        );
        Some(batch)
    }
}

impl Service {
    /// The answer that is kept for the request's id, in force or not.
    pub(super) fn idempotency_record(
        &self,
        call: &RequestContext,
    ) -> Option<Versioned<IdempotencyRecord>> {
        let IdempotencyKey { id, key, fingerprint } = call.request.as_ref()?;
        let earlier = || {
            // Before users had ids of their own, their answers were kept as those of everybody.
            let record = self
                .view
                .idempotency_record(call.key(), id.as_str())
                .filter(|_| key != id.as_str())?;
            let is_its = record.value.fingerprint == *fingerprint
                && record.value.expire.in_force(self.clock.now_ms());
            is_its.then_some(record)
        };
        self.view.idempotency_record(call.key(), key).or_else(earlier)
    }
}
