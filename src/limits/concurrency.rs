//! What callers hold while they are served, of both doors together: places of calls that run,
//! places of calls whose message is still to come, of streams that anybody may have, and the bytes
//! of messages and answers.
//!
//! Each of them has a bound. Beyond it a caller is refused at once, because a call that waits for
//! its turn has often given up when it comes. While less than half of a bound is used, anybody may
//! have of it. Beyond that nobody holds more than a share: no peer address, and no app; and the
//! last part is for internal services, which ask on every message, and of which each has as many
//! calls as it makes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::holder::{ALL, Holder, Peer, Resource};
use crate::error::Error;

/// For a call that brings no deadline, and the most that one may ask for.
pub const MAX_DEADLINE: Duration = Duration::from_secs(60);
/// For a message to come whole, from its head on.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages and answers up to here are bounded by the number of calls.
pub(super) const SMALL: usize = 4 << 10;
/// Of a bound that is half used, nobody holds more than this part.
const SHARE: usize = 4;
/// This part of a bound is for internal services.
const RESERVE: usize = 8;

/// On whose account something is held.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// From where it is asked; nothing where others are behind that address, and nobody says who.
    pub peer: Option<Arc<Peer>>,
    /// Who asks.
    pub caller: Who,
}

/// Who asks, as bounds go.
#[derive(Clone, Debug, Default)]
pub enum Who {
    /// Somebody who is not known.
    #[default]
    Stranger,
    /// An internal service.
    Service,
    /// An app's admin or user, with what those of its kind hold.
    App(Arc<Holder>),
}

/// All that is held.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    used: [AtomicUsize; ALL.len()],
    max: [usize; ALL.len()],
    /// What is held by those who are not known: they ask for health, reflection and tokens, and
    /// have bounds of their own.
    strangers: Option<Arc<ConcurrencyLimit>>,
}

/// What one call holds, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    load: Arc<ConcurrencyLimit>,
    account: Account,
    held: [usize; ALL.len()],
}

impl Account {
    pub(super) fn is_known(&self) -> bool {
        !matches!(self.caller, Who::Stranger)
    }

    /// Whose shares count for this. A service has as many calls as it makes; what is held before a
    /// call runs is its peer's.
    fn holders(&self, what: Resource) -> (Option<&Holder>, Option<&Holder>) {
        let peer = self.peer.as_ref().map(|peer| &*peer.holder);
        match &self.caller {
            Who::Stranger => (peer, None),
            Who::Service if what == Resource::Call => (None, None),
            Who::Service => (peer, None),
            Who::App(holder) => (peer, Some(holder)),
        }
    }
}

impl ConcurrencyLimit {
    /// So many calls at a time that run, as many whose messages are still to come, as many streams,
    /// and so many bytes; and a part of it more for those who are not known.
    #[must_use]
    pub fn new(calls: usize, bytes: usize) -> Arc<Self> {
        let strangers = Self::of(calls.div_ceil(RESERVE), bytes / RESERVE, None);
        Self::of(calls, bytes, Some(strangers))
    }

    fn of(calls: usize, bytes: usize, strangers: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { used: Default::default(), max: [calls, calls, bytes, calls], strangers })
    }

    /// Begins an account of one call, which holds nothing yet.
    #[must_use]
    pub fn open(self: &Arc<Self>, account: Account) -> Permit {
        let load = if account.is_known() { self } else { self.strangers.as_ref().unwrap_or(self) };
        Permit { load: load.clone(), account, held: [0; ALL.len()] }
    }

    /// How much of it is held by all together.
    #[must_use]
    pub fn holds(&self, what: Resource) -> usize {
        self.used[what as usize].load(Ordering::Relaxed)
            + self.strangers.as_ref().map_or(0, |strangers| strangers.holds(what))
    }

    fn max(&self, what: Resource) -> usize {
        self.max[what as usize]
    }
}

