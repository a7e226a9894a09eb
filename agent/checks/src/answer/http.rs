//! HTTP/1 answers (RFC 9112), read piece by piece.
//!
//! The head is parsed by `httparse`, the parser that hyper uses too; what frames the body is here. A client of hyper's would bring
//! a task, buffers of 8 KiB and a queue for each of ten thousand probes, and keeps the reason of a bad answer to itself.

/// Bytes of a head at most, of each: there may be interim ones (1xx).
pub const HEAD_MAX: usize = 32 * 1024;
/// Header fields of a head at most.
pub const FIELDS_MAX: usize = 100;
/// Interim answers (1xx) before the answer at most.
pub const INTERIM_MAX: u32 = 8;
/// Bytes of a line of the chunked coding, and of all trailers, at most.
pub const CHUNK_LINE_MAX: u32 = 4 * 1024;
/// Bytes at the beginning of a body that a regular expression looks at, and that are read where nothing needs the whole.
pub const WINDOW: usize = 64 * 1024;
/// Bytes of a body at most where its digest is wanted.
pub const BODY_MAX: u64 = 16 * 1024 * 1024;

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not begin with `HTTP/1.`.
    #[error("the server sent something that is not HTTP")]
    NotHttp,
    /// It begins as a TLS record.
    #[error("the server speaks TLS here, not HTTP")]
    Tls,
    /// No end of the head within [`HEAD_MAX`].
    #[error("more than 32 KiB of headers")]
    HeadTooLong,
    /// More than [`FIELDS_MAX`] header fields.
    #[error("more than 100 headers")]
    TooManyFields,
    /// The head has no valid status line or header fields.
    #[error("broken headers")]
    BadHead,
    /// More than [`INTERIM_MAX`] interim answers.
    #[error("more than 8 interim answers (1xx)")]
    TooManyInterim,
    /// Content-Length is no number, or there are several that differ.
    #[error("broken Content-Length")]
    BadLength,
    /// The chunked coding is broken.
    #[error("broken chunks")]
    BadChunk,
    /// The connection ended before the answer.
    #[error("the server closed the connection without an answer")]
    NoAnswer,
    /// The connection ended within the head.
    #[error("the server closed the connection within the headers")]
    EndInHead,
    /// The connection ended within the body.
    #[error("the server closed the connection within the body")]
    EndInBody,
}

/// What the body's end is known by (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// The connection's end.
    Close,
    /// The last chunk.
    Chunks(Chunk),
}

/// Where in the chunked coding (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In a size and its extensions: bytes of the line so far, the size, whether its digits have ended.
    Size { line: u32, size: u64, ended: bool },
    /// In a chunk: so many bytes are still to come.
    Data(u64),
    /// After a chunk, before the end of its line: whether a CR was there.
    DataEnd { cr: bool },
    /// In the trailers: bytes of all and of this line.
    Trailer { total: u32, line: u32 },
}

const CHUNK_START: Chunk = Chunk::Size { line: 0, size: 0, ended: false };

/// Where in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(Body),
    Done,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    /// Whether the request was HEAD: its answer has no body.
    head_only: bool,
    state: State,
    /// The head so far, if it did not come in one piece.
    head: Vec<u8>,
    /// Bytes of the head's last line so far, CR not counted.
    line: usize,
    interim: u32,
    status: Option<u16>,
}

impl Reader {
    /// For the answer to GET, or to HEAD.
    pub fn new(head_only: bool) -> Self {
        Self { head_only, state: State::Head, head: Vec::new(), line: 0, interim: 0, status: None }
    }

