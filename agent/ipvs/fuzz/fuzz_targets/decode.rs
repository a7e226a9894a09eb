//! Bytes from the kernel, or from anybody, never make the decoder panic; what it reads as a command it writes again, and reads
//! the same.
#![no_main]

use bascule_ipvs::{
    Family,
    codec::{Payload, decode_command, decode_family, decode_reply, encode_command, messages},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for message in messages(bytes).flatten() {
        if let Payload::Family { bytes, .. } = message.payload {
            payload(bytes);
        }
    }
    payload(bytes);
});

fn payload(bytes: &[u8]) {
    let _ = decode_family(bytes);
    let _ = decode_reply(bytes, Family::Ipv4);
    let _ = decode_reply(bytes, Family::Ipv6);
    if let Ok(command) = decode_command(bytes) {
        let mut written = Vec::new();
        if encode_command(&mut written, 0x20, 1, 0, &command).is_ok() {
            assert_eq!(decode_command(&written[16..]), Ok(command));
        }
    }
}
