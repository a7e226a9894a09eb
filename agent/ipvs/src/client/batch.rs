//! Many commands in one `send`.
//!
//! The kernel goes through the messages of a datagram while `send` runs, so that all answers are in the receive buffer when it
//! returns. It answers a message that fails, with that message's sequence number, and goes on; it answers one that works only if that
//! asked for it. Only the last of a batch does: its answer ends the batch, and a command without answer worked.

use std::io;

use super::{
    connection::{Connection, is_enobufs},
    link::Link,
};
use crate::{
    Command, CommandError, Errno, Error,
    codec::{NLM_F_ACK, NLM_F_REQUEST, Payload, encode_command},
};

/// Commands in a batch, when the receive buffer has room for their answers. Larger ones are not measurably faster.
const BATCH: usize = 1000;
/// What one answer takes of the receive buffer in the kernel's accounting: 768 bytes on 64-bit Linux, and room to spare.
const ANSWER: usize = 1024;
/// Bytes in a batch. The kernel's default send buffer takes 212,960.
const BATCH_BYTES: usize = 160 << 10;

/// What is known of a command: nothing yet, or its outcome.
pub(super) type Outcome = Option<Result<(), CommandError>>;

/// How a batch went as a whole.
enum Sent {
    /// Every command without an error worked.
    Answered,
    /// Answers were lost.
    Overflow,
    /// Nothing was carried out: the kernel could not take so much at once.
    TooLarge,
}

impl<L: Link> Connection<L> {
    /// See [`crate::Client::execute_all`].
    pub(super) fn execute_all(
        &mut self,
        commands: &[Command],
    ) -> Result<Vec<Result<(), CommandError>>, Error> {
        let outcomes = self.execute_batches(commands)?;
        // Should ip_vs have been unloaded and loaded again, the id of the family means nothing any more, and the kernel answers every
        // message alike.
        let all =
            |wanted| !outcomes.is_empty() && outcomes.iter().all(|outcome| errno_of(outcome) == Some(wanted));
        if all(Errno::EPERM) {
            return Err(Error::Permission);
        }
        if all(Errno::ENOENT) && self.family_changed()? {
            return self.execute_batches(commands);
        }
        Ok(outcomes)
    }

    fn execute_batches(&mut self, commands: &[Command]) -> Result<Vec<Result<(), CommandError>>, Error> {
        let answers = (self.link.receive_buffer() / ANSWER).max(1);
        let mut limit = self.options.batch.unwrap_or(BATCH.min(answers)).max(1);
        let mut outcomes: Vec<Outcome> = vec![None; commands.len()];
        let mut position = 0;
        while position < commands.len() {
            let end = position.saturating_add(limit).min(commands.len());
            let (taken, sent) = self.batch(&commands[position..end], &mut outcomes[position..end])?;
            let batch = position..position + taken;
            match sent {
                Sent::TooLarge => {
                    limit = (taken / 2).max(1);
                    continue;
                }
                Sent::Overflow => self.settle(&commands[batch.clone()], &mut outcomes[batch])?,
                Sent::Answered => {}
            }
            position += taken;
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(Ok(()))).collect())
    }

    /// Sends as many of the commands as fit, notes the outcome of those that failed, and says how many it sent.
    fn batch(&mut self, commands: &[Command], outcomes: &mut [Outcome]) -> Result<(usize, Sent), Error> {
        self.begin()?;
        let mut taken = 0;
        let mut last = None;
        // Sequence number minus `first` is the position of a command.
        let first = self.next_sequence();
        let mut sequence = first;
        for (command, outcome) in commands.iter().zip(outcomes.iter_mut()) {
            if self.request.len() >= BATCH_BYTES {
                break;
            }
            let at = self.request.len();
            match encode_command(&mut self.request, self.family, sequence, 0, command) {
                Ok(()) => last = Some((at, sequence)),
                Err(invalid) => *outcome = Some(Err(invalid.into())),
            }
            taken += 1;
            sequence = self.next_sequence();
        }
        let Some((at, last)) = last else { return Ok((taken, Sent::Answered)) };
        // Only now is it known which one is the last.
        self.request[at + 6..at + 8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        if let Err(source) = self.link.send(&self.request) {
            return if taken > 1 && too_large(&source) {
                Ok((taken, Sent::TooLarge))
            } else {
                self.broken(Err(Error::Socket { action: "send to the kernel", source }))
            };
        }
        let result = self.answers(commands, outcomes, first, last);
        let sent = self.broken(result)?;
        Ok((taken, sent))
    }

    /// Reads answers until that of the sequence number `last`.
    fn answers(
        &mut self,
        commands: &[Command],
        outcomes: &mut [Outcome],
        first: u32,
        last: u32,
    ) -> Result<Sent, Error> {
        let mut overflow = false;
        let mut finished = false;
        loop {
            let received = self.receive_datagram(!overflow, |message| match message.payload {
                Payload::Overrun => overflow = true,
                Payload::Answer { errno } => {
                    let index = usize::try_from(message.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                    if let (Some(command), Some(outcome)) = (commands.get(index), outcomes.get_mut(index)) {
                        *outcome = Some(match errno {
                            0 => Ok(()),
                            errno => Err(CommandError::kernel(command, Errno::from_raw(errno))),
                        });
                        finished |= message.sequence == last;
                    }
                }
                Payload::Done { .. } | Payload::Noop | Payload::Family { .. } => {}
            });
            match received {
                Ok(()) => {}
                Err(error) if is_enobufs(&error) => overflow = true,
                // After an overflow what is left is read without waiting; the answer to the last may be lost, too.
                Err(Error::Timeout { .. }) if overflow => return Ok(Sent::Overflow),
                Err(error) => return Err(error),
            }
            if finished && !overflow {
                return Ok(Sent::Answered);
            }
        }
    }
}

fn errno_of(outcome: &Result<(), CommandError>) -> Option<Errno> {
    outcome.as_ref().err().and_then(CommandError::errno)
}

/// The kernel refused a datagram for its size, before reading it.
fn too_large(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMSGSIZE | Errno::ENOBUFS | Errno::ENOMEM))
}
