//! Programs by others that do the agent's work: with which files, under which name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A program by somebody else. Exactly one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Peer {
    /// keepalived.
    Keepalived(Keepalived),
    /// heartbeat of the project Linux-HA, with its resources (`haresources`).
    Heartbeat(Heartbeat),
    /// FRR: `zebra` and `vrrpd`.
    Frr(Frr),
    /// IPVS by hand: commands at each boot, after which nothing runs.
    Ipvsadm(Ipvsadm),
}

/// A file of a peer on its node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerFile<'a> {
    /// Where.
    pub path: &'static str,
    /// What is in it.
    pub text: &'a str,
    /// Who may read it: heartbeat wants its keys to be root's alone.
    pub mode: u32,
}

impl Peer {
    /// The names of all kinds.
    pub const NAMES: [&'static str; 4] = ["keepalived", "heartbeat", "frr", "ipvsadm"];

    /// How scenarios, steps and faults call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Keepalived(_) => "keepalived",
            Self::Heartbeat(_) => "heartbeat",
            Self::Frr(_) => "frr",
            Self::Ipvsadm(_) => "ipvsadm",
        }
    }

    /// What has to be installed: names of programs, or where Debian's package has them; and that package.
    pub fn programs(&self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Keepalived(_) => (&["keepalived"], "keepalived"),
            Self::Heartbeat(_) => (&["/usr/libexec/heartbeat/heartbeat"], "heartbeat"),
            Self::Frr(_) => (&["/usr/lib/frr/zebra", "/usr/lib/frr/vrrpd"], "frr"),
            Self::Ipvsadm(_) => (&["ipvsadm"], "ipvsadm"),
        }
    }

    /// Whether it runs from the start.
    pub fn start(&self) -> bool {
        match self {
            Self::Keepalived(peer) => peer.start,
            Self::Heartbeat(peer) => peer.start,
            Self::Frr(peer) => peer.start,
            Self::Ipvsadm(_) => true,
        }
    }

    /// Whether a process of it stays.
    pub fn stays(&self) -> bool {
        !matches!(self, Self::Ipvsadm(_))
    }

    /// Whether all its processes are in one group, so that all can be killed or stopped at once. heartbeat's are in several.
    pub fn is_one_group(&self) -> bool {
        matches!(self, Self::Keepalived(_) | Self::Frr(_))
    }

    /// What a person writes for it, and where that is on the node's disk.
    pub fn files(&self) -> Vec<PeerFile<'_>> {
        let file = |path, text, mode| PeerFile { path, text, mode };
        match self {
            Self::Keepalived(peer) => vec![file("/etc/keepalived/keepalived.conf", &peer.config, 0o644)],
            Self::Heartbeat(peer) => vec![
                file("/etc/ha.d/ha.cf", &peer.ha_cf, 0o644),
                file("/etc/ha.d/haresources", &peer.haresources, 0o644),
                file("/etc/ha.d/authkeys", &peer.authkeys, 0o600),
            ],
            Self::Frr(peer) => vec![file("/etc/frr/vrrpd.conf", &peer.config, 0o644)],
            Self::Ipvsadm(peer) => vec![file(Ipvsadm::FILE, &peer.commands, 0o755)],
        }
    }
}

/// keepalived with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keepalived {
    /// `/etc/keepalived/keepalived.conf`.
    #[schemars(length(min = 1))]
    pub config: String,
    /// More arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub arguments: Vec<String>,
    /// Whether it runs from the start. True unless told.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub start: bool,
}

/// heartbeat with its three files. Its log is the node's `/var/log/ha-log`, as long as `ha.cf` has `logfile /var/log/ha-log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// `/etc/ha.d/ha.cf`. Its nodes are called as `uname -n` calls them.
    #[serde(rename = "ha.cf")]
    #[schemars(length(min = 1))]
    pub ha_cf: String,
    /// `/etc/ha.d/haresources`. Its services are scripts in `/etc/init.d` or `/etc/ha.d/resource.d`.
    #[schemars(length(min = 1))]
    pub haresources: String,
    /// `/etc/ha.d/authkeys`, which root alone may read.
    #[schemars(length(min = 1))]
    pub authkeys: String,
    /// Whether it runs from the start. True unless told.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub start: bool,
}

/// FRR's `zebra` and `vrrpd`. The macvlan that holds the addresses is made by the node's `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Frr {
    /// `/etc/frr/vrrpd.conf`.
    #[schemars(length(min = 1))]
    pub config: String,
    /// Whether it runs from the start. True unless told.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub start: bool,
}

/// What an administrator types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ipvsadm {
    /// Lines for `/bin/sh -e`, run at each boot when the servers run: the address, forwarding, the rules. One that fails is an error of
    /// the run.
    #[schemars(length(min = 1))]
    pub commands: String,
}

impl Ipvsadm {
    /// Where its lines are on the node's disk.
    pub const FILE: &str = "/etc/ipvsadm.commands";
}

pub(super) fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
pub(super) fn is_true(value: &bool) -> bool {
    *value
}
