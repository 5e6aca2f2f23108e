//! Services that share a cluster: no prefix gives one service access to the keys of another, and
//! foreign keys do no damage.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::TryStreamExt as _;
use mute_service::{
    model::{Event, EventKind, Expire, Key, Provenance, Restriction, Value},
    store::{self, Batch, ClusterConfig, EncodedBatch, Location, Retention, Store, StoreError},
    view::View,
};
use serde_json::json;

use crate::{cluster::until, etcd::Etcd};

const KEEP_ALL: Retention = Retention { events: 1_000_000, age_ms: u64::MAX };

fn place(etcd: &Etcd, prefix: &str) -> Location {
    let Location::Cluster(config) = etcd.location() else { unreachable!("it is a cluster") };
    Location::Cluster(ClusterConfig { prefix: prefix.to_owned(), ..config })
}

/// A mute of a user whose name contains the prefix.
fn mute_of(prefix: &str) -> EncodedBatch {
    let user = format!("u{prefix}");
    let mut batch = Batch::of(&Event::new(EventKind::Muted, "a", "", 1));
    let restriction = Restriction {
        expire: Expire::NEVER,
        set_ms: 1,
        provenance: std::sync::Arc::new(Provenance::default()),
    };
    batch
        .put(Key::MemberMute { app: "a", room: "r", user: &user }, Value::Restriction(restriction));
    batch.encode()
}

async fn users(store: &dyn Store) -> Vec<String> {
    let pages: Vec<_> = store.snapshot().await.unwrap().pages.try_collect().await.unwrap();
    let user = |entry: store::Entry| match store::codec::decode_key(&entry.key) {
        Ok(Key::MemberMute { user, .. }) => user.to_owned(),
        other => panic!("{other:?}"),
    };
    pages.concat().into_iter().map(user).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_with_nested_prefixes_stay_separate() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let prefixes = [
        "mute/",
        "mute/dev/",
        "mute/d",
        "mute/eu/",
        "mute/hk/",
        "mute/n",
        "mute/t",
        "m",
        "",
        "mute/d\u{10ffff}",
    ];
    // In both orders: an outer prefix is opened before some of its inner ones and after others.
    let mut running = Vec::new();
    for prefix in prefixes.iter().chain(prefixes[..4].iter().rev()) {
        let store = store::open(&place(&etcd, prefix), KEEP_ALL).await.unwrap();
        let loaded = View::load(&*store).await.unwrap();
        let view = loaded.view.clone();
        let following = tokio::spawn(loaded.follow(store.clone()));
        running.push((*prefix, store, view, following));
    }
    for (prefix, store, view, following) in &running {
        let revision = store.commit(mute_of(prefix)).await.unwrap();
        assert!(view.wait_for(revision).await, "{prefix}");
        assert!(!following.is_finished());
    }
    for (prefix, store, view, _) in &running {
        assert_eq!(users(&**store).await, [format!("u{prefix}")]);
        assert_eq!(view.records(), 1, "{prefix}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_key_is_skipped_before_and_after_a_start() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let store = store::open(&place(&etcd, "mute/"), KEEP_ALL).await.unwrap();
    let loaded = View::load(&*store).await.unwrap();
    let view = loaded.view.clone();
    tokio::spawn(loaded.follow(store.clone()));
    for key in [
        "mute/",
        "mute/stray",
        "mute/n",
        "mute/\0",
        "mute/\0z",
        "mute/\0dstray",
        "mute/\0hstray",
        "mute/\0estray",
        "mute/\0t",
    ] {
        let put = json!({"key": STANDARD.encode(key), "value": STANDARD.encode("stray")});
        until("the key is put", async || {
            etcd.members[0].call("kv/put", put.clone()).await.is_some()
        })
        .await;
    }
    let revision = store.commit(mute_of("mute/")).await.unwrap();
    assert!(view.wait_for(revision).await);
    assert_eq!(view.records(), 1);
    let again = store::open(&place(&etcd, "mute/"), KEEP_ALL).await.unwrap();
    assert_eq!(View::load(&*again).await.unwrap().view.records(), 1);
    again.commit(mute_of("mute/")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_earlier_versions_is_refused_with_what_to_do() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    // The key of its first segment of history, number 1.
    let put = json!({"key": STANDARD.encode("mute/n"), "value": STANDARD.encode([0x08, 0x01])});
    until("the key is put", async || etcd.members[0].call("kv/put", put.clone()).await.is_some())
        .await;
    let refused = store::open(&place(&etcd, "mute/"), KEEP_ALL).await.err();
    let Some(StoreError::EarlierLayout { prefix }) = &refused else { panic!("{refused:?}") };
    assert_eq!(prefix, "mute/");
    assert!(refused.unwrap().to_string().contains("export"));
    assert!(store::open(&place(&etcd, "other/"), KEEP_ALL).await.is_ok());
}
