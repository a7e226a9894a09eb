//! One figure of the agent's metrics.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::expect::metric::value;
use crate::world::Node;

/// Where the agent listens unless told.
const LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9740);
/// How long a piece of the answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines that are read at most: the agent's own figures come before those of the services.
const MAX_LINES: usize = 2_000;

/// Reads a figure by its name with its labels; none when the agent does not tell it.
pub(super) fn read(node: &Node, name: &str) -> Result<Option<f64>> {
    let ask = || -> Result<Option<f64>> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(LISTEN), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        for line in BufReader::new(stream).lines().take(MAX_LINES) {
            if let Some(value) = value(&line?, name) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    };
    node.in_netns(ask)?.context("asking the agent for its metrics")
}
