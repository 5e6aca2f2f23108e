//! Faults of the cluster, its members, its replicas and their clocks while callers run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mute_service::{
    model::{Expire, Key, Provenance, Restriction, Value},
    store::codec,
    transfer::{
        import::Incoming,
        merge::{MergePlan, Mode},
    },
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::{sleep, timeout};

use super::world::{OPEN, Replica, World, jump, pause};
use crate::double::{
    link::{Loss, State},
    mvcc::Mvcc,
};

/// Ten minutes, for which a clock is wrong a little more than a second.
const JUMP_MS: i64 = 600_000;
const AHEAD: Duration = Duration::from_millis(1_200);
/// The room of imported mutes.
pub const IMPORTED_ROOM: &str = "imported";

/// Injects faults one after the other. Returns a backup of the cluster from an earlier step.
pub async fn inject_faults(world: &Arc<World>, random: &mut StdRng, steps: usize) -> Mvcc {
    let mut backup = world.double.backup();
    for step in 0..steps {
        if step == steps / 4 {
            backup = world.double.backup();
        }
        match random.random_range(0..20) {
            0..7 => network(world, random),
            7..12 => members(world, random),
            12..15 => replicas(world, random).await,
            15 => clock(world, random),
            16 => import(world, random, step).await,
            _ => {}
        }
        pause(random, 50..450).await;
    }
    backup
}

/// Repairs links, members and clocks. Afterwards every machine runs a replica.
pub async fn heal(world: &World) {
    world.double.set_full(false);
    for member in 0..world.double.members() {
        world.double.lag(member, 0);
        world.double.set_has_leader(member, true);
    }
    world.replicas().iter().for_each(repair_links);
    // Clocks that are ahead are set back.
    sleep(AHEAD).await;
    for machine in 0..world.machines() {
        let ahead_ms = world.clock(machine).now_ms() as i64 - world.now_ms() as i64;
        jump(world.clock(machine), -ahead_ms);
        while world.replica(machine).is_none() {
            let _ = world.start(machine).await;
        }
    }
}

fn repair_links(replica: &Replica) {
    for link in &replica.network.links {
        link.set(State::Up);
        link.pace(Duration::from_micros(200), None);
    }
}

fn network(world: &World, random: &mut StdRng) {
    let Some(replica) = world.any_replica(random) else { return };
    let links = &replica.network.links;
    let link = &links[random.random_range(0..links.len())];
    match random.random_range(0..8) {
        0 => link.set(State::Cut),
        // To the others this looks like a paused replica.
        1 => links.iter().for_each(|link| link.set(State::Stalled)),
        2 => links.iter().for_each(|link| link.set(State::Cut)),
        3 => {
            let latency = random.random_range(1..120);
            let bytes_per_s = random.random_range(20_000..500_000);
            links
                .iter()
                .for_each(|link| link.pace(Duration::from_millis(latency), Some(bytes_per_s)));
        }
        4 => links.iter().for_each(|link| link.lose_answers(1, Loss::Silent)),
        5 => links.iter().for_each(|link| link.lose_answers(1, Loss::Reset)),
        _ => world.replicas().iter().for_each(repair_links),
    }
}

fn members(world: &World, random: &mut StdRng) {
    let member = random.random_range(0..world.double.members());
    match random.random_range(0..8) {
        0 => world.double.lag(member, random.random_range(10..3_000)),
        1 => world.double.lag(member, 0),
        2 => world.double.set_has_leader(member, false),
        3 => world.double.set_has_leader(member, true),
        4 => world.double.restart(member),
        5 => world.double.set_full(random.random_bool(0.3)),
        _ => world.double.compact(world.double.revision() - random.random_range(0..20)),
    }
}

async fn replicas(world: &World, random: &mut StdRng) {
    let machine = random.random_range(0..world.machines());
    if world.replica(machine).is_some() {
        world.stop(machine, random.random_bool(0.5)).await;
        pause(random, 1..400).await;
    }
    let _ = timeout(Duration::from_secs(20), world.start(machine)).await;
}

/// Sets one clock ten minutes ahead for a while.
fn clock(world: &Arc<World>, random: &mut StdRng) {
    let world = world.clone();
    let machine = random.random_range(0..world.machines());
    jump(world.clock(machine), JUMP_MS);
    tokio::spawn(async move {
        sleep(AHEAD).await;
        jump(world.clock(machine), -JUMP_MS);
    });
}

/// Imports some records while the replicas run.
async fn import(world: &World, random: &mut StdRng, number: usize) {
    let Some(replica) = world.any_replica(random) else { return };
    let provenance = Provenance { actor: "app".into(), reason: "import".into() };
    let value = Value::Restriction(Restriction {
        expire: Expire::NEVER,
        set_ms: world.now_ms(),
        provenance: Arc::new(provenance),
    });
    let record = |user: usize| {
        let key = codec::encode_key(Key::MemberMute {
            app: OPEN,
            room: IMPORTED_ROOM,
            user: &format!("i{number}-{user}"),
        });
        let value = codec::encode_value(&key, &value);
        (key, (1, value))
    };
    let incoming = Incoming {
        app: Some(OPEN.to_owned()),
        records: (0..5).map(record).collect::<BTreeMap<_, _>>(),
    };
    let store = &*replica.service.store;
    let imported = async {
        let snapshot = store.snapshot().await.ok()?;
        MergePlan::of(incoming, Some(snapshot), Mode::Merge)
            .await
            .ok()?
            .commit(store, world.now_ms(), |_| {})
            .await
            .ok()
    };
    // The outcome is in the history.
    let _ = timeout(Duration::from_secs(5), imported).await;
}
