//! A message of any bytes never makes the reader panic; what it takes for the answer has the id of the query.
#![no_main]

use bascule_checks::answer::dns::{QueryName, RecordType, answer, query};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &str, &[u8])| {
    let (id, name, bytes) = input;
    let Ok(name) = QueryName::parse(name) else { return };
    let asked = query(id, &name, RecordType::Soa);
    if answer(&asked, bytes).is_ok() {
        assert_eq!(bytes[..2], id.to_be_bytes());
    }
    let _ = answer(bytes, &asked);
    // The query itself, marked as an answer, is one.
    let mut echoed = asked.clone();
    echoed[2] |= 0x80;
    assert_eq!(answer(&asked, &echoed).map(|answer| answer.code), Ok(0));
});
