//! Random operations against a plain model: what the service answers is what a few maps would say; the view that the feed has built is the view
//! that a snapshot builds; a restart changes nothing; and history tells each end once.

use std::collections::{BTreeMap, BTreeSet};

use mute_service::proto::v1 as pb;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::harness::*;

const ROOMS: [&str; 2] = ["demo", "demo-room"];
const USERS: [&str; 4] = ["aaa", "1485248560558", "u3", "u4"];

#[derive(Clone, Debug)]
enum Step {
    Mute { room: usize, users: Vec<usize>, duration_ms: Option<u64> },
    Unmute { room: usize, users: Vec<usize> },
    Ban { room: usize, duration_ms: Option<u64> },
    Unban { room: usize },
    Allow { room: usize, user: usize },
    Disallow { room: usize, user: usize },
    MuteNotifications { room: usize, user: usize, duration_ms: Option<u64> },
    UnmuteNotifications { room: usize, user: usize },
    MuteUser { user: usize, duration_ms: Option<u64> },
    UnmuteUser { user: usize },
    RecreateRoom { room: usize },
    RecreateClient { user: usize },
    Advance { ms: u64 },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (room, user) = (|| 0..ROOMS.len(), || 0..USERS.len());
    let users = || vec(0..USERS.len(), 1..4);
    let duration_ms = || prop_oneof![Just(None), (1_u64..3_000).prop_map(Some)];
    let step = prop_oneof![
        4 => (room(), users(), duration_ms()).prop_map(|(room, users, duration_ms)| Step::Mute { room, users, duration_ms }),
        2 => (room(), users()).prop_map(|(room, users)| Step::Unmute { room, users }),
        1 => (room(), duration_ms()).prop_map(|(room, duration_ms)| Step::Ban { room, duration_ms }),
        1 => room().prop_map(|room| Step::Unban { room }),
        2 => (room(), user()).prop_map(|(room, user)| Step::Allow { room, user }),
        1 => (room(), user()).prop_map(|(room, user)| Step::Disallow { room, user }),
        2 => (room(), user(), duration_ms())
            .prop_map(|(room, user, duration_ms)| Step::MuteNotifications { room, user, duration_ms }),
        1 => (room(), user()).prop_map(|(room, user)| Step::UnmuteNotifications { room, user }),
        1 => (user(), duration_ms()).prop_map(|(user, duration_ms)| Step::MuteUser { user, duration_ms }),
        1 => user().prop_map(|user| Step::UnmuteUser { user }),
        1 => room().prop_map(|room| Step::RecreateRoom { room }),
        1 => user().prop_map(|user| Step::RecreateClient { user }),
        3 => (1_u64..2_000).prop_map(|ms| Step::Advance { ms }),
        1 => Just(Step::Restart),
    ];
    vec(step, 1..30)
}

/// The end of a mark; nothing is for good.
type End = Option<u64>;

#[derive(Default)]
struct Model {
    now_ms: u64,
    muted: [BTreeMap<&'static str, End>; 2],
    ban: [Option<End>; 2],
    allowed: [BTreeSet<&'static str>; 2],
    muted_users: BTreeMap<&'static str, End>,
    /// By user, in the order of muting.
    silenced: BTreeMap<&'static str, Vec<(&'static str, End)>>,
    /// How often each mark has come to its end.
    ended: Ends,
}

/// What has ended: kind, room, and user; a ban has none.
type Ends = BTreeMap<(pb::ChangeKind, String, String), usize>;

impl Model {
    fn end(&self, duration_ms: Option<u64>) -> End {
        duration_ms.map(|ms| self.now_ms + ms)
    }

