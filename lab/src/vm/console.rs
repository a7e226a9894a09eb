//! The machine's console: its last lines in memory, its beginning in a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Lines kept in memory.
const LINES: usize = 40;
/// Bytes of a line that are kept.
const LINE: usize = 400;
/// Bytes written to the file.
const FILE: usize = 4 * 1024 * 1024;

/// What the console said last.
#[derive(Clone, Debug)]
pub(super) struct Console {
    lines: Arc<Mutex<VecDeque<String>>>,
    heard: Arc<Mutex<Instant>>,
}

impl Default for Console {
    fn default() -> Self {
        Self { lines: Arc::default(), heard: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl Console {
    /// Follows a stream on a thread of its own until it ends.
    pub(super) fn follow(&self, mut stream: impl Read + Send + 'static, log: &Path) {
        let mut file = File::create(log).ok();
        *self.heard.lock().expect("no holder panics") = Instant::now();
        let console = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            let mut line = Vec::new();
            let mut written = 0;
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                    Ok(length) => {
                        let bytes = &buffer[..length];
                        *console.heard.lock().expect("no holder panics") = Instant::now();
                        if written < FILE
                            && let Some(file) = &mut file
                        {
                            written += length;
                            let _ = file.write_all(bytes);
                        }
                        for &byte in bytes {
                            if byte == b'\n' {
                                console.add(&line);
                                line.clear();
                            } else if line.len() < LINE {
                                line.push(byte);
                            }
                        }
                    }
                }
            }
            console.add(&line);
        });
    }

    fn add(&self, line: &[u8]) {
        let text: String =
            String::from_utf8_lossy(line).chars().filter(|c| !c.is_control() || *c == '\t').collect();
        if text.trim().is_empty() {
            return;
        }
        let mut lines = self.lines.lock().expect("no holder panics");
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }

    /// How long it has said nothing.
    pub(super) fn silent(&self) -> Duration {
        self.heard.lock().expect("no holder panics").elapsed()
    }

    /// The last lines.
    pub(super) fn tail(&self) -> Vec<String> {
        self.lines.lock().expect("no holder panics").iter().cloned().collect()
    }
}
