//! The figures, in the OpenMetrics text format. Names and labels are an interface: dashboards and alerts use them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bascule_ipvs::ServiceId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::{api, checks, groups};
use crate::api::LinkStatus;
use crate::manifests::Summary;
use crate::plane::sync::PeerState;
use crate::reconcile::{Counters, DestinationCounters, LAG_BOUNDS, PlaneReport, Report, ServiceCounters};
use crate::status::{Gatherer, readiness};
use crate::vrrp::VrrpStatus;

/// Size of a piece of the answer, in bytes.
const PIECE: usize = 64 * 1024;

/// The figures of one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    summary: Summary,
    link: Option<LinkStatus>,
    report: Arc<Report>,
    counters: Counters,
    vrrp: VrrpStatus,
    checks: checks::Checked,
    last_good_error: bool,
    uptime: f64,
}

impl Snapshot {
    /// As they are now.
    pub(super) fn of(gatherer: &Gatherer, counters: Counters, vrrp: VrrpStatus) -> Self {
        Self {
            summary: gatherer.manifests.summary(),
            link: gatherer.manifests.link(),
            report: gatherer.report.borrow().clone(),
            counters,
            vrrp,
            checks: checks::Checked::of(&gatherer.checks),
            last_good_error: gatherer.keeper.as_ref().is_none_or(|keeper| keeper.status().error.is_some()),
            uptime: gatherer.started.elapsed().as_secs_f64(),
        }
    }
}

/// Writes the figures in pieces; ends early when nobody takes them. Returns how many bytes it wrote.
pub(super) fn write(snapshot: Snapshot, pieces: mpsc::Sender<String>) -> usize {
    let mut registry = Registry::with_prefix("bascule");
    registry.register_collector(Box::new(snapshot));
    let mut writer = Pieces { to: pieces, text: String::with_capacity(PIECE + 1024), bytes: 0 };
    if encode(&mut writer, &registry).is_ok() {
        let _ = writer.flush();
    }
    writer.bytes
}

struct Pieces {
    to: mpsc::Sender<String>,
    text: String,
    bytes: usize,
}

impl Pieces {
    fn flush(&mut self) -> fmt::Result {
        let text = std::mem::replace(&mut self.text, String::with_capacity(PIECE + 1024));
        self.bytes += text.len();
        self.to.blocking_send(text).map_err(|_| fmt::Error)
    }
}

impl fmt::Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push_str(text);
        if self.text.len() >= PIECE { self.flush() } else { Ok(()) }
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut encoder;
        self.agent(to)?;
        self.manifests(to)?;
        api::encode(self.link.as_ref(), to)?;
        self.planes(to)?;
        groups::encode(&self.vrrp, to)?;
        checks::encode(&self.checks, to)?;
        self.connection_sync(to)?;
        self.services(to)?;
        self.real_servers(to)?;
        self.nat_rules(to)
    }
}