impl Permit {
    /// Takes so much more. Errors: OVERLOADED, and nothing is taken.
    pub fn take(&mut self, what: Resource, amount: usize) -> Result<(), Error> {
        self.take_where(what, amount, |_| false)
    }

    /// The same, and whatever others hold where the caller has no more than a share.
    pub fn take_of_share(&mut self, what: Resource, amount: usize) -> Result<(), Error> {
        let share = share(self.load.max(what));
        self.take_where(what, amount, |holds| holds <= share)
    }

    /// Takes it also where that holds of how much the caller has then.
    fn take_where(
        &mut self,
        what: Resource,
        amount: usize,
        or: impl FnOnce(usize) -> bool,
    ) -> Result<(), Error> {
        let (used, of_peer, of_caller) = self.add(what, amount);
        let max = self.load.max(what);
        let of_most = of_peer.max(of_caller);
        let reserve = if matches!(self.account.caller, Who::Service) { 0 } else { max / RESERVE };
        if (used <= max - reserve && (used <= max / 2 || of_most <= share(max))) || or(of_most) {
            return Ok(());
        }
        self.give_back(what, amount);
        Err(Error::overloaded())
    }

    /// Answers how much all, the peer and the caller hold then.
    fn add(&mut self, what: Resource, amount: usize) -> (usize, usize, usize) {
        self.held[what as usize] += amount;
        let is_known = self.account.is_known();
        let add = |held: &AtomicUsize| held.fetch_add(amount, Ordering::Relaxed) + amount;
        let of =
            |holder: Option<&Holder>| holder.map_or(0, |holder| add(holder.of(what, is_known)));
        let (peer, caller) = self.account.holders(what);
        (add(&self.load.used[what as usize]), of(peer), of(caller))
    }

