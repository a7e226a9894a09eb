//! One combination: both start, the active one dies, comes back, ends in order, comes back.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bascule_crds::director_config::DirectorVrrpGroup;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{
    case::{Case, Software},
    frr::Frr,
    keepalived::Keepalived,
};
use crate::net::{Machine, Net, PATIENCE, Speaker, block};

pub(super) const VRID: u8 = 30;
pub(super) const ADDRESS: &str = "192.16.193.30";
pub(super) const ADDRESS6: &str = "2001:db8::30";
/// What the virtual router's hardware address gives: the first address of an IPv6 virtual router is link-local.
pub(super) const LINK_LOCAL: &str = "fe80::200:5eff:fe00:21e";
pub(super) const PASSWORD: &str = "sesame";
/// Our own addresses and the peer's, IPv4 and IPv6.
pub(super) const US: [&str; 2] = ["192.16.193.1", "fe80::ff:fe00:1"];
pub(super) const PEER: [&str; 2] = ["192.16.193.2", "fe80::ff:fe00:2"];

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Who was active, in the order of the columns.
    steps: [Who; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Bascule,
    Peer,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for who in self.steps {
            write!(f, " {} |", if who == Who::Bascule { "Bascule" } else { "peer" })?;
        }
        Ok(())
    }
}

/// Another implementation.
pub(super) trait Peer {
    fn start(&mut self);
    fn is_active(&self, case: &Case) -> bool;
    /// It is gone without a word.
    fn crash(&mut self);
    /// It ends in order.
    fn end(&mut self);
    fn log(&self) -> String;
}

pub(super) fn signal(pid: i32, signal: Signal) {
    // It may have ended.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

/// Ours and theirs on one network.
struct Bench<'a> {
    case: &'a Case,
    machine: &'a Machine,
    ours: Option<Speaker>,
    peer: Box<dyn Peer + 'a>,
    password: &'a str,
}

impl Bench<'_> {
    fn start_ours(&mut self) {
        let speaker = self.machine.start();
        speaker.handle.configure(&[group(self.case, self.password)]);
        self.ours = Some(speaker);
    }

    fn now(&self) -> Option<Who> {
        let ours = self.machine.has(if self.case.ipv6 { ADDRESS6 } else { ADDRESS });
        match (ours, self.peer.is_active(self.case)) {
            (true, false) => Some(Who::Bascule),
            (false, true) => Some(Who::Peer),
            _ => None,
        }
    }

    /// Waits until it alone is active and has stayed so: where the other must not preempt, for longer than a backup waits.
    fn wait_for(&self, who: Who, when: &str) {
        let interval = u64::from(self.case.interval_ms);
        let stays = Duration::from_millis(200 + if self.case.preempt { interval } else { interval * 4 });
        let until = Instant::now() + PATIENCE;
        let mut since = None;
        while since.is_none_or(|since: Instant| since.elapsed() < stays) {
            let seen = self.now();
            since = if seen == Some(who) { since.or_else(|| Some(Instant::now())) } else { None };
            assert!(
                Instant::now() < until,
                "{when}: {who:?} should be active alone; seen {seen:?}\nours: {}\npeer: {}",
                self.ours.as_ref().map_or_else(String::new, |ours| ours.history().join(", ")),
                self.peer.log().lines().rev().take(12).collect::<Vec<_>>().join("\n  ")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ours is gone, as with a machine that loses power: nothing is said, and the address goes.
    fn crash_ours(&mut self) {
        self.machine.silence(true);
        if let Some(ours) = self.ours.take() {
            block(ours.handle.stop());
        }
        self.machine.silence(false);
    }

    fn end_ours(&mut self) {
        if let Some(ours) = self.ours.take() {
            block(ours.handle.stop());
        }
    }

    fn crash(&mut self, who: Who) {
        if who == Who::Bascule { self.crash_ours() } else { self.peer.crash() }
    }

    fn end(&mut self, who: Who) {
        if who == Who::Bascule { self.end_ours() } else { self.peer.end() }
    }

    fn start(&mut self, who: Who) {
        if who == Who::Bascule { self.start_ours() } else { self.peer.start() }
    }
}

fn group(case: &Case, password: &str) -> DirectorVrrpGroup {
    let addresses = if case.ipv6 {
        json!([format!("{LINK_LOCAL}/128"), format!("{ADDRESS6}/64")])
    } else {
        json!([format!("{ADDRESS}/32")])
    };
    let mut value = json!({
        "name": "front",
        "priority": if case.ours_is_higher { 200 } else { 100 },
        "highest": case.ours_is_higher,
        "version": case.version,
        "advertisementInterval": format!("{}ms", case.interval_ms),
        "downIntervals": 3,
        "preempt": {"enabled": case.preempt, "delay": "0s"},
        "onAgentLoss": "Release",
        "instances": [{"name": "front", "interface": "eth0", "virtualRouterId": VRID, "addresses": addresses}],
    });
    if case.unicast {
        let at = usize::from(case.ipv6);
        value["ownAddresses"] = json!({"front": US[at]});
        value["unicastPeers"] = json!({"front": [PEER[at]]});
        // keepalived sends IPv6 unicast with the kernel's hop limit, not with 255.
        if case.ipv6 {
            value["minTtl"] = json!(64);
        }
    }
    if case.password {
        value["authentication"] = json!({"simple": {"file": password}});
    }
    serde_json::from_value(value).unwrap()
}

/// # Panics
/// Where something else happens than the two were set up for.
pub(super) fn play(software: Software, case: &Case) -> Seen {
    let net = Net::new();
    let (dir1, dir2) = (net.machine(1), net.machine(2));
    let folder = tempfile::tempdir().unwrap();
    // The peer's folder goes to the peer's user; the password is for us.
    let secrets = tempfile::tempdir().unwrap();
    let password = secrets.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let peer: Box<dyn Peer + '_> = match software {
        Software::Keepalived => Box::new(Keepalived::new(&dir2, case, false, folder.path())),
        Software::NewerKeepalived => Box::new(Keepalived::new(&dir2, case, true, folder.path())),
        Software::Frr => Box::new(Frr::new(&dir2, case, folder.path())),
    };
    let mut bench = Bench { case, machine: &dir1, ours: None, peer, password: password.to_str().unwrap() };
    let (higher, lower) =
        if case.ours_is_higher { (Who::Bascule, Who::Peer) } else { (Who::Peer, Who::Bascule) };
    // The lower one is there first, so that preemption has something to do.
    bench.start(lower);
    bench.wait_for(lower, "alone");
    bench.start(higher);
    let active = if case.preempt { higher } else { lower };
    bench.wait_for(active, "both run");
    let other = if active == higher { lower } else { higher };
    bench.crash(active);
    bench.wait_for(other, "the active one is dead");
    bench.start(active);
    let back = if case.preempt { higher } else { other };
    bench.wait_for(back, "it returned");
    // In order, with priority 0.
    let rest = if back == higher { lower } else { higher };
    bench.end(back);
    bench.wait_for(rest, "the active one ended");
    bench.start(back);
    let last = if case.preempt { higher } else { rest };
    bench.wait_for(last, "it returned again");
    if let Some(ours) = &bench.ours {
        for instance in &ours.status().groups[0].instances {
            assert!(instance.rejected.is_empty(), "refused: {:?}", instance.rejected);
        }
    }
    Seen { steps: [active, other, rest, last] }
}
