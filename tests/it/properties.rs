//! Random operations compared with a plain model, in an app with a strict directory and in one with
//! an open one. The service answers what a few maps would. The view built from the feed equals the
//! view built from a snapshot. Neither a restart, nor a sweep, nor a clock that is wrong for a
//! moment changes anything, at any point. History has each expiry once.

mod model;
mod subject;

use model::{Expiries, Facts, Model, RoomFacts};
use mute_service::proto::v1 as pb;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use subject::Subject;
use tokio::runtime::Runtime;

use crate::harness::*;

const ROOMS: [&str; 2] = ["pro", "pro-room"];
const USERS: [&str; 4] = ["aa", "1485248560559", "u3", "u4"];
/// The user who moderates as an admin, in rooms where it is one.
const MODERATOR: &str = "moderator";

#[derive(Clone, Debug)]
enum Step {
    Mute {
        room: usize,
        users: Vec<usize>,
        duration_ms: Option<u64>,
        by_user: bool,
    },
    Unmute {
        room: usize,
        users: Vec<usize>,
        by_user: bool,
    },
    Ban {
        room: usize,
        duration_ms: Option<u64>,
        by_user: bool,
    },
    Unban {
        room: usize,
        by_user: bool,
    },
    Allow {
        room: usize,
        user: usize,
        by_user: bool,
    },
    Disallow {
        room: usize,
        user: usize,
        by_user: bool,
    },
    MuteNotifications {
        room: usize,
        user: usize,
        duration_ms: Option<u64>,
    },
    UnmuteNotifications {
        room: usize,
        user: usize,
    },
    MuteUser {
        user: usize,
        duration_ms: Option<u64>,
    },
    UnmuteUser {
        user: usize,
    },
    CreateRoom {
        room: usize,
    },
    DeleteRoom {
        room: usize,
    },
    /// Makes the moderator an admin of the room, or removes it.
    SetStaff {
        room: usize,
        is_staff: bool,
    },
    CreateClient {
        user: usize,
    },
    DeleteClient {
        user: usize,
    },
    Advance {
        ms: u64,
    },
    /// Sets the wall clock off by this much, runs the sweeper once, and sets it right again.
    Jump {
        by_ms: i64,
    },
    /// One pass of the sweeper over expired records.
    Sweep,
    /// One pass of the sweeper over deleted rooms and clients.
    SweepDeleted,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let room = || 0..ROOMS.len();
    let user = || 0..USERS.len();
    let users = || vec(0..USERS.len(), 1..4);
    let duration_ms = || prop_oneof![Just(None), (1_u64..3_000).prop_map(Some)];
    let by_user = || prop::bool::weighted(0.3);
    let step = prop_oneof![
        4 => (room(), users(), duration_ms(), by_user())
            .prop_map(|(room, users, duration_ms, by_user)| Step::Mute {
                room,
                users,
                duration_ms,
                by_user,
            }),
        2 => (room(), users(), by_user())
            .prop_map(|(room, users, by_user)| Step::Unmute { room, users, by_user }),
        1 => (room(), duration_ms(), by_user())
            .prop_map(|(room, duration_ms, by_user)| Step::Ban { room, duration_ms, by_user }),
        1 => (room(), by_user()).prop_map(|(room, by_user)| Step::Unban { room, by_user }),
        2 => (room(), user(), by_user())
            .prop_map(|(room, user, by_user)| Step::Allow { room, user, by_user }),
        1 => (room(), user(), by_user())
            .prop_map(|(room, user, by_user)| Step::Disallow { room, user, by_user }),
        3 => (room(), user(), duration_ms())
            .prop_map(|(room, user, duration_ms)| Step::MuteNotifications {
                room,
                user,
                duration_ms,
            }),
        1 => (room(), user()).prop_map(|(room, user)| Step::UnmuteNotifications { room, user }),
        1 => (user(), duration_ms())
            .prop_map(|(user, duration_ms)| Step::MuteUser { user, duration_ms }),
        1 => user().prop_map(|user| Step::UnmuteUser { user }),
        2 => room().prop_map(|room| Step::CreateRoom { room }),
        1 => room().prop_map(|room| Step::DeleteRoom { room }),
        2 => (room(), any::<bool>()).prop_map(|(room, is_staff)| Step::SetStaff { room, is_staff }),
        2 => user().prop_map(|user| Step::CreateClient { user }),
        1 => user().prop_map(|user| Step::DeleteClient { user }),
        3 => (1_u64..2_000).prop_map(|ms| Step::Advance { ms }),
        1 => prop_oneof![-100_000_i64..-2_001, 2_001_i64..100_000]
            .prop_map(|by_ms| Step::Jump { by_ms }),
        1 => Just(Step::Sweep),
        1 => Just(Step::SweepDeleted),
        1 => Just(Step::Restart),
    ];
    vec(step, 1..40)
}

async fn run_steps(app: &'static str, steps: &[Step]) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Model::new(app == IMKIT, START_MS);
    let mut subject = Subject::start(app, &directory, START_MS).await;
    if app == IMKIT {
        subject.register_all().await;
    }
    for step in steps.iter().chain([&Step::Restart]) {
        let expected = model.apply(step);
        if matches!(step, Step::Restart) {
            let before = subject.facts().await;
            subject.server.stop().await;
            subject = Subject::start(app, &directory, model.now_ms()).await;
            prop_assert_eq!(subject.facts().await, before, "before and after a restart");
        } else {
            prop_assert_eq!(
                subject.apply(step).await,
                expected.map_err(str::to_owned),
                "the answer to {:?}",
                step
            );
        }
        prop_assert_eq!(subject.facts().await, model.facts(), "service and model after {:?}", step);
    }
    subject.server.sweep().await;
    let records = subject.server.service.view.records();
    prop_assert_eq!(subject.facts().await, model.facts(), "service and model after a sweep");
    prop_assert_eq!(subject.expiries().await, model.expiries(), "expiries");
    subject.server.stop().await;
    subject = Subject::start(app, &directory, model.now_ms()).await;
    prop_assert_eq!(
        subject.server.service.view.records(),
        records,
        "view from feed, view from snapshot"
    );
    prop_assert_eq!(subject.facts().await, model.facts(), "service and model at the end");
    Ok(())
}

fn run_cases(app: &'static str) {
    let runtime = Runtime::new().unwrap();
    let count =
        std::env::var("MUTE_TEST_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(12);
    let config = Config {
        cases: count,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&steps(), |steps| runtime.block_on(run_steps(app, &steps)))
        .unwrap();
}

#[test]
fn a_strict_app_answers_like_a_plain_model() {
    run_cases(IMKIT);
}

#[test]
fn an_open_app_answers_like_a_plain_model() {
    run_cases(OPEN);
}
