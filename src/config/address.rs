//! Addresses as people write them: in flags, in variables and in the file.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

/// The address of a listener. `:PORT` is every address of this machine, over IPv4.
pub(super) fn listener(text: &str) -> Result<SocketAddr, String> {
    let address = match text.rsplit_once(':') {
        Some(("", port)) => format!("0.0.0.0:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    };
    address.parse().map_err(|_| {
        format!(
            "\"{text}\" is no address to listen on; write IP:PORT, such as 127.0.0.1:8080 or \
             [::1]:8080, or localhost:8080, or :8080 for every address of this machine"
        )
    })
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| {
        format!("\"{text}\" is no network; write one such as 10.0.0.0/8, or an address")
    })
}

pub(super) fn listener_of_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<SocketAddr>, D::Error> {
    listener(&String::deserialize(value)?).map(Some).map_err(D::Error::custom)
}

pub(super) fn networks_of_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Vec<IpNet>>, D::Error> {
    let networks = Vec::<String>::deserialize(value)?;
    let networks = networks.iter().map(|text| network(text)).collect::<Result<_, _>>();
    networks.map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        for (text, address) in [
            ("localhost:50051", "127.0.0.1:50051"),
            (":50051", "0.0.0.0:50051"),
            ("[::]:0", "[::]:0"),
            ("127.0.0.2:1", "127.0.0.2:1"),
        ] {
            assert_eq!(listener(text), Ok(address.parse().unwrap()), "{text}");
        }
        for text in ["", "localhost", "8080", "example.com:80", "localhost:70000", "::1:80"] {
            assert!(listener(text).is_err_and(|error| error.contains(text)), "{text}");
        }
    }

    #[test]
    fn one_address_is_a_network() {
        for (text, all) in [("10.0.0.0/8", "10.0.0.0/8"), ("10.1.2.3", "10.1.2.3/32")] {
            assert_eq!(network(text), Ok(all.parse().unwrap()));
        }
        assert_eq!(network("::1"), Ok("::1/128".parse().unwrap()));
        assert!(network("proxy").is_err());
    }
}
