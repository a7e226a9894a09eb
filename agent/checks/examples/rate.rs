//! What a check costs: probes servers on loopback at a rate, and prints the CPU time of each probe and how long it took.
//!
//! The servers are a process of their own, so that what is measured is the probes alone:
//!
//! ```sh
//! cargo run --release -p bascule-checks --example rate -- serve                         # prints a port
//! cargo run --release -p bascule-checks --example rate -- http PORT 200 1000 10   # targets, checks a second, seconds
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bascule_checks::{Http, Prepared, Probe, Prober, Settings, Target, Tls, Verify};
use nix::time::{ClockId, clock_gettime};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 45\r\nConnection: close\r\n\r\n\
    <html><body><h1>It works!</h1></body></html>\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve"] => serve(),
        [kind @ ("tcp" | "http" | "https"), port, targets, rate, seconds] => {
            let probe = match kind {
                "tcp" => Probe::Tcp,
                "http" => Probe::Http(Http::default()),
                _ => Probe::Http(Http {
                    tls: Some(Tls { server_name: None, verify: Verify::Nothing }),
                    ..Http::default()
                }),
            };
            measure(&probe, port.parse()?, targets.parse()?, rate.parse()?, seconds.parse()?)
        }
        _ => Err("rate serve | rate tcp|http|https PORT TARGETS RATE SECONDS".into()),
    }
}

/// Answers on all addresses of loopback, one connection after the other, until it is stopped.
fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    println!("{}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        if matches!(stream.read(&mut [0; 4096]), Ok(length) if length > 0) {
            let _ = stream.write_all(ANSWER);
        }
    }
    Ok(())
}

/// CPU time of this process so far, the kernel's for it included.
fn cpu() -> Result<Duration, nix::Error> {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from)
}

#[tokio::main(flavor = "current_thread")]
async fn measure(
    probe: &Probe,
    port: u16,
    targets: u32,
    rate: u32,
    seconds: u32,
) -> Result<(), Box<dyn std::error::Error>> {
    let prober = Prober::new(Settings { helo: "rate".into() });
    let address = |number| IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + number));
    let target = |number| Target { address: address(number), port, source: None, mark: None };
    let ready: Result<Vec<Prepared>, _> =
        (0..targets.max(1)).map(|number| prober.prepare(probe, &target(number))).collect();
    let ready = Arc::new(ready?);
    let count = rate * seconds;
    let mut runs = tokio::task::JoinSet::new();
    let mut times = Vec::with_capacity(count as usize);
    let mut failed = std::collections::BTreeMap::<String, u32>::new();
    let before = cpu()?;
    let start = Instant::now();
    for number in 0..count {
        let due = start + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(due.into()).await;
        let run = ready[number as usize % ready.len()].run(Duration::from_secs(3));
        runs.spawn(async move {
            let start = Instant::now();
            (run.await, start.elapsed())
        });
        while let Some(done) = runs.try_join_next() {
            let (outcome, took) = done?;
            times.push(took);
            if !outcome.is_passed() {
                *failed.entry(outcome.message().to_owned()).or_default() += 1;
            }
        }
    }
    while let Some(done) = runs.join_next().await {
        times.push(done?.1);
    }
    let (elapsed, after) = (start.elapsed(), cpu()?);
    times.sort_unstable();
    println!("checks        {count} in {elapsed:.1?}, {} failed", failed.values().sum::<u32>());
    for (message, count) in failed {
        println!("              {count} x {message}");
    }
    let spent = after.saturating_sub(before);
    let share = spent.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    println!("CPU per check {:.1?}, {share:.1} % of a core", spent / count);
    println!("took          p50 {:.1?}, p99 {:.1?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    Ok(())
}
