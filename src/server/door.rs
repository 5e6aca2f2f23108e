//! Who is let in at a listener: how many connections there may be, how many of one address, and who has to go for one who wants to come in.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{sync::Notify, time::Instant};

use crate::load::{
    Holder,
    connection::{Connection, Site},
};

/// Of a listener that is half full, nobody has more than this part of the connections.
const SHARE: usize = 4;
/// A connection on which nothing was open for so long makes room for one that is wanted.
const IDLE: Duration = Duration::from_secs(60);
/// The same, of one that has never asked for anything.
const SILENT: Duration = Duration::from_secs(2);
/// So often it is looked for who may have to go.
const AGAIN: Duration = Duration::from_millis(100);
/// Addresses that hold nothing any more are forgotten when so many, and as many as hold something, are known.
const FORGET: usize = 1_000;

/// What each address holds, at all listeners.
#[derive(Default)]
pub struct Sites(Mutex<HashMap<Site, Weak<Holder>>>);

impl Sites {
    fn holder(&self, site: Site) -> Arc<Holder> {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = holders.get(&site).and_then(Weak::upgrade) {
            return holder;
        }
        if holders.len() == holders.capacity() && holders.len() >= FORGET {
            holders.retain(|_, holder| holder.strong_count() > 0);
        }
        let holder = Arc::default();
        holders.insert(site, Arc::downgrade(&holder));
        holder
    }
}

/// One who is inside.
struct Guest {
    connection: Arc<Connection>,
    /// Told to go, because others want to come in.
    go: Arc<Notify>,
    site: Option<Site>,
}

/// One on whose connection nothing was open.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Idle {
    never_asked: bool,
    /// How many connections its address had.
    count: usize,
    idle: Duration,
    number: u64,
    site: Option<Site>,
}

/// The connections of one listener.
pub(super) struct Door {
    max: usize,
    /// Proxies, behind which are others.
    trusted: Arc<[IpNet]>,
    sites: Arc<Sites>,
    guests: HashMap<u64, Guest>,
    by_site: HashMap<Site, usize>,
    next: u64,
    /// Those who may be told to go, as they were when it was looked for them, the first of them last.
    idle: Vec<Idle>,
    looked: Option<Instant>,
}

impl Door {
    pub(super) fn new(max: usize, trusted: Arc<[IpNet]>, sites: Arc<Sites>) -> Self {
        Self { max, trusted, sites, guests: HashMap::new(), by_site: HashMap::new(), next: 0, idle: Vec::new(), looked: None }
    }

    /// Lets a connection in, and answers its number, with what it is told over. Nothing where it has to stay outside.
    pub(super) fn enter(&mut self, addr: SocketAddr) -> Option<(u64, Arc<Connection>, Arc<Notify>)> {
        let peer = addr.ip().to_canonical();
        let site = (!self.trusted.iter().any(|net| net.contains(&peer))).then(|| Site::from(peer));
        // One that has its share gives up one of its own; where all places are taken, whoever has most does.
        let has_share = self.guests.len() >= self.max / 2 && self.count(site) >= (self.max / SHARE).max(1);
        if (has_share || self.guests.len() >= self.max) && !self.make_room(site, has_share) {
            return None;
        }
        let connection = Arc::new(Connection::new(addr, site.map(|site| self.sites.holder(site))));
        let guest = Guest { connection: connection.clone(), go: Arc::default(), site };
        let go = guest.go.clone();
        if let Some(site) = site {
            *self.by_site.entry(site).or_default() += 1;
        }
        self.next += 1;
        self.guests.insert(self.next, guest);
        Some((self.next, connection, go))
    }

    fn count(&self, site: Option<Site>) -> usize {
        site.and_then(|site| self.by_site.get(&site).copied()).unwrap_or(0)
    }

    /// How many are inside.
    pub(super) fn guests(&self) -> usize {
        self.guests.len()
    }

