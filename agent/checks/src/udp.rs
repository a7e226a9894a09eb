//! `udp`: a datagram is not refused, or is answered.

use crate::course::{Course, Phase};
use crate::probe::UDP_MAX;
use crate::socket;
use crate::{Invalid, Outcome, Target, Udp, words};

/// A datagram that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Datagram(Udp);

/// What became of it.
enum Found {
    Answer { fits: bool },
    Error(String),
}

impl Datagram {
    pub(crate) fn new(udp: &Udp) -> Result<Self, Invalid> {
        if udp.payload.len() > UDP_MAX {
            return Err(Invalid::new("udp.payload", "must be at most 1024 bytes"));
        }
        if udp.reply.is_some() && !udp.require_reply {
            return Err(Invalid::new("udp.reply", "needs requireReply: true"));
        }
        Ok(Self(udp.clone()))
    }

    pub(crate) async fn run(&self, target: &Target, course: &Course) -> Outcome {
        match course.within(self.ask(target, course)).await {
            Ok(Found::Answer { fits: true }) => Outcome::passed("answered"),
            Ok(Found::Answer { fits: false }) => Outcome::failed("the answer does not begin as it should"),
            Ok(Found::Error(words)) => Outcome::failed(words),
            Err(late) if self.0.require_reply => Outcome::failed(late),
            // Silence is what a server that does not answer such a datagram has in common with one that is not there.
            Err(_) => Outcome::passed(format!("not refused within {}", words::duration(course.timeout()))),
        }
    }

    /// Sends, and waits for an answer or an error.
    async fn ask(&self, target: &Target, course: &Course) -> Found {
        let socket = match socket::udp(target, course) {
            Ok(socket) => socket,
            Err(words) => return Found::Error(words),
        };
        course.enter(Phase::Answer);
        if let Err(error) = socket.send(&self.0.payload).await {
            return Found::Error(socket::datagram_words(course.note(&error)));
        }
        let mut fits = false;
        let received = socket::receive(&socket, 0, |bytes, _| {
            fits = self.0.reply.as_ref().is_none_or(|reply| reply.matches(bytes));
        });
        match received.await {
            Ok(()) => Found::Answer { fits },
            Err(error) => Found::Error(socket::datagram_words(&error)),
        }
    }
}
