//! Messages to be sent: what is asked for, how far each is, and how that changes. The moves are two functions, which know no
//! clock, no database and no server: [`Status::after`] has all of them, [`Delivery::after`] those that an attempt makes.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::anyhow;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use crate::account::{AccountId, EmailAddress};
use crate::composition::Composition;
use crate::draft::DraftId;
use crate::error::{Error, Fault};
use crate::identity::id;
use crate::message::{Correspondent, Cursor, read_cursor, write_cursor};
use crate::validation::{Field, Fields};

id!(
    /// A message to be sent.
    OutgoingId
);

/// The most bytes of a message as it is sent.
pub const MAX_MESSAGE_BYTES: u64 = 25 * 1024 * 1024;

/// What headers have at the most beyond what is asked for: ids of a whole conversation, the sender's name, a subject of which each
/// letter is encoded.
const HEADER_BYTES: u64 = 16 * 1024;
/// The same of one person, whose name is encoded in words.
const PERSON_BYTES: u64 = 1024;
/// The same of one file, whose name is there twice and three times as long.
const FILE_BYTES: u64 = 10 * 1024;

/// How far a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = OutgoingStatus))]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its time has not come.
    Scheduled,
    /// It is to be sent, for the first time or again.
    Queued,
    /// A worker is at it.
    Sending,
    /// A server has taken it, for one recipient at least, and none is left.
    Sent,
    /// The server does not take it, for no recipient.
    Rejected,
    /// It was tried for a day, or the login was refused, or a file is gone.
    Failed,
    /// The connection was lost while the server took it: it was sent, or it was not.
    Uncertain,
    /// Its user has taken it back.
    Canceled,
}

/// What happens to a message, as far as its status is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A worker takes it, or takes it over from one that died before the last dot.
    Begun,
    /// It is given back, to be tried again.
    Delayed,
    /// A server has taken it, and no recipient is left.
    Accepted,
    /// No recipient is left, and none was accepted.
    Refused,
    /// It is not tried any more.
    GivenUp,
    /// The last dot is out, and there is no answer.
    Lost,
    /// Its user takes it back.
    Canceled,
    /// Its user wants it tried again.
    Retried,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Begun,
        Self::Delayed,
        Self::Accepted,
        Self::Refused,
        Self::GivenUp,
        Self::Lost,
        Self::Canceled,
        Self::Retried,
    ];
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Queued,
        Self::Sending,
        Self::Sent,
        Self::Rejected,
        Self::Failed,
        Self::Uncertain,
        Self::Canceled,
    ];

    /// The name in the API and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Uncertain => "uncertain",
            Self::Canceled => "canceled",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Where a step leads; `None` where it cannot be taken. The functions of the database take the same ones and no others.
    ///
    /// Out of `Uncertain` leads what was found in the sent folder, and its user: never an attempt.
    pub const fn after(self, step: Step) -> Option<Self> {
        match (self, step) {
            (Self::Scheduled | Self::Queued | Self::Sending, Step::Begun) => Some(Self::Sending),
            (Self::Scheduled | Self::Queued, Step::Canceled) => Some(Self::Canceled),
            // Some recipients were accepted, as it turns out, and others are to be tried again.
            (Self::Sending | Self::Uncertain, Step::Delayed) => Some(Self::Queued),
            (Self::Sending | Self::Uncertain, Step::Accepted) => Some(Self::Sent),
            (Self::Sending, Step::Refused) => Some(Self::Rejected),
            (Self::Sending, Step::GivenUp) => Some(Self::Failed),
            (Self::Sending, Step::Lost) => Some(Self::Uncertain),
            (Self::Failed | Self::Uncertain, Step::Retried) => Some(Self::Queued),
            _ => None,
        }
    }
}

/// A recipient, and what became of the message for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = OutgoingRecipient))]
pub struct Recipient {
    /// The address.
    pub address: String,
    /// How far it is.
    pub status: Reception,
    /// What the server said last, where it said anything.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub response: Option<String>,
}

