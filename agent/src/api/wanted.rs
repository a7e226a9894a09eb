//! Which EndpointSlices are wanted: told by whoever knows the bindings, asked by whoever reads slices. What is not wanted costs no
//! more than being read.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::heard::Place;
use crate::endpoints::Service;

/// The wanted Services, and the slices that were let through.
#[derive(Debug, Default)]
pub struct Wanted {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeSet<Service>,
    /// So that one that is another Service's now, or of none that is wanted any more, is told to be gone.
    let_through: BTreeSet<Place>,
}

/// What becomes of a slice that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passes {
    /// It is told.
    In,
    /// It was told before, and is told to be gone.
    Out,
    /// Nobody wants it.
    Not,
}

impl Wanted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants the slices of these Services from now on, and of no others.
    pub(super) fn set(&self, services: BTreeSet<Service>) {
        let any = !services.is_empty();
        self.state().services = services;
        if any {
            self.more.notify_one();
        }
    }

    /// The Services whose slices are wanted now.
    pub(super) fn services(&self) -> BTreeSet<Service> {
        self.state().services.clone()
    }

    /// Waits until any are.
    pub(super) async fn any(&self) {
        loop {
            if !self.state().services.is_empty() {
                return;
            }
            self.more.notified().await;
        }
    }

    /// A slice was read that is of this Service; none where it is gone.
    pub(super) fn passes(&self, place: &Place, service: Option<&Service>) -> Passes {
        let mut state = self.state();
        if service.is_some_and(|service| state.services.contains(service)) {
            state.let_through.insert(place.clone());
            Passes::In
        } else if state.let_through.remove(place) {
            Passes::Out
        } else {
            Passes::Not
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_and_is_not_wanted_any_more_is_told_to_be_gone() {
        let service = |name: &str| Service { namespace: "tp".into(), name: name.into() };
        let place = Place { namespace: "tp".into(), name: "web-1".into() };
        let wanted = Wanted::default();
        let (web, other) = (service("web"), service("other"));
        assert_eq!(wanted.passes(&place, Some(&web)), Passes::Not);
        wanted.set([web.clone()].into());
        assert_eq!(wanted.passes(&place, Some(&web)), Passes::In);
        assert_eq!(wanted.passes(&place, Some(&other)), Passes::Out, "it is another one's now");
        assert_eq!(wanted.passes(&place, Some(&other)), Passes::Not);
        assert_eq!(wanted.passes(&place, Some(&web)), Passes::In);
        wanted.set([other.clone()].into());
        assert_eq!(wanted.passes(&place, Some(&web)), Passes::Out);
        assert_eq!(wanted.passes(&place, Some(&other)), Passes::In);
        assert_eq!(wanted.passes(&place, None), Passes::Out, "it was deleted");
        assert_eq!(wanted.passes(&place, None), Passes::Not);
    }
}
