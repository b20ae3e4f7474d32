//! The log: JSON lines on standard output, one per request and one per event worth a warning.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts the log. `level` is for our own code. Libraries are heard from warnings on: at their trace level they
/// would print whole events, passwords included.
pub fn start(level: LevelFilter) {
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(env!("CARGO_CRATE_NAME"), level);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false);
    // It is started already when a test calls twice; the first start holds.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();

    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(location, message_of_panic = message, "panic");
    }));
}

/// The first `max` characters: a client chooses what it sends, but not how long our log lines are.
pub fn clip(text: &str, max: usize) -> &str {
    text.char_indices().nth(max).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clip_keeps_whole_characters() {
        assert_eq!(clip("héllo", 2), "hé");
        assert_eq!(clip("hé", 2), "hé");
        assert_eq!(clip("", 2), "");
    }
}
