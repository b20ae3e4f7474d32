//! What a server answers, and what that means for whoever waits for it.

use std::fmt;

use super::Reply;
use crate::error::{clean, cut};
use crate::sasl::{Login, REDACTED};

/// An answer, fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// 200 to 599.
    pub code: u16,
    /// RFC 3463, where the server has it: class, subject and detail.
    pub enhanced: Option<(u8, u16, u16)>,
    /// The whole of it on one line, the code and the enhanced one included: clean, of at most 200 characters, and without
    /// the secret.
    pub words: String,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is done.
    Yes,
    /// Not now.
    Later,
    /// Not now, as a policy has it: much was sent, or a stranger waits, or who decides is away. What else the account has to
    /// send would meet it as well.
    Policy,
    /// Not now, because so much was sent: whoever goes on asking waits longer.
    Limit,
    /// Never.
    Never,
}

impl Said {
    pub(super) fn new(reply: &Reply, login: &Login) -> Self {
        let words = reply.to_string();
        // Before it is cut: a piece of the secret at the end would not be known for one.
        let words = if login.is_echoed_in(&words) { format!("{} {REDACTED}", reply.code) } else { words };
        Self { code: reply.code, enhanced: enhanced(reply), words: cut(words) }
    }

    /// As an answer to RCPT: too many recipients are so for this message alone, and 552 is 452 there (RFC 5321 section
    /// 4.5.3.1.10). A mailbox that is full says 552 as well.
    pub(super) fn of_recipient(mut self) -> Self {
        let is_too_many = match (self.code, self.enhanced) {
            (500..=599, Some((_, 5, 3))) => true,
            (552, None) => self.words.to_ascii_lowercase().contains("too many recipients"),
            _ => false,
        };
        if is_too_many {
            (self.code, self.enhanced) = (452, Some((4, 5, 3)));
        }
        self
    }

    /// One of our own, for what a server has said it would answer.
    pub fn ours(code: u16, enhanced: (u8, u16, u16), words: &str) -> Self {
        let (class, subject, detail) = enhanced;
        let words = cut(clean(&format!("{code} {class}.{subject}.{detail} {words}")));
        Self { code, enhanced: Some(enhanced), words }
    }

    /// What it means.
    pub fn kind(&self) -> Kind {
        meaning(self.code, self.enhanced, &self.words)
    }
}

