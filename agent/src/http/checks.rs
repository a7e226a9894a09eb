//! Figures of the checks of real servers.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use bascule_checks_core::{Figures, Histogram};
use bascule_compile::BindingKey;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

use crate::checks::{Checks, ServiceView};

/// The figures of one moment.
#[derive(Debug, Default)]
pub(super) struct Checked {
    figures: Figures,
    probes: usize,
    running: usize,
    at_once: usize,
    services: BTreeMap<BindingKey, ServiceView>,
}

impl Checked {
    pub(super) fn of(checks: &Checks) -> Self {
        let (figures, probes, running) = checks.figures();
        Self { figures, probes, running, at_once: checks.at_once(), services: checks.services() }
    }
}

pub(super) fn encode(checked: &Checked, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let gauge = |to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize| {
        to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&(value as u64))
    };
    gauge(to, "probes", "Distinct probes of real servers", checked.probes)?;
    gauge(to, "probes_running", "Probes that run now", checked.running)?;
    gauge(
        to,
        "probes_running_limit",
        "Probes that may run at once, programs not counted: bounded by the limit of open files",
        checked.at_once,
    )?;
    gauge(
        to,
        "checks_not_running",
        "Checks of real servers that cannot be run, each for each real server",
        checked.services.values().map(|service| service.not_running().count()).sum(),
    )?;
    let mut results = to.encode_descriptor(
        "probe_results",
        "Results of probes; undecided: not carried out, as this machine lacked something",
        None,
        MetricType::Counter,
    )?;
    let figures = &checked.figures;
    for (result, count) in
        [("passed", figures.passed), ("failed", figures.failed), ("undecided", figures.undecided)]
    {
        results.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    histogram(
        to,
        "probe_lateness_seconds",
        "From a probe being due to its start",
        &checked.figures.lateness,
    )?;
    histogram(to, "probe_duration_seconds", "From a probe's start to its result", &checked.figures.duration)?;
    let mut met = to.encode_descriptor(
        "quorum_met",
        "1 while enough real servers of a service are alive, else 0",
        None,
        MetricType::Gauge,
    )?;
    for (key, service) in &checked.services {
        let labels = [("namespace", &*key.namespace), ("virtual_service", &*key.name)];
        met.encode_family(&labels)?.encode_gauge(&u64::from(service.quorum_met))?;
    }
    let mut up = to.encode_descriptor(
        "real_server_up",
        "1 while all checks of a real server pass, else 0",
        None,
        MetricType::Gauge,
    )?;
    for (key, service) in &checked.services {
        for server in &service.servers {
            let labels = [
                ("namespace", &*key.namespace),
                ("virtual_service", &*key.name),
                ("real_server", server.name.as_str()),
            ];
            up.encode_family(&labels)?.encode_gauge(&u64::from(server.state == "Up"))?;
        }
    }
    Ok(())
}

fn histogram(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, from: &Histogram) -> fmt::Result {
    let mut before = 0;
    let mut buckets: Vec<(f64, u64)> = from
        .cumulative()
        .map(|(bound, count)| (bound.as_secs_f64(), count - std::mem::replace(&mut before, count)))
        .collect();
    buckets.push((f64::INFINITY, from.count() - before));
    to.encode_descriptor(name, help, None, MetricType::Histogram)?.encode_histogram(
        from.sum().as_secs_f64(),
        from.count(),
        &buckets,
        None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>,
    )
}
