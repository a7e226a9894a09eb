//! What a server is told over its control socket.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::super::behaviour::{Order, Subject};
use super::{Server, next_line, tls};

pub(super) fn socket(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

impl Server {
    pub(super) async fn control(self: Arc<Self>, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move { server.orders(stream).await });
                }
                Err(error) => {
                    eprintln!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn orders(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        while let Some(line) = next_line(&mut reader).await? {
            let mut answer = self.order(&line).to_string();
            answer.push('\n');
            writer.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    fn order(&self, line: &str) -> serde_json::Value {
        match serde_json::from_str(line) {
            Ok(Order::Set(behaviour)) => {
                if behaviour.status.is_some_and(|status| !(100..=999).contains(&status)) {
                    return serde_json::json!({"ok": false, "error": "status is not between 100 and 999"});
                }
                let certificate = match behaviour.certificate.as_deref().map(tls::acceptor).transpose() {
                    Ok(other) => other.or_else(|| self.certificate.0.clone()),
                    Err(error) => return serde_json::json!({"ok": false, "error": format!("{error:#}")}),
                };
                self.certificate.1.send_replace(certificate);
                self.behaviour.send_replace(behaviour);
                serde_json::json!({"ok": true})
            }
            Ok(Order::Get(Subject::Counts)) => {
                serde_json::to_value(self.counts().clone()).unwrap_or_default()
            }
            Ok(Order::Get(Subject::Behaviour)) => serde_json::to_value(self.behaviour()).unwrap_or_default(),
            Err(error) => serde_json::json!({"ok": false, "error": error.to_string()}),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::watch;

    use super::super::super::behaviour::{Behaviour, Mode};
    use super::*;

    #[test]
    fn orders_are_judged() {
        let server = Server {
            name: "SRV1".into(),
            host: None,
            certificate: (None, watch::Sender::new(None)),
            behaviour: watch::Sender::new(Behaviour::default()),
            counts: Mutex::default(),
            log: None,
        };
        assert_eq!(server.order(r#"{"set":{"mode":"slow","delayMs":20}}"#)["ok"], true);
        assert_eq!(server.behaviour().mode, Mode::Slow);
        assert_eq!(server.order(r#"{"get":"counts"}"#)["requests"], 0);
        for wrong in [
            r#"{"set":{"mode":"dance"}}"#,
            r#"{"set":{"status":7}}"#,
            "junk",
            r#"{"set":{"colour":1}}"#,
            r#"{"set":{"certificate":"/nonexistent"}}"#,
        ] {
            assert_eq!(server.order(wrong)["ok"], false, "{wrong}");
        }
        assert_eq!(server.behaviour().mode, Mode::Slow, "a refused order changes nothing");
    }
}
