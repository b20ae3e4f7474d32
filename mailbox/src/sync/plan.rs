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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: i64 = 100 * CHECK_EVERY;

    /// Ten messages, three of them unread, and all that is known of them is as new as [`there`].
    fn here() -> Folder {
        Folder {
            id: Uuid::nil(),
            wire_name: b"INBOX".to_vec(),
            path: "INBOX".to_owned(),
            delimiter: Some("/".to_owned()),
            role: Some("inbox".to_owned()),
            is_selectable: true,
            is_label: false,
            is_gone: false,
            total: 10,
            unread: 3,
            uid_validity: Some(7),
            uid_next: 20,
            modseq: Some(50),
            is_complete: true,
            stored: 10,
            orphans: 0,
            doubted_at: None,
            checked_at: None,
            suspects: None,
            suspicions: 0,
        }
    }

    /// So many messages of a folder whose flags were all compared at that time.
    fn checked(stored: i32, checked_at: Option<i64>) -> Folder {
        Folder { total: stored, stored, checked_at, ..here() }
    }

    /// Of which not all has come yet.
    fn half() -> Folder {
        Folder { stored: 5, is_complete: false, ..here() }
    }

    fn there() -> Status {
        Status { messages: 10, uid_next: 20, uid_validity: 7, unseen: 3, highest_modseq: Some(50), mailbox_id: None }
    }

    /// By a server that does not count changes.
    fn uncounted(there: Status) -> Status {
        Status { highest_modseq: None, ..there }
    }

    fn changes(flags: Flags, compare: bool, arrivals: bool) -> Look {
        Look::Changes(Changes { flags, compare, arrivals })
    }

    #[test]
    fn a_folder_is_asked_for_what_may_differ_and_for_nothing_else() {
        let plain = Features::default();
        let condstore = Features { condstore: true, ..plain };
        let qresync = Features { qresync: true, ..condstore };
        let came = || Status { messages: 12, uid_next: 22, unseen: 5, highest_modseq: Some(52), ..there() };
        let came_and_went = || Status { messages: 11, ..came() };
        let went = || Status { messages: 9, highest_modseq: Some(51), ..there() };
        let flagged = || Status { highest_modseq: Some(51), ..there() };
        let many = |messages| Status { messages, ..uncounted(there()) };
        let (small, large, due) = (SMALL as u32, SMALL as u32 + 1, NOW - CHECK_EVERY);
        let read = || Status { unseen: 2, ..many(large) };
        let empty = || Folder { total: 0, unread: 0, stored: 0, ..here() };
        let first = || Status { uid_next: 21, unseen: 1, ..many(1) };
        for (what, here, there, features, expected) in [
            ("as it was", here(), there(), qresync, Look::Nothing),
            ("as it was", here(), there(), plain, Look::Nothing),
            ("empty", empty(), Status { unseen: 0, ..many(0) }, plain, Look::Nothing),
            // Whose UIDs they are.
            ("other UIDs", here(), Status { uid_validity: 8, ..came() }, qresync, Look::Anew),
            ("no UIDs yet", Folder { uid_validity: None, ..here() }, there(), qresync, Look::Anew),
            ("UIDs given out twice", here(), Status { uid_next: 19, ..there() }, qresync, Look::Anew),
            // What came.
            ("came", here(), came(), qresync, changes(Flags::Resync, false, true)),
            ("came", here(), came(), condstore, changes(Flags::Since(50), false, true)),
            ("came", here(), uncounted(came()), plain, changes(Flags::All, false, true)),
            ("the first came", empty(), first(), plain, changes(Flags::No, false, true)),
            // What is gone. Without QRESYNC nobody says which.
            ("went", here(), went(), qresync, changes(Flags::Resync, false, false)),
            ("went", here(), went(), condstore, changes(Flags::Since(50), true, false)),
            ("went", here(), uncounted(went()), plain, changes(Flags::All, true, false)),
            ("went, not counted", here(), Status { messages: 9, ..there() }, qresync, changes(Flags::No, true, false)),
            ("came and went", here(), came_and_went(), qresync, changes(Flags::Resync, false, true)),
            ("came and went", here(), came_and_went(), condstore, changes(Flags::Since(50), true, true)),
            // What changed.
            ("flagged", here(), flagged(), qresync, changes(Flags::Resync, false, false)),
            ("flagged", here(), flagged(), condstore, changes(Flags::Since(50), false, false)),
            ("flagged", here(), uncounted(there()), plain, changes(Flags::All, false, false)),
            ("unread, not counted", here(), Status { unseen: 4, ..there() }, qresync, changes(Flags::No, false, false)),
            // What has not all come, or has lost its UID.
            ("half", half(), there(), qresync, changes(Flags::No, true, false)),
            ("lost", Folder { stored: 9, orphans: 1, ..here() }, went(), qresync, changes(Flags::Resync, true, false)),
            // How long ago all flags were compared, where they are many.
            ("small", checked(SMALL, Some(NOW)), many(small), plain, changes(Flags::All, false, false)),
            ("large", checked(SMALL + 1, Some(due + 1)), many(large), plain, Look::Nothing),
            ("large, due", checked(SMALL + 1, Some(due)), many(large), plain, changes(Flags::All, false, false)),
            ("never compared", checked(SMALL + 1, None), many(large), plain, changes(Flags::All, false, false)),
            ("read elsewhere", checked(SMALL + 1, Some(NOW)), read(), plain, changes(Flags::All, false, false)),
        ] {
            assert_eq!(look(&here, &there, &features, false, NOW), expected, "{what}: {here:?} {there:?}");
        }
    }

    #[test]
    fn labels_that_nobody_has_told_come_with_all_flags_of_a_whole_folder() {
        let features = Features { condstore: true, gmail: true, ..Features::default() };
        assert_eq!(look(&here(), &there(), &features, true, NOW), changes(Flags::All, false, false));
        assert_eq!(look(&half(), &there(), &features, true, NOW), changes(Flags::No, true, false));
    }

    #[test]
    fn changes_are_asked_for_in_the_best_way_that_the_server_has() {
        for (known, newest, condstore, qresync, expected) in [
            (Some(50), Some(50), true, true, Some(Flags::No)),
            (Some(50), Some(51), true, true, Some(Flags::Resync)),
            (Some(50), Some(51), true, false, Some(Flags::Since(50))),
            (Some(50), Some(51), false, false, None),
            // It counts anew.
            (Some(50), Some(49), true, true, None),
            (None, Some(50), true, true, None),
            (Some(50), None, true, true, None),
        ] {
            let features = Features { condstore, qresync, ..Features::default() };
            let (here, there) = (Folder { modseq: known, ..here() }, Status { highest_modseq: newest, ..there() });
            assert_eq!(changed(&here, &there, &features), expected, "{known:?} {newest:?} {condstore} {qresync}");
        }
    }

    #[test]
    fn more_than_one_command_asks_for_is_a_backlog() {
        let came = |count: u32| Status { uid_next: 20 + count, ..there() };
        assert_eq!([0, BACKLOG, BACKLOG + 1].map(|count| is_backlog(&here(), &came(count))), [false, false, true]);
    }

    #[test]
    fn inbox_sent_and_drafts_come_first_and_all_mail_where_it_has_them() {
        let order = |has_labels| {
            let mut roles = [None, Some("trash"), Some("drafts"), Some("sent"), Some("all"), Some("inbox")];
            roles.sort_by_key(|role| rank(&Folder { role: role.map(str::to_owned), ..here() }, has_labels));
            roles.map(Option::unwrap_or_default)
        };
        assert_eq!(order(false), ["inbox", "sent", "drafts", "", "trash", "all"]);
        assert_eq!(order(true), ["all", "inbox", "sent", "drafts", "", "trash"]);
    }
}
