//! What a director's kernel was told and when, from the journal of its simulated IPVS (`bascule-agent --simulated-ipvs`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

/// How much is read at a time, in bytes.
const PIECE: usize = 1 << 20;

/// Nanoseconds of CLOCK_MONOTONIC, which is one for all processes of the machine.
pub(super) fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What came of the journal so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Services that were added.
    pub(super) services: usize,
    /// Real servers that were added.
    pub(super) servers: usize,
    /// Services and real servers that were taken out.
    pub(super) removed: usize,
    /// When the last one was added.
    pub(super) last_added: u64,
    /// When a real server of a service got a weight, by both; of several times the first.
    pub(super) weights: BTreeMap<(SocketAddr, u32), u64>,
}

/// A journal that grows.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// A line whose end has not come.
    rest: Vec<u8>,
    pub(super) told: Told,
}

impl Journal {
    /// From its beginning.
    pub(super) fn new(file: File) -> Self {
        Self { file, rest: Vec::new(), told: Told::default() }
    }

    /// Takes in what came since.
    pub(super) fn read(&mut self) -> Result<&Told> {
        let mut piece = vec![0; PIECE];
        loop {
            let length = self.file.read(&mut piece).context("reading a journal of a kernel")?;
            if length == 0 {
                return Ok(&self.told);
            }
            self.rest.extend_from_slice(&piece[..length]);
            let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let text = std::str::from_utf8(&self.rest[..whole]).context("a journal of a kernel")?;
            for line in text.lines() {
                self.told
                    .take(line)
                    .with_context(|| format!("a journal of a kernel has the line {line:?}"))?;
            }
            self.rest.drain(..whole);
        }
    }
}

impl Told {
    fn take(&mut self, line: &str) -> Option<()> {
        let (time, command) = line.split_once(' ')?;
        let time: u64 = time.parse().ok()?;
        if command.starts_with("add service ") {
            self.services += 1;
            self.last_added = time;
        } else if command.starts_with("add real server ") {
            self.servers += 1;
            self.last_added = time;
        } else if command.starts_with("change real server ") {
            let words: Vec<_> = command.rsplitn(4, ' ').collect();
            let (weight, service) = (words.first()?.parse().ok()?, words.get(2)?.parse().ok()?);
            self.weights.entry((service, weight)).or_insert(time);
        } else if command.starts_with("remove ") {
            self.removed += 1;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_are_counted_once_they_are_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut journal = Journal::new(file.reopen().unwrap());
        write!(
            file,
            "5 add service TCP 10.98.0.1:1000\n6 add real server 172.16.0.1:80 to TCP 10.98.0.1:1000 weight 1\n7 set timeouts\n8 change"
        )
        .unwrap();
        let told = journal.read().unwrap();
        assert_eq!((told.services, told.servers, told.last_added, told.weights.len()), (1, 1, 6, 0));
        write!(file, " real server 172.16.0.1:80 of TCP 10.98.0.1:1000 weight 9\n9 remove all services\n")
            .unwrap();
        let told = journal.read().unwrap();
        let service = "10.98.0.1:1000".parse().unwrap();
        assert_eq!((told.weights.get(&(service, 9)), told.removed), (Some(&8), 1));
        writeln!(file, "nonsense").unwrap();
        assert!(journal.read().is_err());
    }

    #[test]
    fn time_goes_on() {
        let before = monotonic();
        assert!(before > 0 && monotonic() >= before);
    }
}
