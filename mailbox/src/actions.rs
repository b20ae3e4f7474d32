//! What users do to messages: on their server first, then here.
//!
//! Nobody has a lease meanwhile, and a worker may synchronise the same account. What it has read before and writes afterwards is
//! put right by the next synchronisation: the server has counted the change (CONDSTORE), or all flags are compared again, and a
//! message that is not where it was is found where it is. A visit that dies between the server and here ends the same way.

mod imap;

use std::collections::HashMap;

use shared::account::AccountId;
use shared::db::mailboxes::Bits;
use shared::db::visits::{Deeds, Done, Located, Place, Whereabouts};
use shared::error::{Fault, NO_SUCH_MESSAGE};
use shared::folder::{FolderId, Role};
use shared::join::join_at_most;
use shared::message::{Message, MessageChange, MessageId};
use shared::{Error, MailCall};
use tokio::time::Instant;

use crate::tokens::Way;
use crate::{Host, visit};

/// Accounts that are visited at once. Who has more of them in a batch waits a little longer.
const ACCOUNTS_AT_ONCE: usize = 8;
/// Of a visit: flags of 200 messages, a list of folders, and what changed meanwhile.
const SESSION_BYTES: u64 = 8 * 1024 * 1024;

const FOLDER_RULE: &str = "must be the id of a folder of the same account that can hold messages";
const MISPLACED: &str =
    "This message is not where it was seen last. The next synchronisation finds it: try again after that.";
const OTHER_ACCOUNT: &str = "The folder is of another account than this message, or cannot hold messages.";
/// What a client learns that moves a message of a mailbox with one folder.
pub const ONE_FOLDER: &str = "This mailbox has one folder (POP3). A message cannot be moved.";
const NO_TRASH: &str = "This mailbox has no trash. Delete the message for good, or move it to another folder.";
const ALL_OR_NONE: &str = "This mail server can only remove all messages of a folder that any program has marked as deleted \
                           (it has no UIDPLUS), so single ones are not removed for good from here.";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Flags and folder change.
    Change(MessageChange),
    /// To the trash; from there, and where that is wanted, for good.
    Delete {
        /// For good, wherever it is.
        is_permanent: bool,
    },
}

impl Action {
    fn change(&self) -> MessageChange {
        match self {
            Self::Change(change) => *change,
            Self::Delete { .. } => MessageChange::default(),
        }
    }
}

/// Does this to one message; returns it as it is then, or was before it was destroyed.
///
/// # Errors
/// As [`carry_out`], and what becomes of the message itself.
pub async fn carry_out_one(
    call: &MailCall<Way>,
    id: MessageId,
    action: Action,
    started: Instant,
) -> Result<Message, Error> {
    let mut outcomes = carry_out(call, &[id], action, started).await?;
    outcomes.pop().unwrap_or(Err(Error::NotFound(NO_SUCH_MESSAGE)))
}

/// Does this to messages, of each account over one connection; returns what became of each, in their order. `started` is when
/// the request came.
///
/// # Errors
/// [`Error::Invalid`] where the folder that messages are to go to is none of their accounts', [`Error::Internal`] where they
/// cannot be looked for. Of a message, [`Error::NotFound`] where it is not the caller's or not there any more;
/// [`Error::Conflict`] where this cannot be done to it; [`Error::MailServer`] where its mail host fails, and
/// [`Error::TooManyRequests`] where that has refused the login less than a minute ago.
pub async fn carry_out(
    call: &MailCall<Way>,
    ids: &[MessageId],
    action: Action,
    started: Instant,
) -> Result<Vec<Result<Message, Error>>, Error> {
    let target = action.change().folder_id;
    let located = call.db.locate_messages(&call.identity.scope, ids, target).await?;
    // One of a mailbox with one folder goes nowhere, whatever folder that would be.
    if let Some(target) = target
        && !located.iter().all(is_pop3)
        && !located.iter().any(|located| located.folder(target).is_some_and(|folder| folder.is_selectable))
    {
        return Err(Error::Invalid(vec![Fault::new("folderId", FOLDER_RULE, format!("Folder id {FOLDER_RULE}"))]));
    }
    let accounts = located.iter().map(|located| in_account(call, located, action, started));
    let outcomes = join_at_most(ACCOUNTS_AT_ONCE, accounts).await;
    let mut outcomes: HashMap<_, _> = outcomes.into_iter().flatten().collect();
    let outcome = |id| outcomes.remove(id).unwrap_or(Err(Error::NotFound(NO_SUCH_MESSAGE)));
    Ok(ids.iter().map(outcome).collect())
}

