//! Transitions that wait for their programs: bounded, and the last one is never lost.

use std::collections::VecDeque;

use super::Transition;

/// Transitions that wait. A group that makes more while one program runs is flapping, and its newest state is what counts.
pub(super) const MAX_WAITING: usize = 16;

/// The transitions of one group, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Transition>,
    /// Not told so far, since the last [`Queue::take`].
    dropped: usize,
}

impl Queue {
    /// Adds the newest; the oldest goes when there are too many.
    pub(super) fn push(&mut self, transition: Transition) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(transition);
    }

    /// The oldest, and how many before it were not told.
    pub(super) fn take(&mut self) -> Option<(Transition, usize)> {
        let transition = self.waiting.pop_front()?;
        Some((transition, std::mem::take(&mut self.dropped)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bascule_crds::vrrp_group::VrrpState;

    use super::*;

    fn transition(priority: u8) -> Transition {
        Transition {
            group: "front".into(),
            from: VrrpState::Backup,
            to: VrrpState::Active,
            reason: String::new(),
            priority,
            at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_newest_are_kept_in_order_and_the_dropped_counted() {
        for count in [1u8, 16, 17, 200] {
            let mut queue = Queue::default();
            (0..count).for_each(|number| queue.push(transition(number)));
            let kept = usize::from(count).min(MAX_WAITING);
            let mut told = Vec::new();
            let mut dropped = 0;
            while let Some((transition, before)) = queue.take() {
                told.push(transition.priority);
                dropped += before;
            }
            assert_eq!(told.len(), kept);
            assert_eq!(dropped, usize::from(count) - kept);
            assert!(told.is_sorted() && told.last() == Some(&(count - 1)));
        }
    }
}
