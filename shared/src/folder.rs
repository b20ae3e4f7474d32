//! What a folder of a mailbox is, and where it stands among the others.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::account::AccountId;
use crate::identity::id;
use crate::validation::Field;

id!(
    /// A folder of a mailbox.
    FolderId
);

/// What a folder is for, as its server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = FolderRole))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Where mail arrives.
    Inbox,
    /// What was sent.
    Sent,
    /// What is not sent yet.
    Drafts,
    /// What was deleted.
    Trash,
    /// What nobody wanted.
    Junk,
    /// What is kept.
    Archive,
    /// All messages of the mailbox.
    All,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Inbox, Self::Sent, Self::Drafts, Self::Trash, Self::Junk, Self::Archive, Self::All];

    /// The name in the API and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Sent => "sent",
            Self::Drafts => "drafts",
            Self::Trash => "trash",
            Self::Junk => "junk",
            Self::Archive => "archive",
            Self::All => "all",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl Field for Role {
    const RULE: &'static str = "must be inbox, sent, drafts, trash, junk, archive or all";

    fn read(value: Value) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|role| role.as_str().eq_ignore_ascii_case(name))
    }
}

impl Field for FolderId {
    const RULE: &'static str = AccountId::RULE;

    fn read(value: Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }
}

/// A folder of a mailbox, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Folder {
    /// The folder's id.
    pub id: FolderId,
    /// The account whose mailbox it is in.
    pub account_id: AccountId,
    /// The nearest folder above it that the server lists; none at the top.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub parent_id: Option<FolderId>,
    /// The last part of its path.
    pub name: String,
    /// Its whole name, with the server's own separator.
    pub path: String,
    /// What it is for, where the server says so.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub role: Option<Role>,
    /// False where it holds other folders and no messages.
    pub is_selectable: bool,
    /// How many messages the server has in it.
    pub total: i32,
    /// How many of those are unread.
    pub unread: i32,
}

/// A folder as it is stored.
#[derive(Debug, Clone)]
pub struct Listed {
    /// See [`Folder::id`].
    pub id: FolderId,
    /// See [`Folder::path`].
    pub path: String,
    /// What stands between the parts of a path; none where folders lie side by side.
    pub delimiter: Option<String>,
    /// See [`Folder::role`].
    pub role: Option<Role>,
    /// See [`Folder::is_selectable`].
    pub is_selectable: bool,
    /// See [`Folder::total`].
    pub total: i32,
    /// See [`Folder::unread`].
    pub unread: i32,
}

/// Finds each folder's place among the folders of its account, by their paths.
pub fn arrange(account_id: AccountId, listed: Vec<Listed>) -> Vec<Folder> {
    let places: Vec<_> = {
        let by_path: HashMap<&str, FolderId> = listed.iter().map(|folder| (folder.path.as_str(), folder.id)).collect();
        let place = |folder: &Listed| {
            let Some(delimiter) = folder.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty()) else {
                return (None, folder.path.clone());
            };
            let name = folder.path.rsplit(delimiter).next().unwrap_or_default().to_owned();
            let mut above = folder.path.as_str();
            while let Some((shorter, _)) = above.rsplit_once(delimiter) {
                if let Some(parent) = by_path.get(shorter) {
                    return (Some(*parent), name);
                }
                above = shorter;
            }
            (None, name)
        };
        listed.iter().map(place).collect()
    };
    let folder = |(folder, (parent_id, name)): (Listed, (Option<FolderId>, String))| Folder {
        id: folder.id,
        account_id,
        parent_id,
        name,
        path: folder.path,
        role: folder.role,
        is_selectable: folder.is_selectable,
        total: folder.total,
        unread: folder.unread,
    };
    listed.into_iter().zip(places).map(folder).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(path: &str, delimiter: Option<&str>) -> Listed {
        Listed {
            id: FolderId(Uuid::now_v7()),
            path: path.to_owned(),
            delimiter: delimiter.map(str::to_owned),
            role: None,
            is_selectable: true,
            total: 0,
            unread: 0,
        }
    }

    /// Name, and path of the parent.
    fn places(paths: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        let listed: Vec<_> = paths.iter().map(|(path, delimiter)| listed(path, *delimiter)).collect();
        let folders = arrange(AccountId(Uuid::now_v7()), listed);
        let path_of = |id| folders.iter().find(|folder| folder.id == id).map(|folder| folder.path.clone());
        folders.iter().map(|folder| (folder.name.clone(), folder.parent_id.and_then(path_of))).collect()
    }

    #[test]
    fn a_folder_stands_below_the_nearest_one_that_is_listed() {
        let dot = Some(".");
        let found = places(&[
            ("INBOX", dot),
            ("INBOX.Work", dot),
            ("INBOX.Work.2026.May", dot),
            ("Lost.Child", dot),
            ("No/Separator", None),
            ("No", None),
            ("Odd", Some("")),
        ]);
        let expected = [
            ("INBOX", None),
            ("Work", Some("INBOX")),
            ("May", Some("INBOX.Work")),
            ("Child", None),
            ("No/Separator", None),
            ("No", None),
            ("Odd", None),
        ];
        assert_eq!(found, expected.map(|(name, parent)| (name.to_owned(), parent.map(str::to_owned))));
    }

    #[test]
    fn roles_have_the_names_of_the_database() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
            assert_eq!(Role::read(role.as_str().to_uppercase().into()), Some(role));
        }
    }

    proptest! {
        #[test]
        fn nobody_is_above_himself(paths in proptest::collection::vec("[ab/]{0,6}", 0..12)) {
            let folders = arrange(AccountId(Uuid::now_v7()), paths.iter().map(|path| listed(path, Some("/"))).collect());
            for folder in &folders {
                let parent = folder.parent_id.and_then(|id| folders.iter().find(|other| other.id == id));
                prop_assert!(parent.is_none_or(|parent| parent.path.len() < folder.path.len()));
            }
        }
    }
}
