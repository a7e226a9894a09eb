//! The log, on the standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use super::args::LogFormat;

/// Starts logging. Fails on a filter that cannot be parsed.
pub(super) fn start(format: LogFormat, level: &str) -> Result<(), String> {
    let mut filter = EnvFilter::try_new(level)
        .map_err(|error| format!("--log-level {level:?}: {error}; such as info or debug"))?;
    // Every request that fails would be a line of its client's and one of its watch's; what it means is said by us, once.
    for name in ["kube_client", "kube_runtime"].into_iter().filter(|name| !level.contains(name)) {
        if let Ok(quiet) = format!("{name}=off").parse() {
            filter = filter.add_directive(quiet);
        }
    }
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
