//! Faults of what a machine has besides its network: room, and a clock.

use super::Played;
use crate::scenario::Span;
use crate::scenario::fault::ClockStep;
use crate::world::{Error, Exec, Node, Output, Result, World, now};

/// Where the agent keeps its ledgers: a file system of the node's own, in memory.
const FULL: &str = "/run";
/// How often the size is set: a program may write in between.
const ATTEMPTS: u32 = 20;
/// What a node's `/run` has at its boot (tmpfs(5)).
const ROOM: &str = "50%";

/// The room of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    used: u64,
    free: u64,
}

fn room(node: &Node) -> Result<Room> {
    let output = node.exec(&Exec::new(["stat", "--file-system", "--format", "%S %b %f", FULL]))?.checked()?;
    read_room(&output.text()).ok_or_else(|| Error::wrong(format!("stat says `{}` of {FULL}", output.text())))
}

/// Reads block size, blocks and free blocks.
fn read_room(text: &str) -> Option<Room> {
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (size, blocks, free) = (next()?, next()?, next()?);
    Some(Room { used: blocks.checked_sub(free)? * size, free: free * size })
}

fn resize(node: &Node, size: &str) -> Result<Output> {
    node.exec(&Exec::new(["mount", "-o", &format!("remount,size={size}"), FULL]))
}

/// Writes a page where there may be no room. Whether it could, and what was said.
fn write_a_page(node: &Node) -> Result<(bool, String)> {
    let line = format!(
        "dd if=/dev/zero of={FULL}/bascule-lab/page bs=4096 count=1 conv=fsync 2>&1; code=$?; rm -f {FULL}/bascule-lab/page; exit $code"
    );
    let output = node.exec(&Exec::shell(&line))?;
    Ok((output.success(), output.text()))
}

pub(super) fn fill_disk(world: &World, name: &str) -> Result<Played> {
    let node = world.node(name)?;
    node.awake()?;
    if room(&node)?.free == 0 {
        return Err(Error::wrong(format!("{FULL} of {name} is full already")));
    }
    // A size of 0 would be none at all.
    node.write_file(format!("{FULL}/bascule-lab/filler"), [0; 4096])?;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let used = room(&node)?.used;
        let at = now();
        let output = resize(&node, &used.to_string())?;
        let done = now();
        if !output.success() {
            last = output.error_text();
            continue;
        }
        return match write_a_page(&node)? {
            (false, said) if said.contains("No space left on device") => Ok(Played::new(
                at,
                done,
                format!("{FULL} of {name} is full with {} KiB: writing there fails with ENOSPC", used / 1024),
            )),
            (_, said) => {
                resize(&node, ROOM)?;
                Err(Error::wrong(format!("a page could be written to {FULL} of {name}: {said}")))
            }
        };
    }
    Err(Error::wrong(format!("{FULL} of {name} cannot be made smaller: {last}")))
}

pub(super) fn empty_disk(world: &World, name: &str) -> Result<Played> {
    let node = world.node(name)?;
    node.awake()?;
    if node.read_file(format!("{FULL}/bascule-lab/filler")).is_err() {
        return Err(Error::wrong(format!(
            "{FULL} of {name} is not full by a fault; a reboot empties it, too"
        )));
    }
    let at = now();
    resize(&node, ROOM)?.checked()?;
    let done = now();
    node.remove_file(format!("{FULL}/bascule-lab/filler"))?;
    match write_a_page(&node)? {
        (true, _) => Ok(Played::new(
            at,
            done,
            format!("{FULL} of {name} has {} MiB free: a page was written", room(&node)?.free >> 20),
        )),
        (false, said) => Err(Error::wrong(format!("no page can be written to {FULL} of {name}: {said}"))),
    }
}

/// How far the clock may be off what was asked for: what passes between setting and reading it, on a machine that stands still meanwhile.
const CLOSE: i128 = 5_000_000_000;

pub(super) fn step_clock(world: &World, fault: &ClockStep) -> Result<Played> {
    let wanted = fault.nanoseconds();
    let at = now();
    let moved = world.step_clock(wanted)?;
    let done = now();
    if (moved - wanted).abs() > CLOSE {
        world.clock_back()?;
        return Err(Error::wrong(format!("the wall clock has moved by {} ms", moved / 1_000_000)));
    }
    let milliseconds = (moved.unsigned_abs() + 500_000) / 1_000_000;
    let length = Span::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX));
    let way = if moved < 0 { "back" } else { "forward" };
    Ok(Played::new(at, done, format!("the wall clock is {length} {way}; CLOCK_MONOTONIC went on")))
}

pub(super) fn clock_back(world: &World) -> Result<Played> {
    let at = now();
    let Some(off) = world.clock_back()? else { return Err(Error::wrong("the wall clock is not moved")) };
    let done = now();
    if off.abs() > CLOSE {
        return Err(Error::wrong(format!("the wall clock is still {} ms off", off / 1_000_000)));
    }
    Ok(Played::new(at, done, format!("the wall clock is back, {} ms off", off.abs() / 1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_read() {
        assert_eq!(read_room("4096 10 3\n"), Some(Room { used: 7 * 4096, free: 3 * 4096 }));
        for text in ["", "4096 10", "4096 3 10", "a b c"] {
            assert_eq!(read_room(text), None, "{text}");
        }
    }
}
