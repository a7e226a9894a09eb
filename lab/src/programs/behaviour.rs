//! How a server of the lab behaves, what it is told over its control socket, and what it counts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Answer.
    #[default]
    Ok,
    /// Answer HTTP and SMTP with an error status, DNS with a server failure; close TCP; drop datagrams.
    Error,
    /// Answer after a delay.
    Slow,
    /// Accept and never answer.
    Hang,
    /// Close the listening sockets, as a stopped service does.
    Refuse,
}

/// What a server was last told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Behaviour {
    /// What to do with a request.
    #[serde(default)]
    pub mode: Mode,
    /// Delay of `slow`, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Status of `error`; 500 of HTTP and 421 of SMTP unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// A page other than the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The certificate of TLS instead of the first one: a file with it and its key, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<std::path::PathBuf>,
}

/// An order on the control socket.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Order {
    Set(Behaviour),
    Get(Subject),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Subject {
    Counts,
    Behaviour,
}

/// What a server has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests, lines and datagrams.
    pub requests: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub open: u64,
    /// Requests by the client's address as the server saw it.
    pub clients: BTreeMap<String, u64>,
}

impl Behaviour {
    pub(super) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.unwrap_or(0))
    }
}
