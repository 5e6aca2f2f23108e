//! kill -9 at random moments, repeatedly on one directory: every acknowledged write is there with
//! its exact fields, each call took effect completely or not at all, and revisions never decrease.
//! `MUTE_TEST_KILLS` sets how often, `MUTE_TEST_SEED` repeats a run.

use std::time::Duration;

use rand::RngExt as _;

use crate::{
    ledger::{Ledger, Workload, random, setting},
    process::Process,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_no_acknowledged_write_and_splits_no_call() {
    let kills = setting("MUTE_TEST_KILLS").unwrap_or(50);
    let mut random = random();
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::new(8, Workload { users: 3, reason_bytes: 0, calls: usize::MAX });
    for kill in 1..=kills {
        if kill % 100 == 0 {
            println!("{kill} kills");
        }
        let process = Process::start(directory.path());
        ledger.compare(&process).await;
        let writers = ledger.write(&process, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(1..120))).await;
        // Dropped: kill -9.
        drop(process);
        ledger = writers.stopped().await;
    }
    ledger.compare(&Process::start(directory.path())).await;
    ledger.assert_acknowledged(kills);
}
