//! `http`: a request, and whether its answer is as it should be.

mod fetch;
mod judge;
mod pattern;
mod request;

use std::future::Future;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;

use crate::answer::http::Reader;
use crate::course::{Course, Phase};
use crate::socket::{self, Connection, Stream};
use crate::{Http, Invalid, Method, Outcome, PrepareError, Target, tls, words};
use fetch::Fingerprint;
use judge::{Judge, Wanted};

pub use fetch::Page;
pub(crate) use pattern::Patterns;
pub use pattern::SIZE_MAX as PATTERN_MAX;

/// Characters of a path that a message has room for.
const PATH_SHOWN: usize = 40;

/// A request that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    head_only: bool,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    wanted: Wanted,
    /// Begin of messages: method and path.
    title: String,
}

impl Request {
    pub(crate) fn new(
        http: &Http,
        target: &Target,
        configs: &tls::Configs,
        patterns: &Patterns,
    ) -> Result<Self, PrepareError> {
        let host = request::host(http, target)?;
        let bytes = request::encode(http, &host)?;
        let tls = match &http.tls {
            None => None,
            Some(tls) => {
                let name = tls.server_name.as_deref().unwrap_or_else(|| request::without_port(&host));
                let name = ServerName::try_from(name.to_owned()).map_err(|_| {
                    Invalid::new(
                        "http.tls.serverName",
                        format!("{} is no name of a server", words::short(name, 80)),
                    )
                })?;
                Some((configs.get(&tls.verify, true)?, name))
            }
        };
        Ok(Self {
            bytes,
            head_only: http.method == Method::Head,
            tls,
            wanted: Wanted::new(http, patterns)?,
            title: format!("{} {}", http.method.name(), words::short(&http.path, PATH_SHOWN)),
        })
    }

    pub(crate) async fn run(&self, target: &Target, course: &Course) -> Outcome {
        let result = course.within(self.ask(target, Judge::new(&self.wanted), course)).await;
        match result.unwrap_or_else(Err) {
            Ok(status) => Outcome::passed(format!("{}: {status}", self.title)),
            Err(words) => Outcome::failed(format!("{}: {words}", self.title)),
        }
    }

    /// Fetches the page, whatever its status code.
    pub(crate) async fn fetch(&self, target: &Target, course: &Course) -> Result<Page, String> {
        let result = course.within(self.ask(target, Fingerprint::default(), course)).await;
        result.unwrap_or_else(Err).map_err(|words| format!("{}: {words}", self.title))
    }

    /// Connects, asks, and hands the answer to a reader.
    async fn ask<T: Take>(&self, target: &Target, take: T, course: &Course) -> Result<T::Made, String> {
        let connection = Connection::open_to_speak(target, course).await?;
        match &self.tls {
            None => self.exchange(connection, take, course).await,
            // Apart, so that a probe without TLS has no room for it.
            Some((config, name)) => {
                let secure = async {
                    let stream = tls::handshake(connection, config, name, course).await?;
                    self.exchange(stream, take, course).await
                };
                Box::pin(secure).await
            }
        }
    }

    async fn exchange<S: Stream, T: Take>(
        &self,
        mut stream: S,
        mut take: T,
        course: &Course,
    ) -> Result<T::Made, String> {
        course.enter(Phase::Answer);
        let sent = async {
            stream.write_all(&self.bytes).await?;
            stream.flush().await
        };
        sent.await.map_err(|error| tls::words(&error))?;
        let mut reader = Reader::new(self.head_only);
        while !reader.is_done() && !take.has_enough() {
            let mut fed = Ok(());
            let read = socket::read(&mut stream, |bytes| {
                fed = reader.feed(bytes, &mut |body| take.body(body));
            });
            match read.await {
                Ok(0) => {
                    reader.end().map_err(|fault| fault.to_string())?;
                    stream.into_connection().close();
                    return take.made(reader.status(), course).await;
                }
                Ok(_) => course.enter(Phase::Rest),
                Err(error) if reader.status().is_some() => {
                    return Err(format!("{} within the body", tls::words(&error)));
                }
                Err(error) => return Err(tls::words(&error)),
            }
            fed.map_err(|fault| fault.to_string())?;
            take.status(reader.status())?;
        }
        let made = take.made(reader.status(), course).await;
        if reader.is_done() {
            socket::finish(stream, course).await;
        }
        made
    }
}

/// Takes an answer, and makes something of it.
trait Take: Send {
    type Made: Send;

    /// The next bytes of the body.
    fn body(&mut self, bytes: &[u8]);

    /// Whether no further byte of the body can change what is made.
    fn has_enough(&self) -> bool;

    /// The status code, once it is known: whether to go on.
    fn status(&self, status: Option<u16>) -> Result<(), String>;

    /// What is made of the whole.
    fn made(
        self,
        status: Option<u16>,
        course: &Course,
    ) -> impl Future<Output = Result<Self::Made, String>> + Send;
}
