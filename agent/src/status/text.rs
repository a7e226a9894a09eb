//! The status for people.

use std::fmt::Write as _;

use super::{ConnectionSyncStatus, HealthStatus, ObjectStatus, PlaneStatus, Status, groups};
use crate::manifests::Condition;

pub(super) const GREEN: &str = "\x1b[32m";
pub(super) const RED: &str = "\x1b[31m";
pub(super) const YELLOW: &str = "\x1b[33m";
pub(super) const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Objects spelled out when all is well; with more, only those that are not well are.
const SPELLED_OUT: usize = 50;

/// The status as text; with colours for a terminal.
pub fn render(status: &Status, colours: bool) -> String {
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = write(&mut text, status, &Painter { colours });
    text
}

pub(super) struct Painter {
    colours: bool,
}

impl Painter {
    pub(super) fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }
}

fn write(text: &mut String, status: &Status, painter: &Painter) -> std::fmt::Result {
    let state = if status.ready { painter.paint(GREEN, "ready") } else { painter.paint(RED, "not ready") };
    writeln!(
        text,
        "{} {}: {state} (version {}, process {}, up {})",
        painter.paint(BOLD, "director"),
        status.director,
        status.version,
        status.pid,
        duration(status.uptime_seconds)
    )?;
    if let Some(why) = &status.not_ready_because {
        for line in why.lines() {
            writeln!(text, "  {}", painter.paint(RED, line))?;
        }
    }
    manifests(text, status, painter)?;
    kernel(text, status, painter)?;
    groups::write(text, status, painter)?;
    if let Some(sync) = &status.connection_sync {
        connection_sync(text, sync, painter)?;
    }
    if let Some(error) = &status.http.error {
        writeln!(text, "{}   {}", painter.paint(BOLD, "http"), painter.paint(RED, error))?;
    }
    objects(text, &status.objects, painter)
}

fn manifests(text: &mut String, status: &Status, painter: &Painter) -> std::fmt::Result {
    let manifests = &status.manifests;
    let digest = manifests.digest.get(..19).unwrap_or(&manifests.digest);
    let (label, source, how) = match &status.api {
        Some(api) => {
            let ago = api.last_heard_seconds_ago.map(|ago| format!("silent for {}", duration(ago)));
            let silent = || painter.paint(RED, &ago.unwrap_or_else(|| "never heard".into()));
            ("api", &api.server, if api.connected { "connected".to_owned() } else { silent() })
        }
        None => ("manifests", &manifests.directory, count(manifests.files, "file")),
    };
    writeln!(
        text,
        "{} {source}: {how}, {}, {} ({digest}…)",
        painter.paint(BOLD, label),
        count(manifests.objects, "object"),
        count(manifests.problems.len(), "problem")
    )?;
    if let Some(unusable) = &manifests.unusable {
        writeln!(text, "  {}", painter.paint(RED, unusable))?;
    }
    if manifests.last_good_in_use > 0 {
        let line = format!("{} in force in the last good form", count(manifests.last_good_in_use, "object"));
        writeln!(text, "  {}", painter.paint(YELLOW, &line))?;
    }
    for problem in &manifests.problems {
        writeln!(text, "  {}", painter.paint(RED, &problem.to_string()))?;
    }
    for note in &manifests.notes {
        writeln!(text, "  {}", painter.paint(YELLOW, note))?;
    }
    if let Some(error) = &status.last_good.error {
        let line = format!("{} cannot be written: {error}", status.last_good.path);
        writeln!(text, "  {}", painter.paint(RED, &line))?;
    }
    Ok(())
}

fn kernel(text: &mut String, status: &Status, painter: &Painter) -> std::fmt::Result {
    let reconcile = &status.reconcile;
    write!(text, "{}", painter.paint(BOLD, "kernel"))?;
    for (index, (name, plane)) in reconcile.planes.iter().enumerate() {
        let separator = if index == 0 { "    " } else { ", " };
        write!(text, "{separator}{name} {}", plane_word(plane, painter))?;
    }
    writeln!(text)?;
    if reconcile.done < reconcile.told {
        writeln!(text, "  {}", painter.paint(YELLOW, "changes are being carried out"))?;
    }
    let lag = &reconcile.lag;
    if let (Some(newest), Some(p99)) = (lag.newest, lag.p99) {
        writeln!(
            text,
            "  {} carried out; the newest took {newest:.1} ms, 99 % at most {p99:.1} ms",
            count(usize::try_from(lag.count).unwrap_or(usize::MAX), "change")
        )?;
    }
    for (name, plane) in &reconcile.planes {
        for failure in plane.failures.iter().take(20) {
            let line = format!("{name}: {}: {}", failure.object, failure.message);
            writeln!(text, "  {}", painter.paint(RED, &line))?;
        }
        if plane.failure_count > 20 {
            writeln!(text, "  {name}: and {} more", plane.failure_count - 20)?;
        }
        let repaired: Vec<_> = plane.repaired.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        if !repaired.is_empty() {
            writeln!(text, "  {name}: put back what somebody changed: {}", repaired.join(", "))?;
        }
    }
    Ok(())
}