fn number(value: usize) -> u64 {
    value as u64
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

impl Snapshot {
    fn agent(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        to.encode_descriptor("build", "The agent's version", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        to.encode_descriptor("uptime_seconds", "Since the agent started", None, MetricType::Gauge)?
            .encode_gauge(&self.uptime)?;
        let ready = readiness(&self.summary, &self.report).is_ok();
        gauge(to, "ready", "1 when /readyz says so, else 0", ready.into())
    }

    fn manifests(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let summary = &self.summary;
        gauge(to, "manifest_files", "Files in the manifests directory", number(summary.files))?;
        gauge(to, "manifest_objects", "Objects in force", number(summary.objects))?;
        gauge(
            to,
            "manifest_problems",
            "Problems of the manifests, as status lists them",
            number(summary.problems),
        )?;
        gauge(
            to,
            "manifests_unusable",
            "1 while the manifests directory cannot be read, else 0",
            summary.lost.is_some().into(),
        )?;
        gauge(
            to,
            "last_good_unwritable",
            "1 while the last good configuration cannot be written, else 0",
            self.last_good_error.into(),
        )?;
        gauge(
            to,
            "config_told",
            "Serial of the newest change handed to the kernel's planes",
            summary.serial,
        )?;
        gauge(to, "config_done", "Serial of the newest change that the kernel holds", self.report.serial)?;
        let lag = &self.report.lag;
        let bounds = LAG_BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(lag.buckets).collect();
        to.encode_descriptor(
            "reconcile_lag_seconds",
            "From a change of a manifest being seen until the kernel held it",
            None,
            MetricType::Histogram,
        )?
        .encode_histogram(
            lag.sum,
            lag.count,
            &buckets,
            None::<&std::collections::HashMap<usize, Exemplar<NoLabelSet, f64>>>,
        )
    }

    fn each_plane(
        &self,
        to: &mut DescriptorEncoder<'_>,
        (name, help, kind): (&str, &str, MetricType),
        mut value: impl FnMut(&PlaneReport, &mut MetricEncoder<'_>, &str) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = to.encode_descriptor(name, help, None, kind)?;
        for (name, plane) in &self.report.planes {
            value(plane, &mut metric, name.as_str())?;
        }
        Ok(())
    }

    fn planes(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = |help, name| (name, help, MetricType::Gauge);
        let counter = |help, name| (name, help, MetricType::Counter);
        self.each_plane(
            to,
            gauge("1 once a kernel table has been gone through, else 0", "plane_settled"),
            |plane, metric, name| {
                metric.encode_family(&[("plane", name)])?.encode_gauge(&u64::from(plane.settled))
            },
        )?;
        self.each_plane(
            to,
            gauge("1 while something has to be loaded or installed, else 0", "plane_missing"),
            |plane, metric, name| {
                metric.encode_family(&[("plane", name)])?.encode_gauge(&u64::from(plane.missing.is_some()))
            },
        )?;
        self.each_plane(
            to,
            gauge("Kernel objects that are not as the manifests want them", "plane_failures"),
            |plane, metric, name| {
                let failures = number(plane.failures.len() + plane.failures_left_out);
                metric.encode_family(&[("plane", name)])?.encode_gauge(&failures)
            },
        )?;
        self.each_plane(
            to,
            gauge("Within what time the whole table is looked at for drift", "plane_look_period_seconds"),
            |plane, metric, name| match plane.look_period {
                Some(period) => metric.encode_family(&[("plane", name)])?.encode_gauge(&period.as_secs_f64()),
                None => Ok(()),
            },
        )?;
        self.each_plane(to, counter("Passes over a kernel table", "plane_passes"), |plane, metric, name| {
            count(metric, &[("plane", name)], plane.passes)
        })?;
        self.each_plane(
            to,
            counter("Operations that the kernel refused", "plane_refused"),
            |plane, metric, name| count(metric, &[("plane", name)], plane.refused),
        )?;
        self.each_plane(to, counter("Operations carried out", "operations"), |plane, metric, name| {
            plane
                .operations
                .iter()
                .try_for_each(|(kind, times)| count(metric, &[("plane", name), ("kind", kind)], *times))
        })?;
        self.each_plane(
            to,
            counter("Operations that put back what somebody else had changed", "drift_repaired"),
            |plane, metric, name| {
                plane
                    .repaired
                    .iter()
                    .try_for_each(|(kind, times)| count(metric, &[("plane", name), ("kind", kind)], *times))
            },
        )
    }

    /// Nothing of it without `connectionSync`.
    fn connection_sync(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(state) = self.report.connection_sync() else { return Ok(()) };
        let mut metric = to.encode_descriptor(
            "sync_daemon_running",
            "1 while the kernel's daemon runs, else 0",
            None,
            MetricType::Gauge,
        )?;
        for (role, runs) in [("master", state.master), ("backup", state.backup)] {
            metric.encode_family(&[("role", role)])?.encode_gauge(&u64::from(runs))?;
        }
        let peers = |peer: &PeerState| {
            let ours = if peer.sync_id == state.sync_id { "true" } else { "false" };
            [
                ("sync_id", peer.sync_id.to_string()),
                ("peer", peer.address.to_string()),
                ("ours", ours.to_owned()),
            ]
        };
        let mut metric = to.encode_descriptor(
            "sync_peer_last_datagram_timestamp_seconds",
            "When a director was last heard to send connections",
            None,
            MetricType::Gauge,
        )?;
        for peer in &state.peers {
            let at = peer.last.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            metric.encode_family(&peers(peer))?.encode_gauge(&at)?;
        }
        let table: [(&str, &str, OfPeer); 2] = [
            ("sync_peer_datagrams", "Datagrams heard of it, at least", |peer| peer.datagrams),
            ("sync_peer_connections", "Connections in them, those sent again included", |peer| {
                peer.connections
            }),
        ];
        for (name, help, figure) in table {
            let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for peer in &state.peers {
                count(&mut metric, &peers(peer), figure(peer))?;
            }
        }
        if let Some(drops) = state.receive_drops {
            let help = "Datagrams that the backup daemon had no room for, since it was started";
            gauge(to, "sync_receive_drops", help, drops)?;
        }
        if let Some(connections) = state.synchronised {
            gauge(to, "sync_connections", "Connections that came from other directors", connections)?;
        }
        if let Some(dropped) = state.guard_dropped {
            let help = "Segments of unknown connections dropped after takeovers, since the table was made";
            gauge(to, "sync_guard_dropped", help, dropped)?;
        }
        Ok(())
    }

    fn services(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        to.encode_descriptor(
            "counters_age_seconds",
            "Age of the oldest of the kernel's counters below",
            None,
            MetricType::Gauge,
        )?
        .encode_gauge(&self.counters.age.as_secs_f64())?;
        let table: [(&str, &str, OfService); 5] = [
            ("virtual_service_connections", "Connections scheduled", |one| one.stats.connections),
            ("virtual_service_incoming_packets", "Packets from clients", |one| one.stats.packets_in),
            ("virtual_service_outgoing_packets", "Packets to clients (masquerading only)", |one| {
                one.stats.packets_out
            }),
            ("virtual_service_incoming_bytes", "Bytes from clients", |one| one.stats.bytes_in),
            ("virtual_service_outgoing_bytes", "Bytes to clients (masquerading only)", |one| {
                one.stats.bytes_out
            }),
        ];
        for (name, help, figure) in table {
            let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for service in &self.counters.services {
                count(&mut metric, &Labels { service, server: None }, figure(service))?;
            }
        }
        Ok(())
    }

    /// Nothing of it without NatRules in the kernel.
    fn nat_rules(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.counters.nat_rules.is_empty() {
            return Ok(());
        }
        let help = "Connections that the rule began to translate, since it was put into the kernel";
        let mut metric = to.encode_descriptor("nat_rule_connections", help, None, MetricType::Counter)?;
        for (key, counted) in &self.counters.nat_rules {
            count(&mut metric, &[("namespace", &*key.namespace), ("nat_rule", &*key.name)], counted.packets)?;
        }
        Ok(())
    }

    fn real_servers(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let table: [(&str, &str, MetricType, OfServer); 9] = [
            ("real_server_connections", "Connections given to it", MetricType::Counter, |one| {
                one.stats.connections
            }),
            ("real_server_incoming_packets", "Packets from clients", MetricType::Counter, |one| {
                one.stats.packets_in
            }),
            (
                "real_server_outgoing_packets",
                "Packets to clients (masquerading only)",
                MetricType::Counter,
                |one| one.stats.packets_out,
            ),
            ("real_server_incoming_bytes", "Bytes from clients", MetricType::Counter, |one| {
                one.stats.bytes_in
            }),
            (
                "real_server_outgoing_bytes",
                "Bytes to clients (masquerading only)",
                MetricType::Counter,
                |one| one.stats.bytes_out,
            ),
            ("real_server_weight", "The weight that the kernel holds", MetricType::Gauge, |one| {
                one.weight.into()
            }),
            ("real_server_active_connections", "Established connections", MetricType::Gauge, |one| {
                one.active_connections.into()
            }),
            (
                "real_server_inactive_connections",
                "Connections in any other state",
                MetricType::Gauge,
                |one| one.inactive_connections.into(),
            ),
            ("real_server_persistent_connections", "Persistence templates", MetricType::Gauge, |one| {
                one.persistent_connections.into()
            }),
        ];
        for (name, help, kind, figure) in table {
            let mut metric = to.encode_descriptor(name, help, None, kind)?;
            for service in &self.counters.services {
                for server in &service.destinations {
                    let labels = Labels { service, server: Some(server) };
                    match kind {
                        MetricType::Counter => count(&mut metric, &labels, figure(server))?,
                        _ => metric.encode_family(&labels)?.encode_gauge(&figure(server))?,
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) fn count(metric: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

type OfPeer = fn(&PeerState) -> u64;
type OfService = fn(&ServiceCounters) -> u64;
type OfServer = fn(&DestinationCounters) -> u64;

/// Which service, and which real server of it.
struct Labels<'a> {
    service: &'a ServiceCounters,
    server: Option<&'a DestinationCounters>,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel as _;
        let mut label = |name: &str, value: &dyn fmt::Display| {
            (name, value.to_string().as_str()).encode(encoder.encode_label())
        };
        label("namespace", &self.service.binding.namespace)?;
        label("virtual_service", &self.service.binding.name)?;
        match &self.service.id {
            ServiceId::Address { protocol, address, port } => {
                label("protocol", protocol)?;
                label("address", address)?;
                label("port", port)?;
            }
            ServiceId::Fwmark { mark, family } => {
                label("mark", mark)?;
                label("family", family)?;
            }
        }
        if let Some(server) = self.server {
            label("real_server", &server.name)?;
            label("real_server_address", &server.id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bascule_compile::BindingKey;
    use bascule_ipvs::{DestinationId, Family, Protocol, Stats64};

    use super::*;
    use crate::plane::nat_rules::Count;
    use crate::plane::sync::SyncState;
    use crate::reconcile::{Lag, LagHistogram, PlaneName};
    use crate::secrets::{Reason, SecretStatus};
    use crate::vrrp::{GroupStatus, InstanceStatus};

    fn scrape(snapshot: Snapshot) -> String {
        let (sender, mut receiver) = mpsc::channel(1000);
        write(snapshot, sender);
        let mut text = String::new();
        while let Ok(piece) = receiver.try_recv() {
            text.push_str(&piece);
        }
        text
    }

    fn server(name: &str, address: &str, weight: u32) -> DestinationCounters {
        DestinationCounters {
            name: name.into(),
            id: DestinationId { address: address.parse().unwrap(), port: 80 },
            weight,
            active_connections: 1,
            inactive_connections: 2,
            persistent_connections: 3,
            stats: Stats64 {
                connections: 10,
                packets_in: 20,
                packets_out: 30,
                bytes_in: 40,
                bytes_out: 50,
                ..Stats64::default()
            },
        }
    }

    fn key(reason: Option<Reason>) -> SecretStatus {
        SecretStatus {
            secret: "bascule-system/vrrp".into(),
            key: "front".into(),
            in_force: true,
            resource_version: Some("1".into()),
            reason,
            message: String::new(),
        }
    }

    fn vrrp() -> VrrpStatus {
        let instance = InstanceStatus {
            name: "outside".into(),
            family: "IPv4".into(),
            interface: "eth0".into(),
            virtual_router_id: 30,
            link: "Up".into(),
            state: "Active".into(),
            ready: false,
            active: None,
            heard_seconds_ago: None,
            sent: 100,
            sent_priority_zero: 1,
            received: 9,
            accepted: 8,
            accepted_priority_zero: 2,
            stale: Vec::new(),
            rejected: [("ttl".into(), 1)].into(),
            became_active: 3,
            differences: vec![crate::vrrp::DifferenceStatus {
                what: "interval".into(),
                peer: "192.16.193.2".into(),
                message: "its interval is 1s, ours 100ms".into(),
                heard_seconds_ago: 1.0,
            }],
            own_interface: None,
            services_only: false,
        };
        let group = GroupStatus {
            group: "front".into(),
            state: bascule_vrrp::GroupState::Active,
            releasing: false,
            reason: "heard nothing".into(),
            seconds_in_state: 12.5,
            priority: 200,
            hold: false,
            stands_by: false,
            refused: None,
            failing: vec!["virtual service tp/web".into()],
            lacking: Vec::new(),
            secrets: [None, Some(Reason::SecretNotFound)].map(key).into(),
            instances: vec![instance],
        };
        VrrpStatus { groups: vec![group], foreign_advertisements: 4, foreign: Vec::new(), repaired: 5 }
    }

    fn snapshot() -> Snapshot {
        let mut lag = LagHistogram::default();
        for milliseconds in [1, 3, 300_000] {
            lag.record(Lag { serial: 1, duration: Duration::from_millis(milliseconds) });
        }
        let plane = PlaneReport {
            settled: true,
            serial: 3,
            passes: 7,
            look_period: Some(Duration::from_secs(1)),
            operations: [("add-service", 2), ("set-destination", 1)].into(),
            repaired: [("add-service", 1)].into(),
            ..PlaneReport::default()
        };
        let mut report = Report {
            serial: 3,
            planes: PlaneName::ALL.map(|name| (name, Arc::new(plane.clone()))).into(),
            lag: Arc::new(lag),
        };
        let peer = PeerState {
            sync_id: 51,
            address: "172.16.193.2".parse().unwrap(),
            last: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500),
            datagrams: 4,
            connections: 9,
        };
        let state = SyncState {
            interface: "eth1".into(),
            sync_id: 51,
            master: true,
            peers: vec![peer.clone(), PeerState { sync_id: 52, ..peer }],
            receive_drops: Some(1),
            synchronised: Some(2),
            guard_dropped: Some(3),
            ..SyncState::default()
        };
        let sync = PlaneReport { connection_sync: Some(Arc::new(state)), ..plane };
        report.planes.insert(PlaneName::ConnectionSync, Arc::new(sync));
        let by_address = ServiceId::Address {
            protocol: Protocol::Tcp,
            address: "192.16.193.30".parse().unwrap(),
            port: 80,
        };
        let by_mark = ServiceId::Fwmark { mark: 7, family: Family::Ipv6 };
        let services = [by_address, by_mark].map(|id| ServiceCounters {
            binding: BindingKey::new("tp", "web"),
            id,
            scheduler: "rr".into(),
            stats: Stats64 { connections: 11, ..Stats64::default() },
            destinations: vec![server("srv1", "172.16.193.10", 1), server("with \"quotes\"", "fd00::1", 0)],
        });
        Snapshot {
            checks: checks::Checked::default(),
            summary: Summary { serial: 3, started: true, files: 1, objects: 2, problems: 3, lost: None },
            link: None,
            report: Arc::new(report),
            counters: Counters {
                services: services.into(),
                age: Duration::from_millis(1500),
                nat_rules: [(BindingKey::new("tp", "web-from-outside"), Count { packets: 5, bytes: 300 })]
                    .into(),
            },
            vrrp: vrrp(),
            last_good_error: false,
            uptime: 12.5,
        }
    }

    #[test]
    fn the_names_and_labels_are_an_interface() {
        insta::assert_snapshot!(scrape(snapshot()).replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }

    #[test]
    fn a_large_answer_comes_in_pieces_of_a_bounded_size() {
        let mut large = snapshot();
        let one = large.counters.services[0].clone();
        large.counters.services = vec![one; 1000];
        let (sender, mut receiver) = mpsc::channel(1000);
        let told = write(large, sender);
        let (mut pieces, mut bytes) = (0, 0);
        while let Ok(piece) = receiver.try_recv() {
            assert!(piece.len() < 2 * PIECE, "{}", piece.len());
            pieces += 1;
            bytes += piece.len();
        }
        assert_eq!(told, bytes);
        assert!(pieces > 20, "{pieces}");
    }

    #[test]
    fn a_scraper_that_leaves_ends_the_writing() {
        let (sender, receiver) = mpsc::channel(1);
        drop(receiver);
        write(snapshot(), sender);
    }
}
