//! After a crash (kill -9, out of memory): go on as Active, or begin as Backup?

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::authentication::Sequence;
use crate::packet::Family;
use crate::time::BootTime;

/// What a running group leaves for a process that comes after it; kept in /run, written after each advertisement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `/proc/sys/kernel/random/boot_id`: points in time mean nothing after a reboot.
    pub boot_id: String,
    /// When its virtual routers last spoke as Active (the one that did so first); `None` while it was not Active, and while it was
    /// handing over.
    pub last_advertisement: Option<BootTime>,
    /// Peers wait at least so long after that before one takes over: `downIntervals` (3) intervals and the least Skew_Time.
    pub patience: Duration,
    /// Whether a commanded switch-over holds against preemption. Unlike the rest it holds after a reboot as well.
    pub hold: bool,
    /// The last sequence number of each virtual router, by instance and family: peers refuse smaller ones.
    pub sequences: Vec<((String, Family), Sequence)>,
}

/// How to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on as Active: no peer can have taken over yet.
    Resume,
    /// Begin as Backup. Addresses that are still there must go first.
    Fresh {
        /// Why.
        reason: &'static str,
    },
}

/// Whether to go on as Active: only if the addresses are all still there, and the last own advertisement is younger than the peers
/// wait. Otherwise somebody else may hold them by now.
pub fn judge(record: Option<&Record>, boot_id: &str, now: BootTime, addresses_there: bool) -> Verdict {
    let Some(record) = record else {
        return Verdict::Fresh { reason: "nothing is known of a former process" };
    };
    if record.boot_id != boot_id {
        return Verdict::Fresh { reason: "the machine was started anew" };
    }
    let Some(last) = record.last_advertisement else {
        return Verdict::Fresh { reason: "the former process was not active" };
    };
    if !addresses_there {
        return Verdict::Fresh { reason: "the addresses are not there any more" };
    }
    if now < last || now.since(last) >= record.patience {
        return Verdict::Fresh { reason: "the last advertisement is older than the peers wait" };
    }
    Verdict::Resume
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_duration(Duration::from_millis(millis))
    }

    #[test]
    fn only_who_was_heard_a_moment_ago_and_has_the_addresses_goes_on() {
        let record = Record {
            boot_id: "a".into(),
            last_advertisement: Some(at(10_000)),
            patience: Duration::from_millis(300),
            hold: false,
            sequences: Vec::new(),
        };
        let silent = Record { last_advertisement: None, ..record.clone() };
        for (record, boot, now, there, resumes) in [
            (Some(&record), "a", 10_000, true, true),
            (Some(&record), "a", 10_299, true, true),
            (Some(&record), "a", 10_300, true, false),
            (Some(&record), "a", 10_100, false, false),
            (Some(&record), "b", 10_100, true, false),
            (Some(&record), "a", 9_999, true, false),
            (Some(&silent), "a", 10_100, true, false),
            (None, "a", 10_100, true, false),
        ] {
            let verdict = judge(record, boot, at(now), there);
            assert_eq!(verdict == Verdict::Resume, resumes, "{boot} {now} {there}: {verdict:?}");
        }
    }
}
