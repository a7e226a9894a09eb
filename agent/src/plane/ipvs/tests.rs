//! What is wanted, planned, done and reported, against a model of the kernel.

mod draining;
mod expansion;
mod leaving;
mod pausing;
mod planning;
mod properties;
mod verdicts;
mod working;
