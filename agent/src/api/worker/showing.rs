//! What is shown of it all: the view, the figures, how it stands with the API server.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Worker, lock};
use crate::api::link::LinkStatus;
use crate::manifests::{Summary, View};

impl Worker {
    /// What the API says, for whoever asks.
    pub(super) fn answer(&mut self, answer: oneshot::Sender<Arc<View>>) {
        if answer.is_closed() {
            return;
        }
        let digest = match self.digest.take() {
            Some((serial, digest)) if serial == self.serial => digest,
            _ => self.source.digest(),
        };
        self.digest = Some((self.serial, digest.clone()));
        let told = &self.told;
        let mut view = self
            .source
            .view(&self.server, digest, |what, key| told.get(&(what, key.clone())).copied().unwrap_or(1));
        view.serial = self.serial;
        let link = self.link.status(&self.server);
        view.notes = self.notes.iter().chain(&self.unusable).cloned().collect();
        view.notes.extend(link.troubles);
        // Who gave up just now has lost nothing.
        let _ = answer.send(Arc::new(view));
    }

    pub(super) fn show(&self) {
        let summary = Summary {
            serial: self.serial,
            started: self.source.is_started(),
            files: 0,
            objects: self.source.in_force(),
            problems: self.problems.len(),
            lost: self.lost(),
        };
        *lock(&self.shared.summary) = summary;
        let link =
            LinkStatus { written: self.written, failed: self.failed, ..self.link.status(&self.server) };
        *lock(&self.shared.link) = link;
    }

    /// Why there is no configuration yet, or why what the API says is not believed.
    fn lost(&self) -> Option<String> {
        let lost = self.source.lost()?;
        let link = self.link.status(&self.server);
        let why = self.unusable.iter().chain(&link.troubles).map(|one| format!("; {one}"));
        Some(format!("the API: {lost}{}", why.collect::<String>()))
    }
}
