//! SMTP replies (RFC 5321, section 4.2), read piece by piece.

/// Bytes of a line at most: four times what RFC 5321, section 4.5.3.1.5, allows.
pub const LINE_MAX: usize = 2048;
/// Lines of a reply at most.
pub const LINES_MAX: u32 = 100;

/// What is wrong with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not begin with a code.
    #[error("the server sent something that is not SMTP")]
    NotSmtp,
    /// A line is longer than [`LINE_MAX`].
    #[error("a reply with a line of more than 2048 bytes")]
    LineTooLong,
    /// More than [`LINES_MAX`] lines.
    #[error("a reply of more than 100 lines")]
    TooManyLines,
    /// Lines of one reply have different codes.
    #[error("a reply with several codes")]
    SeveralCodes,
}

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its code, 200 to 599.
    pub code: u16,
    /// Whether one of its lines is `STARTTLS`, which offers it in the answer to EHLO (RFC 3207, section 4).
    pub start_tls: bool,
}

/// Reads one reply.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    lines: u32,
    code: Option<u16>,
    start_tls: bool,
}

impl Reader {
    /// Takes the next bytes, up to the end of the reply. Returns the reply, if that is its end, and how many bytes were taken.
    ///
    /// # Errors
    ///
    /// It is no reply: no more is to be read.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(Option<Reply>, usize), Fault> {
        for (at, byte) in bytes.iter().enumerate() {
            if *byte == b'\n' {
                if let Some(reply) = self.end_of_line()? {
                    return Ok((Some(reply), at + 1));
                }
                continue;
            }
            let fits = match self.line.len() {
                0 => (b'2'..=b'5').contains(byte),
                1 | 2 => byte.is_ascii_digit(),
                3 => matches!(byte, b' ' | b'-' | b'\r'),
                _ => true,
            };
            if !fits {
                return Err(Fault::NotSmtp);
            }
            if self.line.len() >= LINE_MAX {
                return Err(Fault::LineTooLong);
            }
            self.line.push(*byte);
        }
        Ok((None, bytes.len()))
    }

    fn end_of_line(&mut self) -> Result<Option<Reply>, Fault> {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        let (digits, text) = line.split_at_checked(3).ok_or(Fault::NotSmtp)?;
        let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        if self.code.is_some_and(|first| first != code) {
            return Err(Fault::SeveralCodes);
        }
        self.code = Some(code);
        self.start_tls |=
            text.get(1..).is_some_and(|text| text.trim_ascii().eq_ignore_ascii_case(b"STARTTLS"));
        let more = text.first() == Some(&b'-');
        self.lines += 1;
        self.line.clear();
        if !more {
            return Ok(Some(Reply { code, start_tls: self.start_tls }));
        }
        if self.lines >= LINES_MAX { Err(Fault::TooManyLines) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Option<Reply>, usize), Fault> {
        // However it is cut into pieces, it is the same.
        let whole = Reader::default().feed(bytes);
        let mut reader = Reader::default();
        for (at, byte) in bytes.iter().enumerate() {
            match reader.feed(std::slice::from_ref(byte)) {
                Ok((None, _)) => (),
                Ok((reply, taken)) => {
                    assert_eq!(whole, Ok((reply, at + taken)));
                    return whole;
                }
                Err(fault) => {
                    assert_eq!(whole, Err(fault));
                    return whole;
                }
            }
        }
        assert_eq!(whole, Ok((None, bytes.len())));
        whole
    }

    #[test]
    fn replies() {
        let reply = |code| Reply { code, start_tls: false };
        assert_eq!(read(b"220 mx.example ESMTP\r\n"), Ok((Some(reply(220)), 22)));
        assert_eq!(read(b"250\r\nmore"), Ok((Some(reply(250)), 5)));
        assert_eq!(read(b"250-a\n250 b\n"), Ok((Some(reply(250)), 12)));
        assert_eq!(read(b"250-a\r\n250"), Ok((None, 10)));
        assert!(read(b"250-mx\r\n250-starttls\r\n250 HELP\r\n").unwrap().0.unwrap().start_tls);
        assert!(!read(b"250-mx\r\n250 NOSTARTTLS\r\n").unwrap().0.unwrap().start_tls);
    }

    #[test]
    fn what_is_no_reply() {
        for bad in [&b"SSH-2.0"[..], b"\n", b"22\n", b"22x", b"2200", b"120 x\n", b"\x16\x03"] {
            assert_eq!(read(bad), Err(Fault::NotSmtp), "{bad:?}");
        }
        assert_eq!(read(b"250-a\r\n251 b\r\n"), Err(Fault::SeveralCodes));
        assert_eq!(read(&b"250-a\r\n".repeat(200)), Err(Fault::TooManyLines));
        assert_eq!(read(&[b"250 ".as_slice(), &[b'x'; 5000]].concat()), Err(Fault::LineTooLong));
    }
}
