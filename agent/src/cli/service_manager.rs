//! What systemd wants to know, by sd_notify(3): ready, alive, stopping. Silent where there is no service manager.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
}

impl ServiceManager {
    /// As NOTIFY_SOCKET says.
    pub(super) fn from_env() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|path| match connect(&path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("the service manager's socket {} cannot be used: {error}", path.display());
                None
            }
        });
        Self { socket }
    }

    /// Tells a state, as `READY=1`.
    pub(super) fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket {
            // It may be gone at the moment; there is nothing that could be done about it.
            let _ = socket.send(state.as_bytes());
        }
    }

    /// How often it wants to hear `WATCHDOG=1`: half of what it would wait for.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.socket.as_ref()?;
        let for_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let microseconds: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
        (for_us && microseconds > 0).then(|| Duration::from_micros(microseconds) / 2)
    }
}

fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let bytes = path.as_bytes();
    let address = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        Some((b'/', _)) => SocketAddr::from_pathname(path)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_over_a_path_and_over_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager { socket: Some(connect(path.as_os_str()).unwrap()) };
        manager.tell("READY=1");
        let mut buffer = [0; 64];
        let length = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");

        let name = format!("bascule-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        connect(OsStr::new(&format!("@{name}"))).unwrap().send(b"STOPPING=1").unwrap();
        let length = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }

    #[test]
    fn no_socket_is_no_error() {
        ServiceManager { socket: None }.tell("READY=1");
        assert!(connect(OsStr::new("relative")).is_err());
    }
}
