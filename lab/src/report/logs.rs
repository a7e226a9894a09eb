//! Logs: their text, and what of it belongs on the timeline. Agents write the time of each line (RFC 3339, UTC).

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::{Value, json};

/// As much is taken of one log, in bytes: its beginning and its end.
const MAX_LOG: u64 = 256 << 10;
/// As much is taken of all.
const MAX_LOGS: usize = 8 << 20;
/// So many events are taken from logs.
const MAX_EVENTS: usize = 20_000;

/// Logs as they are, and what they tell.
#[derive(Default)]
pub(super) struct Logs {
    pub(super) texts: Vec<Value>,
    pub(super) vrrp: Vec<Value>,
    pub(super) checks: Vec<Value>,
}

/// Reads all logs of a folder. `start`: when the scenario began, in nanoseconds since 1970; without it nothing has its place in time.
///
/// # Errors
/// When a file that is there cannot be read.
pub(super) fn read(folder: &Path, start: Option<u64>) -> io::Result<Logs> {
    let mut logs = Logs::default();
    let mut taken = 0;
    for node in entries(folder)? {
        for path in entries(&node)? {
            let name = |path: &Path, stem: bool| {
                let part = if stem { path.file_stem() } else { path.file_name() };
                part.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            };
            let (node, program) = (name(&node, false), name(&path, true));
            let own =
                program.starts_with("load-") || program.starts_with("capture-") || node.starts_with('.');
            if path.extension().is_none_or(|extension| extension != "log") || own {
                continue;
            }
            let text = excerpt(&path)?;
            if let Some(start) = start {
                logs.events(&node, &text, start);
            }
            if text.is_empty() || taken + text.len() > MAX_LOGS {
                continue;
            }
            taken += text.len();
            logs.texts.push(json!({"node": node, "program": program, "text": text}));
        }
    }
    Ok(logs)
}

fn entries(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

/// A log, or its beginning and end.
fn excerpt(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    if size <= MAX_LOG {
        file.take(MAX_LOG).read_to_end(&mut bytes)?;
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    (&mut file).take(MAX_LOG / 2).read_to_end(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    file.seek(SeekFrom::Start(size - MAX_LOG / 2))?;
    let mut end = Vec::new();
    file.take(MAX_LOG / 2).read_to_end(&mut end)?;
    text.push_str(&format!("\n… {} bytes …\n", size - MAX_LOG));
    text.push_str(&String::from_utf8_lossy(&end));
    Ok(text)
}

impl Logs {
    fn events(&mut self, node: &str, text: &str, start: u64) {
        for line in text.lines() {
            let Some((time, rest)) = line.split_once(' ') else { continue };
            let Some(at) = unix_nanoseconds(time) else { continue };
            let rest = rest.trim_start();
            let message = rest.split_once(' ').map_or("", |(_, message)| message);
            #[expect(clippy::cast_precision_loss, reason = "2^53 ns are a hundred days")]
            let t = (i128::from(at) - i128::from(start)) as f64 / 1e9;
            if self.vrrp.len() < MAX_EVENTS
                && let Some(event) = vrrp(node, message, t)
            {
                self.vrrp.push(event);
            }
            if self.checks.len() < MAX_EVENTS
                && let Some(event) = check(node, message, t)
            {
                self.checks.push(event);
            }
        }
    }
}

/// The value of `key=…` in a line of an agent's log.
fn field<'a>(message: &'a str, key: &str) -> Option<&'a str> {
    let at = message.rfind(&format!(" {key}="))? + key.len() + 2;
    message.get(at..)?.split(' ').next()
}

/// `vrrp: front: Backup -> Active: outside: heard nothing … group=front from=Backup to=Active priority=200`.
fn vrrp(node: &str, message: &str, t: f64) -> Option<Value> {
    let rest = message.strip_prefix("vrrp: ")?;
    let (group, from, to) = (field(message, "group")?, field(message, "from")?, field(message, "to")?);
    let change = format!("{group}: {from} -> {to}: ");
    let reason = rest.strip_prefix(&change)?;
    let reason = reason.rfind(" group=").and_then(|end| reason.get(..end)).unwrap_or(reason);
    Some(json!({"t": t, "node": node, "group": group, "from": from, "to": to, "reason": reason}))
}

/// `down: GET /: connection refused check=tp/it-works address=172.16.193.10 port=80 services=1`.
fn check(node: &str, message: &str, t: f64) -> Option<Value> {
    let (up, rest) = match message.split_once(": ")? {
        ("up", rest) => (true, rest),
        ("down", rest) => (false, rest),
        _ => return None,
    };
    let (check, address, port) =
        (field(message, "check")?, field(message, "address")?, field(message, "port")?);
    let text = rest.rfind(" check=").and_then(|end| rest.get(..end)).unwrap_or(rest);
    Some(
        json!({"t": t, "node": node, "check": check, "server": address, "port": port, "up": up, "text": text}),
    )
}

/// `2026-11-28T12:26:45.558443Z` in nanoseconds since 1970.
pub(super) fn unix_nanoseconds(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (whole, part) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = whole.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March, so that the day that is not always there is the last.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    let seconds = u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()?;
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    seconds.checked_mul(1_000_000_000)?.checked_add(digits.parse().ok()?)
}