    fn in_force(&self, end: End) -> bool {
        end.is_none_or(|end| self.now_ms < end)
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Mute { room, users, duration_ms } => {
                let end = self.end(*duration_ms);
                self.muted[*room].extend(users.iter().map(|user| (USERS[*user], end)));
            }
            Step::Unmute { room, users } => users.iter().for_each(|user| {
                self.muted[*room].remove(USERS[*user]);
            }),
            Step::Ban { room, duration_ms } => self.ban[*room] = Some(self.end(*duration_ms)),
            Step::Unban { room } => self.ban[*room] = None,
            Step::Allow { room, user } => {
                self.allowed[*room].insert(USERS[*user]);
            }
            Step::Disallow { room, user } => {
                self.allowed[*room].remove(USERS[*user]);
            }
            Step::MuteNotifications { room, user, duration_ms } => {
                let (end, now_ms) = (self.end(*duration_ms), self.now_ms);
                let list = self.silenced.entry(USERS[*user]).or_default();
                list.retain(|(_, end)| end.is_none_or(|end| now_ms < end));
                match list.iter_mut().find(|(known, _)| *known == ROOMS[*room]) {
                    Some(known) => known.1 = end,
                    None => list.push((ROOMS[*room], end)),
                }
            }
            Step::UnmuteNotifications { room, user } => {
                self.silenced.entry(USERS[*user]).or_default().retain(|(known, _)| *known != ROOMS[*room]);
            }
            Step::MuteUser { user, duration_ms } => {
                self.muted_users.insert(USERS[*user], self.end(*duration_ms));
            }
            Step::UnmuteUser { user } => {
                self.muted_users.remove(USERS[*user]);
            }
            Step::RecreateClient { user } => {
                self.silenced.remove(USERS[*user]);
            }
            Step::RecreateRoom { room } => {
                self.muted[*room].clear();
                self.allowed[*room].clear();
                self.ban[*room] = None;
                self.silenced.values_mut().for_each(|list| list.retain(|(known, _)| *known != ROOMS[*room]));
            }
            Step::Advance { ms } => self.advance(*ms),
            Step::Restart => {}
        }
    }

    fn advance(&mut self, ms: u64) {
        let passed = self.now_ms + 1..=self.now_ms + ms;
        self.now_ms += ms;
        let has_ended = |end: &End| end.is_some_and(|end| passed.contains(&end));
        let mut ended = Vec::new();
        for (room, id) in ROOMS.iter().enumerate() {
            let muted = self.muted[room].iter().filter(|(_, end)| has_ended(end));
            ended.extend(muted.map(|(user, _)| (pb::ChangeKind::Expired, *id, *user)));
            ended.extend(self.ban[room].filter(|end| has_ended(end)).map(|_| (pb::ChangeKind::BanExpired, *id, "")));
        }
        for (user, list) in &self.silenced {
            let list = list.iter().filter(|(_, end)| has_ended(end));
            ended.extend(list.map(|(room, _)| (pb::ChangeKind::NotificationsExpired, *room, *user)));
        }
        let muted_users = self.muted_users.iter().filter(|(_, end)| has_ended(end));
        ended.extend(muted_users.map(|(user, _)| (pb::ChangeKind::UserMuteExpired, "", *user)));
        for (kind, room, user) in ended {
            *self.ended.entry((kind, room.to_owned(), user.to_owned())).or_default() += 1;
        }
    }

    fn rule(&self, room: usize, user: &str) -> pb::Rule {
        if self.muted_users.get(user).is_some_and(|end| self.in_force(*end)) {
            return pb::Rule::UserMute;
        }
        let muted = self.muted[room].get(user).is_some_and(|end| self.in_force(*end));
        let banned = self.ban[room].is_some_and(|end| self.in_force(end));
        match (muted, banned, self.allowed[room].contains(user)) {
            (true, _, _) => pb::Rule::MemberMute,
            (false, true, true) => pb::Rule::AllowList,
            (false, true, false) => pb::Rule::RoomBan,
            (false, false, _) => pb::Rule::None,
        }
    }

    fn those_in_force(&self, mutes: &BTreeMap<&'static str, End>) -> Vec<(String, End)> {
        mutes.iter().filter(|(_, end)| self.in_force(**end)).map(|(user, end)| ((*user).to_owned(), *end)).collect()
    }

