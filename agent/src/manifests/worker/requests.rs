//! What others want of the worker.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use tokio::sync::oneshot;

use crate::manifests::view::View;

/// Something that the worker is asked for.
pub(super) enum Request {
    /// A look at all files.
    Rescan,
    /// Everything that the manifests say.
    View(oneshot::Sender<Arc<View>>),
}

/// Where requests arrive.
pub(super) struct Inbox {
    pub(super) requests: Receiver<Request>,
    /// Readable when there is a request, or an end.
    pub(super) woken: UnixStream,
    pub(super) stop: Arc<AtomicBool>,
}

impl Inbox {
    /// Nobody wants anything any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Those who wait for a view, and whether somebody wants a look.
    pub(super) fn take(&self) -> (Vec<oneshot::Sender<Arc<View>>>, bool) {
        let mut bytes = [0; 256];
        while matches!((&self.woken).read(&mut bytes), Ok(length) if length == bytes.len()) {}
        let mut waiting = Vec::new();
        let mut rescan = false;
        for request in self.requests.try_iter() {
            match request {
                Request::Rescan => rescan = true,
                Request::View(answer) => waiting.push(answer),
            }
        }
        (waiting, rescan)
    }
}

/// Gives all who still wait one view, which takes time to make: nobody's patience must be spent on those who gave up.
pub(super) fn answer(mut waiting: Vec<oneshot::Sender<Arc<View>>>, view: impl FnOnce() -> View) {
    waiting.retain(|answer| !answer.is_closed());
    if waiting.is_empty() {
        return;
    }
    let view = Arc::new(view());
    for answer in waiting {
        // Who gave up just now has lost nothing.
        let _ = answer.send(Arc::clone(&view));
    }
}
