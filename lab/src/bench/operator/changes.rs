//! Weights that a user changes, and how long it takes until the kernels are told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::api::Connection;
use super::shape::{NAMESPACE, Shape};
use super::site::Site;

/// How long it may take until every kernel has every change.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often journals are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Connections on which changes are made under load.
const CONNECTIONS: u32 = 16;
/// So much of the rate that was asked for has to be reached, else the API server itself is what is measured.
const REACHED: f64 = 0.9;
/// Weights go so far (ip_vs.h, and the schema).
const LAST_WEIGHT: u32 = 65_535;

/// A change that was made.
#[derive(Clone, Copy, Debug)]
struct Made {
    service: u32,
    weight: u32,
    /// When the API server's answer had come, in nanoseconds of CLOCK_MONOTONIC.
    at: u64,
}

/// Each change is of another weight, and they grow: whoever has a later one of a service has passed over this one.
#[derive(Debug)]
pub(super) struct Changes {
    shape: Shape,
    made: u32,
}

impl Changes {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, made: 0 }
    }

    /// The next service, here and there (7919 is a prime), and its weight.
    fn next(&mut self) -> Result<(u32, u32)> {
        let number = self.made;
        self.made += 1;
        let weight = 2 + number;
        ensure!(
            weight <= LAST_WEIGHT,
            "more than {LAST_WEIGHT} changes: take fewer (--changes, --rate, --load)"
        );
        let service = u64::from(number) * 7919 % u64::from(self.shape.services);
        Ok((u32::try_from(service)?, weight))
    }

    /// Makes one.
    pub(super) fn one(&mut self, site: &mut Site<'_>, connection: &mut Connection) -> Result<Vec<f64>> {
        let (service, weight) = self.next()?;
        let made = site.runtime.block_on(change(connection, service, weight))?;
        self.told(site, &[made])
    }

    /// Makes some, one after the other with pauses; milliseconds until each kernel was told of each.
    pub(super) fn idle(&mut self, site: &mut Site<'_>, count: u32) -> Result<Vec<f64>> {
        let mut connection = site.connect()?;
        let mut all = Vec::new();
        for number in 0..count {
            let (service, weight) = self.next()?;
            let made = site.runtime.block_on(change(&mut connection, service, weight))?;
            all.extend(self.told(site, &[made])?);
            if (number + 1) % 50 == 0 {
                site.bench.say(&format!("{} of {count} changes", number + 1));
            }
            // Not in step with anything that happens every second.
            site.bench.pause(Duration::from_millis(60 + u64::from(number * 37 % 83)))?;
        }
        Ok(all)
    }

    /// Makes so many a second for so many seconds, each at its time, however long the one before takes; milliseconds until each kernel
    /// was told of each, and the rate that was reached.
    pub(super) fn under_load(
        &mut self,
        site: &mut Site<'_>,
        rate: u32,
        load: u32,
    ) -> Result<(Vec<f64>, f64)> {
        let count = rate * load;
        site.bench.say(&format!("{rate} changes a second for {load} s"));
        let all: Vec<_> = (0..count).map(|_| self.next()).collect::<Result<_>>()?;
        let mut shares = vec![Vec::new(); CONNECTIONS as usize];
        for ((number, change), share) in (0..count).zip(all).zip((0..CONNECTIONS as usize).cycle()) {
            shares[share].push((Duration::from_secs(1) * number / rate, change));
        }
        let (made, took) = site.runtime.block_on(async {
            let connections = futures::future::try_join_all((0..CONNECTIONS).map(|_| site.api.connect()));
            let connections = connections.await?;
            let begun = tokio::time::Instant::now();
            let shares = connections.into_iter().zip(shares);
            let made = shares.map(|(connection, share)| in_time(connection, share, begun));
            let made = futures::future::try_join_all(made).await?;
            anyhow::Ok((made.concat(), begun.elapsed()))
        })?;
        let reached = f64::from(count) / took.as_secs_f64().max(f64::from(load));
        ensure!(
            reached >= REACHED * f64::from(rate),
            "the API server took only {reached:.0} of {rate} changes a second: take fewer (--rate)"
        );
        Ok((self.told(site, &made)?, reached))
    }

    /// Waits until all kernels were told of changes; milliseconds that it took.
    fn told(&self, site: &mut Site<'_>, made: &[Made]) -> Result<Vec<f64>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            site.alive()?;
            for agent in &mut site.agents {
                agent.journal.read()?;
            }
            let mut all = Vec::with_capacity(made.len() * self.shape.members as usize);
            let mut missing = None;
            for one in made {
                for carrier in self.shape.carriers(one.service) {
                    let agent = site.agents.get(carrier as usize).context("an agent that does not run")?;
                    match first(&agent.journal.told.weights, self.shape.socket(one.service), one.weight) {
                        Some(at) => all.push(milliseconds(at.saturating_sub(one.at))),
                        None => missing = Some((*one, carrier)),
                    }
                }
            }
            let Some((one, carrier)) = missing else { return Ok(all) };
            if Instant::now() > deadline {
                let (service, director) = (Shape::service(one.service), Shape::director(carrier));
                let weight = one.weight;
                bail!(
                    "the kernel of {director} was not told of weight {weight} of {service} for {} s; {}",
                    PATIENCE.as_secs(),
                    site.hint()
                );
            }
            site.bench.pause(LOOK)?;
        }
    }
}

