//! Who holds, and what: an address that calls come from, or an app. An internal service has no
//! account of its own; its peer has one.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, atomic::AtomicUsize},
};

/// What there is a bound for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A call that runs, or whose answer is being sent.
    Call,
    /// A call whose message has not come whole.
    Message,
    /// A byte of a message or of an answer.
    Byte,
    /// A stream that anybody may have: of health or reflection.
    Stream,
}

pub(super) const ALL: [Resource; 4] =
    [Resource::Call, Resource::Message, Resource::Byte, Resource::Stream];

/// What one peer address holds, or the admins or the users of one app.
#[derive(Debug, Default)]
pub struct Holder {
    known: [AtomicUsize; ALL.len()],
    /// Of those who come from this address and are not known.
    strange: [AtomicUsize; ALL.len()],
    /// Taken by the one whose turn it is to read on, of the lists that are told whole.
    pub turn: tokio::sync::Mutex<()>,
}

impl Holder {
    pub(super) fn of(&self, what: Resource, is_known: bool) -> &AtomicUsize {
        &(if is_known { &self.known } else { &self.strange })[what as usize]
    }
}

/// An address, as shares go by: of IPv6 the network of one site.
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

/// Who asks, by the address: that of a connection, or of the caller behind a proxy that is trusted.
#[derive(Clone, Debug)]
pub struct Peer {
    /// It may be one of several at a site.
    pub ip: IpAddr,
    /// What it holds.
    pub holder: Arc<Holder>,
}

impl Peer {
    /// Its share is that of others of the same site.
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
