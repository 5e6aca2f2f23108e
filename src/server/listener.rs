//! Accepts the connections of one listener until the service stops. When the listener is full, idle
//! connections are evicted (`admission.rs`); `connection.rs` serves each.

use std::{collections::HashMap, io, net::SocketAddr, pin::pin, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    admission::Admission,
    connection::{ConnectionInfo, HttpService, Rules, Stop, serve_connection, stop_requested},
    http::Protocols,
};
use crate::telemetry::metrics::METRICS;

/// Delay after `accept` failed, for example for lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// How often such failures are logged.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until `stop` is true, then finishes the running calls.
pub(super) async fn serve(
    listener: TcpListener,
    protocols: Protocols,
    rules: Rules,
    service: impl HttpService,
    stop: Stop,
) {
    let mut admission = Admission::new(
        rules.max_connections,
        rules.max_idle,
        rules.trusted_proxies.clone(),
        rules.sites.clone(),
    );
    let mut connections = JoinSet::new();
    let mut ids = HashMap::new();
    let (stop_connections, stopping) = watch::channel(false);
    let mut stop_requested = pin!(stop_requested(stop));
    let mut failures = AcceptFailures::default();
    loop {
        METRICS.connections(rules.name, admission.connections());
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop_requested => break,
            Some(ended) = connections.join_next_with_id() => {
                // Also after a panic of its task.
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                ids.remove(&id).into_iter().for_each(|id| admission.remove(id));
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                // A listener of both families has IPv4 addresses as IPv6 addresses.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let Some((id, state, evicted)) = admission.admit(peer) else {
                    METRICS.connection_refused();
                    tracing::debug!(
                        %peer,
                        "connection refused: the listener is full, or this address has its share"
                    );
                    continue;
                };
                let rules = rules.clone();
                let service = service.clone();
                let stop = stopping.clone();
                let task = connections.spawn(async move {
                    let info = ConnectionInfo { state, evicted, certificate: None };
                    let served =
                        serve_connection(stream, info, protocols, &rules, service, stop).await;
                    if let Err(error) = served {
                        tracing::debug!(%peer, error, "a connection ended with an error");
                    }
                });
                ids.insert(task.id(), id);
            }
            Err(error) => {
                failures.log(rules.name, &error);
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    // The listener closes first, so that a client that reconnects is refused at once instead of
    // being accepted and dropped.
    drop(listener);
    stop_connections.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// Failures to accept a connection, of which the log has one a minute.
#[derive(Default)]
struct AcceptFailures {
    logged_at: Option<Instant>,
    unlogged: u64,
}

impl AcceptFailures {
    fn log(&mut self, listener: &str, error: &io::Error) {
        if self.logged_at.is_some_and(|at| at.elapsed() < ACCEPT_LOG_INTERVAL) {
            self.unlogged += 1;
            return;
        }
        let since_last = std::mem::take(&mut self.unlogged);
        self.logged_at = Some(Instant::now());
        tracing::warn!(
            listener,
            since_last,
            %error,
            "connections could not be accepted; trying again, logged once a minute"
        );
    }
}
