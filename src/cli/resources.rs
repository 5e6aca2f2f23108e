//! What the system has to grant before a start. A thread or memory that is refused later would end
//! the process without a reason, or leave a part of it waiting forever.

use std::{io, sync::Mutex, thread};

use rlimit::Resource;

use crate::app::Failure;

/// Threads beside one for each core: those of the store and its engine, of files and of names.
const THREADS: usize = 16;
/// The stack of a thread that only counts.
const STACK_BYTES: usize = 64 << 10;
/// The allocator reserves 1 GiB of addresses.
const ADDRESS_SPACE: u64 = 1_100 << 20;

/// Errors: what is lacking, and which limit to raise.
pub(super) fn check() -> Result<(), Failure> {
    check_address_space()?;
    let needed = THREADS + thread::available_parallelism().map_or(1, usize::from);
    let (granted, refusal) = threads(needed);
    match refusal {
        None => Ok(()),
        Some(error) => Err(lacking(format!(
            "the system grants {granted} of the {needed} threads that the service needs: {error}; \
             raise the limit of threads (ulimit -u, TasksMax=, pids.max) or of memory (ulimit -v)"
        ))),
    }
}

fn check_address_space() -> Result<(), Failure> {
    match Resource::AS.get_soft() {
        Ok(bytes) if bytes < ADDRESS_SPACE => Err(lacking(format!(
            "the limit of memory addresses is {} MiB, and the service needs {} MiB; raise it \
             (ulimit -v), and limit the memory in use instead (MemoryMax=, memory.max)",
            bytes >> 20,
            ADDRESS_SPACE >> 20
        ))),
        _ => Ok(()),
    }
}

/// How many of these threads can run at the same time, and why not all can.
fn threads(needed: usize) -> (usize, Option<io::Error>) {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let wait = || drop(gate.lock());
        let spawned = (0..needed)
            .map(|_| thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, wait));
        let mut granted = 0;
        let refusal = spawned
            .inspect(|spawned| granted += usize::from(spawned.is_ok()))
            .find_map(Result::err);
        drop(closed);
        (granted, refusal)
    })
}

fn lacking(what: String) -> Failure {
    Failure::Serve(what.into())
}
