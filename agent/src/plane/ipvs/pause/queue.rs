//! A queue of the kernel in which packets wait (linux/netfilter/nfnetlink_queue.h).

use std::{fs, io, time::Duration};

use crate::plane::{
    attribute::Writer,
    netlink::Connection,
    nftables::{PROTOCOL, header},
};

/// NFNL_SUBSYS_QUEUE, where the type of a message has it.
const SUBSYSTEM: u16 = 3 << 8;
/// NFQNL_MSG_CONFIG.
const CONFIG: u16 = SUBSYSTEM | 2;
/// NFQNL_MSG_VERDICT_BATCH.
const VERDICT_BATCH: u16 = SUBSYSTEM | 3;

/// NFQNL_CFG_CMD_BIND.
const BIND: u8 = 1;
/// NFQNL_COPY_META: we are told that there is a packet, and get none of its bytes.
const COPY_META: u8 = 1;
/// NFQA_CFG_F_FAIL_OPEN: what finds the queue full goes on instead of being dropped.
const FAIL_OPEN: u32 = 1;
/// NF_ACCEPT: on to the next hook.
const ACCEPT: u32 = 1;
/// A queue numbers its packets from 1, and "up to" is a difference of signed numbers: this is up to any that a queue of ours gets
/// in its short life.
const ALL: u32 = i32::MAX.cast_unsigned();

/// Packets that wait at most; those that follow go on at once, as without a pause.
const MAX_HELD: u32 = 8_192;
/// Room for what the kernel tells about that many packets, each of which counts with some hundred bytes. The kernel doubles it.
const BUFFER: usize = 8 << 20;
/// The first number that is tried: users count from 0.
const FIRST: u16 = 47_700;
/// Numbers that are tried.
const NUMBERS: u16 = 16;
/// How often packets are sent on before it counts as strange that there are still more of them. A packet that comes meanwhile
/// makes one more attempt.
const ROUNDS: usize = 1_000;
/// How long to wait where the kernel cannot be asked to wait for its processors.
const GRACE: Duration = Duration::from_millis(20);

/// The queues of the network namespace of the calling thread (`seq_show`, net/netfilter/nfnetlink_queue.c).
const QUEUES: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";

/// A queue of our own. The kernel removes it with its socket and drops what is in it then.
pub(super) struct Queue {
    socket: Connection,
    number: u16,
}

impl Queue {
    /// Takes a free number. The kernel loads nfnetlink_queue for it.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Connection::open(PROTOCOL)?;
        socket.make_room(BUFFER)?;
        let mut failed = None;
        for number in (FIRST..).take(usize::from(NUMBERS)) {
            match socket.change(CONFIG, 0, &config(number)) {
                Ok(()) => return Ok(Self { socket, number }),
                // Somebody else's. The kernel says "not permitted" of a queue that has another owner, too.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM)) => {
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
    }

    /// What rules name it by.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Whether this is the only queue of the network namespace, as far as that is told.
    pub(super) fn is_alone(&self) -> bool {
        fs::read_to_string(QUEUES).map_or(true, |text| others(&text, self.number) == 0)
    }

    /// Lets all packets go on that are in the queue, in their order. Returns how many were told of since the last time: all of
    /// them unless there were more than there is room for.
    pub(super) fn release(&mut self) -> io::Result<usize> {
        let mut told = 0;
        for _ in 0..ROUNDS {
            // First, so that there is room for the answer.
            told += self.socket.discard()?;
            match self.socket.change(VERDICT_BATCH, 0, &verdict(self.number)) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(told),
                Err(error) => return Err(error),
            }
        }
        Ok(told)
    }
}

/// How many queues are listed besides one: a line each, which begins with the number.
fn others(list: &str, number: u16) -> usize {
    let number = number.to_string();
    list.lines().filter_map(|line| line.split_whitespace().next()).filter(|first| *first != number).count()
}

/// Binds a queue and says how it is to be.
fn config(number: u16) -> Vec<u8> {
    // NFQA_CFG_CMD (command, and a protocol family that means nothing here), PARAMS (bytes to copy, mode), QUEUE_MAXLEN, MASK,
    // FLAGS.
    Writer::after(&header(0, number))
        .bytes(1, &[BIND, 0, 0, 0])
        .bytes(2, &[0, 0, 0, 0, COPY_META])
        .network(3, MAX_HELD)
        .network(4, FAIL_OPEN)
        .network(5, FAIL_OPEN)
        .finish()
}

/// Accepts all packets of a queue.
fn verdict(number: u16) -> Vec<u8> {
    // NFQA_VERDICT_HDR: the verdict, and the last packet that it is for.
    let value = [ACCEPT.to_be_bytes(), ALL.to_be_bytes()].concat();
    Writer::after(&header(0, number)).bytes(2, &value).finish()
}

/// Waits until no processor works any more with what was there before: no packet is on its way into a queue by a rule that is
/// gone.
pub(super) fn settle() {
    // MEMBARRIER_CMD_GLOBAL is synchronize_rcu (kernel/sched/membarrier.c), what the change of scheduler itself waits for.
    // SAFETY: the call takes numbers only and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(GRACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_bound_in_one_message() {
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(value.len() + 4).unwrap();
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let expected = [
            vec![0, 0, 0xba, 0x54],
            attribute(1, &[1, 0, 0, 0]),
            attribute(2, &[0, 0, 0, 0, 1]),
            attribute(3, &[0, 0, 0x20, 0]),
            attribute(4, &[0, 0, 0, 1]),
            attribute(5, &[0, 0, 0, 1]),
        ];
        assert_eq!(config(47_700), expected.concat());
    }

    #[test]
    fn queues_of_others_are_counted() {
        let ours = "47700   2731     3 1     0     0     0       17  1\n";
        assert_eq!(others("", 47_700), 0);
        assert_eq!(others(ours, 47_700), 0);
        assert_eq!(others(&format!("    0   1200     0 2 65531     0     0        0  1\n{ours}"), 47_700), 1);
    }

    #[test]
    fn one_verdict_is_for_all() {
        let [low, high] = 12u16.to_ne_bytes();
        let [kind_low, kind_high] = 2u16.to_ne_bytes();
        assert_eq!(
            verdict(0x0102),
            [0, 0, 1, 2, low, high, kind_low, kind_high, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]
        );
    }
}