/// When a kernel had at least that weight first.
fn first(weights: &BTreeMap<(SocketAddr, u32), u64>, service: SocketAddr, weight: u32) -> Option<u64> {
    weights.range((service, weight)..=(service, u32::MAX)).map(|(_, at)| *at).min()
}

#[expect(clippy::cast_precision_loss, reason = "minutes of nanoseconds are below 2^52")]
fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// Makes changes, each at its time after `begun`.
async fn in_time(
    mut connection: Connection,
    share: Vec<(Duration, (u32, u32))>,
    begun: tokio::time::Instant,
) -> Result<Vec<Made>> {
    let mut made = Vec::with_capacity(share.len());
    for (at, (service, weight)) in share {
        tokio::time::sleep_until(begun + at).await;
        made.push(change(&mut connection, service, weight).await?);
    }
    Ok(made)
}

async fn change(connection: &mut Connection, service: u32, weight: u32) -> Result<Made> {
    let name = Shape::service(service);
    let path = format!("/apis/bascule.dev/v1alpha1/namespaces/{NAMESPACE}/virtualservices/{name}");
    let patch = json!([{"op": "add", "path": "/spec/realServers/0/weight", "value": weight}]);
    let answer = connection.patch(&path, &patch).await?;
    Ok(Made { service, weight, at: answer.at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_a_later_one_overtook_counts_until_that_one() {
        let (one, other): (SocketAddr, SocketAddr) =
            ("10.98.0.1:1000".parse().unwrap(), "10.98.0.1:1001".parse().unwrap());
        let weights = BTreeMap::from([((one, 2), 50), ((one, 7), 90), ((other, 3), 60)]);
        assert_eq!(first(&weights, one, 2), Some(50));
        assert_eq!(first(&weights, one, 3), Some(90));
        assert_eq!(first(&weights, one, 8), None);
        assert_eq!(first(&weights, other, 2), Some(60));
    }

    #[test]
    fn services_are_taken_here_and_there_and_weights_grow() {
        let mut changes = Changes::new(Shape::new(100, 1, 2, 2).unwrap());
        let all: Vec<_> = (0..100).map(|_| changes.next().unwrap()).collect();
        let mut services: Vec<_> = all.iter().map(|(service, _)| *service).collect();
        services.sort_unstable();
        assert_eq!(services, (0..100).collect::<Vec<_>>(), "each once");
        assert!(all.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1));
        changes.made = LAST_WEIGHT;
        assert!(changes.next().is_err());
    }
}
