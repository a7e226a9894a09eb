//! Parsers of what servers answer: no I/O, no clock, bounded memory, whatever comes.

pub mod dns;
pub mod http;
pub mod icmp;
pub mod smtp;
