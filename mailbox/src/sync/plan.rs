//! What is to be done about a folder: a pure function of how far it is here and what the server says of it.

use mail::imap::{Features, Folder as There, Role, Status};
use shared::db::mailboxes::{Folder, Listed};

/// At a server that does not tell what has changed, all flags of a folder of at most so many messages are compared each
/// time; of a larger one each [`CHECK_EVERY`].
pub(super) const SMALL: i32 = 2_000;
/// In milliseconds: half an hour. A full comparison of 200,000 messages transfers some 8 MB.
const CHECK_EVERY: i64 = 30 * 60 * 1000;

/// New UIDs of a folder that one command asks for, the oldest first, while how far it is stays as it was.
const BACKLOG: u32 = 500;

/// What has to be done about a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: it is as it was.
    Nothing,
    /// Its UIDs are others than those here. Messages are matched by their identities.
    Anew,
    /// What differs has to be asked for.
    Changes(Changes),
}

/// What may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changes {
    /// How flags are compared.
    pub flags: Flags,
    /// Whether all UIDs have to be compared.
    pub compare: bool,
    /// Whether there are UIDs that nobody has looked for.
    pub arrivals: bool,
}

/// How the flags of known messages are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flags {
    /// Not at all: none has changed.
    No,
    /// QRESYNC (RFC 7162) tells them, and what vanished, on opening the folder.
    Resync,
    /// Those that changed since then are asked for (CONDSTORE).
    Since(u64),
    /// All are asked for.
    All,
}

/// Compares a folder with what the server says of it. `untold`: messages of this folder have labels that nobody has told.
pub(super) fn look(here: &Folder, there: &Status, features: &Features, untold: bool, now: i64) -> Look {
    if here.uid_validity != Some(there.uid_validity) || there.uid_next < here.uid_next {
        return Look::Anew;
    }
    let arrivals = there.uid_next > here.uid_next;
    let flags = match changed(here, there, features) {
        // Labels come with flags; and with messages, as long as not all of them are here.
        _ if untold && here.is_complete && here.stored > 0 => Flags::All,
        Some(flags) => flags,
        None => {
            let is_old = here.checked_at.is_none_or(|checked| checked.saturating_add(CHECK_EVERY) <= now);
            let is_due = here.stored <= SMALL || is_old || there.unseen != here.unread as u32;
            if here.stored > 0 && is_due { Flags::All } else { Flags::No }
        }
    };
    // Where each UID that came is a message, and all that were here are there, the numbers agree.
    let (came, more) =
        (i64::from(there.uid_next) - i64::from(here.uid_next), i64::from(there.messages) - i64::from(here.stored));
    let compare = !is_whole(here) || flags != Flags::Resync && came != more;
    let counts = there.messages as i64 == i64::from(here.total) && there.unseen as i64 == i64::from(here.unread);
    if !arrivals && flags == Flags::No && !compare && counts {
        return Look::Nothing;
    }
    Look::Changes(Changes { flags, compare, arrivals })
}

/// How those flags are asked for that have changed; `None` where the server does not tell which these are.
pub(super) fn changed(here: &Folder, there: &Status, features: &Features) -> Option<Flags> {
    match (here.modseq?, there.highest_modseq?) {
        (known, newest) if known == newest => Some(Flags::No),
        (known, newest) if known < newest && features.qresync => Some(Flags::Resync),
        (known, newest) if known < newest && features.condstore => Some(Flags::Since(known)),
        _ => None,
    }
}

/// Whether each message of this folder that the server had below `uid_next` is one with a UID here, so that numbers tell what
/// differs. Where some have lost theirs, it may be the server that has not told of them.
pub(super) fn is_whole(here: &Folder) -> bool {
    here.is_complete && here.orphans == 0
}

/// Whether so much has come that it is fetched as in a first synchronisation: the newest first, and what was fetched is not
/// fetched again, whenever that ends.
pub(super) fn is_backlog(here: &Folder, there: &Status) -> bool {
    there.uid_next.saturating_sub(here.uid_next) > BACKLOG
}

/// Whether the server's list is the one that is here.
pub(super) fn same_list(here: &[Folder], there: &[Listed<'_>]) -> bool {
    let known = |listed: &Listed<'_>| {
        here.iter().any(|folder| {
            !folder.is_gone
                && folder.wire_name == listed.wire_name
                && folder.path == listed.path
                && folder.delimiter == listed.delimiter
                && folder.role.as_deref() == listed.role
                && folder.is_selectable == listed.is_selectable
                && folder.is_label == listed.is_label
        })
    };
    here.iter().filter(|folder| !folder.is_gone).count() == there.len() && there.iter().all(known)
}

/// Whether folders of this list are labels, and their messages lie in the one of all mail. Users may hide that one, and
/// then each folder is one as elsewhere.
pub(super) fn has_labels(there: &[There], features: &Features) -> bool {
    features.gmail && there.iter().any(|folder| folder.role == Some(Role::All))
}

/// Where there are labels, whether this folder is one. Junk and trash are not in all mail.
pub(super) fn is_label(folder: &There) -> bool {
    folder.is_selectable && !matches!(folder.role, Some(Role::All | Role::Junk | Role::Trash))
}

/// What may stand for a folder among a message's labels.
pub(super) fn label_names(folder: &There) -> Vec<String> {
    let mut names = vec![folder.path.clone(), String::from_utf8_lossy(&folder.wire).into_owned()];
    names.extend(folder.label.map(str::to_owned));
    if folder.label == Some("\\Draft") {
        // Clients have seen this as well.
        names.push("\\Drafts".to_owned());
    }
    names
}

/// In which order folders are fetched: what people look at first.
pub(super) fn rank(folder: &Folder, has_labels: bool) -> u8 {
    match folder.role.as_deref() {
        Some("all") if has_labels => 0,
        Some("inbox") => 0,
        Some("sent") => 1,
        Some("drafts") => 2,
        _ => 3,
    }
}
