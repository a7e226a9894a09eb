//! Each probe against real servers on loopback that behave, and that do not.

mod common;
mod datagrams;
mod http;
mod smtp;
mod tcp;
mod tls;