/// What is to become of where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    /// Nothing.
    Stay,
    /// Into another folder.
    Move(&'a Place),
    /// Out of a folder beside the one of all mail, into a label: it then lies in `home`.
    Unpack { into: &'a Place, home: &'a Place },
    /// Other labels, where it lies.
    Relabel { added: Option<&'a Place>, removed: Option<&'a Place> },
    /// It is no more.
    Destroy,
    /// The same, out of the folder of all mail: only what lies in the trash can be destroyed.
    Discard(&'a Place),
}

/// What an action means for one message.
fn step<'a>(located: &'a Located, message: &Whereabouts, action: Action) -> Result<Step<'a>, Error> {
    let conflict = |words: &'static str| Error::Conflict(words.into());
    let is_pop3 = is_pop3(located);
    let here = located.folder(message.folder_id).ok_or_else(|| conflict(MISPLACED))?;
    visit::place_of(located, message).ok_or_else(|| conflict(MISPLACED))?;
    // Where there are labels, all but three folders are such.
    let is_all = here.role == Some(Role::All) && located.folders.iter().any(|folder| folder.is_label);
    match action {
        Action::Change(change) => {
            let Some(target) = change.folder_id else { return Ok(Step::Stay) };
            if is_pop3 {
                return if target == here.id { Ok(Step::Stay) } else { Err(conflict(ONE_FOLDER)) };
            }
            let folder = located.folder(target).filter(|folder| folder.is_selectable);
            let folder = folder.ok_or_else(|| conflict(OTHER_ACCOUNT))?;
            if !is_all {
                return match folder {
                    folder if folder.id == here.id => Ok(Step::Stay),
                    folder if folder.is_label => {
                        let home = located.folder_for(Role::All).ok_or_else(|| conflict(MISPLACED))?;
                        Ok(Step::Unpack { into: folder, home })
                    }
                    folder => Ok(Step::Move(folder)),
                };
            }
            let labels = || message.labels.iter().filter_map(|id| located.folder(*id));
            let shown = shown_in(labels());
            if shown.is_some_and(|shown| shown.id == folder.id) {
                return Ok(Step::Stay);
            }
            // What was sent, and what is a draft, stays that; and what has a star, or is important, keeps it.
            let removed = shown_in(labels().filter(|label| !is_mark(label)));
            let stays = |label: &Place| label.id == folder.id || matches!(label.role, Some(Role::Sent | Role::Drafts));
            let removed = removed.filter(|label| !stays(label));
            match folder {
                folder if folder.is_label => {
                    let added = Some(folder).filter(|folder| !message.labels.contains(&folder.id));
                    Ok(Step::Relabel { added, removed })
                }
                folder if folder.id == here.id => Ok(Step::Relabel { added: None, removed }),
                folder => Ok(Step::Move(folder)),
            }
        }
        Action::Delete { .. } if is_pop3 || here.role == Some(Role::Trash) => Ok(Step::Destroy),
        Action::Delete { is_permanent: true } if !is_all => {
            // Where Gmail's folder of all mail is hidden, what is destroyed elsewhere goes on to lie there.
            let trash =
                located.folder_for(Role::Trash).filter(|trash| is_gmails(trash) && here.role != Some(Role::Junk));
            Ok(trash.map_or(Step::Destroy, Step::Discard))
        }
        Action::Delete { is_permanent } => {
            let trash = located.folder_for(Role::Trash).ok_or_else(|| conflict(NO_TRASH))?;
            Ok(if is_permanent { Step::Discard(trash) } else { Step::Move(trash) })
        }
    }
}

/// Whether a folder is one of Gmail's own, which lie below one of their own. In some countries that has another name.
fn is_gmails(place: &Place) -> bool {
    ["[Gmail]/", "[Google Mail]/"].iter().any(|begin| place.path.starts_with(begin))
}

fn is_pop3(located: &Located) -> bool {
    located.stored.account.protocol == "pop3"
}

/// Whether a label is none that people file under: Gmail's stars, and what it takes for important.
fn is_mark(label: &Place) -> bool {
    is_gmails(label) && label.role.is_none()
}

/// The label that a message is shown under, as lists have it.
fn shown_in<'a>(labels: impl Iterator<Item = &'a Place>) -> Option<&'a Place> {
    let rank = |place: &Place| match place.role {
        Some(Role::Inbox) => 1,
        Some(Role::Sent) => 2,
        Some(Role::Drafts) => 3,
        _ => 4,
    };
    labels.min_by_key(|place| (rank(place), place.id.0))
}

/// What a visit came to. A message that is in neither was not there.
#[derive(Default)]
struct Visit {
    done: Vec<Done>,
    failed: HashMap<MessageId, Error>,
    /// The server is not as it was thought to be.
    is_due: bool,
}

