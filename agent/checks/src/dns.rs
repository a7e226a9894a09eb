//! `dns`: a name server answers.

use tokio::io::AsyncWriteExt as _;

use crate::answer::dns::{self, Answer, NotTheAnswer};
use crate::course::{Course, Phase};
use crate::socket::{self, Connection};
use crate::{Dns, Outcome, QueryName, RecordType, Target, Transport, words};

/// Characters of a name that a message has room for.
const NAME_SHOWN: usize = 60;
/// Datagrams that are passed over at most.
const STRAYS_MAX: usize = 1000;

/// A question that is ready to be asked.
#[derive(Debug)]
pub(crate) struct Question {
    name: QueryName,
    record_type: RecordType,
    transport: Transport,
    /// Begin of messages.
    title: String,
}

impl Question {
    pub(crate) fn new(dns: &Dns) -> Self {
        let name = dns.name.to_string();
        Self {
            name: dns.name.clone(),
            record_type: dns.record_type,
            transport: dns.transport,
            title: format!("{} of {}", dns.record_type.name(), words::short(&name, NAME_SHOWN)),
        }
    }

    pub(crate) async fn run(&self, target: &Target, course: &Course) -> Outcome {
        let query = dns::query((socket::random() & 0xffff) as u16, &self.name, self.record_type);
        let mut stray = None;
        let result = match self.transport {
            Transport::Udp => course.within(over_udp(&query, target, course, &mut stray)).await,
            Transport::Tcp => course.within(over_tcp(&query, target, course)).await,
        };
        match (result.unwrap_or_else(Err), stray) {
            (Ok(answer), _) if answer.code == 0 => Outcome::passed(format!("{}: NOERROR", self.title)),
            (Ok(answer), _) => Outcome::failed(format!("{}: {}, wanted NOERROR", self.title, answer.name())),
            (Err(words), Some(stray)) => Outcome::failed(format!("{}: {words}, but {stray}", self.title)),
            (Err(words), None) => Outcome::failed(format!("{}: {words}", self.title)),
        }
    }
}

/// Asks once. A datagram that is no answer to the question is passed over, as it may be late or forged, and told of.
async fn over_udp(
    query: &[u8],
    target: &Target,
    course: &Course,
    stray: &mut Option<NotTheAnswer>,
) -> Result<Answer, String> {
    let socket = socket::udp(target, course)?;
    course.enter(Phase::Answer);
    socket.send(query).await.map_err(|error| socket::datagram_words(course.note(&error)))?;
    for _ in 0..STRAYS_MAX {
        let mut found = Err(NotTheAnswer::NotDns);
        let received = socket::receive(&socket, 0, |bytes, _| found = dns::answer(query, bytes));
        received.await.map_err(|error| socket::datagram_words(&error))?;
        match found {
            Ok(answer) => return Ok(answer),
            Err(other) => *stray = Some(other),
        }
    }
    Err(format!("more than {STRAYS_MAX} datagrams that are no answer"))
}

/// Asks over a connection: messages have their length before them (RFC 1035, section 4.2.2).
async fn over_tcp(query: &[u8], target: &Target, course: &Course) -> Result<Answer, String> {
    let mut connection = Connection::open_to_speak(target, course).await?;
    course.enter(Phase::Answer);
    let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
    let message = [&length.to_be_bytes(), query].concat();
    connection.write_all(&message).await.map_err(|error| words::io(&error))?;
    // Header and question are all that is looked at, and a query is as long: the rest is counted only.
    let mut begin: Vec<u8> = Vec::new();
    let mut received = 0;
    let end = loop {
        match *begin {
            [high, low, ..] if received >= 2 + usize::from(u16::from_be_bytes([high, low])) => {
                break 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            _ => (),
        }
        let read = socket::read(&mut connection, |bytes| {
            let room = 2 + query.len() - begin.len();
            begin.extend_from_slice(&bytes[..room.min(bytes.len())]);
            received += bytes.len();
        });
        match read.await.map_err(|error| words::io(&error))? {
            0 if received == 0 => return Err("the server closed the connection without an answer".into()),
            0 => return Err("the server closed the connection within the answer".into()),
            _ => course.enter(Phase::Rest),
        }
    };
    begin.truncate(end);
    connection.close();
    let message = begin.get(2..).unwrap_or_default();
    dns::answer(query, message).map_err(|other| other.to_string())
}