    /// The status code, once the head was read.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether the answer is complete, as far as it says itself.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next bytes, and hands out those of the body. What comes after the answer is dropped.
    ///
    /// # Errors
    ///
    /// The answer is broken: no more is to be read.
    pub fn feed(&mut self, mut bytes: &[u8], body: &mut impl FnMut(&[u8])) -> Result<(), Fault> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Done => return Ok(()),
                State::Head => self.feed_head(bytes)?,
                State::Body(Body::Close) => {
                    body(bytes);
                    return Ok(());
                }
                State::Body(Body::Length(left)) => {
                    let (ours, rest) = split(bytes, left);
                    body(ours);
                    self.state = match left - ours.len() as u64 {
                        0 => State::Done,
                        left => State::Body(Body::Length(left)),
                    };
                    rest
                }
                State::Body(Body::Chunks(chunk)) => self.feed_chunk(chunk, bytes, body)?,
            };
        }
        Ok(())
    }

    /// Takes note of the connection's end.
    ///
    /// # Errors
    ///
    /// The answer is not complete.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.state {
            State::Head if self.head.is_empty() => Err(Fault::NoAnswer),
            State::Head => Err(Fault::EndInHead),
            State::Body(Body::Close) => {
                self.state = State::Done;
                Ok(())
            }
            State::Body(_) => Err(Fault::EndInBody),
            State::Done => Ok(()),
        }
    }

    /// Takes bytes of the head; returns what comes after it.
    fn feed_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        let end = self.head_end(bytes);
        let (ours, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if self.head.len() + ours.len() > HEAD_MAX {
            return Err(begins_as_http(&self.head, ours).err().unwrap_or(Fault::HeadTooLong));
        }
        begins_as_http(&self.head, ours)?;
        if end.is_none() {
            self.head.extend_from_slice(ours);
        } else if self.head.is_empty() {
            self.parse_head(ours)?;
        } else {
            self.head.extend_from_slice(ours);
            let head = std::mem::take(&mut self.head);
            self.parse_head(&head)?;
        }
        Ok(rest)
    }

    /// Where the head ends in these bytes: behind the first empty line.
    fn head_end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.line == 0 => return Some(at + 1),
                b'\n' => self.line = 0,
                b'\r' => (),
                _ => self.line += 1,
            }
        }
        None
    }

    fn parse_head(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        match head.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => (),
            Ok(httparse::Status::Partial) => return Err(Fault::BadHead),
            Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyFields),
            Err(_) => return Err(Fault::BadHead),
        }
        let status = head.code.ok_or(Fault::BadHead)?;
        if (100..200).contains(&status) && status != 101 {
            self.interim += 1;
            self.line = 0;
            return if self.interim > INTERIM_MAX { Err(Fault::TooManyInterim) } else { Ok(()) };
        }
        self.status = Some(status);
        self.state = if self.head_only || matches!(status, 101 | 204 | 304) {
            State::Done
        } else {
            match framing(head.headers)? {
                Body::Length(0) => State::Done,
                body => State::Body(body),
            }
        };
        Ok(())
    }

    /// Takes bytes of the chunked coding; returns what was not taken yet.
    fn feed_chunk<'a>(
        &mut self,
        chunk: Chunk,
        bytes: &'a [u8],
        body: &mut impl FnMut(&[u8]),
    ) -> Result<&'a [u8], Fault> {
        if let Chunk::Data(left) = chunk {
            let (ours, rest) = split(bytes, left);
            body(ours);
            let next = match left - ours.len() as u64 {
                0 => Chunk::DataEnd { cr: false },
                left => Chunk::Data(left),
            };
            self.state = State::Body(Body::Chunks(next));
            return Ok(rest);
        }
        let [byte, rest @ ..] = bytes else { return Ok(bytes) };
        self.state = match chunk {
            Chunk::Size { line, size, ended } => {
                let next = in_size(line, size, ended, *byte)?;
                State::Body(Body::Chunks(next))
            }
            Chunk::DataEnd { cr: false } if *byte == b'\r' => {
                State::Body(Body::Chunks(Chunk::DataEnd { cr: true }))
            }
            Chunk::DataEnd { .. } if *byte == b'\n' => State::Body(Body::Chunks(CHUNK_START)),
            Chunk::DataEnd { .. } | Chunk::Data(_) => return Err(Fault::BadChunk),
            Chunk::Trailer { total, .. } if total >= CHUNK_LINE_MAX => return Err(Fault::BadChunk),
            Chunk::Trailer { total, line } => match byte {
                b'\n' if line == 0 => State::Done,
                b'\n' => State::Body(Body::Chunks(Chunk::Trailer { total: total + 1, line: 0 })),
                b'\r' => State::Body(Body::Chunks(Chunk::Trailer { total: total + 1, line })),
                _ => State::Body(Body::Chunks(Chunk::Trailer { total: total + 1, line: line + 1 })),
            },
        };
        Ok(rest)
    }
}

/// One more byte of the line of a chunk's size.
fn in_size(line: u32, size: u64, ended: bool, byte: u8) -> Result<Chunk, Fault> {
    if line >= CHUNK_LINE_MAX {
        return Err(Fault::BadChunk);
    }
    let next = |size, ended| Ok(Chunk::Size { line: line + 1, size, ended });
    match (byte, char::from(byte).to_digit(16)) {
        // No digit yet.
        (b'\n' | b'\r' | b';' | b' ' | b'\t', _) if line == 0 => Err(Fault::BadChunk),
        (b'\n', _) if size == 0 => Ok(Chunk::Trailer { total: 0, line: 0 }),
        (b'\n', _) => Ok(Chunk::Data(size)),
        (_, _) if ended => next(size, true),
        // Far beyond what anybody reads, and far from an overflow.
        (_, Some(digit)) if size < 1 << 48 => next(size * 16 + u64::from(digit), false),
        (b'\r' | b';' | b' ' | b'\t', _) => next(size, true),
        _ => Err(Fault::BadChunk),
    }
}

/// What the body's end is known by.
fn framing(fields: &[httparse::Header<'_>]) -> Result<Body, Fault> {
    let named = |name: &'static str| fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    if let Some(coding) = named("transfer-encoding").next_back() {
        let last = coding.value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
        let chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        return Ok(if chunked { Body::Chunks(CHUNK_START) } else { Body::Close });
    }
    let mut length = None;
    for field in named("content-length") {
        let digits = std::str::from_utf8(field.value.trim_ascii()).map_err(|_| Fault::BadLength)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Fault::BadLength);
        }
        let this: u64 = digits.parse().map_err(|_| Fault::BadLength)?;
        if length.is_some_and(|length| length != this) {
            return Err(Fault::BadLength);
        }
        length = Some(this);
    }
    Ok(length.map_or(Body::Close, Body::Length))
}

/// Whether a head begins as HTTP/1 does, as far as it is there.
fn begins_as_http(head: &[u8], more: &[u8]) -> Result<(), Fault> {
    const BEGIN: &[u8] = b"HTTP/1.";
    if head.len() >= BEGIN.len() {
        return Ok(());
    }
    let mut begin = head.iter().chain(more);
    if begin.clone().zip(BEGIN).all(|(byte, wanted)| byte == wanted) {
        return Ok(());
    }
    // Alert or handshake of TLS 1.x (RFC 8446, section 5.1).
    match (begin.next(), begin.next()) {
        (Some(0x15 | 0x16), Some(0x03)) => Err(Fault::Tls),
        // The next byte tells.
        (Some(0x15 | 0x16), None) => Ok(()),
        _ => Err(Fault::NotHttp),
    }
}

/// At most so many bytes, and the rest.
fn split(bytes: &[u8], left: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len())))
}
