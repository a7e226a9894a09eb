//! A small `ipvsadm` on top of this crate.
//!
//! ```text
//! ipvs list                 services and real servers with their counters
//! ipvs save                 the rules, as `ipvsadm -Sn` prints them
//! ipvs restore              reads rules from standard input, as `ipvsadm -R` does, and sends them in batches
//! ipvs do RULE...           one rule in ipvsadm's words: ipvs do -A -t 192.16.193.30:80 -s rr
//! ipvs flush                removes all services
//! ipvs info                 version, timeouts, sync daemons
//! ```
//! Run it as root: `cargo run -p bascule-ipvs --example ipvs -- list`.

mod rules;

use std::{error::Error, io::Write, process::ExitCode, time::Instant};

use bascule_ipvs::{Client, Command};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ipvs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<ExitCode, Box<dyn Error>> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match arguments {
        ["list"] => list(&mut Client::connect()?, &mut out)?,
        ["save"] => {
            for (entry, destinations) in Client::connect()?.dump()? {
                writeln!(out, "{}", rules::service(&entry.service))?;
                for destination in destinations {
                    writeln!(out, "{}", rules::destination(&entry.service.id, &destination.destination))?;
                }
            }
        }
        ["restore"] => return restore(&mut Client::connect()?),
        ["do", rule @ ..] => {
            let command = rules::parse(&rule.join(" "))?.ok_or("no rule")?;
            Client::connect()?.execute(&command)?;
        }
        ["flush"] => Client::connect()?.execute(&Command::Flush)?,
        ["info"] => {
            let mut client = Client::connect()?;
            let info = client.info()?;
            let (major, minor, patch) = info.version;
            writeln!(
                out,
                "IPVS {major}.{minor}.{patch}, connection table of {}",
                info.connection_table_size
            )?;
            let timeouts = client.timeouts()?;
            writeln!(
                out,
                "timeouts in s: tcp {} tcpfin {} udp {}",
                timeouts.tcp, timeouts.tcp_fin, timeouts.udp
            )?;
            for daemon in client.daemons()? {
                writeln!(out, "{daemon:?}")?;
            }
        }
        _ => {
            eprintln!("usage: ipvs list|save|restore|do RULE...|flush|info");
            return Ok(ExitCode::from(2));
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn list(client: &mut Client, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    for (entry, destinations) in client.dump()? {
        let service = &entry.service;
        writeln!(
            out,
            "{} {} flags {} ({} connections, {}/{} packets, {}/{} bytes in/out)",
            service.id,
            service.scheduler,
            service.flags,
            entry.stats.connections,
            entry.stats.packets_in,
            entry.stats.packets_out,
            entry.stats.bytes_in,
            entry.stats.bytes_out,
        )?;
        for entry in destinations {
            let destination = &entry.destination;
            writeln!(
                out,
                "  -> {} {} weight {} ({} active, {} inactive)",
                destination.id,
                destination.forwarding,
                destination.weight,
                entry.active_connections,
                entry.inactive_connections,
            )?;
        }
    }
    Ok(())
}

/// Sends what can be read; tells of every line that cannot be read or that the kernel refuses.
fn restore(client: &mut Client) -> Result<ExitCode, Box<dyn Error>> {
    let mut commands = Vec::new();
    let mut lines = Vec::new();
    let mut failed = false;
    for (number, line) in (1..).zip(std::io::stdin().lines()) {
        match rules::parse(&line?) {
            Ok(None) => {}
            Ok(Some(command)) => {
                commands.push(command);
                lines.push(number);
            }
            Err(error) => {
                eprintln!("line {number}: {error}");
                failed = true;
            }
        }
    }
    let begun = Instant::now();
    let outcomes = client.execute_all(&commands)?;
    let elapsed = begun.elapsed().as_secs_f64();
    for ((number, command), outcome) in lines.iter().zip(&commands).zip(outcomes) {
        if let Err(error) = outcome {
            eprintln!("line {number}: cannot {command}: {error}");
            failed = true;
        }
    }
    eprintln!("{} commands in {elapsed:.3} s", commands.len());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