/// How far a message is for a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Reception {
    /// Not decided.
    Pending,
    /// A server has taken it.
    Accepted,
    /// The server does not take it.
    Rejected,
}

/// What a server's answer means. What takes longer is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is done.
    Yes,
    /// Not now.
    Later,
    /// Not now, for all that the account has to send.
    Policy,
    /// Not now, because so much was sent.
    Limit,
    /// Never.
    Never,
}

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it means.
    pub verdict: Verdict,
    /// What it says, fit to be shown.
    pub words: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The server has answered to the whole: to the message, or before it to sender, recipients or the wish to send it.
    Answered(Answer),
    /// No server was reached, or the connection was lost before the last dot. Nothing was sent.
    Broken(String),
    /// The last dot is out, and there is no answer.
    Lost(String),
    /// Nobody can sign in. Nothing was sent.
    NoLogin(String),
    /// Nobody can sign in for now, as a policy or a limit of the server has it. Nothing was sent.
    Held(Answer),
}

/// A message's recipients, and how long it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// In the order in which they are asked for.
    pub recipients: Vec<Recipient>,
    /// Since the first of those attempts that are to end within a day.
    pub tried_for: Duration,
}

/// What an attempt leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// As far as the status is concerned.
    pub step: Step,
    /// What the recipients are then.
    pub recipients: Vec<Recipient>,
    /// Of whom nobody knows whether they get it, by their places.
    pub doubtful: Vec<usize>,
    /// What is to be read of the whole.
    pub response: String,
    /// After which time it is tried again.
    pub pause: Option<Duration>,
    /// For how long the account's other messages are not tried either.
    pub hold: Option<Duration>,
}

/// Between attempts; after the last it is again and again the same.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(60), Duration::from_secs(5 * 60), Duration::from_secs(15 * 60), Duration::from_secs(60 * 60)];
/// How long a message is tried.
pub const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long where a provider takes no more for now, by a limit or a policy: most count a day's messages.
pub const LIMIT_PATIENCE: Duration = Duration::from_secs(72 * 60 * 60);
/// Between attempts there.
pub const LIMIT_PAUSE: Duration = Duration::from_secs(60 * 60);

/// After so many times, when the next one is due: 1, 5, 15, 60, 60 … minutes.
pub fn pause_after(times: u32) -> Duration {
    let [first, .., last] = PAUSES;
    let place = usize::try_from(times).unwrap_or(usize::MAX).checked_sub(1);
    place.map_or(first, |place| PAUSES.get(place).copied().unwrap_or(last))
}

/// The same of a message that has been tried for so long: whatever number the attempt has, for a user's retry begins anew.
fn pause_in(tried_for: Duration) -> Duration {
    let [.., last] = PAUSES;
    let mut passed = Duration::ZERO;
    let due = |pause: &Duration| {
        passed += *pause;
        tried_for < passed
    };
    PAUSES.into_iter().find(due).unwrap_or(last)
}

impl Delivery {
    /// The places of the recipients that are asked for: those that are pending.
    pub fn asked(&self) -> Vec<usize> {
        let pending =
            self.recipients.iter().enumerate().filter(|(_, recipient)| recipient.status == Reception::Pending);
        pending.map(|(place, _)| place).collect()
    }

    fn has(&self, status: Reception) -> bool {
        self.recipients.iter().any(|recipient| recipient.status == status)
    }

