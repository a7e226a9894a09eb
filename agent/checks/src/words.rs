//! Errors in words for a person.

use std::io;
use std::time::Duration;

/// A duration as manifests write it: `3s`, `500ms`, `1s500ms`.
pub(crate) fn duration(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (0, millis) => format!("{millis}ms"),
        (secs, 0) => format!("{secs}s"),
        (secs, millis) => format!("{secs}s{millis}ms"),
    }
}

/// An error of a connection or a socket that the network, the peer or this machine caused.
pub(crate) fn io(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "connection refused".into(),
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => "connection reset".into(),
        Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => "host unreachable".into(),
        Some(libc::ENETUNREACH | libc::ENETDOWN) => "network unreachable: no route from here".into(),
        Some(libc::ETIMEDOUT) => "connection timed out".into(),
        Some(libc::EADDRNOTAVAIL | libc::EAGAIN) => "this machine has no free port towards it".into(),
        Some(libc::EACCES | libc::EPERM) => "forbidden by this machine's firewall or routes".into(),
        Some(libc::EMFILE | libc::ENFILE) => "this machine has too many open files".into(),
        Some(libc::ENOBUFS | libc::ENOMEM) => "this machine has no memory for it".into(),
        Some(libc::ENOSPC) => "this machine watches too many descriptors (fs.epoll.max_user_watches)".into(),
        Some(libc::EMSGSIZE) => "longer than a packet may be".into(),
        _ if error.kind() == io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "the server closed the connection".into(),
        _ => error.to_string(),
    }
}

/// A text cut to some characters, with `…` where it was longer.
pub(crate) fn short(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration(Duration::from_millis(500)), "500ms");
        assert_eq!(duration(Duration::from_secs(3)), "3s");
        assert_eq!(duration(Duration::from_millis(61_001)), "61s1ms");
    }

    #[test]
    fn short_texts() {
        assert_eq!(short("abc", 3), "abc");
        assert_eq!(short("abcd", 3), "ab…");
        assert_eq!(short("éééé", 4), "éééé");
    }
}
