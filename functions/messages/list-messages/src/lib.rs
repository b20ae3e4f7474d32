//! `GET /api/messages`: the caller's messages, of all accounts or those that are asked for, newest first.

use shared::http::StatusCode;
use shared::message::{Cursor, Filter, Message};
use shared::validation::{flag, noted, parameter, whole_number};
use shared::{Call, Error, Reply};

/// The messages of a page that asks for no number.
pub const DEFAULT_LIMIT: i64 = 50;
/// The most messages of a page.
pub const MAX_LIMIT: i64 = 200;

/// A page of [`DEFAULT_LIMIT`] messages is seldom longer.
const USUAL_BYTES: usize = 64 * 1024;

/// Which page of which list is asked for.
#[derive(Debug, PartialEq)]
pub struct Input {
    /// The most messages on a page, 1 to 200.
    pub limit: i64,
    /// Where the page begins.
    pub cursor: Option<Cursor>,
    /// Which messages.
    pub filter: Filter,
}

impl Input {
    /// Reads the query.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(query: &[(String, String)]) -> Result<Self, Error> {
        let mut faults = Vec::new();
        let input = Self {
            limit: whole_number(query, "limit", DEFAULT_LIMIT, 1..=MAX_LIMIT).unwrap_or_else(|fault| {
                faults.push(fault);
                DEFAULT_LIMIT
            }),
            cursor: noted(parameter(query, "cursor"), &mut faults),
            filter: Filter {
                account_id: noted(parameter(query, "accountId"), &mut faults),
                folder_id: noted(parameter(query, "folderId"), &mut faults),
                role: noted(parameter(query, "role"), &mut faults),
                is_read: noted(flag(query, "isRead"), &mut faults),
                is_flagged: noted(flag(query, "isFlagged"), &mut faults),
                after: noted(parameter(query, "after"), &mut faults),
                before: noted(parameter(query, "before"), &mut faults),
                thread_id: noted(parameter(query, "threadId"), &mut faults),
                has_attachments: noted(flag(query, "hasAttachments"), &mut faults),
                from: noted(parameter(query, "from"), &mut faults),
                to: noted(parameter(query, "to"), &mut faults),
                subject: noted(parameter(query, "subject"), &mut faults),
                text: noted(parameter(query, "q"), &mut faults),
            },
        };
        if faults.is_empty() { Ok(input) } else { Err(Error::Invalid(faults)) }
    }
}

// The form of the answer, which the handler puts together by itself.
/// One page.
#[cfg(feature = "openapi")]
#[derive(utoipa::ToSchema)]
#[schema(as = MessageList, rename_all = "camelCase")]
pub struct Output {
    /// Newest first.
    pub messages: Vec<Message>,
    /// The `cursor` of the next page; none on the last one.
    #[schema(required, value_type = Option<String>)]
    pub next_cursor: Option<Cursor>,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the query.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let Input { limit, cursor, filter } = Input::read(&call.request.query)?;
    // A long page costs as much to write as to read: both are done while the rest of it comes, and into one text.
    let mut text = Vec::with_capacity(USUAL_BYTES);
    let write = |message: &Message| {
        let begin = text.len();
        serde_json::to_writer(&mut text, message).map_err(Error::internal)?;
        let end = text.len();
        text.push(b',');
        Ok(begin..end)
    };
    let page = call.db.list_messages(&call.identity.scope, &filter, limit, cursor, write).await?;
    let messages = match (page.messages.first(), page.messages.last()) {
        (Some(first), Some(last)) => &text[first.start..last.end],
        _ => &[],
    };
    let next = serde_json::to_string(&page.next).map_err(Error::internal)?;
    let body = [br#"{"messages":["#, messages, br#"],"nextCursor":"#, next.as_bytes(), b"}"].concat();
    Ok(Reply::json_text(StatusCode::OK, String::from_utf8(body).map_err(Error::internal)?))
}

#[cfg(test)]
mod tests {
    use shared::folder::Role;
    use shared::message::Milliseconds;

    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn without_parameters_it_is_the_first_page_of_all() {
        assert_eq!(Input::read(&[]).unwrap(), Input { limit: 50, cursor: None, filter: Filter::default() });
        let input = Input::read(&query(&[("limit", "1"), ("role", "Inbox"), ("isRead", "false"), ("before", "7")]));
        let filter = Filter {
            role: Some(Role::Inbox),
            is_read: Some(false),
            before: Some(Milliseconds(7)),
            ..Filter::default()
        };
        assert_eq!(input.unwrap(), Input { limit: 1, cursor: None, filter });
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let names = [
            "limit",
            "cursor",
            "accountId",
            "folderId",
            "role",
            "isRead",
            "isFlagged",
            "after",
            "before",
            "threadId",
            "hasAttachments",
            "from",
            "to",
            "subject",
            "q",
        ];
        let bad: Vec<_> = names.iter().map(|name| (*name, "\n")).collect();
        let Err(Error::Invalid(faults)) = Input::read(&query(&bad)) else { panic!() };
        assert_eq!(faults.iter().map(|fault| &*fault.field).collect::<Vec<_>>(), names);
    }
}
