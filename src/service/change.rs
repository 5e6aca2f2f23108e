//! How every write is planned, committed and answered. See "Changes" in the parent module.

use std::time::{Duration, Instant};

use super::{Answer, Committed, RequestContext, Service};
use crate::{
    error::Error,
    model::{Event, Key, UserId},
    store::{Batch, Revision, StoreError},
    sweep,
    telemetry::traces,
};

/// How long a change is planned again after conflicts. Each conflict means that another writer made
/// progress.
const CONFLICT_TIMEOUT: Duration = Duration::from_secs(5);

/// A planned change and its result. No batch: there is nothing to change.
pub(super) type Plan<'a, T> = (Option<Batch<'a>>, T);

impl Service {
    /// Plans and commits a change, and waits until the view has applied it. `plan` runs again after
    /// each conflict. `answer` makes the response, which a repeat of the request returns too.
    /// Errors: those of the plan, STORE_UNAVAILABLE, STORE_FULL, REQUEST_ID_REUSED, QUOTA_EXCEEDED.
    pub(super) async fn change<'a, T: Send, A: Answer>(
        &self,
        call: &'a RequestContext,
        answer: impl Fn(T) -> A + Send,
        plan: impl Fn(u64) -> Result<Plan<'a, T>, Error> + Send,
    ) -> Result<Committed<A>, Error> {
        let started = Instant::now();
        while started.elapsed() < CONFLICT_TIMEOUT {
            // An old record counts as expired only when that is certain. The expiry of a new record
            // follows the wall clock, because checks do.
            let now_ms = sweep::certain_ms(&*self.store, &self.clock);
            let planned = plan(now_ms);
            // Read after the plan. If the plan saw, or failed on, the effect of the first call with
            // this id, this read finds that call's record.
            let record = self.idempotency_record(call);
            if let Some(first) = call.first_answer(record.as_ref(), now_ms)? {
                return Ok(first);
            }
            let (batch, planned) = planned?;
            let is_new = record.is_none();
            let answer = answer(planned);
            let Some(batch) =
                call.record_answer(batch, &answer, record.map(|record| record.revision), now_ms)
            else {
                // Not older than what the plan read.
                return Ok(Committed { answer, revision: self.view.revision() });
            };
            self.require_quota(call, &batch, is_new && call.idempotency_key.is_some())?;
            if self.expire_first(&batch).await? {
                continue;
            }
            match traces::part("commit", self.store.commit(batch.encode())).await {
                Ok(revision) => {
                    if !self.view.wait_for(revision).await {
                        return Err(Error::committed_not_applied(revision));
                    }
                    // The same revision as a repeat returns. A cluster groups several commits, and
                    // gives their records the revision of the first.
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

    /// Waits until the view has applied the commit. Errors: STORE_UNAVAILABLE.
    pub(super) async fn wait_for_view(&self, revision: Revision) -> Result<(), Error> {
        if self.view.wait_for(revision).await {
            Ok(())
        } else {
            Err(Error::unavailable(format!("the view has not reached revision {revision}")))
        }
    }
}

/// Plans to remove the users' records that exist, on the precondition of their revisions. `stored`
/// has a revision for each user, also for a record that has expired. `None` if no record exists.
pub(super) fn remove_stored<'a>(
    users: &'a [UserId],
    stored: Vec<Option<Revision>>,
    key: impl Fn(&'a str) -> Key<'a>,
    event: impl FnOnce(&[UserId]) -> Event,
) -> Option<Batch<'a>> {
    let existing: Vec<_> =
        users.iter().zip(stored).filter_map(|(user, revision)| Some((user, revision?))).collect();
    if existing.is_empty() {
        return None;
    }
    let removed: Vec<_> = existing.iter().map(|(user, _)| (*user).clone()).collect();
    let mut batch = Batch::of(&event(&removed));
    for (user, revision) in existing {
        batch.expect(key(user.as_str()), Some(revision));
        batch.delete(key(user.as_str()));
    }
    Some(batch)
}
