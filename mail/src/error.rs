//! What can go wrong with a mail host, and how much of it its user gets to know.

use std::fmt;

/// The coarse reason, as `lastError.code` has it: enough to know what to change, too little to scan a network with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The server refuses this user name, password or token.
    Authentication,
    /// No connection, for whatever reason, or none that answers.
    Unreachable,
    /// No TLS, or not with the one whose name was asked for.
    Tls,
    /// The server answers, but not in this protocol or not within its bounds.
    Protocol,
    /// The server asks to come later.
    Unavailable,
    /// The mailbox or folder does not exist.
    MailboxMissing,
    /// The provider has taken back its consent.
    ConsentRevoked,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Authentication,
        Self::Unreachable,
        Self::Tls,
        Self::Protocol,
        Self::Unavailable,
        Self::MailboxMissing,
        Self::ConsentRevoked,
    ];

    /// The name in the API and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Unavailable => "unavailable",
            Self::MailboxMissing => "mailboxMissing",
            Self::ConsentRevoked => "consentRevoked",
        }
    }

    /// What a user reads where the server's own words are not for him.
    const fn words(self) -> &'static str {
        match self {
            Self::Authentication => "The mail server does not accept this user name and password.",
            // One sentence for what is blocked, closed and silent: nobody learns which.
            Self::Unreachable => {
                "The mail server cannot be reached or does not answer. Check host name, port and encryption."
            }
            Self::Tls => {
                "No encrypted connection to the mail server, or its certificate is not valid for this host name."
            }
            Self::Protocol => "What answers there does not speak this protocol. Check host name, port and encryption.",
            Self::Unavailable => "The mail server asks to try again later.",
            Self::MailboxMissing => "The mailbox does not exist on the mail server.",
            Self::ConsentRevoked => "The provider no longer lets us in. Connect the account again.",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a mail host could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// For programs.
    pub code: Code,
    /// For the user: safe to show. The server's own words only where it accepted or refused a login.
    pub message: String,
    /// For the log: what happened where. Never a secret.
    pub detail: String,
}

impl Error {
    /// With the words that every error of this code has.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, message: code.words().to_owned(), detail: detail.into() }
    }
}

/// A server's words on one line, without control characters and those that turn the direction of writing. A line has
/// its bounds; [`cut`] has the final ones.
pub(crate) fn clean(words: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let words = words.split(|c: char| c.is_control() || c.is_whitespace() || turns(c));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The most of a server's words that are kept.
pub(crate) fn cut(mut words: String) -> String {
    const MAX_CHARS: usize = 200;
    if let Some((end, _)) = words.char_indices().nth(MAX_CHARS) {
        words.truncate(end);
    }
    words
}

/// Whether a refusal without a code of its own asks to come later. A good password is not to be given up because of a
/// full house: these are words of Gmail, Exchange, Yahoo and servers of the time before RFC 3206 and RFC 5530.
pub(crate) fn asks_to_wait(words: &str) -> bool {
    const WAIT: [&str; 10] = [
        "too many",
        "try again later",
        "temporar",
        "already locked",
        "rate limit",
        "bandwidth limit",
        "server unavailable",
        "service unavailable",
        "server busy",
        "throttled",
    ];
    let words = words.to_ascii_lowercase();
    WAIT.iter().any(|wait| words.contains(wait))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name_and_words_of_its_own() {
        let codes = [
            (Code::Authentication, "authentication"),
            (Code::Unreachable, "unreachable"),
            (Code::Tls, "tls"),
            (Code::Protocol, "protocol"),
            (Code::Unavailable, "unavailable"),
            (Code::MailboxMissing, "mailboxMissing"),
            (Code::ConsentRevoked, "consentRevoked"),
        ];
        assert_eq!(codes.map(|(code, _)| code), Code::ALL);
        let mut words: Vec<_> = codes.iter().map(|(code, _)| code.words()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), codes.len());
        for (code, name) in codes {
            assert_eq!(Error::new(code, "why").to_string(), format!("{name}: why"));
        }
    }

    #[test]
    fn words_become_one_clean_line_of_bounded_length() {
        assert_eq!(clean("  a\r\n\tb\0c \u{9b}31m \u{2028}ü "), "a b c 31m ü");
        assert_eq!(clean("\x07\n"), "");
        assert_eq!(clean("no \u{202e}on\u{2069}"), "no on");
        assert_eq!(cut("ü".repeat(200)), "ü".repeat(200));
        assert_eq!(cut("ü".repeat(201)), "ü".repeat(200));
    }

    #[test]
    fn who_asks_to_wait_is_not_taken_for_a_refusal() {
        for words in [
            "[ALERT] Too many simultaneous connections. (Failure)",
            "Server busy, please try again later",
            "Temporary authentication failure",
            "maildrop already locked",
            "LOGIN Rate limit hit.",
            "[ALERT] Account exceeded command or bandwidth limits. (Failure)",
            "Server Unavailable. 15",
            "Request is throttled. Suggested Backoff Time: 299961 milliseconds",
        ] {
            assert!(asks_to_wait(words), "{words}");
        }
        for words in [
            "Invalid credentials (Failure)",
            "Authentication failed.",
            "LOGIN failed.",
            "Login attempts exceeded",
            "Please try again.",
            "",
        ] {
            assert!(!asks_to_wait(words), "{words}");
        }
    }
}
