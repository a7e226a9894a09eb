//! Replies of any bytes never make the reader panic, and read the same however they are cut into pieces.
#![no_main]

use bascule_checks::answer::smtp::{Fault, Reader, Reply};
use libfuzzer_sys::fuzz_target;

/// The reply, and how many bytes it had.
fn read(bytes: &[u8], size: usize) -> Result<(Option<Reply>, usize), Fault> {
    let mut reader = Reader::default();
    let mut taken = 0;
    for piece in bytes.chunks(size) {
        let (reply, length) = reader.feed(piece)?;
        taken += length;
        if reply.is_some() {
            return Ok((reply, taken));
        }
    }
    Ok((None, taken))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    assert_eq!(read(bytes, usize::from(size) + 1), read(bytes, bytes.len().max(1)));
});