    /// Those of the users who may be pushed to.
    fn recipients(&self, room: usize) -> Vec<String> {
        let is_silenced = |user: &str| {
            let mut list = self.silenced.get(user).into_iter().flatten();
            list.any(|(silent, end)| *silent == ROOMS[room] && self.in_force(*end))
        };
        strings(&USERS).into_iter().filter(|user| !is_silenced(user)).collect()
    }

    fn facts(&self) -> Facts {
        let room = |room: usize| RoomFacts {
            rules: USERS.iter().map(|user| self.rule(room, user)).collect(),
            muted: self.those_in_force(&self.muted[room]),
            recipients: self.recipients(room),
            banned: self.ban[room].filter(|end| self.in_force(*end)),
            allowed: self.allowed[room].iter().map(|user| (*user).to_owned()).collect(),
        };
        let silenced = |user: &&str| {
            let list = self.silenced.get(*user).into_iter().flatten();
            list.filter(|(_, end)| self.in_force(*end)).map(|(room, end)| ((*room).to_owned(), *end)).collect()
        };
        let muted_users = self.those_in_force(&self.muted_users);
        Facts { rooms: [room(0), room(1)], silenced: USERS.iter().map(silenced).collect(), muted_users }
    }
}

/// Everything that can be asked.
#[derive(Debug, PartialEq)]
struct Facts {
    rooms: [RoomFacts; 2],
    silenced: Vec<Vec<(String, End)>>,
    muted_users: Vec<(String, End)>,
}

#[derive(Debug, PartialEq)]
struct RoomFacts {
    rules: Vec<pb::Rule>,
    muted: Vec<(String, End)>,
    banned: Option<End>,
    allowed: Vec<String>,
    recipients: Vec<String>,
}

/// The service under test, with its callers.
struct Subject {
    server: Server,
    mutes: pb::mute_service_client::MuteServiceClient<tonic::transport::Channel>,
    directory: pb::directory_service_client::DirectoryServiceClient<tonic::transport::Channel>,
}

impl Subject {
    async fn start(place: &TempDir, now_ms: u64) -> Self {
        let server = Server::on(place.path(), mute_service::clock::Clock::manual(now_ms), unlimited()).await;
        let (mutes, directory) = (server.mutes().await, server.directory().await);
        Self { server, mutes, directory }
    }

