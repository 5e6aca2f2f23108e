//! The way of a change.

use std::time::{Duration, Instant};

use super::{Answer, Committed, RequestContext, Service};
use crate::{
    error::Error,
    model::{Event, Key, UserId},
    store::{Batch, Revision, StoreError},
    sweep,
    telemetry::traces,
};

/// For how long a change is planned anew because somebody was faster. Each time somebody has got
/// through.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// A planned change: nothing where there is nothing to change.
pub(super) type Plan<T> = (Option<Batch>, T);

impl Service {
    /// Plans, commits, and waits for the view; `answer` makes what the caller is told, and a repeat
    /// of its request. Errors: the plan's, STORE_UNAVAILABLE, STORE_FULL, REQUEST_ID_REUSED.
    pub(super) async fn change<T: Send, A: Answer>(
        &self,
        call: &RequestContext,
        answer: impl Fn(T) -> A + Send,
        plan: impl Fn(u64) -> Result<Plan<T>, Error> + Send,
    ) -> Result<Committed<A>, Error> {
        let started = Instant::now();
        while started.elapsed() < CATCH_UP_TIMEOUT {
            // What was there is over when that is certain; the end of what is set is the wall
            // clock's, as checks are.
            let now_ms = sweep::certain_ms(&*self.store, &self.clock);
            let planned = plan(now_ms);
            // Looked at after the plan: what was planned on the effect of a first call, or failed
            // on it, is a repeat.
            let record = self.idempotency_record(call);
            if let Some(first) = call.first_answer(record.as_ref(), now_ms)? {
                return Ok(first);
            }
            let (batch, planned) = planned?;
            let is_new = record.is_none();
            let answer = answer(planned);
            // At least what the plan has seen.
            let Some(batch) =
                call.record_answer(batch, &answer, record.map(|record| record.revision), now_ms)
            else {
                return Ok(Committed { answer, revision: self.view.revision() });
            };
            self.require_quota(call, &batch, is_new && call.request.is_some())?;
            if self.expire_first(&batch).await? {
                continue;
            }
            match traces::part("commit", self.store.commit(batch)).await {
                Ok(revision) => {
                    if !self.view.wait_for(revision).await {
                        return Err(Error::committed_not_applied(revision));
                    }
                    // As a repeat will be answered: a cluster knows records by the first of those
                    // commits that it has kept together.
                    let revision = self
                        .idempotency_record(call)
                        .map_or(revision, |record| record.revision.min(revision));
                    return Ok(Committed { answer, revision });
                }
                Err(StoreError::Conflict { revision }) => self.wait_for_view(revision).await?,
                Err(
                    error @ (StoreError::Unavailable(_) | StoreError::RevisionRegressed { .. }),
                ) => {
                    return Err(Error::outcome_unknown(error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::unavailable("too many writers of the same record"))
    }

    pub(super) async fn wait_for_view(&self, revision: Revision) -> Result<(), Error> {
        if self.view.wait_for(revision).await {
            Ok(())
        } else {
            Err(Error::unavailable(format!("the view has not reached revision {revision}")))
        }
    }
}

/// Plans the removal of those records of users that are there, by the revisions they have: also of
/// those that have ended, as far as their end is not certain. Nothing where none is there.
pub(super) fn remove_stored<'a>(
    users: &'a [UserId],
    stored: Vec<Option<Revision>>,
    key: impl Fn(&'a str) -> Key<'a>,
    event: impl FnOnce(&[UserId]) -> Event,
) -> Option<Batch> {
    let there: Vec<_> =
        users.iter().zip(stored).filter_map(|(user, revision)| Some((user, revision?))).collect();
    if there.is_empty() {
        return None;
    }
    let gone: Vec<_> = there.iter().map(|(user, _)| (*user).clone()).collect();
    let mut batch = Batch::of(&event(&gone));
    for (user, revision) in there {
        batch.expect(key(user.as_str()), Some(revision));
        batch.delete(key(user.as_str()));
    }
    Some(batch)
}
