//! The Lease in the API server.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;

use super::{Election, Failure, Record, Step, Timing};
use crate::api::causes;
use crate::names::{ELECTION_LEASE, MANAGER};

/// The term of office: requests may begin until `until`. Another `number` is another term: what was known before counts no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// Counts the terms of this process.
    pub number: u64,
    /// Requests may begin until then; `None`: somebody else leads, or nobody.
    pub until: Option<Instant>,
}

/// What the election tells others.
#[derive(Debug)]
pub struct Told {
    /// The term.
    pub term: watch::Sender<Term>,
    /// When the Lease was last read or written.
    pub reached: watch::Sender<Option<Instant>>,
}

/// Takes part in the election until `stop`; then gives the Lease up, once `idle` says that nothing of ours is under way.
pub async fn run(
    api: Api<Lease>,
    mut election: Election,
    timing: Timing,
    told: Told,
    mut stop: watch::Receiver<bool>,
    mut idle: watch::Receiver<bool>,
) {
    let mut number = 0;
    let mut led = false;
    let mut unwritten = None;
    loop {
        let now = Instant::now();
        let step = election.step(now);
        let leads = election.leads(now);
        match (led, leads) {
            (false, true) => {
                number += 1;
                tracing::info!(identity = election.me(), "leading");
            }
            (true, false) => tracing::warn!(identity = election.me(), "not leading any more"),
            _ => {}
        }
        led = leads;
        let term = Term { number, until: election.until().filter(|_| leads) };
        told.term.send_if_modified(|told| std::mem::replace(told, term) != term);
        let work = async {
            match step {
                Step::Wait(until) => tokio::time::sleep_until(until.into()).await,
                step => carry_out(&api, &mut election, step, timing, &told, &mut unwritten).await,
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    // Nothing new begins; what is under way ends in time or is given up with the Lease's time.
    told.term.send_replace(Term { number, until: None });
    let over = tokio::time::timeout(2 * timing.request, idle.wait_for(|idle| *idle)).await.is_ok();
    if !over {
        tracing::warn!("something is still under way: the Lease is left to its time");
        return;
    }
    if let Some(record) = election.release(Instant::now()) {
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            lease_transitions: Some(record.transitions),
            ..LeaseSpec::default()
        };
        match write(&api, Some(record.version), spec, timing.request).await {
            Ok(_) => tracing::info!("the Lease is given up"),
            Err(failure) => tracing::warn!("the Lease was not given up: {failure:?}"),
        }
    }
}

/// Who may read the Lease and not write it could not take over: for so long after a write that failed, reading does not count as having
/// reached it. Longer than from one try to the next.
const UNWRITTEN: Duration = Duration::from_secs(60);

/// `unwritten`: when a write last failed, unless one was done since.
async fn carry_out(
    api: &Api<Lease>,
    election: &mut Election,
    step: Step,
    timing: Timing,
    told: &Told,
    unwritten: &mut Option<Instant>,
) {
    let sent = Instant::now();
    let (version, transitions) = match step {
        Step::Wait(_) => return,
        Step::Read => {
            let answer = match tokio::time::timeout(timing.request, api.get_opt(ELECTION_LEASE)).await {
                Ok(Ok(lease)) => Ok(lease.map(record)),
                Ok(Err(error)) => {
                    tracing::warn!("the Lease {ELECTION_LEASE} cannot be read: {}", causes(&error));
                    Err(())
                }
                Err(_) => {
                    tracing::warn!("the API server has not answered for {:?}", timing.request);
                    Err(())
                }
            };
            if answer.is_ok() && unwritten.is_none_or(|at| at.elapsed() > UNWRITTEN) {
                told.reached.send_replace(Some(Instant::now()));
            }
            return election.read(answer, Instant::now());
        }
        Step::Create => (None, 0),
        Step::Write { version, transitions, .. } => (Some(version), transitions),
    };
    let now = MicroTime(Timestamp::now());
    let spec = LeaseSpec {
        holder_identity: Some(election.me().to_owned()),
        lease_duration_seconds: Some(i32::try_from(timing.lease.as_secs()).unwrap_or(i32::MAX)),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    };
    let answer = write(api, version, spec, timing.request).await;
    match &answer {
        Ok(_) => {
            *unwritten = None;
            told.reached.send_replace(Some(Instant::now()));
        }
        // Somebody else could write it.
        Err(Failure::Conflict) => *unwritten = None,
        Err(Failure::Other) => *unwritten = Some(Instant::now()),
    }
    election.wrote(answer, sent, Instant::now());
}

async fn write(
    api: &Api<Lease>,
    version: Option<String>,
    spec: LeaseSpec,
    patience: Duration,
) -> Result<Record, Failure> {
    let create = version.is_none();
    let metadata =
        ObjectMeta { name: Some(ELECTION_LEASE.into()), resource_version: version, ..ObjectMeta::default() };
    let lease = Lease { metadata, spec: Some(spec) };
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let request = async {
        if create {
            api.create(&params, &lease).await
        } else {
            api.replace(ELECTION_LEASE, &params, &lease).await
        }
    };
    match tokio::time::timeout(patience, request).await {
        Ok(Ok(lease)) => Ok(record(lease)),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Err(Failure::Conflict),
        Ok(Err(error)) => {
            tracing::warn!("the Lease {ELECTION_LEASE} cannot be written: {}", causes(&error));
            Err(Failure::Other)
        }
        Err(_) => {
            tracing::warn!("the API server has not answered for {patience:?}");
            Err(Failure::Other)
        }
    }
}

fn record(lease: Lease) -> Record {
    let spec = lease.spec.unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: seconds.map_or(Timing::DEFAULT.lease, Duration::from_secs),
        version: lease.metadata.resource_version.unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}
