//! `smtp`: a server greets and takes a HELO, and STARTTLS where that is wanted.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;

use crate::answer::smtp::{Reader, Reply};
use crate::course::{Course, Phase};
use crate::probe::Verify;
use crate::socket::{self, Connection, Stream};
use crate::{Invalid, Outcome, PrepareError, Smtp, Target, tls};

/// Bytes of a name in HELO at most (RFC 5321, section 4.5.3.1.2).
const HELO_MAX: usize = 255;

/// A conversation that is ready to be had.
#[derive(Debug)]
pub(crate) struct Conversation {
    helo: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Conversation {
    pub(crate) fn new(
        smtp: &Smtp,
        helo: &str,
        target: &Target,
        configs: &tls::Configs,
    ) -> Result<Self, PrepareError> {
        let helo = smtp.helo.as_deref().unwrap_or(helo);
        let plain = helo.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
        if helo.is_empty() || helo.len() > HELO_MAX || !plain {
            return Err(Invalid::new("smtp.helo", "must be a host name, or an address in brackets").into());
        }
        let tls = if smtp.start_tls {
            Some((configs.get(&Verify::Nothing, false)?, ServerName::from(target.address)))
        } else {
            None
        };
        Ok(Self { helo: helo.to_owned(), tls })
    }

    pub(crate) async fn run(&self, target: &Target, course: &Course) -> Outcome {
        match course.within(self.talk(target, course)).await {
            Ok(Ok(words)) => Outcome::passed(words),
            Ok(Err(words)) | Err(words) => Outcome::failed(words),
        }
    }

    async fn talk(&self, target: &Target, course: &Course) -> Result<&'static str, String> {
        let connection = Connection::open(target, course).await?;
        connection.no_delay()?;
        course.enter(Phase::Answer);
        let mut plain = Line { stream: connection, pending: Vec::new() };
        wanted("greeting", plain.reply().await?, 220)?;
        let Some((config, name)) = &self.tls else {
            plain.ask(&format!("HELO {}\r\n", self.helo), "HELO", 250).await?;
            plain.quit(course).await?;
            return Ok("greeted");
        };
        let offers = plain.ask(&format!("EHLO {}\r\n", self.helo), "EHLO", 250).await?;
        if !offers.start_tls {
            return Err("the server does not offer STARTTLS".into());
        }
        plain.ask("STARTTLS\r\n", "STARTTLS", 220).await?;
        // What came in the clear must not be taken for what came over TLS (RFC 3207, section 6).
        if !plain.pending.is_empty() {
            return Err("the server sent more after its answer to STARTTLS".into());
        }
        Box::pin(self.go_on(plain.stream, config, name, course)).await
    }

    /// What comes after the answer to STARTTLS.
    async fn go_on(
        &self,
        connection: Connection,
        config: &Arc<ClientConfig>,
        name: &ServerName<'static>,
        course: &Course,
    ) -> Result<&'static str, String> {
        let stream = tls::handshake(connection, config, name, course).await?;
        course.enter(Phase::Answer);
        let mut secure = Line { stream, pending: Vec::new() };
        secure.ask(&format!("EHLO {}\r\n", self.helo), "EHLO over TLS", 250).await?;
        secure.quit(course).await?;
        Ok("greeted, STARTTLS done")
    }
}

/// Whether a reply has the code that it should have.
fn wanted(what: &str, reply: Reply, code: u16) -> Result<Reply, String> {
    if reply.code == code { Ok(reply) } else { Err(format!("{what}: {}, wanted {code}", reply.code)) }
}

/// A connection on which commands and replies take turns.
struct Line<S> {
    stream: S,
    /// What came after the last reply.
    pending: Vec<u8>,
}

impl<S: Stream> Line<S> {
    /// Sends a command, and reads the reply, which must have a code.
    async fn ask(&mut self, command: &str, what: &str, code: u16) -> Result<Reply, String> {
        let sent = async {
            self.stream.write_all(command.as_bytes()).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| format!("{what}: {}", tls::words(&error)))?;
        wanted(what, self.reply().await.map_err(|words| format!("{what}: {words}"))?, code)
    }

    async fn reply(&mut self) -> Result<Reply, String> {
        let mut reader = Reader::default();
        let pending = std::mem::take(&mut self.pending);
        let mut result = self.take(&mut reader, &pending);
        loop {
            if let Some(reply) = result? {
                return Ok(reply);
            }
            let mut fed = Ok((None, 0));
            let pending = &mut self.pending;
            let read = socket::read(&mut self.stream, |bytes| {
                fed = reader.feed(bytes);
                if let Ok((Some(_), taken)) = fed {
                    pending.extend_from_slice(&bytes[taken..]);
                }
            });
            if read.await.map_err(|error| tls::words(&error))? == 0 {
                return Err("the server closed the connection".into());
            }
            result = fed.map(|(reply, _)| reply).map_err(|fault| fault.to_string());
        }
    }

    /// Reads what came before.
    fn take(&mut self, reader: &mut Reader, bytes: &[u8]) -> Result<Option<Reply>, String> {
        let (reply, taken) = reader.feed(bytes).map_err(|fault| fault.to_string())?;
        self.pending.extend_from_slice(&bytes[taken..]);
        Ok(reply)
    }

    /// Says good-bye, hears any reply, and ends the connection.
    async fn quit(mut self, course: &Course) -> Result<(), String> {
        let sent = async {
            self.stream.write_all(b"QUIT\r\n").await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| format!("QUIT: {}", tls::words(&error)))?;
        self.reply().await.map_err(|words| format!("QUIT: {words}"))?;
        socket::finish(self.stream, course).await;
        Ok(())
    }
}
