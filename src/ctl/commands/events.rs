//! The history of changes, and the changes as they happen.

use super::pages::{Page, print_pages};
use crate::{
    ctl::{
        args::{Filter, Limit},
        follow::Follow,
        records,
        session::{Outcome, Session},
    },
    proto::v1 as pb,
};

impl Session {
    pub(super) async fn watch(mut self, room: Option<String>, after: Option<i64>) -> Outcome {
        let follow = Follow {
            mutes: self.clients.mutes,
            app: self.app,
            room: room.unwrap_or_default(),
            after,
        };
        follow.run(&mut self.out).await
    }

    pub(super) async fn events(
        mut self,
        Filter { room, user, actor, kinds, since, until }: Filter,
        limit: &Limit,
    ) -> Outcome {
        let kinds = kinds.into_iter().map(i32::from).collect();
        let first = pb::ListEventsRequest {
            app: self.app,
            room: room.unwrap_or_default(),
            user: user.unwrap_or_default(),
            actor: actor.unwrap_or_default(),
            kinds,
            start_time: since,
            end_time: until,
            ..Default::default()
        };
        self.out.fix("room", !first.room.is_empty());
        self.out.fix("actor", !first.actor.is_empty());
        self.out.fix("kind", first.kinds.len() == 1);
        let mutes = self.clients.mutes;
        let fetch = async |page_size, page_token| {
            let request = pb::ListEventsRequest { page_size, page_token, ..first.clone() };
            let page = mutes.clone().list_events(request).await?.into_inner();
            Ok(Page::of(page.events, records::change, page.next_page_token))
        };
        print_pages(&mut self.out, limit, fetch).await
    }
}
