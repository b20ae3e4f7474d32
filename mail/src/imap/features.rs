//! What a server can do, as far as it matters for a mailbox.

use super::Imap;
use crate::error::Error;

/// Extensions that a server offers and that can be relied on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// ENABLE (RFC 5161).
    pub enable: bool,
    /// Numbers of modification (RFC 7162).
    pub condstore: bool,
    /// What vanished since then (RFC 7162). Not where the server is known to lie about it.
    pub qresync: bool,
    /// LIST with options (RFC 5258).
    pub list_extended: bool,
    /// LIST with the counts of each folder (RFC 5819).
    pub list_status: bool,
    /// What folders are for (RFC 6154).
    pub special_use: bool,
    /// SEARCH that answers with ranges (RFC 4731).
    pub esearch: bool,
    /// UIDs of what was copied, and expunging by UID (RFC 4315).
    pub uidplus: bool,
    /// MOVE (RFC 6851).
    pub move_: bool,
    /// Gmail's ids, threads and labels.
    pub gmail: bool,
    /// Ids of mailboxes and messages (RFC 8474).
    pub object_id: bool,
    /// Names in UTF-8 (RFC 6855).
    pub utf8_accept: bool,
}

impl Features {
    /// Of capabilities in capitals.
    fn new(capabilities: &[String], qresync_lies: bool) -> Self {
        let has = |name: &str| capabilities.iter().any(|capability| capability == name);
        let (enable, qresync) = (has("ENABLE"), has("QRESYNC"));
        Self {
            enable,
            // QRESYNC is more of the same (RFC 7162 section 3.2.3).
            condstore: has("CONDSTORE") || qresync,
            qresync: qresync && enable && !qresync_lies,
            list_extended: has("LIST-EXTENDED"),
            list_status: has("LIST-STATUS"),
            special_use: has("SPECIAL-USE"),
            esearch: has("ESEARCH"),
            uidplus: has("UIDPLUS"),
            move_: has("MOVE"),
            gmail: has("X-GM-EXT-1"),
            object_id: has("OBJECTID"),
            // UTF8=ONLY implies it (RFC 6855 section 6).
            utf8_accept: enable && (has("UTF8=ACCEPT") || has("UTF8=ONLY")),
        }
    }

    /// The command that switches on what has to be, if there is any such.
    pub(super) fn enable_command(&self) -> Option<Vec<u8>> {
        let mut command = b"ENABLE".to_vec();
        let names = [(self.qresync, " QRESYNC"), (self.condstore, " CONDSTORE"), (self.utf8_accept, " UTF8=ACCEPT")];
        for (_, name) in names.iter().filter(|(is_offered, _)| *is_offered) {
            command.extend_from_slice(name.as_bytes());
        }
        (self.enable && command.len() > b"ENABLE".len()).then_some(command)
    }
}

impl Imap {
    /// What the server can do once somebody has signed in: a round trip where it did not say so by itself, none the
    /// second time.
    ///
    /// # Errors
    /// As of any command: [`Code::Protocol`](crate::Code::Protocol) where it does not say.
    pub async fn features(&mut self) -> Result<Features, Error> {
        let capabilities = self.capabilities().await?;
        Ok(Features::new(&capabilities, self.greeted_as_icloud || is_icloud(self.stream.host())))
    }
}

/// iCloud offers QRESYNC, and then reports messages as vanished that are there (seen by others; their clients leave it
/// out there). It is known by its names, whatever the account's domain; `greets_as_icloud` knows it behind others.
fn is_icloud(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    ["me.com", "icloud.com", "mac.com", "icloud.com.cn"]
        .iter()
        .any(|domain| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Whether a greeting is that of iCloud's gateway, which calls itself by a name of its own.
pub(super) fn greets_as_icloud(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["iscream", "icloud", ".me.com"].iter().any(|name| text.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(capabilities: &str, lies: bool) -> Features {
        Features::new(&capabilities.split(' ').map(str::to_owned).collect::<Vec<_>>(), lies)
    }

    #[test]
    fn each_extension_is_known_by_its_name() {
        let dovecot = features(
            "IMAP4REV1 ENABLE CONDSTORE QRESYNC LIST-EXTENDED LIST-STATUS SPECIAL-USE ESEARCH UIDPLUS MOVE",
            false,
        );
        let gmail = features(
            "IMAP4REV1 ENABLE CONDSTORE X-GM-EXT-1 UTF8=ACCEPT ESEARCH UIDPLUS MOVE SPECIAL-USE LIST-EXTENDED LIST-STATUS",
            false,
        );
        let expected = Features {
            enable: true,
            condstore: true,
            list_extended: true,
            list_status: true,
            special_use: true,
            esearch: true,
            uidplus: true,
            move_: true,
            ..Features::default()
        };
        assert_eq!(dovecot, Features { qresync: true, ..expected });
        assert_eq!(gmail, Features { gmail: true, utf8_accept: true, ..expected });
        assert_eq!(features("IMAP4REV1 OBJECTID", false), Features { object_id: true, ..Features::default() });
        assert_eq!(dovecot.enable_command().unwrap(), b"ENABLE QRESYNC CONDSTORE");
        assert_eq!(gmail.enable_command().unwrap(), b"ENABLE CONDSTORE UTF8=ACCEPT");
        assert_eq!(features("IMAP4REV1 ENABLE", false).enable_command(), None);
    }

    #[test]
    fn qresync_is_not_believed_without_enable_nor_where_it_lies() {
        for (capabilities, lies) in [("QRESYNC", false), ("ENABLE QRESYNC", true)] {
            let features = features(capabilities, lies);
            assert!(features.condstore && !features.qresync, "{capabilities}");
        }
        for host in ["imap.mail.me.com", "P01-imap.mail.me.com.", "imap.icloud.com", "me.com"] {
            assert!(is_icloud(host), "{host}");
        }
        for host in ["imap.acme.com", "me.com.example.org", "imap.example.com", ""] {
            assert!(!is_icloud(host), "{host}");
        }
        assert!(greets_as_icloud("iSCREAM ready to rumble (2402B57) st43p00im-ztbu10073701.me.com"));
        assert!(!greets_as_icloud("Dovecot ready."));
    }
}
