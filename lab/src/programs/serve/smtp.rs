//! A mail server that greets and takes no mail (RFC 5321), with STARTTLS (RFC 3207) where it has a certificate.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::super::behaviour::Mode;
use super::{Server, next_line, tls};

/// Nobody has more to say to it.
const COMMANDS_MAX: usize = 1000;

/// How a part of a session ended.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Over,
    StartTls,
}

pub(super) async fn session(
    server: &Server,
    stream: TcpStream,
    client: SocketAddr,
    local: Option<SocketAddr>,
) -> io::Result<()> {
    server.count("smtp", client, local, "");
    let behaviour = server.behaviour();
    let mut stream = BufReader::new(stream);
    match behaviour.mode {
        Mode::Ok | Mode::Refuse => {}
        Mode::Slow => tokio::time::sleep(behaviour.delay()).await,
        Mode::Hang => std::future::pending().await,
        Mode::Error => {
            let status = behaviour.status.unwrap_or(421);
            let refusal = format!("{status} {} Service not available\r\n", server.name);
            return stream.write_all(refusal.as_bytes()).await;
        }
    }
    stream.write_all(format!("220 {} ESMTP\r\n", server.name).as_bytes()).await?;
    let acceptor = server.acceptor();
    if commands(&server.name, &mut stream, acceptor.is_some()).await? == Next::Over {
        return Ok(());
    }
    let Some(acceptor) = acceptor else { return Ok(()) };
    // What came with STARTTLS, before TLS began, is dropped (RFC 3207, section 4.2).
    let Some(stream) = tls::agree(&acceptor, stream.into_inner()).await else { return Ok(()) };
    commands(&server.name, &mut BufReader::new(stream), false).await?;
    Ok(())
}

async fn commands(
    name: &str,
    stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>,
    start_tls: bool,
) -> io::Result<Next> {
    for _ in 0..COMMANDS_MAX {
        let Some(line) = next_line(stream).await? else { break };
        let (answer, next) = answer(name, &line, start_tls);
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        if let Some(next) = next {
            return Ok(next);
        }
    }
    Ok(Next::Over)
}

/// The answer to a command, and whether the session goes on otherwise.
fn answer(name: &str, line: &str, start_tls: bool) -> (String, Option<Next>) {
    let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match verb.as_str() {
        "EHLO" if start_tls => (format!("250-{name}\r\n250 STARTTLS\r\n"), None),
        "EHLO" | "HELO" => (format!("250 {name}\r\n"), None),
        "STARTTLS" if start_tls => ("220 Ready to start TLS\r\n".into(), Some(Next::StartTls)),
        "NOOP" | "RSET" => ("250 OK\r\n".into(), None),
        "QUIT" => (format!("221 {name} closing\r\n"), Some(Next::Over)),
        _ => ("502 Command not implemented\r\n".into(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_answered() {
        let said = |line: &str, tls| answer("SRV1", line, tls).0;
        assert_eq!(said("EHLO dir1", true), "250-SRV1\r\n250 STARTTLS\r\n");
        assert_eq!(said("ehlo dir1", false), "250 SRV1\r\n");
        assert_eq!(said("STARTTLS", false), "502 Command not implemented\r\n");
        assert_eq!(answer("SRV1", "STARTTLS", true).1, Some(Next::StartTls));
        assert_eq!(answer("SRV1", "QUIT", true).1, Some(Next::Over));
        assert_eq!(said("", true), "502 Command not implemented\r\n");
    }
}
