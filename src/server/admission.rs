//! Admission of connections to a listener: how many there may be, how many from one address, and
//! which one is evicted to make room for a new one.

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

/// Once a listener is half full, one address may have at most `1 / SHARE_DIVISOR` of its
/// connections.
const SHARE_DIVISOR: usize = 4;
/// A connection without an open call for this long may be evicted: longer than proxies keep one,
/// because a call may be under way to it until then.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// The same, for a connection that never had a request.
const NO_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How often candidates for eviction are collected.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Sites that hold nothing are purged when the map is full and has at least this many entries; as
/// it grows by doubling, that is rare.
const MIN_PURGE: usize = 1_000;

/// What each address holds, across all listeners.
#[derive(Default)]
pub struct SiteHolders(Mutex<HashMap<Site, Weak<Holder>>>);

impl SiteHolders {
    pub(super) fn holder(&self, site: Site) -> Arc<Holder> {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = holders.get(&site).and_then(Weak::upgrade) {
            return holder;
        }
        if holders.len() == holders.capacity() && holders.len() >= MIN_PURGE {
            holders.retain(|_, holder| holder.strong_count() > 0);
        }
        let holder = Arc::default();
        holders.insert(site, Arc::downgrade(&holder));
        holder
    }
}

/// A connection that was admitted.
struct Admitted {
    connection: Arc<Connection>,
    /// Notified when the connection is evicted.
    evict: Arc<Notify>,
    site: Option<Site>,
}

/// The admitted connections of one listener.
pub(super) struct Admission {
    max: usize,
    /// How long an HTTP/1 connection of a trusted proxy may be idle.
    max_idle: Duration,
    /// Trusted proxies, whose connections carry the calls of others.
    trusted: Arc<[IpNet]>,
    sites: Arc<SiteHolders>,
    connections: HashMap<u64, Admitted>,
    by_site: HashMap<Site, usize>,
    last_id: u64,
    /// Idle connections as of `looked_at`, the first to be evicted last.
    candidates: Vec<u64>,
    looked_at: Option<Instant>,
    /// Sites for which no candidate was found since `looked_at`: those at their share, and any that
    /// would have at least `refused_from` connections. They are refused without another search.
    refused: HashSet<Site>,
    refused_from: Option<usize>,
}

impl Admission {
    pub(super) fn new(
        max: usize,
        max_idle: Duration,
        trusted: Arc<[IpNet]>,
        sites: Arc<SiteHolders>,
    ) -> Self {
        Self {
            max,
            max_idle,
            trusted,
            sites,
            connections: HashMap::new(),
            by_site: HashMap::new(),
            last_id: 0,
            candidates: Vec::new(),
            looked_at: None,
            refused: HashSet::new(),
            refused_from: None,
        }
    }

    /// Admits a connection. Returns its id, its state and what notifies it of its eviction; `None`
    /// if there is no room.
    pub(super) fn admit(
        &mut self,
        addr: SocketAddr,
    ) -> Option<(u64, Arc<Connection>, Arc<Notify>)> {
        let ip = addr.ip();
        let site = (!self.trusted.iter().any(|net| net.contains(&ip))).then(|| Site::from(ip));
        // A site at its share gives up one of its own connections. If the listener is full, the
        // site with the most connections gives up one.
        let has_share = self.connections.len() >= self.max / 2
            && self.count(site) >= (self.max / SHARE_DIVISOR).max(1);
        if (has_share || self.connections.len() >= self.max) && !self.make_room(site, has_share) {
            return None;
        }
        let connection = Arc::new(Connection::new(addr, site.map(|site| self.sites.holder(site))));
        let admitted = Admitted { connection: connection.clone(), evict: Arc::default(), site };
        let evict = admitted.evict.clone();
        if let Some(site) = site {
            *self.by_site.entry(site).or_default() += 1;
        }
        self.last_id += 1;
        self.connections.insert(self.last_id, admitted);
        Some((self.last_id, connection, evict))
    }

    fn count(&self, site: Option<Site>) -> usize {
        site.and_then(|site| self.by_site.get(&site).copied()).unwrap_or(0)
    }

    /// The number of admitted connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Removes a connection that has ended.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(Admitted { site: Some(site), .. }) = self.connections.remove(&id) else { return };
        if let Some(count) = self.by_site.get_mut(&site) {
            *count -= 1;
            if *count == 0 {
                self.by_site.remove(&site);
            }
        }
    }

    /// Evicts a connection for a new one of `site`, either one of the same site only or any.
    /// Connections without a request go first, then those of the site with the most connections,
    /// then the longest idle.
    fn make_room(&mut self, site: Option<Site>, own_only: bool) -> bool {
        if self.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= RETRY_DELAY) {
            self.looked_at = Some(Instant::now());
            self.find_candidates();
        }
        let own = site.filter(|_| own_only);
        // A proxy may carry any number of callers.
        let count_after = site.map_or(usize::MAX, |site| self.count(Some(site)) + 1);
        if own.is_some_and(|own| self.refused.contains(&own))
            || own.is_none() && self.refused_from.is_some_and(|from| count_after >= from)
        {
            return false;
        }
        let Some(id) = self.take_candidate(own, count_after) else {
            match own {
                Some(own) => drop(self.refused.insert(own)),
                None => self.refused_from = Some(count_after),
            }
            return false;
        };
        if let Some(admitted) = self.connections.get(&id) {
            admitted.evict.notify_one();
        }
        self.remove(id);
        true
    }

    /// Takes a candidate that is still idle: for its timeout, or of a site with more connections
    /// than the new one's site would have. Only of the site `own`, if given.
    fn take_candidate(&mut self, own: Option<Site>, count_after: usize) -> Option<u64> {
        let is_evictable = |admitted: &Admitted| match own {
            Some(own) => {
                admitted.site == Some(own) && is_long_idle(&admitted.connection, self.max_idle)
            }
            None => {
                is_long_idle(&admitted.connection, self.max_idle)
                    || self.count(admitted.site) > count_after
                        && admitted.connection.idle().is_some()
            }
        };
        let position = self
            .candidates
            .iter()
            .rposition(|id| self.connections.get(id).is_some_and(is_evictable))?;
        Some(self.candidates.remove(position))
    }

    /// Collects the idle connections, the first to be evicted last.
    fn find_candidates(&mut self) {
        let rank = |(id, Admitted { connection, site, .. }): (&u64, &Admitted)| {
            let idle = connection.idle()?;
            Some((!connection.had_request(), self.count(*site), idle, *id))
        };
        let mut idle: Vec<_> = self.connections.iter().filter_map(rank).collect();
        idle.sort_unstable();
        self.candidates = idle.into_iter().map(|(.., id)| id).collect();
        self.refused.clear();
        self.refused_from = None;
    }
}