    async fn apply(&mut self, step: &Step) {
        let (app, mutes) = (IMKIT.to_owned(), &mut self.mutes);
        let room = |room: &usize| ROOMS[*room].to_owned();
        let users = |users: &[usize]| users.iter().map(|user| USERS[*user].to_owned()).collect();
        let reason = String::new();
        match step {
            Step::Mute { room: id, users: some, duration_ms } => {
                let duration = duration_ms.map(duration);
                let message =
                    pb::MuteMembersRequest { app, room: room(id), users: users(some), duration, reason, ..Default::default() };
                mutes.mute_members(with(message, &[SERVICE])).await.unwrap();
            }
            Step::Unmute { room: id, users: some } => {
                let message = pb::UnmuteMembersRequest { app, room: room(id), users: users(some), reason, ..Default::default() };
                mutes.unmute_members(with(message, &[SERVICE])).await.unwrap();
            }
            Step::Ban { room: id, duration_ms } => {
                let message =
                    pb::BanRoomRequest { app, room: room(id), duration: duration_ms.map(duration), reason, ..Default::default() };
                mutes.ban_room(with(message, &[SERVICE])).await.unwrap();
            }
            Step::Unban { room: id } => {
                mutes
                    .unban_room(with(pb::UnbanRoomRequest { app, room: room(id), reason, ..Default::default() }, &[SERVICE]))
                    .await
                    .unwrap();
            }
            Step::Allow { room: id, user } => {
                let message =
                    pb::AllowMembersRequest { app, room: room(id), users: users(&[*user]), reason, ..Default::default() };
                mutes.allow_members(with(message, &[SERVICE])).await.unwrap();
            }
            Step::Disallow { room: id, user } => {
                let message =
                    pb::DisallowMembersRequest { app, room: room(id), users: users(&[*user]), reason, ..Default::default() };
                mutes.disallow_members(with(message, &[SERVICE])).await.unwrap();
            }
            Step::MuteNotifications { room: id, user, duration_ms } => {
                let (user, duration) = (USERS[*user].to_owned(), duration_ms.map(duration));
                let message = pb::MuteRoomNotificationsRequest { app, user, room: room(id), duration, ..Default::default() };
                mutes.mute_room_notifications(with(message, &[SERVICE])).await.unwrap();
            }
            Step::UnmuteNotifications { room: id, user } => {
                let message = pb::UnmuteRoomNotificationsRequest {
                    app,
                    user: USERS[*user].to_owned(),
                    room: room(id),
                    ..Default::default()
                };
                mutes.unmute_room_notifications(with(message, &[SERVICE])).await.unwrap();
            }
            Step::MuteUser { user, duration_ms } => {
                let (user, duration) = (USERS[*user].to_owned(), duration_ms.map(duration));
                let message = pb::MuteUserRequest { app, user, duration, reason, ..Default::default() };
                mutes.mute_user(with(message, &[SERVICE])).await.unwrap();
            }
            Step::UnmuteUser { user } => {
                let message = pb::UnmuteUserRequest { app, user: USERS[*user].to_owned(), reason, ..Default::default() };
                mutes.unmute_user(with(message, &[SERVICE])).await.unwrap();
            }
            Step::RecreateClient { user } => {
                let message = pb::DeleteClientRequest { app: app.clone(), user: USERS[*user].to_owned(), ..Default::default() };
                self.directory.delete_client(with(message, &[SERVICE])).await.unwrap();
                let client = Some(pb::Client { user: USERS[*user].to_owned(), ..Default::default() });
                let message = pb::UpsertClientRequest { app, client, ..Default::default() };
                self.directory.upsert_client(with(message, &[SERVICE])).await.unwrap();
            }
            Step::RecreateRoom { room: id } => {
                let message = pb::DeleteRoomRequest { app: app.clone(), room: room(id), ..Default::default() };
                self.directory.delete_room(with(message, &[SERVICE])).await.unwrap();
                let message = pb::UpsertRoomRequest { app, room: room(id), ..Default::default() };
                self.directory.upsert_room(with(message, &[SERVICE])).await.unwrap();
                self.server.sweep().await;
            }
            Step::Advance { ms } => self.server.advance(*ms),
            Step::Restart => unreachable!("a restart is the driver's"),
        }
    }

    /// The ends that history tells.
    async fn ended(&mut self) -> Ends {
        use pb::ChangeKind::{BanExpired, Expired, NotificationsExpired, UserMuteExpired};
        let kinds = [Expired, BanExpired, NotificationsExpired, UserMuteExpired].map(i32::from).to_vec();
        let message = pb::ListEventsRequest { app: IMKIT.to_owned(), kinds, page_size: 1_000, ..Default::default() };
        let mut ended = Ends::new();
        for event in self.mutes.list_events(with(message, &[SERVICE])).await.unwrap().into_inner().events {
            let users = if event.users.is_empty() { vec![String::new()] } else { event.users.clone() };
            for user in users {
                *ended.entry((event.kind(), event.room.clone(), user)).or_default() += 1;
            }
        }
        ended
    }

