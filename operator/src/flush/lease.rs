//! The operators' Lease, taken so that none of them writes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::{Asked, within};
use crate::api::causes;
use crate::election::Timing;
use crate::names::{ELECTION_LEASE, MANAGER};

/// After all is clean, so long no operator leads: time to remove them.
pub(super) const AFTERWARDS: Duration = Duration::from_secs(60);
/// Between two tries to take it.
const AGAIN: Duration = Duration::from_millis(200);

/// The Lease, held.
pub(super) struct Held {
    api: Api<Lease>,
    identity: String,
    version: Option<String>,
    transitions: i32,
}

impl Held {
    /// Takes it from whoever holds it, for `lasting`: an operator that finds it held by another one stops, and takes it back only when that
    /// time is over.
    ///
    /// # Errors
    /// When it could not be written until `deadline`.
    pub(super) async fn take(
        client: Client,
        namespace: &str,
        identity: &str,
        lasting: Duration,
        deadline: Instant,
    ) -> Result<Self> {
        let api = Api::<Lease>::namespaced(client, namespace);
        let mut held = Self { api, identity: identity.to_owned(), version: None, transitions: 0 };
        loop {
            let error = match held.try_take(lasting).await {
                Ok(()) => return Ok(held),
                // An operator has renewed it meanwhile.
                Err(Asked::Answer(kube::Error::Api(status))) if status.code == 409 => None,
                Err(Asked::Answer(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
                    bail!("the Lease {ELECTION_LEASE} in {namespace} cannot be taken: {}", status.message)
                }
                Err(error) => Some(error),
            };
            if Instant::now() >= deadline {
                let why = format!("the Lease {ELECTION_LEASE} in {namespace} could not be taken");
                return match error {
                    Some(error) => Err(error).context(why),
                    None => bail!("{why}: it changed every time"),
                };
            }
            if let Some(error) = error {
                tracing::warn!("the Lease {ELECTION_LEASE} is not taken yet: {}", causes(&error));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn try_take(&mut self, lasting: Duration) -> Result<(), Asked> {
        let there = within(Timing::DEFAULT.request, self.api.get_opt(ELECTION_LEASE)).await?;
        let spec = there.as_ref().and_then(|lease| lease.spec.as_ref());
        self.transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0).saturating_add(1);
        self.version = there.and_then(|lease| lease.metadata.resource_version);
        self.write(&self.identity.clone(), lasting).await
    }

    async fn write(&mut self, holder: &str, lasting: Duration) -> Result<(), Asked> {
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(i32::try_from(lasting.as_secs().max(1)).unwrap_or(i32::MAX)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(self.transitions),
            ..LeaseSpec::default()
        };
        let name = Some(ELECTION_LEASE.into());
        let metadata = ObjectMeta { name, resource_version: self.version.clone(), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec) };
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let request = async {
            match &self.version {
                Some(_) => self.api.replace(ELECTION_LEASE, &params, &lease).await,
                None => self.api.create(&params, &lease).await,
            }
        };
        self.version = within(Timing::DEFAULT.request, request).await?.metadata.resource_version;
        Ok(())
    }

    /// What the flush is called: whoever took the Lease, and how often it has gone to somebody, which nobody else had.
    pub(super) fn name(&self) -> String {
        let suffix: String =
            self.identity.chars().rev().take_while(char::is_ascii_alphanumeric).take(16).collect();
        format!("flush-{}-{}", self.transitions, suffix.chars().rev().collect::<String>().to_lowercase())
    }

    /// All is clean: keeps it for a while. Otherwise gives it up.
    pub(super) async fn end(mut self, clean: bool) {
        let (holder, lasting) =
            if clean { (self.identity.clone(), AFTERWARDS) } else { (String::new(), Duration::from_secs(1)) };
        if let Err(error) = self.write(&holder, lasting).await {
            // Its time ends all the same.
            tracing::warn!(
                "the Lease {ELECTION_LEASE} stays taken until its time is over: {}",
                causes(&error)
            );
        }
    }
}
