//! An answer of any bytes never makes the reader panic, and reads the same however it is cut into pieces.
#![no_main]

use bascule_checks::answer::http::{Fault, Reader};
use libfuzzer_sys::fuzz_target;

/// Status code, body and end of an answer that comes in pieces of a size.
fn read(bytes: &[u8], size: usize, head_only: bool) -> (Option<u16>, Vec<u8>, Result<(), Fault>) {
    let mut reader = Reader::new(head_only);
    let mut body = Vec::new();
    for piece in bytes.chunks(size) {
        if let Err(fault) = reader.feed(piece, &mut |bytes| body.extend_from_slice(bytes)) {
            return (reader.status(), body, Err(fault));
        }
    }
    let end = reader.end();
    (reader.status(), body, end)
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (head_only, size, bytes) = input;
    let whole = read(bytes, bytes.len().max(1), head_only);
    assert!(whole.1.len() <= bytes.len());
    assert_eq!(read(bytes, usize::from(size) + 1, head_only), whole);
});