fn connection_sync(text: &mut String, sync: &ConnectionSyncStatus, painter: &Painter) -> std::fmt::Result {
    let word = |name: &str, runs: bool| {
        if runs { painter.paint(GREEN, name) } else { painter.paint(RED, &format!("no {name}")) }
    };
    write!(
        text,
        "{}      {} syncId {}: {}, {}",
        painter.paint(BOLD, "sync"),
        sync.interface,
        sync.sync_id,
        word("master", sync.master),
        word("backup", sync.backup)
    )?;
    if let Some(connections) = sync.synchronised_connections {
        let least = if sync.synchronised_at_least { "at least " } else { "" };
        write!(text, ", {least}{connections} connections from others")?;
    }
    writeln!(text)?;
    let ours = sync.peers.iter().filter(|peer| peer.sync_id == sync.sync_id);
    for peer in ours.take(16) {
        let ago = duration(peer.last_datagram_seconds_ago);
        writeln!(text, "  peer {}: last heard {ago} ago, {} datagrams", peer.address, peer.datagrams)?;
    }
    if let Some(drops) = sync.receive_drops.filter(|drops| *drops > 0) {
        let line = format!("{drops} datagrams did not fit into the backup daemon's socket");
        writeln!(text, "  {}", painter.paint(YELLOW, &line))?;
    }
    if let Some(dropped) = sync.guard_dropped.filter(|dropped| *dropped > 0) {
        writeln!(text, "  {dropped} segments of unknown connections dropped after takeovers")?;
    }
    for line in sync.deaf.iter().chain(&sync.warnings) {
        writeln!(text, "  {}", painter.paint(YELLOW, line))?;
    }
    Ok(())
}

fn plane_word(plane: &PlaneStatus, painter: &Painter) -> String {
    if plane.missing.is_some() {
        painter.paint(RED, "missing")
    } else if plane.failure_count > 0 {
        painter.paint(RED, &count(plane.failure_count, "failure"))
    } else if plane.settled {
        painter.paint(GREEN, "ok")
    } else {
        painter.paint(YELLOW, "starting")
    }
}

fn objects(text: &mut String, objects: &[ObjectStatus], painter: &Painter) -> std::fmt::Result {
    let well = |object: &&ObjectStatus| object.ready != Some(false) && object.conditions.iter().all(is_well);
    let all = objects.len() <= SPELLED_OUT;
    let quiet = if all { 0 } else { objects.iter().filter(well).count() };
    let shown = objects.iter().filter(|object| all || !well(object));
    for (index, object) in shown.enumerate() {
        if index == 1000 {
            writeln!(text, "… and {} more (see -o json)", objects.len() - quiet - index)?;
            break;
        }
        one(text, object, painter)?;
    }
    if quiet > 0 {
        writeln!(text, "{} well (see -o json)", count(quiet, "object"))?;
    }
    Ok(())
}

fn one(text: &mut String, object: &ObjectStatus, painter: &Painter) -> std::fmt::Result {
    let bad: Vec<_> = object.conditions.iter().filter(|condition| !is_well(condition)).collect();
    let word = match object.ready {
        Some(true) => painter.paint(GREEN, "Ready"),
        Some(false) => painter.paint(RED, "NotReady"),
        None if bad.is_empty() => "Accepted".to_owned(),
        None => painter.paint(YELLOW, &bad[0].reason),
    };
    writeln!(text, "{}  {word}  {}:{}", painter.paint(BOLD, &object.object), object.file, object.line)?;
    for condition in bad {
        writeln!(
            text,
            "  {} {}: {}{}{}",
            condition.type_,
            condition.status,
            condition.reason,
            if condition.message.is_empty() { "" } else { ": " },
            condition.message
        )?;
    }
    for service in &object.services {
        writeln!(text, "  {} {}", service.service, service.scheduler)?;
        for server in &service.real_servers {
            let state = if server.weight > 0 { GREEN } else { YELLOW };
            writeln!(
                text,
                "    {:<16} {:<24} weight {:<5} {}  active {} inactive {}",
                server.name,
                server.address,
                server.weight,
                painter.paint(state, &server.state),
                server.active_connections,
                server.inactive_connections
            )?;
        }
    }
    object.real_servers.iter().try_for_each(|server| health(text, server, painter))
}

/// Whether a condition says something good.
fn is_well(condition: &Condition) -> bool {
    condition.status == if condition.type_ == "Degraded" { "False" } else { "True" }
}