    /// What an attempt leads to. `answers` has one for each recipient that was [`asked`](Self::asked) for, or none where
    /// there was none: one that was accepted counts when the message was.
    pub fn after(mut self, answers: &[Option<Answer>], ending: Ending) -> Move {
        let (mut doubtful, mut slowest) = (Vec::new(), Verdict::Later);
        for (nth, place) in self.asked().into_iter().enumerate() {
            let Some(recipient) = self.recipients.get_mut(place) else { continue };
            let own = answers.get(nth).and_then(Option::as_ref);
            let answer = match (own, &ending) {
                (Some(own), _) if own.verdict != Verdict::Yes => own,
                (_, Ending::Answered(answer) | Ending::Held(answer)) => answer,
                (_, Ending::Lost(_)) => {
                    doubtful.push(place);
                    continue;
                }
                (_, Ending::Broken(_) | Ending::NoLogin(_)) => continue,
            };
            recipient.response = Some(answer.words.clone());
            recipient.status = match answer.verdict {
                Verdict::Yes => Reception::Accepted,
                Verdict::Never => Reception::Rejected,
                Verdict::Later | Verdict::Policy | Verdict::Limit => {
                    slowest = slowest.max(answer.verdict);
                    Reception::Pending
                }
            };
        }
        let at_sign_in = matches!(ending, Ending::Held(_));
        let (response, no_login) = match ending {
            Ending::Answered(answer) | Ending::Held(answer) => (answer.words, false),
            Ending::Broken(words) | Ending::Lost(words) => (words, false),
            Ending::NoLogin(words) => (words, true),
        };
        if !doubtful.is_empty() {
            return Move { step: Step::Lost, recipients: self.recipients, doubtful, response, pause: None, hold: None };
        }
        let (step, pause) = self.next(slowest, no_login);
        // A policy that lets some have it is none of the account's, but for one that lets nobody sign in.
        let is_accounts = at_sign_in || !self.has(Reception::Accepted);
        let is_held = slowest == Verdict::Limit || slowest == Verdict::Policy && is_accounts;
        let hold = pause.filter(|_| is_held);
        Move { step, recipients: self.recipients, doubtful, response, pause, hold }
    }

    /// What it leads to that a message of which nobody knew lies in the sent folder: the server had taken it, for those
    /// with these places.
    pub fn found(mut self, doubtful: &[usize], response: String) -> Move {
        for place in doubtful {
            if let Some(recipient) = self.recipients.get_mut(*place) {
                recipient.status = Reception::Accepted;
                recipient.response = Some(response.clone());
            }
        }
        let (step, pause) = match self.next(Verdict::Later, false) {
            // Those that are left were refused for long enough.
            (Step::Delayed, pause) => (Step::Delayed, pause),
            _ => (Step::Accepted, None),
        };
        Move { step, recipients: self.recipients, doubtful: Vec::new(), response, pause, hold: None }
    }

    /// After answers of which the slowest meant this.
    fn next(&mut self, slowest: Verdict, no_login: bool) -> (Step, Option<Duration>) {
        let is_accepted = self.has(Reception::Accepted);
        if self.has(Reception::Pending) {
            if no_login {
                return (Step::GivenUp, None);
            }
            let (pause, patience) = match slowest {
                Verdict::Limit => (LIMIT_PAUSE, LIMIT_PATIENCE),
                Verdict::Policy => (pause_in(self.tried_for), LIMIT_PATIENCE),
                _ => (pause_in(self.tried_for), PATIENCE),
            };
            if self.tried_for + pause <= patience {
                return (Step::Delayed, Some(pause));
            }
            if !is_accepted {
                return (Step::GivenUp, None);
            }
            let left = self.recipients.iter_mut().filter(|recipient| recipient.status == Reception::Pending);
            left.for_each(|recipient| recipient.status = Reception::Rejected);
        }
        (if is_accepted { Step::Accepted } else { Step::Refused }, None)
    }
}

/// What a message to be sent needs from its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOutgoing {
    /// The account that sends it.
    pub account_id: AccountId,
    /// All that was asked for.
    pub composition: Composition,
    /// The draft that it was, which is gone then.
    pub draft_id: Option<DraftId>,
}

