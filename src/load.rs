//! How many calls run at a time, of both doors together, and for how long one may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::error::Error;

/// For a call that brings no deadline, and the most that one may ask for.
pub const LONGEST: Duration = Duration::from_secs(60);

/// How many calls run, of both listeners together.
#[derive(Debug)]
pub struct Load {
    running: AtomicUsize,
    max: usize,
}

impl Load {
    /// So many calls at a time.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { running: AtomicUsize::new(0), max })
    }

    /// A place among the calls that run, until it is dropped. Errors: OVERLOADED.
    pub fn enter(self: &Arc<Self>) -> Result<Running, Error> {
        let running = Running(self.clone());
        if self.running.fetch_add(1, Ordering::Relaxed) < self.max { Ok(running) } else { Err(Error::overloaded()) }
    }
}

/// A call that runs.
#[derive(Debug)]
pub struct Running(Arc<Load>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_beyond_what_may_run_are_refused_until_others_have_ended() {
        let load = Load::new(2);
        let (first, second) = (load.enter().unwrap(), load.enter().unwrap());
        assert!(load.enter().is_err() && load.enter().is_err());
        drop(first);
        let third = load.enter().unwrap();
        assert!(load.enter().is_err());
        drop((second, third));
        assert!(load.enter().is_ok());
    }
}
