//! Messages that break each session in which they are fetched: some servers hang up, fall silent or answer nonsense when they
//! come to a message that they cannot read themselves.
//!
//! What was asked for and did not come when a session broke is noted, and asked for first the next time, in pieces, so that the
//! next note has fewer in it. A message that broke two sessions all alone, in which the server gave out another one, is stored
//! as one that cannot be read; so are those that a POP3 server refuses one by one, in two sessions that it had nothing else to bring in.

use shared::db::mailboxes::Folder;

use super::Stop;

/// So many are noted at most: as many as one command asks for. If it was none of them, the next command that breaks tells.
pub(super) const MOST: usize = 500;
/// What a session weighs that broke at a single message, and had given out another one before.
const SHOWN: i32 = 3;
/// And one that had given out none: the server may give out none at all, now. Such sessions come at their usual pace.
const BARE: i32 = 1;
/// What is enough.
const ENOUGH: i32 = 2 * SHOWN;

/// What a session has shown until it broke.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shown {
    /// The server gives messages out.
    pub came: bool,
    /// Among them were some that were not here.
    pub grew: bool,
}

/// How much speaks against `suspects` after this session too. `is_alone`: they are one message, and nothing else was asked
/// for with it; or each was refused for itself.
pub(super) fn weigh(folder: &Folder, suspects: &str, is_alone: bool, shown: Shown) -> i32 {
    let before = if folder.suspects.as_deref() == Some(suspects) { folder.suspicions } else { 0 };
    match (is_alone, shown.came) {
        (false, _) => 0,
        (true, true) => before.saturating_add(SHOWN),
        (true, false) => before.saturating_add(BARE),
    }
}

/// Whether the one that is suspected is not to be fetched any more.
pub(super) fn is_proved(folder: &Folder) -> bool {
    folder.suspicions >= ENOUGH
}

/// How to go on after a session that broke while messages were fetched.
pub(super) fn stop(error: mail::Error, shown: Shown) -> Stop {
    // Who says goodbye may have had too much of us.
    let asks_to_wait = error.code == mail::Code::Unavailable;
    match shown {
        Shown { came: true, grew } if !asks_to_wait => Stop::Broken { error, grew },
        _ => Stop::Mail(error),
    }
}

/// What is asked for at once, in this order. Servers answer in the order of UIDs, so that the first that did not come is
/// the likeliest: it comes last.
pub(super) fn pieces<T>(suspects: &[T]) -> Vec<&[T]> {
    let (first, rest) = suspects.split_at(suspects.len().min(1));
    let (low, high) = rest.split_at(rest.len() / 2);
    [high, low, first].into_iter().filter(|piece| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that breaks at one of them, and loses what it had said before.
    fn narrow(count: u32, poisoned: u32) -> usize {
        let mut suspects: Vec<u32> = (0..count).collect();
        let mut sessions = 1;
        while suspects.len() > 1 {
            let broken = pieces(&suspects).into_iter().find(|piece| piece.contains(&poisoned)).unwrap().to_vec();
            assert!(broken.len() < suspects.len());
            suspects = broken;
            sessions += 1;
        }
        assert_eq!(suspects, [poisoned]);
        sessions
    }

    #[test]
    fn one_of_many_is_found_in_few_sessions() {
        for count in [1, 2, 3, 4, 499, 500] {
            assert!((0..count).all(|poisoned| narrow(count, poisoned) <= 10));
        }
        assert_eq!(narrow(500, 0), 2);
        assert!(pieces::<u32>(&[]).is_empty());
    }
}
