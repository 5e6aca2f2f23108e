//! Concurrency limits, shared by gRPC and REST: running calls, calls whose message is still being
//! received, unauthenticated streams, and bytes of messages and responses.
//!
//! A caller beyond a limit is refused at once, because a call that waits for its turn has often
//! been given up by its client. The first half of a limit is first come, first served. Beyond it,
//! no peer address and no app may hold more than its share. The last part is reserved for internal
//! services, which ask on every message; their calls have no share and may use the whole limit.
//!
//! `tower`'s `ConcurrencyLimit` has one limit for all callers, and makes calls beyond it wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::holder::{Holder, Peer, RESOURCES, Resource};
use crate::error::Error;

/// The default deadline of a call, and the longest one that a client may set.
pub const MAX_DEADLINE: Duration = Duration::from_secs(60);
/// How long the whole message may take to arrive, counted from the head of the call.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages and responses up to this size are not counted: the limit on calls bounds them.
pub(super) const SMALL_BYTES: usize = 4 << 10;
/// Once half of a limit is used, one holder may have at most `1 / SHARE_DIVISOR` of it.
const SHARE_DIVISOR: usize = 4;
/// `1 / RESERVE_DIVISOR` of a limit is reserved for internal services.
const RESERVE_DIVISOR: usize = 8;

/// Whose use of the limits a call counts against.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The address of the caller; `None` behind a trusted proxy that does not report it.
    pub peer: Option<Arc<Peer>>,
    /// The kind of caller.
    pub caller: CallerKind,
}

/// The kind of caller, as the limits distinguish them.
#[derive(Clone, Debug, Default)]
pub enum CallerKind {
    /// A caller without a valid credential.
    #[default]
    Anonymous,
    /// An internal service.
    Service,
    /// An app's admin or user, with the use of all of its kind in that app.
    App(Arc<Holder>),
}

/// The use of every limited resource, and its limits.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    used: [AtomicUsize; RESOURCES.len()],
    max: [usize; RESOURCES.len()],
    /// The separate limits of unauthenticated callers, for health, reflection and tokens.
    anonymous: Option<Arc<ConcurrencyLimit>>,
}

/// The resources that one call holds. Dropping it releases them.
#[derive(Debug)]
pub struct Permit {
    limit: Arc<ConcurrencyLimit>,
    account: Account,
    counts: [usize; RESOURCES.len()],
}

impl Account {
    pub(super) fn is_authenticated(&self) -> bool {
        !matches!(self.caller, CallerKind::Anonymous)
    }

    /// The holders whose shares count for this resource. Calls of a service count for none; what it
    /// holds before a call runs counts for its peer.
    fn holders(&self, resource: Resource) -> (Option<&Holder>, Option<&Holder>) {
        let peer = self.peer.as_ref().map(|peer| &*peer.holder);
        match &self.caller {
            CallerKind::Anonymous => (peer, None),
            CallerKind::Service if resource == Resource::Call => (None, None),
            CallerKind::Service => (peer, None),
            CallerKind::App(holder) => (peer, Some(holder)),
        }
    }
}

impl ConcurrencyLimit {
    /// Limits of `calls` running calls, as many calls whose message is still being received, as
    /// many unauthenticated streams, and `bytes`. Unauthenticated callers get `1 / RESERVE_DIVISOR`
    /// of that on top.
    #[must_use]
    pub fn new(calls: usize, bytes: usize) -> Arc<Self> {
        let anonymous = Self::build(calls.div_ceil(RESERVE_DIVISOR), bytes / RESERVE_DIVISOR, None);
        Self::build(calls, bytes, Some(anonymous))
    }

    fn build(calls: usize, bytes: usize, anonymous: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { used: Default::default(), max: [calls, calls, bytes, calls], anonymous })
    }

    /// A permit for one call, which holds nothing yet.
    #[must_use]
    pub fn permit(self: &Arc<Self>, account: Account) -> Permit {
        let limit =
            if account.is_authenticated() { self } else { self.anonymous.as_ref().unwrap_or(self) };
        Permit { limit: limit.clone(), account, counts: [0; RESOURCES.len()] }
    }

    /// How much of the resource all callers hold together.
    #[must_use]
    pub fn in_use(&self, resource: Resource) -> usize {
        self.used[resource as usize].load(Ordering::Relaxed)
            + self.anonymous.as_ref().map_or(0, |anonymous| anonymous.in_use(resource))
    }

    fn max(&self, resource: Resource) -> usize {
        self.max[resource as usize]
    }
}