    /// Gives so much of it back.
    pub fn give_back(&mut self, what: Resource, amount: usize) {
        self.held[what as usize] -= amount;
        let (peer, caller) = self.account.holders(what);
        let holders =
            peer.into_iter().chain(caller).map(|holder| holder.of(what, self.account.is_known()));
        for held in holders.chain([&self.load.used[what as usize]]) {
            held.fetch_sub(amount, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for what in ALL {
            let amount = self.held[what as usize];
            if amount > 0 {
                self.give_back(what, amount);
            }
        }
    }
}

fn share(max: usize) -> usize {
    (max / SHARE).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a peer and an app of its own.
    fn peer() -> Account {
        let peer = Peer { ip: [10, 0, 0, 1].into(), holder: Arc::default() };
        Account { peer: Some(Arc::new(peer)), caller: Who::App(Arc::default()) }
    }

    #[test]
    fn who_is_not_known_has_bounds_of_its_own() {
        let load = ConcurrencyLimit::new(80, 1_000);
        let stranger = || Account { caller: Who::Stranger, ..peer() };
        assert_eq!(all(&load, &stranger()).len(), 5, "half of ten");
        let strangers: Vec<_> = (0..10).flat_map(|_| all(&load, &stranger())).collect();
        assert_eq!((strangers.len(), load.holds(Resource::Call)), (9, 9), "all but the reserve");
        assert_eq!(all(&load, &peer()).len(), 40, "nothing of it is the others'");
        // What an address holds otherwise is no matter.
        let load = ConcurrencyLimit::new(80, 1_000);
        let both = peer();
        let held = all(&load, &both);
        assert_eq!(all(&load, &Account { caller: Who::Stranger, ..both }).len(), 5);
        drop(held);
    }

    fn one(load: &Arc<ConcurrencyLimit>, account: &Account) -> Option<Permit> {
        let mut held = load.open(account.clone());
        held.take(Resource::Call, 1).ok().map(|()| held)
    }

    fn holds(holder: &Holder, what: Resource) -> usize {
        holder.of(what, true).load(Ordering::Relaxed)
    }

    /// As many as there are.
    fn all(load: &Arc<ConcurrencyLimit>, account: &Account) -> Vec<Permit> {
        std::iter::from_fn(|| one(load, account)).collect()
    }

    #[test]
    fn nobody_has_more_than_a_share_of_what_others_may_want() {
        let load = ConcurrencyLimit::new(80, 1_000);
        let (first, second) = (peer(), peer());
        let held = all(&load, &first);
        assert_eq!(held.len(), 40, "half, as long as nobody else has any");
        assert_eq!(all(&load, &second).len(), 20, "a share");
        let more: Vec<_> = (0..10).flat_map(|_| all(&load, &peer())).collect();
        assert_eq!(more.len(), 30, "all but the reserve");
        drop(held);
        assert_eq!(load.holds(Resource::Call), 30);
        assert_eq!(all(&load, &first).len(), 20, "a share");
    }

    #[test]
    fn an_app_has_a_share_whatever_peers_it_comes_from() {
        let load = ConcurrencyLimit::new(80, 1_000);
        let app: Arc<Holder> = Arc::default();
        let of_app = || Account { caller: Who::App(app.clone()), ..peer() };
        let held: Vec<_> = (0..80).filter_map(|_| one(&load, &of_app())).collect();
        assert_eq!((held.len(), holds(&app, Resource::Call)), (40, 40));
    }

    #[test]
    fn a_part_is_for_services() {
        let load = ConcurrencyLimit::new(80, 1_000);
        let others: Vec<_> = (0..10).flat_map(|_| all(&load, &peer())).collect();
        assert_eq!(others.len(), 70);
        let service = Account { caller: Who::Service, ..peer() };
        assert_eq!(all(&load, &service).len(), 10);
        drop(others);
        // As many calls as it makes, but no more than a share of what comes before them.
        let calls = all(&load, &service);
        assert_eq!(calls.len(), 80);
        let mut held = load.open(service.clone());
        assert!(held.take(Resource::Byte, 500).is_ok() && held.take(Resource::Byte, 1).is_err());
        let other = Account { caller: Who::Service, ..peer() };
        assert!(
            load.open(other.clone()).take(Resource::Byte, 250).is_ok()
                && load.open(other).take(Resource::Byte, 251).is_err()
        );
    }

    #[test]
    fn who_has_no_more_than_a_share_is_told_what_was_done() {
        let load = ConcurrencyLimit::new(80, 1_000);
        let (first, second) = (peer(), peer());
        let mut held = load.open(first.clone());
        held.take(Resource::Byte, 500).unwrap();
        held.take_of_share(Resource::Byte, 1).unwrap_err();
        let others: Vec<_> = (0..4).map(|_| all_bytes(&load, &peer())).collect();
        let mut other = load.open(second);
        assert!(
            other.take(Resource::Byte, 200).is_err()
                && other.take_of_share(Resource::Byte, 200).is_ok()
        );
        assert!(other.take_of_share(Resource::Byte, 51).is_err());
        drop(others);
    }

    fn all_bytes(load: &Arc<ConcurrencyLimit>, account: &Account) -> Permit {
        let mut held = load.open(account.clone());
        while held.take(Resource::Byte, 10).is_ok() {}
        held
    }

    #[test]
    fn what_is_refused_is_not_held_and_what_is_dropped_is_given_back() {
        let load = ConcurrencyLimit::new(1, 1_000);
        let account = peer();
        let mut held = load.open(account.clone());
        held.take(Resource::Byte, 600).unwrap_err();
        held.take(Resource::Byte, 500).unwrap();
        held.take(Resource::Message, 1).unwrap();
        held.give_back(Resource::Message, 1);
        held.take(Resource::Call, 1).unwrap();
        assert!(one(&load, &account).is_none());
        let holds = || {
            [Resource::Call, Resource::Message, Resource::Byte]
                .map(|what| (load.holds(what), holds(&account.peer.as_ref().unwrap().holder, what)))
        };
        assert_eq!(holds(), [(1, 1), (0, 0), (500, 500)]);
        drop(held);
        assert_eq!(holds(), [(0, 0); 3]);
    }
}