/// Whether the connection has been idle for its timeout.
fn is_long_idle(connection: &Connection, max_idle: Duration) -> bool {
    let timeout = match (connection.had_request(), &connection.peer) {
        (false, _) => NO_REQUEST_TIMEOUT,
        (true, Some(_)) => IDLE_TIMEOUT,
        // A trusted proxy, for which the setting was made.
        (true, None) => IDLE_TIMEOUT.max(max_idle),
    };
    connection.idle().is_some_and(|idle| idle >= timeout)
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
    async fn idle_connections_make_room_again_and_again() {
        let mut admission = Admission::new(4, IDLE_TIMEOUT, Arc::default(), Arc::default());
        let first: Vec<_> = (1..5).map(|site| admission.admit(addr(site)).unwrap()).collect();
        assert!(admission.admit(addr(5)).is_none(), "all of them are new");
        advance(NO_REQUEST_TIMEOUT).await;
        assert!(admission.admit(addr(5)).is_some());
        // All former candidates have begun a call.
        let open: Vec<_> = first.iter().map(|(_, connection, _)| open(connection)).collect();
        advance(NO_REQUEST_TIMEOUT).await;
        assert!(admission.admit(addr(6)).is_some(), "the latest one is idle now");
        assert!(admission.admit(addr(7)).is_none());
        drop(open);
        advance(IDLE_TIMEOUT).await;
        assert!((7..11).all(|site| admission.admit(addr(site)).is_some()));
        assert_eq!(admission.connections(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn no_three_addresses_keep_a_fourth_out() {
        for has_request in [false, true] {
            let mut admission = Admission::new(40, IDLE_TIMEOUT, Arc::default(), Arc::default());
            let mut fill = |site, attempts| {
                (0..attempts)
                    .filter_map(|_| admission.admit(addr(site)))
                    .inspect(|(_, connection, _)| drop(has_request.then(|| open(connection))))
                    .count()
            };
            assert_eq!([fill(1, 40), fill(2, 40), fill(3, 40)], [20, 10, 10]);
            // Until it would have more than they have.
            assert_eq!(fill(4, 40), 10, "{has_request}");
            assert_eq!([fill(1, 40), fill(2, 40), fill(3, 40)], [0, 0, 0], "each has its share");
            // A fifth address leaves none with fewer than its own.
            let fifth = fill(5, 40);
            assert!((5..=8).contains(&fifth), "{fifth}");
            let counts: Vec<_> =
                (1..6).map(|site| admission.count(Some(addr(site).ip().into()))).collect();
            assert!(
                counts.iter().all(|count| (5..=10).contains(count))
                    && counts.iter().sum::<usize>() == 40,
                "{counts:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn proxies_evict_and_yield_only_long_idle_connections() {
        let mut admission = Admission::new(
            40,
            IDLE_TIMEOUT,
            Arc::from(["10.0.0.9/32".parse().unwrap()]),
            Arc::default(),
        );
        let mut fill = |site, attempts| {
            (0..attempts)
                .filter_map(|_| admission.admit(addr(site)))
                .inspect(|(_, connection, _)| drop(open(connection)))
                .count()
        };
        assert_eq!([fill(1, 10), fill(9, 40), fill(1, 1), fill(2, 40)], [10, 30, 0, 5]);
        advance(IDLE_TIMEOUT + NO_REQUEST_TIMEOUT).await;
        assert!(admission.admit(addr(9)).is_some() && admission.admit(addr(3)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_may_be_idle_for_as_long_as_the_setting_says() {
        let max_idle = Duration::from_secs(620);
        let trusted = Arc::from(["10.0.0.9/32".parse().unwrap()]);
        let mut admission = Admission::new(1, max_idle, trusted, Arc::default());
        let (_, proxy, _) = admission.admit(addr(9)).unwrap();
        drop(open(&proxy));
        advance(max_idle - Duration::from_secs(1)).await;
        assert!(admission.admit(addr(1)).is_none());
        advance(Duration::from_secs(2)).await;
        assert!(admission.admit(addr(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_request_is_not_idle() {
        let mut admission = Admission::new(4, IDLE_TIMEOUT, Arc::default(), Arc::default());
        let first: Vec<_> = (1..5).map(|site| admission.admit(addr(site)).unwrap()).collect();
        advance(NO_REQUEST_TIMEOUT).await;
        assert!(admission.admit(addr(5)).is_some(), "all of them were silent");
        // Requests since the candidates were collected.
        first.iter().for_each(|(_, connection, _)| drop(open(connection)));
        assert!(admission.admit(addr(6)).is_none());
    }
}
