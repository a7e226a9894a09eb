//! When connections are sent to other directors (`ip_vs_sync_conn_needed`, net/netfilter/ipvs/ip_vs_sync.c).

use std::collections::BTreeMap;

use bascule_crds::director::ConnectionSync;

use super::{SYNC_REFRESH_PERIOD, SYNC_RETRIES, SYNC_THRESHOLD};

/// The kernel's own number of packets after which a connection is sent again.
const PERIOD: u32 = 50;
/// Measured (docs/explanation/connection-sync.md): with the kernel's own `3 50` a connection that was opened and has not sent
/// anything yet is not known to others at all, and one that sends often costs more messages.
const REFRESH: u64 = 10;
const RETRIES: u8 = 2;

/// The settings for a connectionSync.
///
/// Unless a threshold is asked for, time decides: a connection is sent when it is established, and again when its timer moved by
/// the refresh period. With a period of packets the kernel sends only at those packets, however much time has passed; so there
/// is one only where a threshold says so, or where there is no refresh.
pub(super) fn values(sync: &ConnectionSync) -> BTreeMap<&'static str, String> {
    let threshold = sync.threshold.unwrap_or(0);
    let refresh = match sync.refresh_period {
        Some(period) => period.as_std().as_secs(),
        None if threshold == 0 => REFRESH,
        None => 0,
    };
    let retries = sync.retries.unwrap_or(if refresh > 0 { RETRIES } else { 0 });
    // The period must be greater than the threshold, or 0: then it is sent once, at that packet.
    let largest = i32::MAX.cast_unsigned();
    let period = match threshold {
        0 if refresh > 0 => 0,
        _ if threshold < PERIOD => PERIOD,
        _ if threshold < largest => threshold + 1,
        _ => 0,
    };
    BTreeMap::from([
        (SYNC_THRESHOLD, format!("{threshold} {period}")),
        (SYNC_REFRESH_PERIOD, refresh.to_string()),
        (SYNC_RETRIES, retries.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_follows_from_what_is_given() {
        for (given, threshold, refresh, retries) in [
            (json!({}), "0 0", "10", "2"),
            (json!({"threshold": 3}), "3 50", "0", "0"),
            (json!({"threshold": 3, "refreshPeriod": "20s"}), "3 50", "20", "2"),
            (json!({"refreshPeriod": "0s"}), "0 50", "0", "0"),
            (json!({"refreshPeriod": "5m", "retries": 3}), "0 0", "300", "3"),
            (json!({"threshold": 50}), "50 51", "0", "0"),
            (json!({"threshold": 2_147_483_647_u32, "retries": 1}), "2147483647 0", "0", "1"),
        ] {
            let mut sync = json!({"interface": "eth1", "syncId": 1});
            for (field, value) in given.as_object().unwrap() {
                sync[field] = value.clone();
            }
            let values = values(&serde_json::from_value(sync).unwrap());
            assert_eq!(
                [SYNC_THRESHOLD, SYNC_REFRESH_PERIOD, SYNC_RETRIES].map(|path| values[path].as_str()),
                [threshold, refresh, retries],
                "{given}"
            );
        }
    }
}
