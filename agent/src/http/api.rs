//! How it stands with the API server, in figures; none with a directory of manifests.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::api::LinkStatus;

/// Writes the figures.
pub(super) fn encode(link: Option<&LinkStatus>, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(link) = link else { return Ok(()) };
    to.encode_descriptor("api_connected", "1 while the API server answers, else 0", None, MetricType::Gauge)?
        .encode_gauge(&u64::from(link.connected))?;
    if let Some(heard) = link.heard {
        let help = "Since the API server answered last";
        to.encode_descriptor("api_last_heard_seconds", help, None, MetricType::Gauge)?
            .encode_gauge(&heard.elapsed().as_secs_f64())?;
    }
    for (name, help, count) in [
        ("api_statuses_written", "Statuses written to the API server", link.written),
        ("api_statuses_failed", "Writes of statuses that failed", link.failed),
    ] {
        let counter = ConstCounter::new(count);
        counter.encode(to.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    Ok(())
}