impl NewOutgoing {
    /// Reads the body of a `POST /api/outbox`, at a moment in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(mut fields: Fields, now: i64) -> Result<Self, Error> {
        let composition = Composition::take(&mut fields, now);
        if composition.account_id.is_none() {
            fields.refuse(Fault::missing("accountId", format!("is required and {}", AccountId::RULE)));
        }
        let has_faults = ["to", "cc", "bcc"].iter().any(|field| fields.has_fault_in(field));
        if composition.recipients().next().is_none() && !has_faults {
            let sentence = "Name at least one recipient in to, cc or bcc";
            fields.refuse(Fault::new("to", "must name a recipient, where neither cc nor bcc does", sentence.into()));
        }
        if composition.reply_to_id.is_some() && composition.forward_of_id.is_some() {
            let rule = "must not be there together with replyToId";
            fields.refuse(Fault::new("forwardOfId", rule, format!("Forward of id {rule}")));
        }
        let draft_id = fields.nullable("draftId").flatten();
        fields.finish()?;
        let account_id = composition.account_id;
        let account_id = account_id.ok_or_else(|| Error::internal(anyhow!("no account, and no fault says so")))?;
        Ok(Self { account_id, composition, draft_id })
    }

    /// How many bytes its JSON, of which there are so many, and its files as they are sent may have together. What the JSON
    /// says may be longer as it is sent, and that is kept free: a third in base64, which is chosen where nothing else is
    /// shorter, and what headers take.
    pub fn most_bytes(&self, json: usize) -> u64 {
        let Composition { to, cc, reply_to, attachments, .. } = &self.composition;
        let json = json as u64;
        // Lines of 57 bytes become 76 and their ends.
        let encoded = json.div_ceil(57) * 78;
        let people = (to.len() + cc.len() + reply_to.len()) as u64;
        let spare = HEADER_BYTES + PERSON_BYTES * people + FILE_BYTES * attachments.len() as u64;
        MAX_MESSAGE_BYTES.saturating_sub(spare + encoded.saturating_sub(json))
    }

    /// Everybody who gets it, each address once.
    pub fn recipients(&self) -> Vec<Recipient> {
        let mut known = HashSet::new();
        let all = self.composition.recipients().map(|recipient| &recipient.address);
        let each = all.filter(|address| known.insert(address.key()));
        let pending = |address: &EmailAddress| Recipient {
            address: address.0.clone(),
            status: Reception::Pending,
            response: None,
        };
        each.map(pending).collect()
    }
}

/// A message to be sent, as clients see it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Outgoing {
    /// Its id.
    pub id: OutgoingId,
    /// The Message-ID of its header, without angle brackets.
    pub message_id: String,
    /// Who sends it: the account's name and address.
    pub from: Correspondent,
    /// What was asked for.
    #[serde(flatten)]
    pub composition: Composition,
    /// How far it is.
    pub status: Status,
    /// How often it was tried.
    pub attempts: i32,
    /// When it is tried next, in milliseconds since the Unix epoch; none where it is not.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub next_attempt_at: Option<i64>,
    /// What was said last of the whole, by the server where it said anything.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub response: Option<String>,
    /// Each address once.
    pub recipients: Vec<Recipient>,
    /// When a server had taken it, in milliseconds since the Unix epoch.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub sent_at: Option<i64>,
    /// When it was put here, in milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// A place in the outbox: right behind this entry. Clients get it as a text that means nothing to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxCursor {
    /// When the entry was made.
    pub created_at: i64,
    /// Of two that were made at once, which it is.
    pub id: OutgoingId,
}

/// See [`write_cursor`].
const CURSOR_KIND: u8 = 2;

impl Serialize for OutboxCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write_cursor(CURSOR_KIND, self.created_at, self.id.0))
    }
}

impl Field for OutboxCursor {
    const RULE: &'static str = Cursor::RULE;

    fn read(value: Value) -> Option<Self> {
        let (created_at, id) = read_cursor(CURSOR_KIND, value.as_str()?)?;
        Some(Self { created_at, id: OutgoingId(id) })
    }
}

#[cfg(test)]
mod tests;
