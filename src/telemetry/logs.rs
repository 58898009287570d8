//! Logging: one line an event on stderr, as text for people or as JSON for collectors.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::LogFormat;

/// Starts logging. `level` is a level (`info`) or a filter (`info,ferric::host=debug,kube=warn`).
///
/// The libraries below us are kept at `warn` unless the filter names them: at `debug` they log request bodies.
pub fn init(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter = filter(level)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_timer(SystemTime).with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("logging could not be started: {error}"))
}

/// Parses the filter and lowers the libraries that it does not name.
pub(crate) fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let quiet =
        ["kube", "kube_client", "kube_runtime", "tower", "hyper", "hyper_util", "h2", "rustls", "reqwest"];
    let mut directives: Vec<String> = Vec::new();
    for library in quiet {
        if !level.contains(&format!("{library}=")) {
            directives.push(format!("{library}=warn"));
        }
    }
    directives.push(level.to_owned());
    EnvFilter::try_new(directives.join(",")).map_err(|error| {
        anyhow::anyhow!(
            "--log-level {level:?} is not a filter ({error}); give error, warn, info, debug, trace \
             or a list such as info,ferric::host=debug"
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn libraries_are_quiet_unless_named() {
        let text = filter("debug,kube=trace").unwrap().to_string();
        assert!(text.contains("kube=trace") && !text.contains("kube=warn"), "{text}");
        assert!(text.contains("hyper=warn"), "{text}");
    }

    #[test]
    fn a_bad_filter_names_the_flag() {
        let error = filter("ferric=loud").unwrap_err().to_string();
        assert!(
            error.contains("--log-level \"ferric=loud\"") && error.contains("info,ferric::host=debug"),
            "{error}"
        );
    }
}
