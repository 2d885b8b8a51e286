//! Logs: to standard error, plain where it is not a terminal.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// What is logged and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or a filter such as `gdoi=debug,info`.
    #[arg(long = "log", value_name = "FILTER", env = "RUST_LOG", default_value = "info", global = true)]
    filter: EnvFilter,
    /// How log lines look.
    #[arg(long = "log-format", value_name = "FORMAT", default_value = "text", global = true)]
    format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogArgs {
    /// Starts logging for this process. A second call changes nothing.
    pub(crate) fn start(self) {
        let builder = tracing_subscriber::fmt().with_env_filter(self.filter).with_writer(std::io::stderr);
        // Fails only where a subscriber is set already.
        let _ = match self.format {
            LogFormat::Json => builder.json().try_init(),
            LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        };
    }
}
