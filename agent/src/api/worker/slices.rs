//! Has read what comes to be named: the slices of Services, and Secrets.

use std::time::Instant;

use super::session::Session;
use super::{RECONNECT, Worker, say};
use crate::api::heard::{Item, Trouble, What};
use crate::endpoints::Service;

impl Worker {
    /// Has read what came to be wanted.
    pub(super) fn want(&mut self, session: Option<&mut Session>) {
        // Before it is asked for: what changes meanwhile is heard.
        if let Some(services) = self.source.services() {
            self.wanted.set(services);
        }
        let Some(session) = session else { return };
        self.follow_keys(session);
        if Instant::now() >= self.fetch_at {
            for service in self.source.fetches() {
                session.fetch(&self.director, &self.wanted, service);
            }
        }
        for what in self.source.again() {
            session.watches.again(what);
        }
    }

    /// The slices of a Service were read, or could not be.
    pub(super) fn fetched(
        &mut self,
        now: Instant,
        service: &Service,
        result: Result<Vec<Item>, Trouble>,
        session: Option<&mut Session>,
    ) {
        let said = match &result {
            Ok(_) => self.link.heard(now),
            Err(trouble) => {
                self.fetch_at = now + RECONNECT;
                self.trouble(now, What::Slices.word(), trouble)
            }
        };
        say(said);
        self.source.fetched(service, result.ok());
        let step = self.source.step();
        self.tell(now, step);
        self.want(session);
    }
}
