//! Connections are open files, of which a process may have so many. The listeners share them out in
//! advance, so that callers cannot take those of the store, or of the probes.

/// Files of the store, the log, certificates, the cluster and whatever else is no connection.
const OTHER_FILES: u64 = 64;
/// Connections of the admin listener: enough for probes, scrapers and a backup.
const ADMIN_CONNECTIONS: u64 = 256;
/// The admin listener has at most `1 / ADMIN_DIVISOR` of all files.
const ADMIN_DIVISOR: u64 = 8;

/// The maximum number of connections of each listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Of gRPC, and of REST.
    pub calls: usize,
    /// Of the admin listener.
    pub admin: usize,
}

impl ConnectionLimits {
    /// As many for calls as are wanted, or as many as fit into this number of open files. At least
    /// one each.
    #[must_use]
    pub fn within(open_files: u64, wanted: usize) -> Self {
        let admin = ADMIN_CONNECTIONS.min(open_files / ADMIN_DIVISOR).max(1);
        let calls = (open_files.saturating_sub(OTHER_FILES + admin) / 2).max(1);
        let fitting = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Self { calls: wanted.min(fitting(calls)), admin: fitting(admin) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_all_listeners_are_within_the_limit() {
        for (open_files, wanted, calls, admin) in [
            (1 << 20, 10_000, 10_000, 256),
            (u64::MAX, 10_000, 10_000, 256),
            (20_000, 10_000, 9_840, 256),
            (1_024, 10_000, 416, 128),
            (1_024, 100, 100, 128),
            (128, 10_000, 24, 16),
            (64, 10_000, 1, 8),
            (0, 10_000, 1, 1),
        ] {
            let limits = ConnectionLimits::within(open_files, wanted);
            assert_eq!(limits, ConnectionLimits { calls, admin }, "{open_files} files");
        }
    }
}