impl Permit {
    /// Acquires more of a resource. Errors: OVERLOADED; nothing is acquired then.
    pub fn acquire(&mut self, resource: Resource, amount: usize) -> Result<(), Error> {
        self.acquire_if(resource, amount, |_| false)
    }

    /// Like [`Self::acquire`], but also succeeds beyond the limit if the caller then holds no more
    /// than a share. Errors: OVERLOADED.
    pub fn acquire_within_share(&mut self, resource: Resource, amount: usize) -> Result<(), Error> {
        let share = share(self.limit.max(resource));
        self.acquire_if(resource, amount, |holds| holds <= share)
    }

    /// Acquires if the limits allow it, or if `is_allowed` accepts what the larger of the two
    /// holders then has.
    fn acquire_if(
        &mut self,
        resource: Resource,
        amount: usize,
        is_allowed: impl FnOnce(usize) -> bool,
    ) -> Result<(), Error> {
        let (used, by_peer, by_caller) = self.add(resource, amount);
        let max = self.limit.max(resource);
        let largest = by_peer.max(by_caller);
        let reserve = if matches!(self.account.caller, CallerKind::Service) {
            0
        } else {
            max / RESERVE_DIVISOR
        };
        if (used <= max - reserve && (used <= max / 2 || largest <= share(max)))
            || is_allowed(largest)
        {
            return Ok(());
        }
        self.release(resource, amount);
        Err(Error::overloaded())
    }

    /// Adds to all counts. Returns how much all callers, the peer and the caller then hold.
    fn add(&mut self, resource: Resource, amount: usize) -> (usize, usize, usize) {
        self.counts[resource as usize] += amount;
        let is_authenticated = self.account.is_authenticated();
        let add = |count: &AtomicUsize| count.fetch_add(amount, Ordering::Relaxed) + amount;

        let add_to = |holder: Option<&Holder>| {
            holder.map_or(0, |holder| add(holder.count(resource, is_authenticated)))
        };
        let (peer, caller) = self.account.holders(resource);
        (add(&self.limit.used[resource as usize]), add_to(peer), add_to(caller))
    }