    async fn facts(&mut self) -> Facts {
        let rooms = [self.room_facts(ROOMS[0]).await, self.room_facts(ROOMS[1]).await];
        let mut silenced = Vec::new();
        for user in USERS {
            let message = pb::ListMutedRoomsRequest { app: IMKIT.to_owned(), user: user.to_owned(), ..Default::default() };
            let list = self.mutes.list_muted_rooms(with(message, &[SERVICE])).await.unwrap().into_inner().rooms;
            silenced.push(list.into_iter().map(|muted| (muted.room, muted.expire_time.as_ref().map(ms))).collect());
        }
        let message = pb::ListMutedUsersRequest { app: IMKIT.to_owned(), ..Default::default() };
        let muted_users = self.mutes.list_muted_users(with(message, &[SERVICE])).await.unwrap().into_inner().users;
        let muted_users = muted_users.into_iter().map(|mute| (mute.user, mute.expire_time.as_ref().map(ms))).collect();
        Facts { rooms, silenced, muted_users }
    }

    async fn room_facts(&mut self, room: &str) -> RoomFacts {
        let (app, id) = (IMKIT.to_owned(), room.to_owned());
        let mut rules = Vec::new();
        for user in USERS {
            rules.push(self.server.check(IMKIT, room, user).await.rule());
        }
        let message = pb::ListMutedMembersRequest { app: app.clone(), room: id.clone(), ..Default::default() };
        let muted = self.mutes.list_muted_members(with(message, &[SERVICE])).await.unwrap().into_inner().members;
        let message = pb::ListAllowedMembersRequest { app: app.clone(), room: id.clone(), ..Default::default() };
        let allowed = self.mutes.list_allowed_members(with(message, &[SERVICE])).await.unwrap().into_inner().members;
        let users = strings(&USERS);
        let message = pb::FilterRecipientsRequest { app: app.clone(), room: id.clone(), users, min_revision: 0 };
        let recipients = self.mutes.filter_recipients(with(message, &[SERVICE])).await.unwrap().into_inner().users;
        let message = pb::GetRoomRequest { app, room: id, min_revision: 0 };
        let seen = self.mutes.get_room(with(message, &[SERVICE])).await.unwrap().into_inner();
        RoomFacts {
            rules,
            muted: muted.into_iter().map(|member| (member.user, member.expire_time.as_ref().map(ms))).collect(),
            banned: seen.ban.map(|ban| ban.expire_time.as_ref().map(ms)),
            allowed: allowed.into_iter().map(|member| member.user).collect(),
            recipients,
        }
    }
}

async fn drive(steps: &[Step]) -> Result<(), TestCaseError> {
    let place = tempfile::tempdir().unwrap();
    let mut model = Model { now_ms: START_MS, ..Model::default() };
    let mut subject = Subject::start(&place, START_MS).await;
    for user in &USERS[2..] {
        let client = Some(pb::Client { user: (*user).to_owned(), ..Default::default() });
        let message = pb::UpsertClientRequest { app: IMKIT.to_owned(), client, ..Default::default() };
        subject.directory.upsert_client(with(message, &[SERVICE])).await.unwrap();
    }
    for step in steps.iter().chain([&Step::Restart]) {
        if matches!(step, Step::Restart) {
            let before = subject.facts().await;
            subject.server.sweep().await;
            let records = subject.server.service.view.records();
            subject.server.stop().await;
            subject = Subject::start(&place, model.now_ms).await;
            prop_assert_eq!(subject.server.service.view.records(), records, "view by feed, view by snapshot");
            prop_assert_eq!(subject.facts().await, before, "before and after a restart");
        } else {
            subject.apply(step).await;
        }
        model.apply(step);
        prop_assert_eq!(subject.facts().await, model.facts(), "service and model after {:?}", step);
    }
    subject.server.sweep().await;
    prop_assert_eq!(subject.facts().await, model.facts(), "service and model after a sweep");
    prop_assert_eq!(subject.ended().await, model.ended, "what has ended");
    Ok(())
}

#[test]
fn the_service_answers_as_a_plain_model_would_over_restarts_too() {
    let runtime = Runtime::new().unwrap();
    let cases = std::env::var("MUTE_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    TestRunner::new(config).run(&steps(), |steps| runtime.block_on(drive(&steps))).unwrap();
}
