//! Who holds resources: an address that calls come from, or an app. An internal service has no
//! account of its own; what it holds before a call runs counts for its address.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, atomic::AtomicUsize},
};

/// A resource that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A call that runs, or whose response is being sent.
    Call,
    /// A call whose message is still being received.
    Message,
    /// A byte of a buffered message or response.
    Byte,
    /// A stream of health or reflection, which needs no credentials.
    Stream,
}

pub(super) const RESOURCES: [Resource; 4] =
    [Resource::Call, Resource::Message, Resource::Byte, Resource::Stream];

/// How much one peer address holds, or the admins or the users of one app.
#[derive(Debug, Default)]
pub struct Holder {
    authenticated: [AtomicUsize; RESOURCES.len()],
    /// Held by unauthenticated callers at this address.
    anonymous: [AtomicUsize; RESOURCES.len()],
    /// Lock that serializes complete lists: the list that has it reads its next page.
    pub turn: tokio::sync::Mutex<()>,
}

impl Holder {
    pub(super) fn count(&self, resource: Resource, is_authenticated: bool) -> &AtomicUsize {
        &(if is_authenticated { &self.authenticated } else { &self.anonymous })[resource as usize]
    }
}

/// The unit that address shares are counted by: an IPv4 address, or the /64 network of an IPv6
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site(IpAddr);

impl From<IpAddr> for Site {
    fn from(addr: IpAddr) -> Self {
        Self(match addr.to_canonical() {
            IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64)),
            addr => addr,
        })
    }
}

/// The caller's address: that of the connection, or the one that a trusted proxy reports.
#[derive(Clone, Debug)]
pub struct Peer {
    /// One of possibly several addresses at a site.
    pub ip: IpAddr,
    /// What its site holds.
    pub holder: Arc<Holder>,
}

impl Peer {
    /// The site whose share this peer uses.
    #[must_use]
    pub fn site(&self) -> Site {
        Site::from(self.ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_an_address_or_the_network_of_one() {
        let site = |text: &str| Site::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(site("2001:db8::1"), site("2001:db8::ffff:1"));
        assert_ne!(site("2001:db8::1"), site("2001:db8:0:1::1"));
        assert_eq!(site("::ffff:10.0.0.1"), site("10.0.0.1"));
        assert_ne!(site("10.0.0.1"), site("10.0.0.2"));
    }
}