/// The checks of a real server that do not pass; nothing when all do.
fn health(text: &mut String, server: &HealthStatus, painter: &Painter) -> std::fmt::Result {
    for check in server.checks.iter().filter(|check| check.passing != Some(true)) {
        let (colour, word) = match check.passing {
            Some(_) => (RED, "fails"),
            None => (YELLOW, "not known"),
        };
        let since = check.since_seconds_ago.map(|since| format!(" for {}", duration(since)));
        writeln!(
            text,
            "    {:<16} {} {}{}{}{}",
            server.name,
            check.name,
            painter.paint(colour, word),
            since.unwrap_or_default(),
            if check.message.is_empty() { "" } else { ": " },
            check.message
        )?;
    }
    Ok(())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs_f64(seconds.max(0.0)).as_secs();
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{}h", whole / 86400, whole % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LagStatus, RealServerStatus, ServiceStatus};
    use super::*;
    use crate::manifests::{Effect, Problem};

    fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
        }
    }

    fn object(name: &str, ready: Option<bool>, conditions: Vec<Condition>) -> ObjectStatus {
        ObjectStatus {
            object: format!("VirtualService tp/{name}"),
            file: format!("m/{name}.yaml"),
            line: 3,
            ours: ready.is_some(),
            ready,
            conditions,
            ..ObjectStatus::default()
        }
    }

    fn status() -> Status {
        let mut status = Status {
            version: "1.2.3".into(),
            pid: 42,
            director: "dir1".into(),
            uptime_seconds: 3725.0,
            ready: true,
            ..Status::default()
        };
        status.manifests.directory = "m".into();
        status.manifests.files = 2;
        status.manifests.objects = 2;
        status.manifests.digest = format!("sha256:{}", "ab".repeat(32));
        status.manifests.last_good_in_use = 1;
        status.manifests.problems = vec![Problem {
            file: "m/db.yaml".into(),
            line: Some(9),
            object: Some("VirtualService tp/db".into()),
            field: Some("spec.ports[0].port".into()),
            message: "must be at most 65535".into(),
            effect: Effect::LastGoodStays,
            ..Problem::default()
        }];
        status.reconcile.lag =
            LagStatus { count: 12, newest: Some(1.25), p50: None, p99: Some(3.0), max: None };
        let mut ipvs = PlaneStatus { settled: true, ..PlaneStatus::default() };
        ipvs.repaired.insert("add-service".into(), 2);
        status.reconcile.planes.insert("ipvs".into(), ipvs);
        status.reconcile.planes.insert("nat".into(), PlaneStatus::default());
        let peer = |sync_id, address: &str| super::super::SyncPeerStatus {
            sync_id,
            address: address.into(),
            last_datagram_seconds_ago: 1.2,
            datagrams: 9,
            connections: 17,
        };
        status.connection_sync = Some(ConnectionSyncStatus {
            interface: "eth1".into(),
            sync_id: 51,
            master: true,
            backup: false,
            peers: vec![peer(51, "172.16.193.2"), peer(52, "172.16.193.9")],
            receive_drops: Some(3),
            synchronised_connections: Some(40),
            guard_dropped: Some(5),
            warnings: vec!["datagrams of syncId 52".into()],
            ..ConnectionSyncStatus::default()
        });
        let mut web = object("web", Some(true), vec![condition("Accepted", "True", "Accepted", "")]);
        let server = |name: &str, weight, state: &str| RealServerStatus {
            name: name.into(),
            address: "172.16.193.10:80".into(),
            state: state.into(),
            weight,
            connections: 9,
            active_connections: 2,
            inactive_connections: 7,
        };
        web.services = vec![ServiceStatus {
            service: "TCP 192.16.193.30:80".into(),
            scheduler: "rr".into(),
            connections: 9,
            real_servers: vec![server("srv1", 1, "Up"), server("srv2", 0, "Draining")],
        }];
        let db =
            object("db", Some(false), vec![condition("Programmed", "False", "Conflict", "somebody else's")]);
        let foreign =
            object("far", None, vec![condition("ResolvedRefs", "False", "DirectorNotFound", "no such")]);
        status.objects = vec![web, db, foreign];
        status
    }

    #[test]
    fn reads_well() {
        insta::assert_snapshot!(render(&status(), false));
    }

    #[test]
    fn colours_only_when_asked_for() {
        assert!(!render(&status(), false).contains('\x1b'));
        assert!(render(&status(), true).contains(GREEN));
    }

    #[test]
    fn of_many_objects_only_those_that_are_not_well_are_spelled_out() {
        let mut status = status();
        let well = status.objects[0].clone();
        status.objects.extend(std::iter::repeat_n(well, 100));
        let text = render(&status, false);
        assert!(text.contains("101 objects well (see -o json)"), "{text}");
        assert!(text.contains("VirtualService tp/db"), "{text}");
        assert!(!text.contains("VirtualService tp/web"), "{text}");
    }
}