/// Does it to all messages of one account.
async fn in_account(
    call: &MailCall<Way>,
    located: &Located,
    action: Action,
    started: Instant,
) -> Vec<(MessageId, Result<Message, Error>)> {
    let (mut outcomes, mut steps) = (Vec::new(), Vec::new());
    for message in &located.messages {
        match step(located, message, action) {
            Ok(step) => steps.push((message, step)),
            Err(error) => outcomes.push((message.id, Err(error))),
        }
    }
    if steps.is_empty() {
        return outcomes;
    }
    let (account, change) = (located.stored.account.id, action.change());
    let mut failed = HashMap::new();
    let applied = if is_pop3(located) || action == Action::Change(MessageChange::default()) {
        let done = steps.iter().map(|(message, step)| here_alone(message, *step, change)).collect();
        apply(call, account, &Deeds { done, hides: true, is_due: false }).await
    } else {
        match visit::begin(call, &located.stored, started, SESSION_BYTES).await {
            Ok(mut host) => {
                let visit = on_server(&mut host, located, &steps, change).await;
                failed = visit.failed;
                let deeds = Deeds { done: visit.done, hides: false, is_due: visit.is_due };
                let (applied, ()) = tokio::join!(apply(call, account, &deeds), host.sign_out());
                applied
            }
            Err(error) => Err(error),
        }
    };
    let (mut messages, error) = match applied {
        Ok(messages) => (messages.into_iter().map(|message| (message.id, message)).collect(), None),
        Err(error) => (HashMap::new(), Some(error)),
    };
    outcomes.extend(steps.iter().map(|(message, _)| {
        let outcome = match (failed.remove(&message.id), &error) {
            (Some(error), _) => Err(error),
            (None, Some(error)) => Err(again(error)),
            (None, None) => messages.remove(&message.id).ok_or(Error::NotFound(NO_SUCH_MESSAGE)),
        };
        (message.id, outcome)
    }));
    outcomes
}

async fn apply(call: &MailCall<Way>, account: AccountId, deeds: &Deeds) -> Result<Vec<Message>, Error> {
    if deeds.done.is_empty() && !deeds.is_due {
        return Ok(Vec::new());
    }
    call.db.apply_actions(&call.identity.scope, account, deeds).await
}

/// What is done to a message whose server is not asked. Of its flags those that are named: another request may just change the
/// others.
fn here_alone(message: &Whereabouts, step: Step<'_>, change: MessageChange) -> Done {
    let flags =
        [(change.is_read, Bits::READ), (change.is_flagged, Bits::FLAGGED), (change.is_answered, Bits::ANSWERED)];
    let (mut set, mut named) = (0, 0);
    for (wanted, bit) in flags {
        if let Some(is_set) = wanted {
            named |= bit;
            set |= if is_set { bit } else { 0 };
        }
    }
    let bits = (named != 0).then_some(Bits(set | named << Bits::NAMED));
    Done { bits, is_destroyed: step == Step::Destroy, ..Done::nothing(message) }
}

/// Does it on the server, for those together that lie in one folder and go the same way.
async fn on_server(
    host: &mut Host,
    located: &Located,
    steps: &[(&Whereabouts, Step<'_>)],
    change: MessageChange,
) -> Visit {
    let mut groups: Vec<(FolderId, Step<'_>, Vec<&Whereabouts>)> = Vec::new();
    for (message, step) in steps {
        match groups.iter_mut().find(|(folder, of, _)| (*folder, of) == (message.folder_id, step)) {
            Some((_, _, messages)) => messages.push(message),
            None => groups.push((message.folder_id, *step, vec![message])),
        }
    }
    let mut visit = Visit::default();
    let Host::Imap(imap, features) = host else { return visit };
    let mut session = imap::Session::new(imap, *features, change);
    for (folder, step, messages) in groups {
        // Each was found before.
        let Some(folder) = located.folder(folder) else { continue };
        let error = match session.carry_out(folder, step, &messages, &mut visit).await {
            Ok(()) => continue,
            Err(error) => visit::failure(located.stored.account.protocol.as_str(), error),
        };
        // Some of it may have been done.
        visit.is_due = true;
        visit.failed.extend(messages.iter().map(|message| (message.id, again(&error))));
    }
    visit
}

/// The same error, for another message.
fn again(error: &Error) -> Error {
    match error {
        Error::MailServer { code, message } => Error::MailServer { code, message: message.clone() },
        Error::TooManyRequests(quota) => Error::TooManyRequests(*quota),
        Error::Conflict(message) => Error::Conflict(message.clone()),
        Error::Unavailable(cause) => Error::Unavailable(anyhow::anyhow!("{cause:#}")),
        other => Error::internal(match other.cause() {
            Some(cause) => anyhow::anyhow!("{cause:#}"),
            None => anyhow::anyhow!("{other}"),
        }),
    }
}