    /// A connection has ended.
    pub(super) fn leave(&mut self, number: u64) {
        let Some(Guest { site: Some(site), .. }) = self.guests.remove(&number) else { return };
        if let Some(count) = self.by_site.get_mut(&site) {
            *count -= 1;
            if *count == 0 {
                self.by_site.remove(&site);
            }
        }
    }

    /// Tells one to go for one of this address, of its own or of any: who has never asked for anything before who has, of the address that has most,
    /// the longest idle.
    fn make_room(&mut self, site: Option<Site>, of_its_own: bool) -> bool {
        let mut number = self.take_idle(site, of_its_own);
        // Those who were idle may have gone, or begun a call.
        if number.is_none() && self.looked.is_none_or(|looked| looked.elapsed() >= AGAIN) {
            self.looked = Some(Instant::now());
            self.look();
            number = self.take_idle(site, of_its_own);
        }
        let Some(number) = number else { return false };
        if let Some(guest) = self.guests.get(&number) {
            guest.go.notify_one();
        }
        self.leave(number);
        true
    }

    /// One of those who were idle, and still are: for long, or of an address that has more than the one that wants to come in would have.
    fn take_idle(&mut self, site: Option<Site>, of_its_own: bool) -> Option<u64> {
        let would_have = self.count(site) + 1;
        let at = self.idle.iter().rposition(|idle| {
            let may_go = if of_its_own { idle.site == site && idle.is_long() } else { idle.is_long() || idle.count > would_have };
            let guest = self.guests.get(&idle.number).filter(|_| may_go);
            // A call that was made meanwhile begins it anew.
            guest.is_some_and(|guest| guest.connection.idle() >= Some(idle.idle))
        })?;
        Some(self.idle.remove(at).number)
    }

    /// Finds those who may be told to go.
    fn look(&mut self) {
        let idle = |(&number, guest): (&u64, &Guest)| {
            let idle = guest.connection.idle()?;
            Some(Idle {
                never_asked: !guest.connection.was_asked(),
                count: self.count(guest.site),
                idle,
                number,
                site: guest.site,
            })
        };
        let mut idle: Vec<_> = self.guests.iter().filter_map(idle).collect();
        idle.sort_unstable();
        self.idle = idle;
    }
}

impl Idle {
    fn is_long(&self) -> bool {
        self.idle >= if self.never_asked { SILENT } else { IDLE }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn addr(site: u8) -> SocketAddr {
        ([10, 0, 0, site], 1).into()
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_made_again_and_again_whoever_was_idle_before() {
        let mut door = Door::new(4, Arc::default(), Arc::default());
        let first: Vec<_> = (1..5).map(|site| door.enter(addr(site)).unwrap()).collect();
        assert!(door.enter(addr(5)).is_none(), "they have only come");
        advance(SILENT).await;
        assert!(door.enter(addr(5)).is_some());
        // All who were found idle with that one have begun a call.
        let open: Vec<_> = first.iter().map(|(_, connection, _)| connection.open()).collect();
        advance(SILENT).await;
        assert!(door.enter(addr(6)).is_some(), "the one that came last is idle now");
        assert!(door.enter(addr(7)).is_none());
        drop(open);
        advance(IDLE).await;
        assert!((7..11).all(|site| door.enter(addr(site)).is_some()));
        assert_eq!(door.guests(), 4);
    }
    #[tokio::test(start_paused = true)]
    async fn no_three_addresses_keep_a_fourth_out() {
        for is_asked in [false, true] {
            let mut door = Door::new(40, Arc::default(), Arc::default());
            let mut fill = |site, of| {
                (0..of)
                    .filter_map(|_| door.enter(addr(site)))
                    .inspect(|(_, connection, _)| drop(is_asked.then(|| connection.open())))
                    .count()
            };
            assert_eq!([fill(1, 40), fill(2, 40), fill(3, 40)], [20, 10, 10]);
            // As many as would leave it with no more than they have.
            assert_eq!(fill(4, 40), 10, "{is_asked}");
            assert_eq!([fill(1, 40), fill(2, 40), fill(3, 40)], [0, 0, 0], "each has its share");
        }
    }
}
