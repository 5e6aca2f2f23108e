//! Who is let in at a listener: how many connections there may be, how many of one address, and who
//! has to go for one who wants to come in.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{sync::Notify, time::Instant};

use crate::limits::{
    connection::Connection,
    holder::{Holder, Site},
};

/// Of a listener that is half full, nobody has more than this part of the connections.
const SHARE: usize = 4;
/// A connection on which nothing was open for so long makes room for one that is wanted.
const IDLE: Duration = Duration::from_secs(60);
/// The same, of one that has never asked for anything.
const SILENT: Duration = Duration::from_secs(2);
/// So often it is looked for who may have to go.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Addresses that hold nothing any more are forgotten when so many, and as many as hold something,
/// are known.
const FORGET: usize = 1_000;

/// What each address holds, at all listeners.
#[derive(Default)]
pub struct Sites(Mutex<HashMap<Site, Weak<Holder>>>);

impl Sites {
    pub(super) fn holder(&self, site: Site) -> Arc<Holder> {
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

/// The connections of one listener.
pub(super) struct Door {
    max: usize,
    /// Proxies, behind which are others.
    trusted: Arc<[IpNet]>,
    sites: Arc<Sites>,
    guests: HashMap<u64, Guest>,
    by_site: HashMap<Site, usize>,
    next: u64,
    /// Those who may be told to go, as they were when it was looked for them, the first of them
    /// last.
    idle: Vec<u64>,
    looked: Option<Instant>,
    /// Since then no connection was closed for these: addresses with their share, and any that
    /// would have so many or more. They are not looked for again.
    refused: HashSet<Site>,
    refused_from: Option<usize>,
}

impl Door {
    pub(super) fn new(max: usize, trusted: Arc<[IpNet]>, sites: Arc<Sites>) -> Self {
        Self {
            max,
            trusted,
            sites,
            guests: HashMap::new(),
            by_site: HashMap::new(),
            next: 0,
            idle: Vec::new(),
            looked: None,
            refused: HashSet::new(),
            refused_from: None,
        }
    }

    /// Lets a connection in, and answers its number, with what it is told over. Nothing where it
    /// has to stay outside.
    pub(super) fn enter(
        &mut self,
        addr: SocketAddr,
    ) -> Option<(u64, Arc<Connection>, Arc<Notify>)> {
        let peer = addr.ip().to_canonical();
        let site = (!self.trusted.iter().any(|net| net.contains(&peer))).then(|| Site::from(peer));
        // One that has its share gives up one of its own; where all places are taken, whoever has
        // most does.
        let has_share =
            self.guests.len() >= self.max / 2 && self.count(site) >= (self.max / SHARE).max(1);
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

    /// Tells one to go for one of this address, of its own or of any: who has never asked for
    /// anything before who has, of the address that has most, the longest idle.
    fn make_room(&mut self, site: Option<Site>, of_its_own: bool) -> bool {
        if self.looked.is_none_or(|looked| looked.elapsed() >= RETRY_DELAY) {
            self.looked = Some(Instant::now());
            self.look();
        }
        let own = site.filter(|_| of_its_own);
        // Nobody knows how many are behind a proxy.
        let would_have = site.map_or(usize::MAX, |site| self.count(Some(site)) + 1);
        if own.is_some_and(|own| self.refused.contains(&own))
            || own.is_none() && self.refused_from.is_some_and(|from| would_have >= from)
        {
            return false;
        }
        let Some(number) = self.take_idle(own, would_have) else {
            match own {
                Some(own) => drop(self.refused.insert(own)),
                None => self.refused_from = Some(would_have),
            }
            return false;
        };
        if let Some(guest) = self.guests.get(&number) {
            guest.go.notify_one();
        }
        self.leave(number);
        true
    }

    /// One of those who were idle, and still are: for long, or of an address that has more than the
    /// one that wants to come in would have. Of this address alone, where there is one.
    fn take_idle(&mut self, own: Option<Site>, would_have: usize) -> Option<u64> {
        let may_go = |guest: &Guest| match own {
            Some(own) => guest.site == Some(own) && is_idle(guest),
            None => {
                is_idle(guest)
                    || self.count(guest.site) > would_have && guest.connection.idle().is_some()
            }
        };
        let at =
            self.idle.iter().rposition(|number| self.guests.get(number).is_some_and(may_go))?;
        Some(self.idle.remove(at))
    }

    /// Finds those who may be told to go, the first of them last.
    fn look(&mut self) {
        let rank = |(number, guest): (&u64, &Guest)| {
            let idle = guest.connection.idle()?;
            Some((!guest.connection.was_asked(), self.count(guest.site), idle, *number))
        };
        let mut idle: Vec<_> = self.guests.iter().filter_map(rank).collect();
        idle.sort_unstable();
        self.idle = idle.into_iter().map(|(.., number)| number).collect();
        self.refused.clear();
        self.refused_from = None;
    }
}

/// For long.
fn is_idle(guest: &Guest) -> bool {
    let longest = if guest.connection.was_asked() { IDLE } else { SILENT };
    guest.connection.idle().is_some_and(|idle| idle >= longest)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::limits::connection::Exchange;

    fn open(connection: &Arc<Connection>) -> Exchange {
        Exchange::begin(connection.clone(), true)
    }

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
        let open: Vec<_> = first.iter().map(|(_, connection, _)| open(connection)).collect();
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
                    .inspect(|(_, connection, _)| drop(is_asked.then(|| open(connection))))
                    .count()
            };
            assert_eq!([fill(1, 40), fill(2, 40), fill(3, 40)], [20, 10, 10]);
            // As many as would leave it with no more than they have.
            assert_eq!(fill(4, 40), 10, "{is_asked}");
            assert_eq!([fill(1, 40), fill(2, 40), fill(3, 40)], [0, 0, 0], "each has its share");
            // Those who come next leave none with less than they have.
            let fifth = fill(5, 40);
            assert!((5..=8).contains(&fifth), "{fifth}");
            let counts: Vec<_> =
                (1..6).map(|site| door.count(Some(addr(site).ip().into()))).collect();
            assert!(
                counts.iter().all(|count| (5..=10).contains(count))
                    && counts.iter().sum::<usize>() == 40,
                "{counts:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_takes_nobodys_place_and_gives_up_none_but_what_is_idle_for_long() {
        let mut door = Door::new(40, Arc::from(["10.0.0.9/32".parse().unwrap()]), Arc::default());
        let mut fill = |site, of| {
            (0..of)
                .filter_map(|_| door.enter(addr(site)))
                .inspect(|(_, connection, _)| drop(open(connection)))
                .count()
        };
        assert_eq!([fill(1, 10), fill(9, 40), fill(1, 1), fill(2, 40)], [10, 30, 0, 5]);
        advance(IDLE + SILENT).await;
        assert!(door.enter(addr(9)).is_some() && door.enter(addr(3)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_begun_to_ask_is_idle_no_more() {
        let mut door = Door::new(4, Arc::default(), Arc::default());
        let first: Vec<_> = (1..5).map(|site| door.enter(addr(site)).unwrap()).collect();
        advance(SILENT).await;
        assert!(door.enter(addr(5)).is_some(), "all of them were silent");
        // Asked since it was looked for them.
        first.iter().for_each(|(_, connection, _)| drop(open(connection)));
        assert!(door.enter(addr(6)).is_none());
    }
}
