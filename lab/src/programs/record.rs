//! What a client writes down: one JSON line a request, and a summary as the last line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// One request of an open-loop client. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Position in the load, from 0.
    pub seq: u64,
    /// When it was due, whatever became of the others.
    pub scheduled: u64,
    /// When the client really began: the difference is the harness's own lateness, not the network's.
    pub started: u64,
    /// When the answer was complete, or the client gave up.
    pub ended: u64,
    /// Complete and right within the time-out of its scheduled time.
    pub ok: bool,
    /// Who answered, where that could be read.
    pub answerer: Option<String>,
    /// Status of an HTTP answer.
    pub status: Option<u16>,
    /// Why it failed, in a few words.
    pub error: Option<String>,
    /// Its connection needed a second SYN: what was sent first, or its answer, was lost or took longer than a second.
    #[serde(default)]
    pub again: bool,
}

/// The last line of a record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Requests that were due and started.
    pub sent: u64,
    /// Those with `ok`.
    pub ok: u64,
    /// Those without.
    pub failed: u64,
    /// Good answers by who gave them.
    pub by_answerer: BTreeMap<String, u64>,
    /// The client's own largest lateness, in milliseconds.
    pub late_max_ms: f64,
}

impl Summary {
    /// Counts one more request.
    pub fn add(&mut self, request: &Request) {
        self.sent += 1;
        if request.ok {
            self.ok += 1;
            let name = request.answerer.clone().unwrap_or_else(|| "?".to_owned());
            *self.by_answerer.entry(name).or_default() += 1;
        } else {
            self.failed += 1;
        }
        #[expect(clippy::cast_precision_loss, reason = "a lateness of 2^53 ns is a hundred days")]
        let late_ms = request.started.saturating_sub(request.scheduled) as f64 / 1e6;
        self.late_max_ms = self.late_max_ms.max(late_ms);
    }
}

/// A line of a record file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The last one.
    Summary {
        /// Totals of the whole load.
        summary: Summary,
    },
    /// Any other.
    Request(Request),
}

/// Writes a record and keeps its totals.
#[derive(Debug)]
pub struct Recorder {
    out: BufWriter<File>,
    summary: Summary,
}

impl Recorder {
    /// Starts an empty record at `path`, replacing what was there.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { out: BufWriter::new(File::create(path)?), summary: Summary::default() })
    }

    /// Writes one request. It reaches the file at once: who reads along while a scenario runs sees whole lines.
    pub fn request(&mut self, request: &Request) -> io::Result<()> {
        self.summary.add(request);
        write_line(&mut self.out, request)
    }

    /// Writes the summary and gives it back.
    pub fn finish(mut self) -> io::Result<Summary> {
        write_line(&mut self.out, &Line::Summary { summary: self.summary.clone() })?;
        Ok(self.summary)
    }
}

/// Writes `value` as one line of JSON and flushes it.
pub fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(seq: u64, ok: bool, answerer: Option<&str>) -> Request {
        Request {
            seq,
            scheduled: 1_000_000,
            started: 3_500_000,
            ended: 4_000_000,
            ok,
            answerer: answerer.map(str::to_owned),
            status: ok.then_some(200),
            error: (!ok).then(|| "timed out".to_owned()),
            again: false,
        }
    }

    #[test]
    fn a_record_reads_back_and_its_summary_adds_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c1.jsonl");
        let mut recorder = Recorder::create(&path).unwrap();
        for item in [request(0, true, Some("SRV1")), request(1, false, None), request(2, true, Some("SRV1"))]
        {
            recorder.request(&item).unwrap();
        }
        recorder.finish().unwrap();
        let lines: Vec<Line> = std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1], Line::Request(request(1, false, None)));
        let Line::Summary { summary } = &lines[3] else { panic!("the last line is the summary") };
        assert_eq!((summary.sent, summary.ok, summary.failed), (3, 2, 1));
        assert_eq!(summary.by_answerer["SRV1"], 2);
        assert!((summary.late_max_ms - 2.5).abs() < 1e-9);
    }
}
