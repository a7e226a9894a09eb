//! What the stream tells of the real servers and the quorum of a group's services (keepalived: lvs_notify_fifo).

use std::net::IpAddr;
use std::time::SystemTime;

use serde::Serialize;

use super::time::rfc3339;

/// Something has changed about a VirtualService of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The group.
    pub group: String,
    /// Namespace and name of the VirtualService, as `tp/web`.
    pub service: String,
    /// What.
    pub what: Changed,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Changed {
    /// The state of a real server, or what it weighs, because of what a check found.
    RealServer {
        /// Its name.
        real_server: String,
        /// Its address.
        address: IpAddr,
        /// Starting, Up, Down or Draining.
        from: &'static str,
        /// The same words.
        to: &'static str,
        /// What it weighs now, 0 when it is not alive.
        weight: u16,
        /// What the check said, at most 128 characters.
        reason: String,
    },
    /// Whether enough real servers are alive.
    Quorum {
        /// Met or Lost.
        quorum: &'static str,
        /// The sum of the weights of live real servers.
        alive: u64,
        /// What the sum must be.
        needed: u32,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    virtual_service: &'a str,
    #[serde(flatten)]
    what: &'a Changed,
}

impl Change {
    /// As the stream tells it.
    pub(super) fn line(&self, at: SystemTime) -> Vec<u8> {
        line(&Line { time: rfc3339(at), virtual_service: &self.service, what: &self.what })
    }
}

/// So many changes were not told to a reader.
pub(super) fn missed(count: u64, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct Missed {
        time: String,
        missed: u64,
    }
    line(&Missed { time: rfc3339(at), missed: count })
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // What is made of strings and numbers can be written.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = |what| {
            let change = Change { group: "front".into(), service: "tp/web".into(), what };
            String::from_utf8(change.line(SystemTime::UNIX_EPOCH)).unwrap()
        };
        let server = Changed::RealServer {
            real_server: "srv1".into(),
            address: [172, 16, 193, 10].into(),
            from: "Up",
            to: "Down",
            weight: 0,
            reason: "GET /: 503, wanted 200-299".into(),
        };
        assert_eq!(
            text(server),
            concat!(
                r#"{"time":"1970-01-01T00:00:00.000000Z","virtualService":"tp/web","realServer":"srv1","#,
                r#""address":"172.16.193.10","from":"Up","to":"Down","weight":0,"#,
                r#""reason":"GET /: 503, wanted 200-299"}"#,
                "\n"
            )
        );
        let quorum = Changed::Quorum { quorum: "Lost", alive: 1, needed: 2 };
        assert_eq!(
            text(quorum),
            concat!(
                r#"{"time":"1970-01-01T00:00:00.000000Z","virtualService":"tp/web","quorum":"Lost","#,
                r#""alive":1,"needed":2}"#,
                "\n"
            )
        );
        let missed = String::from_utf8(missed(3, SystemTime::UNIX_EPOCH)).unwrap();
        assert_eq!(missed, "{\"time\":\"1970-01-01T00:00:00.000000Z\",\"missed\":3}\n");
    }
}
