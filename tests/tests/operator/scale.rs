//! Many services: a change of one costs what it costs among ten.

use std::time::Instant;

use anyhow::{Result, ensure};
use bascule_tests::operator::eventually;

use crate::cluster::Cluster;
use crate::disturbances::services;

/// Services, of the group's two directors each, unless `BASCULE_OPERATOR_SERVICES` says how many.
const SERVICES: u16 = 1000;

/// Prints how long it took until all bindings were there, how long an operator takes that begins anew, and what one change costs.
pub(crate) fn many_services(cluster: &mut Cluster) -> Result<()> {
    let count =
        std::env::var("BASCULE_OPERATOR_SERVICES").ok().and_then(|n| n.parse().ok()).unwrap_or(SERVICES);
    let begin = Instant::now();
    cluster.apply(&services("scale", 5000, count))?;
    let applied = begin.elapsed();
    let there = |cluster: &Cluster| {
        eventually("a binding of each on both directors", || {
            let names = cluster.kubectl("get vsb -n tp -o name")?;
            let there = names.lines().filter(|name| name.contains("/scale-")).count();
            ensure!(there == 2 * usize::from(count), "{there}");
            Ok(())
        })
    };
    there(cluster)?;
    println!(
        "  {count} services: `kubectl apply` took {:.1} s, all bindings are there after {:.1} s",
        applied.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    cluster.settled()?;
    let begin = Instant::now();
    let next = cluster.another()?;
    let code = std::mem::replace(&mut cluster.operator, next).terminate()?;
    ensure!(code == 0, "exit code {code}");
    cluster.wait_until_it_leads()?;
    cluster.settled()?;
    println!("  one that begins anew leads and is done after {:.1} s", begin.elapsed().as_secs_f64());
    let before = cluster.writes(&["kind=\"VirtualServiceBinding\""])?;
    ensure!(before == 0, "{before} bindings were written that were there");
    let begin = Instant::now();
    let patch = r#"[{"op":"replace","path":"/spec/realServers/0/weight","value":9}]"#;
    cluster.server.kubectl_ok(["patch", "vs", "scale-0", "-n", "tp", "--type=json", "-p", patch])?;
    eventually("one weight", || {
        let writes = cluster.writes(&["kind=\"VirtualServiceBinding\"", "result=\"done\""])?;
        ensure!(writes == 2, "{writes}");
        Ok(())
    })?;
    println!(
        "  one weight among {count}: 2 bindings, {:.2} s after kubectl was called",
        begin.elapsed().as_secs_f64()
    );
    let log = cluster.operator.log();
    let memory = std::fs::read_to_string(format!("/proc/{}/status", cluster.operator.id()))?;
    let resident = memory.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("unknown");
    println!("  {}", resident.split_whitespace().collect::<Vec<_>>().join(" "));
    ensure!(!log.contains("\"ERROR\""), "{log}");
    Ok(())
}
