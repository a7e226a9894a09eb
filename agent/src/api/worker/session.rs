//! What goes on with one client: the watches, the sign of life and the statuses that are being written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api::connect::{Connection, PATIENCE};
use crate::api::fetch;
use crate::api::heard::{Heard, Item, Trouble};
use crate::api::report::plan::Write;
use crate::api::secrets;
use crate::api::wanted::Wanted;
use crate::api::watch::Watches;
use crate::api::write::{self, Failure};
use crate::endpoints::Service;

/// From one renewal of the Lease to the next; the operator takes an agent for lost after four of them.
const RENEW: Duration = Duration::from_secs(10);
/// From a renewal that failed to the next.
const RETRY: Duration = Duration::from_secs(5);

/// Something that was written, or not.
pub(super) enum Done {
    /// The Lease.
    Lease(Result<(), Trouble>),
    /// A status.
    Status(Write, Result<(), Failure>),
    /// The slices of a Service.
    Slices(Service, Result<Vec<Item>, Trouble>),
}

/// One client's doings; dropping ends them.
pub(super) struct Session {
    connection: Connection,
    pub(super) watches: Watches,
    pub(super) secrets: secrets::Watches,
    running: JoinSet<Done>,
    /// When the Lease is renewed next.
    renew_at: Instant,
}

impl Session {
    pub(super) fn begin(
        connection: Connection,
        director: &str,
        wanted: &Arc<Wanted>,
        (to, of_keys): (&mpsc::Sender<Heard>, &mpsc::Sender<secrets::Told>),
        now: Instant,
    ) -> Self {
        let watches = Watches::spawn(&connection.client, director, wanted, to);
        let secrets = secrets::Watches::new(&connection.client, &connection.namespace, of_keys);
        Self { connection, watches, secrets, running: JoinSet::new(), renew_at: now }
    }

    pub(super) fn tick(&mut self, now: Instant, director: &str) {
        if now < self.renew_at {
            return;
        }
        // Until it is known what became of this one, which is bounded.
        self.renew_at = now + 2 * PATIENCE;
        let (connection, director) = (self.connection.clone(), director.to_owned());
        self.running
            .spawn(async move { Done::Lease(write::lease(&connection, &director, true, PATIENCE).await) });
    }

    /// Begins to write a status. Whoever plans bounds how many.
    pub(super) fn write(&mut self, write: Write) {
        let connection = self.connection.clone();
        self.running.spawn(async move {
            let result = write::status(&connection, write.what, &write.place, &write.status).await;
            Done::Status(write, result)
        });
    }

    /// Begins to read the slices of a Service. Whoever asks bounds how many.
    pub(super) fn fetch(&mut self, director: &str, wanted: &Arc<Wanted>, service: Service) {
        let (client, director) = (self.connection.client.clone(), director.to_owned());
        let wanted = Arc::clone(wanted);
        self.running.spawn(async move {
            let slices = fetch::slices(&client, &director, &wanted, &service).await;
            Done::Slices(service, slices)
        });
    }

    /// The next that is done; none where nothing is under way.
    pub(super) async fn next(session: Option<&mut Self>) -> Option<Done> {
        let session = session?;
        // A task that panicked has said so.
        let done = session.running.join_next().await?.ok()?;
        if let Done::Lease(result) = &done {
            let pause = if result.is_ok() { RENEW } else { RETRY };
            session.renew_at = Instant::now() + pause;
        }
        Some(done)
    }

    /// Gives the Lease up, within a bound.
    pub(super) async fn leave(&self, director: &str, within: Duration) {
        if let Err(trouble) = write::lease(&self.connection, director, false, within).await {
            tracing::debug!("the Lease was not given up: {trouble}");
        }
    }
}
