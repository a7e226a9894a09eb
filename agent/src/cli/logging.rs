//! The log, on the standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use super::args::LogFormat;

/// Starts logging. Fails on a filter that cannot be parsed.
pub(super) fn start(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = filter(level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_target(false).init(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let builder = builder.with_target(false).with_ansi(colours);
            // The journal has times of its own; systemd says so with JOURNAL_STREAM.
            if std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal() {
                builder.without_time().init();
            } else {
                builder.with_timer(SystemTime).init();
            }
        }
    }
    Ok(())
}

/// What is logged.
fn filter(level: &str) -> Result<EnvFilter, String> {
    let mut filter = EnvFilter::try_new(level)
        .map_err(|error| format!("--log-level {level:?}: {error}; such as info or debug"))?;
    // Every request that fails would be a line of its client's and one of its watch's; what it means is said by us, once.
    let quiet = ["kube_client", "kube_runtime"].into_iter().filter(|name| !level.contains(name));
    // Also where somebody asked for the rest: an answer that its client cannot parse it logs whole, and Secrets are among the answers.
    for name in quiet.chain(["kube_client::client"]) {
        if let Ok(quiet) = format!("{name}=off").parse() {
            filter = filter.add_directive(quiet);
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn answers_of_the_api_server_are_never_logged() {
        for level in [
            "trace",
            "info",
            "kube_client=trace",
            "trace,kube_client::client=trace",
            "kube_client::client=warn",
        ] {
            let (lines, filter) = (Lines::default(), filter(level).unwrap());
            let writer = lines.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(move || writer.clone())
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(target: "kube_client::client", "precious");
                tracing::error!(target: "kube_client::client::builder", "precious");
                tracing::error!(target: "kube_client::config", "asked for");
                tracing::error!("ours");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(!text.contains("precious"), "{level}: {text}");
            let asked = level == "kube_client=trace" || level.starts_with("trace,");
            assert_eq!(text.contains("asked for"), asked, "{level}: {text}");
            assert_eq!(
                text.contains("ours"),
                level.starts_with("trace") || level == "info",
                "{level}: {text}"
            );
        }
        assert!(filter("info,=x=").unwrap_err().contains("--log-level"));
    }
}
