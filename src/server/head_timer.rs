//! The timeouts of HTTP/1: how long a connection may be idle, and how long a head may take from its
//! first byte. hyper has one timer for both, which it sets when it begins to wait for a head. This
//! one is shortened by the first byte that arrives then.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use tokio::time::Instant;

/// The timeout of the TLS handshake, of the first request, and of each HTTP/1 head from its first
/// byte.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// hyper's timer for one connection.
#[derive(Clone, Default)]
pub(super) struct HeadTimer {
    /// Whether bytes have arrived since hyper began to wait for a head.
    has_received: Arc<AtomicBool>,
}

impl HeadTimer {
    /// Tells that bytes have arrived.
    pub(super) fn receive(&self) {
        self.has_received.store(true, Ordering::Relaxed);
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.has_received.store(false, Ordering::Relaxed);
        Box::pin(HeadSleep {
            has_received: self.has_received.clone(),
            has_begun: false,
            sleep: Box::pin(tokio::time::sleep_until(deadline.into())),
        })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// Completes when the connection was idle for too long, or when the head took too long.
struct HeadSleep {
    has_received: Arc<AtomicBool>,
    has_begun: bool,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    /// hyper polls it after each read that leaves the head incomplete.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.has_begun && self.has_received.load(Ordering::Relaxed) {
            self.has_begun = true;
            self.sleep.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
        }
        self.sleep.as_mut().poll(context)
    }
}