    /// Releases part of what the permit holds.
    pub fn release(&mut self, resource: Resource, amount: usize) {
        self.counts[resource as usize] -= amount;
        let (peer, caller) = self.account.holders(resource);
        let holders = peer
            .into_iter()
            .chain(caller)
            .map(|holder| holder.count(resource, self.account.is_authenticated()));
        for count in holders.chain([&self.limit.used[resource as usize]]) {
            count.fetch_sub(amount, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for resource in RESOURCES {
            let amount = self.counts[resource as usize];
            if amount > 0 {
                self.release(resource, amount);
            }
        }
    }
}

fn share(max: usize) -> usize {
    (max / SHARE_DIVISOR).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a peer and an app of its own.
    fn peer() -> Account {
        let peer = Peer { ip: [10, 0, 0, 1].into(), holder: Arc::default() };
        Account { peer: Some(Arc::new(peer)), caller: CallerKind::App(Arc::default()) }
    }

    #[test]
    fn unauthenticated_callers_have_separate_limits() {
        let limit = ConcurrencyLimit::new(80, 1_000);
        let anonymous = || Account { caller: CallerKind::Anonymous, ..peer() };
        assert_eq!(all(&limit, &anonymous()).len(), 5, "half of ten");
        let permits: Vec<_> = (0..10).flat_map(|_| all(&limit, &anonymous())).collect();
        assert_eq!((permits.len(), limit.in_use(Resource::Call)), (9, 9), "all but the reserve");
        assert_eq!(all(&limit, &peer()).len(), 40, "they use none of the others' limit");
        // Use by authenticated callers at the same address does not count.
        let limit = ConcurrencyLimit::new(80, 1_000);
        let both = peer();
        let permits = all(&limit, &both);
        assert_eq!(all(&limit, &Account { caller: CallerKind::Anonymous, ..both }).len(), 5);
        drop(permits);
    }

    fn one(limit: &Arc<ConcurrencyLimit>, account: &Account) -> Option<Permit> {
        let mut permit = limit.permit(account.clone());
        permit.acquire(Resource::Call, 1).ok().map(|()| permit)
    }

    fn holds(holder: &Holder, resource: Resource) -> usize {
        holder.count(resource, true).load(Ordering::Relaxed)
    }

    /// Acquires calls until one is refused.
    fn all(limit: &Arc<ConcurrencyLimit>, account: &Account) -> Vec<Permit> {
        std::iter::from_fn(|| one(limit, account)).collect()
    }

    #[test]
    fn no_peer_exceeds_its_share_once_half_is_used() {
        let limit = ConcurrencyLimit::new(80, 1_000);
        let first = peer();
        let second = peer();
        let permits = all(&limit, &first);
        assert_eq!(permits.len(), 40, "half, while no other caller holds any");
        assert_eq!(all(&limit, &second).len(), 20, "a share");
        let more: Vec<_> = (0..10).flat_map(|_| all(&limit, &peer())).collect();
        assert_eq!(more.len(), 30, "all but the reserve");
        drop(permits);
        assert_eq!(limit.in_use(Resource::Call), 30);
        assert_eq!(all(&limit, &first).len(), 20, "a share");
    }

    #[test]
    fn an_app_has_one_share_across_all_peers() {
        let limit = ConcurrencyLimit::new(80, 1_000);
        let app: Arc<Holder> = Arc::default();
        let of_app = || Account { caller: CallerKind::App(app.clone()), ..peer() };
        let permits: Vec<_> = (0..80).filter_map(|_| one(&limit, &of_app())).collect();
        assert_eq!((permits.len(), holds(&app, Resource::Call)), (40, 40));
    }

    #[test]
    fn a_part_is_reserved_for_services() {
        let limit = ConcurrencyLimit::new(80, 1_000);
        let others: Vec<_> = (0..10).flat_map(|_| all(&limit, &peer())).collect();
        assert_eq!(others.len(), 70);
        let service = Account { caller: CallerKind::Service, ..peer() };
        assert_eq!(all(&limit, &service).len(), 10);
        drop(others);
        // Any number of calls, but no more than a share of what comes before them.
        let calls = all(&limit, &service);
        assert_eq!(calls.len(), 80);
        let mut permit = limit.permit(service.clone());
        assert!(
            permit.acquire(Resource::Byte, 500).is_ok()
                && permit.acquire(Resource::Byte, 1).is_err()
        );
        let other = Account { caller: CallerKind::Service, ..peer() };
        assert!(
            limit.permit(other.clone()).acquire(Resource::Byte, 250).is_ok()
                && limit.permit(other).acquire(Resource::Byte, 251).is_err()
        );
    }

    #[test]
    fn a_caller_within_its_share_may_exceed_the_limit() {
        let limit = ConcurrencyLimit::new(80, 1_000);
        let first = peer();
        let second = peer();
        let mut permit = limit.permit(first.clone());
        permit.acquire(Resource::Byte, 500).unwrap();
        permit.acquire_within_share(Resource::Byte, 1).unwrap_err();
        let others: Vec<_> = (0..4).map(|_| all_bytes(&limit, &peer())).collect();
        let mut other = limit.permit(second);
        assert!(
            other.acquire(Resource::Byte, 200).is_err()
                && other.acquire_within_share(Resource::Byte, 200).is_ok()
        );
        assert!(other.acquire_within_share(Resource::Byte, 51).is_err());
        drop(others);
    }

    fn all_bytes(limit: &Arc<ConcurrencyLimit>, account: &Account) -> Permit {
        let mut permit = limit.permit(account.clone());
        while permit.acquire(Resource::Byte, 10).is_ok() {}

        permit
    }

    #[test]
    fn refusals_hold_nothing_and_drops_release_all() {
        let limit = ConcurrencyLimit::new(1, 1_000);
        let account = peer();
        let mut permit = limit.permit(account.clone());
        permit.acquire(Resource::Byte, 600).unwrap_err();
        permit.acquire(Resource::Byte, 500).unwrap();
        permit.acquire(Resource::Message, 1).unwrap();
        permit.release(Resource::Message, 1);
        permit.acquire(Resource::Call, 1).unwrap();
        assert!(one(&limit, &account).is_none());
        let holds = || {
            [Resource::Call, Resource::Message, Resource::Byte].map(|resource| {
                (limit.in_use(resource), holds(&account.peer.as_ref().unwrap().holder, resource))
            })
        };
        assert_eq!(holds(), [(1, 1), (0, 0), (500, 500)]);
        drop(permit);
        assert_eq!(holds(), [(0, 0); 3]);
    }
}