impl Reply {
    /// As [`Said::kind`], where the words are not to be shown. Of who signs in a rate is a minute's, and no day's.
    pub(super) fn kind(&self) -> Kind {
        let words = clean(&self.text).to_ascii_lowercase();
        let is_rate = ["rate limit", "rate exceeded"].iter().any(|rate| words.contains(rate));
        match meaning(self.code, enhanced(self), &words) {
            Kind::Limit if is_rate && self.code < 500 => Kind::Policy,
            kind => kind,
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

fn meaning(code: u16, enhanced: Option<(u8, u16, u16)>, words: &str) -> Kind {
    match (code, enhanced) {
        (200..=299, _) => Kind::Yes,
        // Gmail counts a day's messages with it, for good although it ends after a day. Of class 4 it says that a server is busy.
        (_, Some((5, 4, 5))) => Kind::Limit,
        (400..=599, _) if speak_of_a_limit(words, enhanced) => Kind::Limit,
        // Postfix and Gmail count a minute's with it; filters that are restarted say the same, and greylisting.
        (400..=499, Some((_, 7, _))) => Kind::Policy,
        // A question where an answer was due says nothing of the message.
        (300..=499, _) => Kind::Later,
        _ => Kind::Never,
    }
}

/// Outlook.com, Yahoo, Amazon and hosters have no code for it, or another each.
fn speak_of_a_limit(words: &str, enhanced: Option<(u8, u16, u16)>) -> bool {
    /// Of who sends.
    const SENDING: [&str; 7] = [
        "submissionquotaexceeded",
        "daily message quota",
        "daily user sending",
        "daily limit for sending",
        "smtp relay limit exceeded",
        "sending limit",
        "sending quota",
    ];
    /// Of who sends, or of the recipient's mailbox where the code is a mailbox's (RFC 3463 section 3.3).
    const EITHER: [&str; 3] = ["too many messages", "rate limit", "rate exceeded"];
    let words = words.to_ascii_lowercase();
    let speak_of = |limits: &[&str]| limits.iter().any(|limit| words.contains(limit));
    speak_of(&SENDING) || !matches!(enhanced, Some((_, 2, _))) && speak_of(&EITHER)
}

/// `5.7.1` at the beginning of the first line; one of another class than the code's is none (RFC 2034 section 4).
fn enhanced(reply: &Reply) -> Option<(u8, u16, u16)> {
    let mut numbers = reply.text.split_ascii_whitespace().next()?.split('.');
    let mut number = |most_digits: usize| {
        let digits = numbers.next()?;
        let fits = (1..=most_digits).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
    let is_whole = numbers.next().is_none();
    (is_whole && class == reply.code / 100).then(|| Some((u8::try_from(class).ok()?, subject, detail))).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sasl::Secret;

    fn said(code: u16, text: &str) -> Said {
        let login = Login::new("alice", Secret::Password("hunter22".to_owned().into())).unwrap();
        Said::new(&Reply { code, text: text.to_owned() }, &login)
    }

    #[test]
    fn each_answer_has_its_meaning() {
        for (code, text, enhanced, kind) in [
            (250, "2.0.0 OK 1767225600 a-b.1 - gsmtp", Some((2, 0, 0)), Kind::Yes),
            (251, "User not local; will forward", None, Kind::Yes),
            (421, "4.3.2 Too many connections, slow down.", Some((4, 3, 2)), Kind::Later),
            (450, "4.2.0 Greylisted", Some((4, 2, 0)), Kind::Later),
            (452, "4.2.2 Mailbox full", Some((4, 2, 2)), Kind::Later),
            (421, "4.4.5 Server busy, try again later.", Some((4, 4, 5)), Kind::Later),
            (421, "4.7.0 Try again later, closing connection.", Some((4, 7, 0)), Kind::Policy),
            (450, "4.7.1 Error: too much mail from 192.0.2.1", Some((4, 7, 1)), Kind::Policy),
            (550, "5.4.5 Daily user sending limit exceeded.", Some((5, 4, 5)), Kind::Limit),
            (
                554,
                "5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException;",
                Some((5, 2, 0)),
                Kind::Limit,
            ),
            (454, "Throttling failure: Daily message quota exceeded.", None, Kind::Limit),
            (550, "5.7.1 Daily SMTP relay limit exceeded for customer.", Some((5, 7, 1)), Kind::Limit),
            (450, "4.2.1 Peak SMTP relay limit exceeded for customer.", Some((4, 2, 1)), Kind::Limit),
            (
                550,
                "5.7.232 Your message can't be sent because your trial tenant has exceeded its daily limit for sending email",
                Some((5, 7, 232)),
                Kind::Limit,
            ),
            (
                550,
                "5.7.233 Your message can't be sent because your tenant exceeded its daily limit for sending email",
                Some((5, 7, 233)),
                Kind::Limit,
            ),
            (550, "5.1.1 No such user", Some((5, 1, 1)), Kind::Never),
            (552, "5.3.4 Message size exceeds fixed limit", Some((5, 3, 4)), Kind::Never),
            // Of the recipient's mailbox, and of who sends.
            (552, "5.2.2 mailbox has too many messages", Some((5, 2, 2)), Kind::Never),
            (452, "4.2.2 mailbox has too many messages", Some((4, 2, 2)), Kind::Later),
            (450, "4.2.1 The user is receiving mail too quickly: rate limit exceeded", Some((4, 2, 1)), Kind::Later),
            (
                450,
                "4.2.1 The user you are trying to contact is receiving mail too quickly.",
                Some((4, 2, 1)),
                Kind::Later,
            ),
            (452, "4.3.1 Too many messages", Some((4, 3, 1)), Kind::Limit),
            (550, "Too many messages from you, rate limit exceeded", None, Kind::Limit),
            (550, "5.7.1 Spam", Some((5, 7, 1)), Kind::Never),
            // Not of its code's class, or none at all.
            (550, "4.7.1 Spam", None, Kind::Never),
            (550, "5.7 Spam", None, Kind::Never),
            (550, "5.7.1.2 Spam", None, Kind::Never),
            (550, "5.7777.1 Spam", None, Kind::Never),
            (354, "Go ahead", None, Kind::Later),
            (550, "", None, Kind::Never),
        ] {
            let said = said(code, text);
            assert_eq!((said.enhanced, said.kind()), (enhanced, kind), "{said}");
        }
    }

    #[test]
    fn recipients_that_are_too_many_are_asked_for_later() {
        for (code, text, kind) in [
            (552, "5.5.3 Too many recipients", Kind::Later),
            (550, "5.5.3 Too much", Kind::Later),
            (552, "Error: Too many recipients", Kind::Later),
            (452, "4.5.3 Too many recipients", Kind::Later),
            (552, "5.2.2 Mailbox full", Kind::Never),
            (552, "Mailbox full", Kind::Never),
            (550, "5.7.1 Too many recipients", Kind::Never),
            (550, "5.1.1 No such user", Kind::Never),
            (250, "2.1.5 OK", Kind::Yes),
        ] {
            let said = said(code, text).of_recipient();
            assert_eq!(said.kind(), kind, "{said}");
            assert_eq!(said.words, format!("{code} {text}"), "as it was said");
        }
        assert_eq!(said(552, "5.5.3 Too many recipients").kind(), Kind::Never, "of the whole message");
    }

    #[test]
    fn words_are_clean_and_short_and_without_the_secret() {
        assert_eq!(said(550, "5.1.1 a\n5.1.1\x07 b").words, "550 5.1.1 a 5.1.1 b");
        assert_eq!(said(550, &"ü".repeat(500)).words.chars().count(), 200);
        assert!(!said(550, "your password hunter22 is bad").words.contains("hunter22"));
        assert_eq!(Said::ours(552, (5, 3, 4), "too large").to_string(), "552 5.3.4 too large");
    }

    proptest! {
        #[test]
        fn anything_can_be_shown(code in 200u16..600, text in ".*") {
            let said = said(code, &text);
            prop_assert!(said.words.chars().count() <= 200 && !said.words.contains(char::is_control));
            said.kind();
        }
    }
}
