//! What the agent knows about itself and its work, put together when somebody asks.

mod assemble;
mod groups;
mod health;
mod rules;
mod socket;
mod text;

pub use assemble::{Gatherer, readiness};
pub use socket::{ClientError, SOCKET, Server, YIELDED, ask, switchover, take_over};
pub use text::render;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::manifests::{Condition, Problem};
use crate::services::GroupServices;
use crate::vrrp::VrrpStatus;

/// Everything, as `status -o json` prints it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// This machine's name in the manifests.
    pub director: String,
    /// Since the start, in seconds.
    pub uptime_seconds: f64,
    /// As /readyz.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ready_because: Option<String>,
    /// What it is told.
    pub manifests: ManifestsStatus,
    /// How it stands with the API server; absent with a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiStatus>,
    /// What is kept for the next start.
    pub last_good: LastGoodStatus,
    /// What it does.
    pub reconcile: ReconcileStatus,
    /// The groups of which this director is a member.
    pub vrrp: VrrpStatus,
    /// The machine's services that run where a group is active.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<GroupServices>,
    /// The synchronisation of connections; absent without `connectionSync`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_sync: Option<ConnectionSyncStatus>,
    /// /healthz, /readyz, /metrics.
    pub http: HttpStatus,
    /// The objects of the manifests.
    pub objects: Vec<ObjectStatus>,
}

/// The manifests directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManifestsStatus {
    /// The directory.
    pub directory: String,
    /// Files in it.
    pub files: usize,
    /// Objects in force.
    pub objects: usize,
    /// Of these, those in force in their last good form, because what the file says now cannot be used.
    pub last_good_in_use: usize,
    /// SHA-256 over all objects in force; two directors that are told the same have the same.
    pub digest: String,
    /// Why the whole directory cannot be used, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
    /// Directors that the manifests name.
    pub directors: Vec<String>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The API server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiStatus {
    /// Its address; empty while no kubeconfig can be used.
    pub server: String,
    /// It answers.
    pub connected: bool,
    /// When it answered last, in seconds from now back; absent when it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard_seconds_ago: Option<f64>,
    /// What it refuses, or why it does not answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
}

/// The last good configuration on the disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastGoodStatus {
    /// The file.
    pub path: String,
    /// Objects in it.
    pub objects: usize,
    /// Changes not written yet.
    pub pending: usize,
    /// Why it cannot be written, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The reconciler.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReconcileStatus {
    /// Of the newest change handed over.
    pub told: u64,
    /// Of the newest change that the kernel holds, as far as it could be carried out.
    pub done: u64,
    /// From a change being seen until the kernel held it.
    pub lag: LagStatus,
    /// By plane.
    pub planes: BTreeMap<String, PlaneStatus>,
}

/// Times from a change being seen until the kernel held it, of the newest changes; milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LagStatus {
    /// Since the start.
    pub count: u64,
    /// The newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<f64>,
    /// The median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// 99 of 100 took at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// The longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// A kernel table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlaneStatus {
    /// A full pass was made.
    pub settled: bool,
    /// Passes made.
    pub passes: u64,
    /// When the kernel was last looked at, in seconds from now back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_look_seconds_ago: Option<f64>,
    /// Within what time everything is looked at; absent where the kernel notifies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_period_seconds: Option<f64>,
    /// Operations by kind.
    pub operations: BTreeMap<String, u64>,
    /// Operations that put drift back, by kind.
    pub repaired: BTreeMap<String, u64>,
    /// Operations that the kernel refused.
    pub refused: u64,
    /// What has to be loaded or installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// The last thing that went wrong, also when it is right again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What is not as it should be; at most 100 are listed.
    pub failures: Vec<FailureStatus>,
    /// How many there are.
    pub failure_count: usize,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureStatus {
    /// The kernel's object.
    pub object: String,
    /// One word.
    pub reason: String,
    /// What is the matter and the way out.
    pub message: String,
}

/// The synchronisation of connections, as far as the kernel lets one know it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionSyncStatus {
    /// The interface of the multicast.
    pub interface: String,
    /// The director's.
    pub sync_id: u8,
    /// The kernel's master daemon runs.
    pub master: bool,
    /// The kernel's backup daemon runs.
    pub backup: bool,
    /// Who was heard; at most 64.
    pub peers: Vec<SyncPeerStatus>,
    /// Why peers cannot be heard, if so; the daemons may hear them all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deaf: Option<String>,
    /// Datagrams that the backup daemon had no room for, since it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_drops: Option<u64>,
    /// Connections that came from other directors, counted at most every 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synchronised_connections: Option<u64>,
    /// There are more than were counted.
    pub synchronised_at_least: bool,
    /// Segments that were dropped after a takeover, because their connections were not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard_dropped: Option<u64>,
    /// What looks wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Somebody who sends connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncPeerStatus {
    /// Its syncId.
    pub sync_id: u8,
    /// Its address.
    pub address: String,
    /// When it was last heard, in seconds from now back. A peer without traffic is silent: an age alone means nothing.
    pub last_datagram_seconds_ago: f64,
    /// Datagrams heard, at least.
    pub datagrams: u64,
    /// Connections in them; one that is sent again counts again.
    pub connections: u64,
}

/// The HTTP server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpStatus {
    /// Where it listens; absent with `--listen none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Why it does not, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An object of the manifests.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectStatus {
    /// As `VirtualService tp/web`.
    pub object: String,
    /// The file that it stands in.
    pub file: String,
    /// Its line there.
    pub line: usize,
    /// In force is its last good form, not what the file says now.
    pub last_good: bool,
    /// It is this director's to carry out.
    pub ours: bool,
    /// It is carried out and can serve. Absent where there is nothing to carry out here, and while the kernel has not been asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`; `QuorumMet` and `Degraded` where real servers are checked.
    pub conditions: Vec<Condition>,
    /// What the kernel holds of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceStatus>,
    /// What is known of its real servers, where they are checked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub real_servers: Vec<HealthStatus>,
}

/// What is known of a real server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthStatus {
    /// Its name in the manifest.
    pub name: String,
    /// Its address.
    pub address: String,
    /// `Starting`, `Up`, `Down` or `Draining`.
    pub state: String,
    /// What it weighs, 0 when it is not alive.
    pub weight: u16,
    /// Its checks.
    pub checks: Vec<CheckStatus>,
}

/// A check of a real server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckStatus {
    /// Name of the HealthCheck.
    pub name: String,
    /// Whether it passes. Absent: not known yet, or it cannot be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passing: Option<bool>,
    /// What the last probe said, or why there is none.
    pub message: String,
    /// For how long it has been passing, or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_seconds_ago: Option<f64>,
    /// How much later than due the last probe began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lateness_seconds: Option<f64>,
    /// How long the last one took that said something about its target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
}

/// A service in the kernel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// As `TCP 192.16.193.30:80`.
    pub service: String,
    /// The scheduler.
    pub scheduler: String,
    /// Connections since it was made.
    pub connections: u64,
    /// Its real servers.
    pub real_servers: Vec<RealServerStatus>,
}

/// A real server of a service in the kernel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RealServerStatus {
    /// Its name in the manifest.
    pub name: String,
    /// Address and port.
    pub address: String,
    /// `Starting`, `Up`, `Down` or `Draining`; of a sorry server `Sorry`.
    pub state: String,
    /// The weight that the kernel holds.
    pub weight: u32,
    /// Connections since it was added.
    pub connections: u64,
    /// Established now.
    pub active_connections: u32,
    /// In any other state now.
    pub inactive_connections: u32,
}
