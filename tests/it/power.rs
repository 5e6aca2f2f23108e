//! The power fails at random moments, many times, on one disk that forgets what was not synced.
//! Acknowledged writes are there with their exact fields, a call is there completely or not at all,
//! and revisions never go back. Journals are small and the same users are muted repeatedly, so that
//! the tree is filled and its space reused all the time. `MUTE_TEST_CUTS` sets the number of cuts,
//! `MUTE_TEST_SEED` repeats a run.

use std::time::Duration;

use rand::RngExt as _;

use crate::{
    harness::skipped,
    ledger::{Ledger, Workload, random, setting},
    lossy_disk::Disk,
    process::Process,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_no_acknowledged_write_and_halves_none() {
    let Some(disk) = Disk::mount() else { return skipped("run as root with /dev/fuse") };
    let cuts = setting("MUTE_TEST_CUTS").unwrap_or(20);
    let mut random = random();
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::new(8, Workload { users: 100, reason_bytes: 512, calls: 20 });
    let start = |journal_mib| {
        Process::spawn(directory.path(), disk.path(), &["--journal-mib", journal_mib])
    };
    for cut in 1..=cuts {
        if cut % 100 == 0 {
            println!("{cut} cuts");
        }
        let mut process = start(if random.random() { "1" } else { "4" });
        // Sometimes the power fails while the process starts.
        let writers = if random.random_bool(0.25) {
            Err(ledger)
        } else {
            process = process.ready();
            ledger.compare(&process).await;
            Ok(ledger.write(&process, &mut random).await)
        };
        let until_ms = random.random_range(1..if writers.is_ok() { 1_000 } else { 60 });
        tokio::time::sleep(Duration::from_millis(until_ms)).await;
        // Dropped: kill -9. Sometimes that is all, and the next process reads what only the
        // kernel's cache has.
        drop(process);
        if random.random_bool(0.75) {
            disk.cut(&mut random);
        }
        ledger = match writers {
            Ok(writers) => writers.stopped().await,
            Err(ledger) => ledger,
        };
    }
    ledger.compare(&start("4").ready()).await;
    ledger.assert_acknowledged(cuts);
}
