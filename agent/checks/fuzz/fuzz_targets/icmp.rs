//! A packet of any bytes never makes the reader panic; what it takes for the reply carries what was sent.
#![no_main]

use bascule_checks::answer::icmp::{Kind, reply, request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, &[u8], &[u8])| {
    let (v6, raw, payload, packet) = input;
    let kind = Kind { v6, raw };
    let sent = request(kind, 1, 2, payload);
    if reply(kind, &sent, packet).is_ok() {
        assert!(packet.ends_with(payload));
    }
    let _ = reply(kind, packet, &sent);
});
